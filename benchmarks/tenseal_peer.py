"""TenSEAL's CKKS vectors with serialisation, as its users call them.

Two parameter sets: N=8192 [60,40,40], the default of frameworks for federated
learning, and the smallest set that TenSEAL makes at SEAL's 128-bit limits in
which a sum of all clients keeps the precision asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from timing import Work

Updates = list[npt.NDArray[np.float32]]

#: log2 q at 128 bits of classical security, as SEAL checks it.
LIMITS = {1024: 27, 2048: 54, 4096: 109}


class Set(NamedTuple):
    """One choice of parameters."""

    degree: int
    chain: tuple[int, ...]
    scale: int
    symmetric: bool

    def __str__(self) -> str:
        """Name the set as rows do."""
        kind = "symmetric" if self.symmetric else "public-key"
        return f"N={self.degree} [{','.join(map(str, self.chain))}] {kind}"


class Peer:
    """One context, and contributions to work on."""

    def __init__(self, chosen: Set, updates: Updates) -> None:
        self.library = importlib.import_module("tenseal")
        kinds = self.library.ENCRYPTION_TYPE
        self.context = self.library.context(
            self.library.SCHEME_TYPE.CKKS,
            chosen.degree,
            -1,
            list(chosen.chain),
            kinds.SYMMETRIC if chosen.symmetric else kinds.ASYMMETRIC,
            n_threads=1,
        )
        self.context.global_scale = 2.0**chosen.scale
        self.slots = chosen.degree // 2
        self.lists = [u.tolist() for u in updates]
        self.contributions = [self.encrypt(i) for i in range(len(updates))]
        self.result = [total.serialize() for total in self.fold()]

    def encrypt(self, client: int = 0) -> list[bytes]:
        """Encrypt one client's update to bytes."""
        update, vector = self.lists[client], self.library.ckks_vector
        starts = range(0, len(update), self.slots)
        chunks = (update[i : i + self.slots] for i in starts)
        return [vector(self.context, chunk).serialize() for chunk in chunks]

    def read(self, raw: bytes) -> Any:
        """Read one vector from bytes."""
        return self.library.ckks_vector_from(self.context, raw)

    def fold(self) -> list[Any]:
        """Read every contribution and add them up."""
        out = []
        for raws in zip(*self.contributions, strict=True):
            total = self.read(raws[0])
            for raw in raws[1:]:
                total += self.read(raw)
            out.append(total)
        return out

    def decrypt(self) -> list[list[float]]:
        """Read and decrypt the result."""
        return [self.read(raw).decrypt() for raw in self.result]

    def bytes_per_value(self) -> float:
        """Return the length of a contribution a value."""
        return sum(map(len, self.contributions[0])) / len(self.lists[0])

    def error(self, updates: Updates) -> float:
        """Return the largest error of the decrypted mean."""
        opened = np.concatenate([np.asarray(part) for part in self.decrypt()])
        exact = np.mean(np.asarray(updates, np.float64), axis=0)
        return float(np.abs(opened / len(updates) - exact).max())


def candidates(clients: int, symmetric: bool) -> Iterator[Set]:
    """Yield sets from the smallest ring on: one prime for data, one for keys.

    TenSEAL always makes keys for switching, so that one prime alone is
    refused. A sum of values of ±1 must stay below half the data prime.
    """
    headroom = (clients - 1).bit_length() + 2
    for degree, limit in LIMITS.items():
        for data in range(limit // 2, min(60, limit - 13) + 1):
            key = min(60, limit - data)
            yield Set(degree, (data, key), data - headroom, symmetric)


def smallest(clients: int, step: float, symmetric: bool) -> Set:
    """Return the usable set with the fewest bytes on the smallest ring.

    Usable means that the mean of `clients` updates is wrong by `step` at most,
    here for one vector of values up to ±1, half of what is allowed.
    """
    rng, found = np.random.default_rng(2), {}
    for chosen in candidates(clients, symmetric):
        if found and chosen.degree != min(s.degree for s in found):
            break
        updates = [
            rng.normal(0, 0.2, chosen.degree // 2).clip(-1, 1).astype(np.float32)
            for _ in range(clients)
        ]
        for u in updates:
            u[:2] = 1, -1
        try:
            peer = Peer(chosen, updates)
        except (RuntimeError, ValueError):  # SEAL refuses the set
            continue
        if peer.error(updates) < step / 2:
            found[chosen] = peer.bytes_per_value()
    return min(found, key=found.__getitem__)


def works(updates: Updates, step: float) -> list[Work]:
    """Prepare both sets with both kinds of encryption."""
    clients, values = len(updates), len(updates[0])
    sets = []
    for symmetric in (True, False):
        sets.append(Set(8192, (60, 40, 40), 40, symmetric))
        sets.append(smallest(clients, step, symmetric))
    out = []
    for chosen in sets:
        peer = Peer(chosen, updates)
        error = peer.error(updates)
        row = {
            "system": "tenseal",
            "parameters": str(chosen),
            "clients": clients,
            "values": values,
            "bytes_per_value": peer.bytes_per_value(),
            "scale_bits": chosen.scale,
            "largest_error": error,
            "precise": error <= step,
        }
        for what, counted, work in (
            ("encrypt", values, peer.encrypt),
            ("fold", values * clients, peer.fold),
            ("decrypt", values, peer.decrypt),
        ):
            out.append(Work({"what": what, **row}, counted, work))
    return out
