"""Ways to average updates: ours with real ciphertexts, and what peers do."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cryptflow import errors, hazmat

Float = npt.NDArray[np.float64]
Updates = list[npt.NDArray[np.float32]]
Shapes = dict[str, int]

#: Largest num_examples: weights are precise to 1/WEIGHT_CAP in sum-key.
WEIGHT_CAP = 1000
#: The same in shared-key, where weights multiply ciphertexts and take room.
SHARED_CAP = 255
#: Values and clients of what is timed.
TIMED_VALUES, TIMED_CLIENTS = 262_144, 8


@dataclass
class Cost:
    """Of one update among TIMED_CLIENTS; seconds on one core for a million values."""

    bytes_per_value: float
    encrypt: float
    fold: float
    decrypt: float

    @property
    def seconds(self) -> float:
        """Everything that a round computes, for one client."""
        return self.encrypt + self.fold + self.decrypt


class System(Protocol):
    """One point of the study."""

    name: str
    about: dict[str, Any]

    def mean(self, updates: Updates, weights: list[int], shapes: Shapes) -> Float:
        """Return the weighted mean of the updates."""

    def cost(self) -> Cost | None:
        """Measure; None where nothing of the peer was run."""


def ranges_of(updates: Updates, factors: list[float], shapes: Shapes) -> list[float]:
    """Return the power of two that each tensor needs: what negotiation finds."""
    out, at = [], 0
    for count in shapes.values():
        top = max(
            float(np.abs(u[at : at + count]).max()) * f
            for u, f in zip(updates, factors, strict=True)
        )
        out.append(2.0 ** np.ceil(np.log2(max(top, 2.0**-126) * (1 + 2**-40))))
        at += count
    return out


def weighted(updates: Updates, weights: list[int]) -> Float:
    """Return the mean in float64: what everything is compared with."""
    total = np.average(np.asarray(updates, np.float64), axis=0, weights=weights)
    return np.asarray(total, np.float64)


def capped(weights: list[int], cap: int) -> list[int]:
    """Scale weights so that none is above the cap, and round them."""
    top = max(*weights, cap)
    return [max(1, round(w * cap / top)) for w in weights]


class Plain:
    """No encryption, float32 on the wire."""

    name = "plaintext float32"
    about: dict[str, Any] = {"kind": "plain", "security_bits": 0}  # noqa: RUF012

    def mean(self, updates: Updates, weights: list[int], shapes: Shapes) -> Float:
        """Average in float64."""
        return weighted(updates, weights)

    def cost(self) -> Cost:
        """Time numpy's sum."""
        x = timed_updates()
        began = time.perf_counter()
        total = np.zeros_like(x[0])
        for u in x:
            total += u
        scale = 1e6 / TIMED_VALUES
        return Cost(4.0, 0.0, (time.perf_counter() - began) * scale, 0.0)


class Rounded(Plain):
    """Plain, with the weights that shared-key rounds to.

    Tells what of shared-key's difference comes from weights, not from values.
    """

    name = "float64, weights of shared-key"
    about: dict[str, Any] = {"kind": "weights", "security_bits": 0}  # noqa: RUF012

    def mean(self, updates: Updates, weights: list[int], shapes: Shapes) -> Float:
        """Average in float64."""
        return weighted(updates, capped(weights, SHARED_CAP))


@dataclass
class Ours:
    """CryptFlow's core: encrypt, add and decrypt real ciphertexts."""

    mode: str
    preset: str
    encoding: str
    bits: int
    clients: int
    rounding: str = "stochastic"
    security_bits: int = 128
    name: str = field(init=False)

    def __post_init__(self) -> None:
        short = "" if self.encoding == "lanes" else f" {self.encoding}"
        near = "" if self.rounding == "stochastic" else " nearest"
        self.name = f"{self.mode} {self.preset}{short} b={self.bits}{near}"

    @property
    def about(self) -> dict[str, Any]:
        """What this point is."""
        return {
            "kind": "cryptflow",
            "mode": self.mode,
            "preset": self.preset,
            "encoding": self.encoding,
            "bits": self.bits,
            "rounding": self.rounding,
            "cohort": self.clients,
            "security_bits": self.security_bits,
        }

    def round(self, tensors: dict[str, tuple[int, float]], cap: int) -> hazmat.Round:
        """Make a round; raises InputError where the scheme has no room."""
        return hazmat.Round(
            clients=self.clients,
            tensors=tensors,
            mode=self.mode,  # type: ignore[arg-type]
            preset=self.preset,
            bits=self.bits,
            rounding=self.rounding,  # type: ignore[arg-type]
            encoding=self.encoding,  # type: ignore[arg-type]
            weight_cap=cap,
        )

    def mean(self, updates: Updates, weights: list[int], shapes: Shapes) -> Float:
        """Encrypt every update, add, release, decrypt."""
        shared = self.mode == "shared-key"
        cap = SHARED_CAP if shared else WEIGHT_CAP
        used = capped(weights, cap)
        factors = [1.0 if shared else w / cap for w in used]
        limits = ranges_of(updates, factors, shapes)
        tensors = {
            name: (count, limit)
            for (name, count), limit in zip(shapes.items(), limits, strict=True)
        }
        r = self.round(tensors, cap)
        keys = [r.new_key() for _ in range(1 if shared else len(updates))]
        every = keys * len(updates) if shared else keys
        own = [1] * len(updates) if shared else used
        public = used if shared else None
        frames = [
            r.encrypt(k, u, w) for k, u, w in zip(every, updates, own, strict=True)
        ]
        total = r.aggregate(frames, public)
        opened = r.decrypt(r.release(every, public), total)
        return np.asarray(opened, np.float64)

    def cost(self) -> Cost:
        """Time one core: an update of TIMED_VALUES among TIMED_CLIENTS."""
        x = timed_updates()
        cap = 1
        r = self.round({"w": (TIMED_VALUES, 1.0)}, cap)
        shared = self.mode == "shared-key"
        keys = [r.new_key() for _ in range(1 if shared else len(x))]
        every = keys * len(x) if shared else keys
        frames = [r.encrypt(k, u) for k, u in zip(every, x, strict=True)]
        best = [np.inf] * 3
        for _ in range(3):
            marks = [time.perf_counter()]
            r.encrypt(every[0], x[0])
            marks.append(time.perf_counter())
            total = r.aggregate(frames)
            marks.append(time.perf_counter())
            r.decrypt(r.release(every), total)
            marks.append(time.perf_counter())
            best = [min(b, t) for b, t in zip(best, np.diff(marks), strict=True)]
        scale = 1e6 / TIMED_VALUES
        size = r.info["bytes"] / TIMED_VALUES
        return Cost(size, *(float(b) * scale for b in best))


class TenSEAL:
    """CKKS vectors of TenSEAL, public-key, one value a slot."""

    def __init__(self, label: str, degree: int, chain: list[int], scale: int) -> None:
        self.degree, self.chain, self.scale = degree, chain, scale
        self.name = f"{label} N={degree} [{','.join(map(str, chain))}]"
        self.about = {
            "kind": "peer",
            "security_bits": 128,
            "source": "SEAL's own check against the homomorphic encryption standard",
        }

    def context(self) -> Any:
        """Make keys."""
        import tenseal

        c = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, self.degree, -1, self.chain, n_threads=1
        )
        c.global_scale = 2.0**self.scale
        return c

    def encrypt(self, context: Any, update: Float) -> list[bytes]:
        """Encrypt slot by slot and serialise."""
        import tenseal

        half = self.degree // 2
        return [
            tenseal.ckks_vector(context, update[at : at + half].tolist()).serialize()
            for at in range(0, len(update), half)
        ]

    def add(self, context: Any, contributions: list[list[bytes]]) -> list[Any]:
        """Read and add, chunk by chunk."""
        import tenseal

        sums = []
        for parts in zip(*contributions, strict=True):
            total = tenseal.ckks_vector_from(context, parts[0])
            for p in parts[1:]:
                total += tenseal.ckks_vector_from(context, p)
            sums.append(total)
        return sums

    def mean(self, updates: Updates, weights: list[int], shapes: Shapes) -> Float:
        """Each client multiplies by its share before it encrypts."""
        context = self.context()
        total = sum(weights)
        contributions = [
            self.encrypt(context, u.astype(np.float64) * w / total)
            for u, w in zip(updates, weights, strict=True)
        ]
        opened = [s.decrypt() for s in self.add(context, contributions)]
        return np.concatenate([np.asarray(o) for o in opened])[: len(updates[0])]

    def cost(self) -> Cost:
        """Time one core, on a part of the values that our own points have."""
        part = TIMED_VALUES // 4
        x = [u[:part].astype(np.float64) for u in timed_updates()]
        context = self.context()
        contributions = [self.encrypt(context, u) for u in x]
        began = time.perf_counter()
        self.encrypt(context, x[0])
        made = time.perf_counter()
        sums = [s.serialize() for s in self.add(context, contributions)]
        added = time.perf_counter()
        import tenseal

        for s in sums:
            tenseal.ckks_vector_from(context, s).decrypt()
        opened = time.perf_counter()
        scale = 1e6 / part
        size = sum(map(len, contributions[0])) / part
        times = np.diff([began, made, added, opened]) * scale
        return Cost(size, *(float(t) for t in times))


class SecAgg:
    """Arithmetic of Flower's SecAgg+ with its documented defaults.

    Masks cancel exactly, so that accuracy follows from clipping and
    quantisation alone; nothing of Flower runs here and no seconds are given.
    Its default clipping suits weights; here, as there, it acts on what travels.
    """

    name = "Flower SecAgg+ defaults"
    clipping, target, modulus, largest = 8.0, 4_194_304, 4_294_967_296, 1000.0

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.about = {
            "kind": "peer",
            "security_bits": None,  # masks of generators seeded with 32 bits
            "source": "flwr.server.workflow.SecAggPlusWorkflow, its defaults; "
            "bytes are those of residues modulo 2^32",
        }

    def mean(self, updates: Updates, weights: list[int], shapes: Shapes) -> Float:
        """Clip, quantise with stochastic rounding, sum modulo 2^32."""
        total, share = np.zeros(len(updates[0]), np.int64), 0
        for u, w in zip(updates, weights, strict=True):
            ratio = round(min(w, self.largest) / self.largest * self.target)
            x = u.astype(np.float64) * ratio / self.target
            x = np.clip(x, -self.clipping, self.clipping) + self.clipping
            y = x * self.target / (2 * self.clipping)
            total += np.floor(y + self.rng.random(len(y))).astype(np.int64)
            share += ratio
        steps = total % self.modulus
        sums = steps * (2 * self.clipping / self.target) - self.clipping * len(updates)
        return np.asarray(sums / (share / self.target), np.float64)

    def cost(self) -> None:
        """Nothing of the peer was run."""


SECAGG_BYTES = 4.0

_timed: Updates = []


def timed_updates() -> Updates:
    """Return the same updates for everything that is timed."""
    if not _timed:
        rng = np.random.default_rng(5)
        for _ in range(TIMED_CLIENTS):
            _timed.append(rng.normal(0, 0.1, TIMED_VALUES).astype(np.float32))
    return _timed


def peers() -> list[System]:
    """Return peers with their default parameters."""
    return [
        TenSEAL("TenSEAL, NVIDIA FLARE default", 8192, [60, 40, 40], 40),
        TenSEAL("TenSEAL small", 4096, [40, 20, 40], 20),
        SecAgg(),
    ]


PRESETS = ("n2048-q52", "n4096-q102", "n8192-q204")
ENCODINGS = ("lanes", "slots", "slots-ci")
MODES = ("sum-key", "shared-key")


def ours(bits: tuple[int, ...], clients: int) -> Iterator[Ours]:
    """Return every point that has parameters at 128 bits."""
    for mode, encoding, preset, b in itertools.product(MODES, ENCODINGS, PRESETS, bits):
        point = Ours(mode, preset, encoding, b, clients)
        try:
            point.round({"w": (100, 1.0)}, SHARED_CAP if mode == "shared-key" else 1)
        except errors.InputError:
            continue  # no room for so many bits from so many clients
        yield point
