"""Verify testdata/vectors with plain integers.

Written from docs/spec.md alone: Python integers, numpy for arrays, no code of
the packages that wrote the vectors, no cryptographic library (AES is below).
Exits non-zero at the first difference.

Usage: ``python testdata/verify.py``
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import struct
import sys
from decimal import Decimal, getcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VECTORS = Path(__file__).resolve().parent / "vectors"
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.object_]
Case = dict[str, Any]
SIGMA = "4.53"
LANES, CONTROL, PUBLIC_KEY = 1, 2, 3


def check(ok: bool, what: str) -> None:
    """Stop at the first difference."""
    if not ok:
        sys.exit(f"verify: {what} differs")


# AES in counter mode (FIPS 197), all blocks at once.


def _double(x: int) -> int:
    return (x << 1 ^ (0x11B if x & 0x80 else 0)) & 0xFF


def _boxes() -> tuple[Bytes, Bytes, Bytes]:
    log, power, x = [0] * 256, [0] * 256, 1
    for i in range(255):
        power[i], log[x] = x, i
        x ^= _double(x)
    box = []
    for v in range(256):
        inverse = power[(255 - log[v]) % 255] if v else 0
        spread = 0
        for k in range(5):
            spread ^= inverse << k
        box.append((spread ^ spread >> 8) & 0xFF ^ 0x63)
    two = [_double(v) for v in range(256)]
    three = [_double(v) ^ v for v in range(256)]
    return (np.array(box, np.uint8), np.array(two, np.uint8), np.array(three, np.uint8))


SBOX, TWO, THREE = _boxes()
SHIFT = np.array([0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11])


def _round_keys(key: bytes) -> list[Bytes]:
    size, rounds = len(key) // 4, len(key) // 4 + 6
    words = [list(key[4 * i : 4 * i + 4]) for i in range(size)]
    constant = 1
    for i in range(size, 4 * (rounds + 1)):
        word = list(words[i - 1])
        if i % size == 0:
            word = [int(SBOX[b]) for b in word[1:] + word[:1]]
            word[0] ^= constant
            constant = _double(constant)
        elif size > 6 and i % size == 4:
            word = [int(SBOX[b]) for b in word]
        words.append([a ^ b for a, b in zip(words[i - size], word, strict=True)])
    flat = np.array(words, np.uint8).reshape(rounds + 1, 16)
    return list(flat)


def keystream(key: bytes, length: int, chunk: int, index: int, purpose: int) -> bytes:
    """Return the first bytes of the stream for (chunk, index, purpose)."""
    count = -(-length // 16)
    state = np.zeros((count, 16), np.uint8)
    nonce = struct.pack("<III", chunk, index, purpose)
    state[:, :12] = np.frombuffer(nonce, np.uint8)
    counters = np.arange(2, count + 2, dtype=">u4")
    state[:, 12:] = counters.view(np.uint8).reshape(count, 4)
    keys = _round_keys(key)
    state = state ^ keys[0]
    for k in keys[1:-1]:
        columns = SBOX[state][:, SHIFT].reshape(count, 4, 4)
        a, b, c, d = (columns[:, :, i] for i in range(4))
        state = np.stack(
            [
                TWO[a] ^ THREE[b] ^ c ^ d,
                a ^ TWO[b] ^ THREE[c] ^ d,
                a ^ b ^ TWO[c] ^ THREE[d],
                THREE[a] ^ b ^ c ^ TWO[d],
            ],
            axis=2,
        ).reshape(count, 16)
        state = state ^ k
    state = SBOX[state][:, SHIFT] ^ keys[-1]
    return state.tobytes()[:length]


def derive(tag: str, *parts: bytes) -> bytes:
    """H(tag ‖ 0x00 ‖ parts)."""
    return hashlib.sha256(tag.encode() + b"\0" + b"".join(parts)).digest()


# Expander and samplers (§2).


class Ring:
    """One preset: its primes and transforms."""

    def __init__(self, preset: Case) -> None:
        self.id: int = preset["id"]
        self.n: int = preset["n"]
        self.width: int = preset["width"]
        self.primes: list[int] = preset["primes"]
        self.psi: list[int] = preset["psi"]
        self.modulus = math.prod(self.primes)
        bits = self.n.bit_length() - 1
        self.reversed = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(self.n)]
        self._powers: dict[int, tuple[Ints, Ints]] = {}

    def powers(self, j: int) -> tuple[Ints, Ints]:
        """Powers of ψ and of its inverse in bit-reversed order."""
        if j not in self._powers:
            q, tables = self.primes[j], []
            for base in (self.psi[j], pow(self.psi[j], -1, q)):
                plain = [1]
                for _ in range(self.n - 1):
                    plain.append(plain[-1] * base % q)
                tables.append(np.array([plain[i] for i in self.reversed], object))
            self._powers[j] = (tables[0], tables[1])
        return self._powers[j]

    def forward(self, x: Ints, j: int) -> Ints:
        """Value i is that of the polynomial at ψ^(2·reversed(i)+1)."""
        q, (roots, _) = self.primes[j], self.powers(j)
        x, groups = x % q, 1
        while groups < self.n:
            pairs = x.reshape(groups, 2, -1)
            odd = pairs[:, 1] * roots[groups : 2 * groups, None] % q
            even = pairs[:, 0]
            x = np.stack([(even + odd) % q, (even - odd) % q], axis=1).reshape(-1)
            groups *= 2
        return x

    def backward(self, x: Ints, j: int) -> Ints:
        """Invert forward."""
        q, (_, roots) = self.primes[j], self.powers(j)
        groups = self.n // 2
        while groups >= 1:
            pairs = x.reshape(groups, 2, -1)
            even, odd = pairs[:, 0], pairs[:, 1]
            odd, even = (even - odd) * roots[groups : 2 * groups, None], even + odd
            x = np.stack([even % q, odd % q], axis=1).reshape(-1)
            groups //= 2
        out: Ints = x * pow(self.n, -1, q) % q
        return out

    def public(self, base: bytes, chunk: int, j: int) -> Ints:
        """a_{chunk,j} in the NTT domain."""
        key, q = derive("cryptflow/v1/a", base)[:16], self.primes[j]
        stream = keystream(key, 8 * (self.n + 64), chunk, j, 1)
        words = np.frombuffer(stream, "<u8") & np.uint64(2**self.width - 1)
        return np.array([int(w) for w in words if w < q][: self.n], object)

    def block(self, n: int) -> int:
        """Bytes of n packed residues."""
        return -(-n * self.width // 8)

    def pack(self, residues: list[int]) -> bytes:
        """Pack residues least significant bit first."""
        value = sum(v << i * self.width for i, v in enumerate(residues))
        return value.to_bytes(self.block(len(residues)), "little")

    def unpack(self, raw: bytes, n: int, q: int) -> list[int] | None:
        """Invert pack; None for bytes that pack does not write."""
        value = int.from_bytes(raw, "little")
        if value >> n * self.width:
            return None
        mask = 2**self.width - 1
        out = [value >> i * self.width & mask for i in range(n)]
        return out if max(out) < q else None


@cache
def thresholds() -> list[int]:
    """T_k = floor(2^63·P(|X| ≤ k)) for k = 0…39."""
    getcontext().prec = 80
    variance = Decimal(SIGMA) ** 2
    density = [(-Decimal(k * k) / (2 * variance)).exp() for k in range(41)]
    total = density[0] + 2 * sum(density[1:])
    out, running = [], Decimal(0)
    for k in range(40):
        running += density[k] * (2 if k else 1)
        out.append(int(running / total * 2**63))
    return out


def gaussian(stream: bytes) -> list[int]:
    """One sample a little-endian 64-bit word."""
    out = []
    for (word,) in struct.iter_unpack("<Q", stream):
        magnitude = bisect.bisect_right(thresholds(), word & (2**63 - 1))
        out.append(-magnitude if word >> 63 else magnitude)
    return out


def sample(key: bytes, n: int, chunk: int, purpose: int) -> Ints:
    """Return n samples of a stream as an array of integers."""
    return np.array(gaussian(keystream(key, 8 * n, chunk, 0, purpose)), object)


# Encoding (§5).


def real(text: str) -> np.float32:
    """Read a float32 from the hex of its bits."""
    return np.float32(struct.unpack(">f", bytes.fromhex(text))[0])


def bits_of(x: np.float32) -> str:
    """Write a float32 as the hex of its bits."""
    return np.array([x], ">f4").tobytes().hex()


def quantise(
    x: np.float32, limit: np.float32, factor: float, case: Case, rho: int
) -> tuple[int, bool]:
    """Return u of one value and whether it was clipped."""
    half = 2 ** (case["bits"] - 1) - 1
    scale = factor * (float(half) / float(limit))
    magnitude = abs(float(x))
    clipped = magnitude > float(limit) / factor
    sign = -1 if math.copysign(1, float(x)) < 0 else 1
    if case["rounding"] == "nearest":
        step = half if clipped else min(round(magnitude * scale), half)
        return sign * step + half, clipped
    fixed = half << 32
    if not clipped:
        fixed = min(int(magnitude * (scale * 2.0**32)), fixed)
    return (sign * fixed + rho >> 32) + half, clipped


def lanes(
    case: Case, values: list[np.float32], factor: float, rho: bytes
) -> tuple[list[int], list[int]]:
    """Return the coefficients of a short update and the clipped counts."""
    ranges = [i for i, t in enumerate(case["tensors"]) for _ in range(t["count"])]
    clipped = [0] * len(case["tensors"])
    per = case["lanes"]
    out = [0] * -(-len(values) // per)
    for v, x in enumerate(values):
        limit = real(case["tensors"][ranges[v]]["range"])
        noise = int.from_bytes(rho[4 * v : 4 * v + 4], "little")
        u, over = quantise(x, limit, factor, case, noise)
        clipped[ranges[v]] += over
        out[v // per] += u << v % per * case["lane_width"]
    return out, clipped


# Frames (§6).


def header(
    ring: Ring,
    encoding: int,
    components: int,
    key: bytes,
    chunk: int,
    terms: int,
    weight: int,
    n: int,
) -> bytes:
    """The 40 bytes before the residues."""
    start = b"CFF1" + bytes([1, ring.id, encoding, components]) + key
    return start + struct.pack("<IIII", chunk, terms, weight, n)


def parse(raw: bytes, rings: dict[int, Ring]) -> list[list[int]] | None:
    """Residues by component and prime, or None for what is no frame."""
    if len(raw) < 40 or raw[:4] != b"CFF1" or raw[4] != 1 or raw[5] not in rings:
        return None
    ring, encoding, components = rings[raw[5]], raw[6], raw[7]
    chunk, terms, weight, n = struct.unpack("<IIII", raw[24:40])
    if not 1 <= encoding <= 5 or components not in (1, 2):
        return None
    if not 1 <= n <= ring.n or not 1 <= terms <= 4096:
        return None
    if not terms <= weight <= 255 * terms or (components == 1 and weight != terms):
        return None
    if encoding == PUBLIC_KEY and (components, chunk, terms, n) != (1, 0, 1, ring.n):
        return None
    counts = [n, ring.n][:components]
    if len(raw) != 40 + sum(len(ring.primes) * ring.block(c) for c in counts):
        return None
    out, at = [], 40
    for count in counts:
        for q in ring.primes:
            residues = ring.unpack(raw[at : at + ring.block(count)], count, q)
            if residues is None:
                return None
            out.append(residues)
            at += ring.block(count)
    return out


def same(raw: bytes, shown: str) -> bool:
    """Compare a frame with its hex or its hash."""
    if shown.startswith("sha256:"):
        return hashlib.sha256(raw).hexdigest() == shown[7:]
    return raw.hex() == shown


# The vector files.


def load(name: str) -> list[Case]:
    """Read the cases of one file."""
    cases: list[Case] = json.loads((VECTORS / name).read_text())["cases"]
    check(len(cases) > 0, name)
    return cases


def expander(rings: dict[int, Ring]) -> None:
    """Check expander.json, and the transforms against their definition."""
    for case in load("expander.json"):
        ring = rings.setdefault(case["preset"]["id"], Ring(case["preset"]))
        a = ring.public(bytes.fromhex(case["key_base"]), case["chunk"], case["prime"])
        check(list(a[:4]) == case["first"] and a[-1] == case["last"], "expander")
        raw = b"".join(struct.pack("<Q", v) for v in a)
        check(hashlib.sha256(raw).hexdigest() == case["sha256_of_le64"], "expander")
        if case["chunk"] == 0:
            j, x = case["prime"], ring.backward(a, case["prime"])
            check(bool((ring.forward(x, j) == a).all()), "transform")
            for i in (0, 1, ring.n // 3, ring.n - 1):
                q, value = ring.primes[j], 0
                point = pow(ring.psi[j], 2 * ring.reversed[i] + 1, q)
                for v in reversed(x):
                    value = (value * point + v) % q
                check(value == a[i], "transform at a point")


def sampler(rings: dict[int, Ring]) -> None:
    """Check sampler.json."""
    for case in load("sampler.json"):
        seed, spec = bytes.fromhex(case["key_seed"]), bytes.fromhex(case["spec_digest"])
        key = derive("cryptflow/v1/key", seed, spec)
        s = sample(key, rings[case["preset"]["id"]].n, 0, 2)
        raw = b"".join(struct.pack("<i", v) for v in s)
        check(list(s[:16]) == case["first"], "sampler")
        check(hashlib.sha256(raw).hexdigest() == case["sha256_of_le32"], "sampler")


def encodings() -> None:
    """Check lanes.json."""
    for case in load("lanes.json"):
        values = [real(t) for t in case["values"]]
        factor = case["weight"] / case["weight_cap"]
        got, clipped = lanes(case, values, factor, bytes.fromhex(case["rho"]))
        check(got == [int(t, 16) for t in case["coefficients"]], "lanes")
        check(clipped == case["clipped"], "clipped counts")


def digits() -> None:
    """Check digits.json: integers of precise tensors, and means of their sums."""
    for case in load("digits.json"):
        m = 2 ** (case["bits"] - 1) - 1
        count = 1
        while m * (2 * m) ** (count - 1) < 2**44:
            count += 1
        check(count == case["digits"], "number of digits")
        sums: list[int] = []
        cap, divisor = case["weight_cap"], sum(case["weights"]) / case["weight_cap"]
        for weight, texts, given in zip(
            case["weights"], case["values"], case["integers"], strict=True
        ):
            values, factor = [real(t) for t in texts], weight / cap
            first, further, at = [], [], 0
            for tensor in case["tensors"]:
                limit = float(real(tensor["range"]))
                scale, rows = factor * (m / limit), [[] for _ in range(count - 1)]
                for x in values[at : at + tensor["count"]]:
                    sign, y = (-1 if x < 0 else 1), min(abs(float(x)) * scale, m)
                    n = round(y)  # ties to even
                    first.append(sign * n)
                    left = y - n
                    for row in rows:
                        z = left * (2.0 * m)
                        row.append(sign * round(z))
                        left = z - round(z)
                at += tensor["count"]
                if tensor["precise"]:
                    further += [n for row in rows for n in row]
            own = first + further
            check([n + m for n in own] == given, "digits")
            sums = [a + b for a, b in zip(sums or [0] * len(own), own, strict=True)]
        mean, at, place = [], 0, sum(t["count"] for t in case["tensors"])
        for tensor in case["tensors"]:
            size = tensor["count"]
            scale = float(real(tensor["range"])) / m / divisor
            for i in range(size if tensor["precise"] else 0):
                part = 0.0
                for d in reversed(range(count - 1)):
                    part = (sums[place + d * size + i] + part) / (2.0 * m)
                mean.append(bits_of(np.float32((sums[at + i] + part) * scale)))
            at += size
            place += (count - 1) * size if tensor["precise"] else 0
        check(mean == case["mean"], "means of digits")


def frames(rings: dict[int, Ring]) -> None:
    """Check frames.json and malformed.json."""
    for case in load("frames.json"):
        ring = rings[case["preset"]["id"]]
        raw = bytes.fromhex(case["frame"])
        start = header(
            ring,
            case["encoding"],
            case["components"],
            bytes.fromhex(case["key"]),
            case["chunk"],
            case["terms"],
            case["weight"],
            case["coefficients"],
        )
        packed = b"".join(ring.pack(r) for r in case["residues"])
        check(start + packed == raw, "frame")
        check(parse(raw, rings) == case["residues"], "parsed frame")
    for case in load("malformed.json"):
        bad = parse(bytes.fromhex(case["frame"]), rings)
        check(bad is None, f"malformed frame ({case['why']})")


P61 = 2**61 - 1


def limbs_of(entries: list[int]) -> list[int]:
    """Split control entries into three limbs of 16 bits each."""
    return [e >> 16 * limb & 0xFFFF for e in entries for limb in range(3)]


class Round:
    """One round of rounds.json, computed again from seeds and values."""

    def __init__(self, case: Case, ring: Ring) -> None:
        self.case, self.ring = case, ring
        self.spec = bytes.fromhex(case["spec_digest"])
        self.shared = case["mode"] == "shared-key"
        self.delta = 2 ** case["log_delta"]
        self.values = sum(t["count"] for t in case["tensors"])
        check(self.values <= case["lanes"] * ring.n, "one data chunk")

    def secret(self, base: bytes, seed: str) -> tuple[bytes, Ints]:
        """Stream key and secret polynomial of a key seed."""
        key = derive("cryptflow/v1/key", bytes.fromhex(seed), base)
        return key, sample(key, self.ring.n, 0, 2)

    def multiply(self, a: Ints, s: Ints, j: int) -> Ints:
        """Coefficients of a·s, for a in the NTT domain."""
        product = a * self.ring.forward(s, j) % self.ring.primes[j]
        return self.ring.backward(product, j)

    def plaintexts(self, client: Case, noise: bytes) -> list[tuple[int, list[int]]]:
        """Encoding id and coefficients of the data and the control chunk."""
        values = [real(t) for t in client["values"]]
        weight, factor = client["num_examples"], 1.0
        if not self.shared:
            factor = weight / self.case["weight_cap"]
        rho = keystream(noise, 4 * len(values), 0, 0, 6)
        data, clipped = lanes(self.case, values, factor, rho)
        own = 1 if self.shared else weight
        metrics: list[int] = []
        for name in self.case["metrics"]:
            value = client["metrics"].get(name, 0.0)
            given = own if name in client["metrics"] else 0
            metrics += [round(value * factor * 2**24) + 2**46, given]
        entries = [own, sum(clipped), 0, 0, *metrics, *clipped]
        tag = self.constant(client["client"])
        tag += self.tag(0, self.symbols(data)) + self.tag(1, limbs_of(entries))
        entries[2:4] = tag % P61 % 2**48, tag % P61 >> 48
        return [(LANES, data), (CONTROL, limbs_of(entries))]

    def element(self, tag: str, data: bytes) -> int:
        """A number below the prime that only holders of the tag key know."""
        digest = derive(tag, bytes.fromhex(self.case["tag_key"]), data)
        return int.from_bytes(digest[:8], "little") % 2**61 % P61

    def constant(self, client: str) -> int:
        """What the name of a client adds to its tag."""
        digest = hashlib.sha256(client.encode()).digest()
        return self.element("cryptflow/v1/tag-client", digest)

    def symbols(self, coefficients: list[int]) -> list[int]:
        """Groups of neighbouring lanes, at most 60 bits each."""
        width, count = self.case["lane_width"], self.case["lanes"]
        group = 60 // width
        return [
            c >> first * width & 2 ** (min(group, count - first) * width) - 1
            for c in coefficients
            for first in range(0, count, group)
        ]

    def tag(self, chunk: int, symbols: list[int]) -> int:
        """The tag of one chunk."""
        x, power, total = self.element("cryptflow/v1/tag-point", b""), 1, 0
        for s in symbols:
            power = power * x % P61
            total += s * power
        return total * self.element("cryptflow/v1/tag-chunk", struct.pack("<I", chunk))

    def frame(
        self, encoding: int, chunk: int, terms: int, weight: int, blocks: list[Ints]
    ) -> bytes:
        """Write one frame of the round."""
        n = len(blocks[0])
        start = header(
            self.ring,
            encoding,
            1 + self.shared,
            self.spec[:16],
            chunk,
            terms,
            weight,
            n,
        )
        return start + b"".join(self.ring.pack(list(b)) for b in blocks)

    def setup(self) -> None:
        """In shared-key, make the round's key pair."""
        self.b: list[Ints] = []
        if not self.shared:
            return
        ring, self.nonce = self.ring, bytes.fromhex(self.case["nonce"])
        key, self.key = self.secret(self.nonce, self.case["round_key_seed"])
        error = sample(key, ring.n, 0, 7)
        for j, q in enumerate(ring.primes):
            a = ring.public(self.nonce, 0, j)
            self.b.append((error - self.multiply(a, self.key, j)) % q)
        raw = header(ring, PUBLIC_KEY, 1, self.nonce[:16], 0, 1, 1, ring.n)
        raw += b"".join(ring.pack(list(b)) for b in self.b)
        check(
            hashlib.sha256(raw).hexdigest() == self.case["public_key_sha256"],
            "public key",
        )

    def encrypt(self, client: Case) -> list[tuple[int, list[Ints]]]:
        """Encoding and residue blocks of both chunks of one client."""
        ring = self.ring
        noise = derive(
            "cryptflow/v1/noise", bytes.fromhex(client["noise_seed"]), self.spec
        )
        out = []
        for chunk, (encoding, m) in enumerate(self.plaintexts(client, noise)):
            n = len(m)
            message = np.array(m, object) * self.delta + sample(noise, n, chunk, 3)
            first, second = [], []
            if self.shared:
                u, error = (
                    sample(noise, ring.n, chunk, 5),
                    sample(noise, ring.n, chunk, 4),
                )
                for j, q in enumerate(ring.primes):
                    half = self.multiply(ring.forward(self.b[j], j), u, j)[:n]
                    first.append((half + message) % q)
                    second.append(
                        (self.multiply(ring.public(self.nonce, 0, j), u, j) + error) % q
                    )
            else:
                _, s = self.secret(self.spec, client["key_seed"])
                for j, q in enumerate(ring.primes):
                    mask = self.multiply(ring.public(self.spec, chunk, j), s, j)[:n]
                    first.append((message - mask) % q)
            out.append((encoding, first + second))
        return out

    def decrypt(self, chunk: int, blocks: list[Ints], secret: Ints) -> list[int]:
        """Open a sum: the coefficients of the plaintext."""
        ring, n, total = (
            self.ring,
            len(blocks[0]),
            np.array([0] * len(blocks[0]), object),
        )
        for j, q in enumerate(ring.primes):
            if self.shared:
                a = ring.forward(blocks[len(ring.primes) + j], j)
            else:
                a = ring.public(self.spec, chunk, j)
            residue = (blocks[j] + self.multiply(a, secret, j)[:n]) % q
            rest = ring.modulus // q
            total = total + residue * (rest * pow(rest, -1, q))
        shifted = (total + self.delta // 2) % ring.modulus
        noise = [abs(int(v) % self.delta - self.delta // 2) for v in shifted]
        check(max(noise) <= self.case["noise_bound"], "noise bound")
        return [int(v) // self.delta for v in shifted]

    def verify(self) -> None:
        """Check every frame, the sum and the mean."""
        case, ring = self.case, self.ring
        self.setup()
        sums: list[list[Ints]] = []
        for client in case["clients"]:
            for chunk, (encoding, blocks) in enumerate(self.encrypt(client)):
                raw = self.frame(encoding, chunk, 1, 1, blocks)
                check(same(raw, client["frames"][chunk]), "a client's frame")
                weighted = [b * client["public_weight"] for b in blocks]
                if len(sums) == chunk:
                    sums.append(weighted)
                else:
                    sums[chunk] = [
                        a + b for a, b in zip(sums[chunk], weighted, strict=True)
                    ]
        primes = ring.primes * (1 + self.shared)
        sums = [[b % q for b, q in zip(s, primes, strict=True)] for s in sums]
        weight = case["weight_sum"]
        for chunk, blocks in enumerate(sums):
            raw = self.frame(
                [LANES, CONTROL][chunk], chunk, len(case["clients"]), weight, blocks
            )
            check(same(raw, case["sum"][chunk]), "the sum's frame")
        secret = np.array([0] * ring.n, object)
        for client in case["clients"]:
            secret = secret + self.secret(self.spec, client["key_seed"])[1]
        if self.shared:
            secret = self.key
        raw = b"".join(struct.pack("<i", v) for v in secret)
        check(
            hashlib.sha256(raw).hexdigest() == case["secret_sha256_of_le32"], "secret"
        )

        limbs = self.decrypt(1, sums[1], secret)
        controls = [
            sum(limbs[3 * k + i] << 16 * i for i in range(3))
            for k in range(len(limbs) // 3)
        ]
        check(controls == case["controls"], "control entries")
        divisor = (
            float(controls[0]) if self.shared else controls[0] / case["weight_cap"]
        )
        data = self.decrypt(0, sums[0], secret)
        covered = limbs[:6] + [0] * 6 + limbs[12:]
        tag = self.tag(0, self.symbols(data)) + self.tag(1, covered)
        for client in case["clients"]:
            tag += client["public_weight"] * self.constant(client["client"])
        check((controls[2] + (controls[3] << 48) - tag) % P61 == 0, "tag of the sum")
        for k, name in enumerate(case["metrics"]):
            total, given = controls[4 + 2 * k], controls[5 + 2 * k]
            units = float(given) if self.shared else given / case["weight_cap"]
            mean_metric = float(total - weight * 2**46) / 2**24 / units
            check(mean_metric == case["mean_metrics"][name], "metric")
        half, mask = 2 ** (case["bits"] - 1) - 1, 2 ** case["lane_width"] - 1
        ranges = [t["range"] for t in case["tensors"] for _ in range(t["count"])]
        mean = []
        for v in range(self.values):
            lane = (
                data[v // case["lanes"]] >> v % case["lanes"] * case["lane_width"]
                & mask
            )
            scale = float(real(ranges[v])) / float(half) / divisor
            value = float(lane - half * weight) * scale
            largest = float(np.finfo(np.float32).max)
            mean.append(bits_of(np.float32(min(max(value, -largest), largest))))
        check(mean == case["mean"], "mean")


def slots(rings: dict[int, Ring]) -> None:
    """Open the sums of slots.json and evaluate them at roots of unity."""
    for case in load("slots.json"):
        ring, real_ring = rings[case["preset"]["id"]], case["encoding"] == "slots-ci"
        n, delta, half = ring.n, 2 ** case["log_delta"], case["half"]
        raw, blocks = bytes.fromhex(case["sum"]), []
        check(raw[6] == case["id"], "encoding")
        parsed = parse(raw, rings)
        check(parsed is not None and len(parsed) == 2 * len(ring.primes), "sum's frame")
        blocks = [np.array(b, object) for b in parsed or []]
        nonce = bytes.fromhex(case["nonce"])
        key = derive("cryptflow/v1/key", bytes.fromhex(case["round_key_seed"]), nonce)
        secret, total = sample(key, n, 0, 2), np.array([0] * n, object)
        for j, q in enumerate(ring.primes):
            a = ring.forward(blocks[len(ring.primes) + j], j)
            product = ring.backward(a * ring.forward(secret, j) % q, j)
            rest = ring.modulus // q
            total = total + (blocks[j] + product) % q * (rest * pow(rest, -1, q))
        opened = [int(v + delta // 2) % ring.modulus // delta for v in total]
        check(max(opened) <= 4 * half, "coefficients of a sum")
        c = np.array([(v - 2 * half) / half for v in opened], np.float64)
        m, degrees = (4 if real_ring else 2) * n, np.arange(n)
        weights = np.where(degrees > 0, 2.0, 1.0) if real_ring else 1.0
        ranges = [real(t["range"]) for t in case["tensors"] for _ in range(t["count"])]
        steps = 2 ** (case["bits"] - 1) - 1
        first, second = ([real(t) for t in v] for v in case["values"])
        for i, (r, text) in enumerate(zip(ranges, case["mean"], strict=True)):
            angle = 2 * np.pi * (pow(5, i, m) * degrees % m) / m
            slot = float((c * weights * np.cos(angle)).sum())
            exact = (float(first[i]) + float(second[i])) / 2
            got = float(real(text))
            check(abs(slot / 2 * float(r) - exact) <= float(r) / steps, "slot")
            check(abs(got / float(r) * steps - round(slot / 2 * steps)) < 1e-3, "mean")


# Canonical objects (docs/canonical.md).

# Fields in order; "name*{...}" is a list. Kinds: text, hex (text of bytes),
# d (32 bytes), u8, u32, u64, i32, f32, f64.
OBJECTS: dict[str, list[Any]] = {
    "layout": [("tensors", [("name", "text"), ("shape", ["u64"])])],
    "task": [
        ("name", "text"),
        ("nonce", "d"),
        ("mode", "u8"),
        ("preset", "text"),
        ("bits", "u32"),
        ("rounding", "u8"),
        ("encoding", "u8"),
        ("ranges", "u8"),
        ("layout", [("name", "text"), ("shape", ["u64"]), ("range", "f32")]),
        ("initial_model", "d"),
        ("weight_cap", "u32"),
        ("metrics", ["text"]),
        ("members", [("name", "text"), ("organisation", "text")]),
        ("max_clients", "u32"),
        ("min_cohort", "u32"),
        ("permille", "u32"),
        ("per_organisation", "u32"),
        ("deadline", "u32"),
        ("rounds", "u32"),
        ("aggregator", "d"),
        ("kms", "d"),
    ],
    "spec": [
        ("task", "d"),
        ("round", "u32"),
        ("kind", "u8"),
        ("step", "u32"),
        ("model", "d"),
        ("layout", "d"),
        ("lanes", "u32"),
        ("log_delta", "u32"),
        ("nonce", "d"),
        ("hpke", "hex"),
        ("public_key", "d"),
    ],
    "manifest": [
        ("spec", "d"),
        (
            "entries",
            [("client", "text"), ("root", "d"), ("model", "d"), ("weight", "u32")],
        ),
    ],
    "receipt": [
        ("spec", "d"),
        ("client", "text"),
        ("root", "d"),
        ("frames", "u32"),
        ("bytes", "u64"),
        ("weight", "u32"),
    ],
    "deposit": [("spec", "d"), ("client", "text"), ("model", "d"), ("root", "d")],
    "decision": [
        ("spec", "d"),
        ("outcome", "u8"),
        ("manifest", "d"),
        ("terms", "u32"),
        ("weights", "u32"),
        ("squares", "u64"),
        ("reason", "text"),
    ],
    "result": [
        ("spec", "d"),
        ("manifest", "d"),
        ("root", "d"),
        ("frames", "u32"),
        ("terms", "u32"),
    ],
    "release": [
        ("spec", "d"),
        ("manifest", "d"),
        ("mode", "u8"),
        ("terms", "u32"),
        ("weights", "u32"),
        ("squares", "u64"),
        ("secret", ["i32"]),
    ],
    "addressee": [("spec", "d"), ("manifest", "d"), ("client", "text")],
}
# What a cohort says of itself. A name that ends in -2 is of version 2.
COHORT: dict[str, list[Any]] = {
    "announcement": [("spec", "d"), ("client", "text"), ("model", "d")],
    "deposit-2": [*OBJECTS["deposit"], ("weight", "u32")],
    "report": [
        ("spec", "d"),
        ("client", "text"),
        ("opening", "u8"),
        ("result", "d"),
        ("sums", "d"),
    ],
    "verdict": [
        ("spec", "d"),
        ("opening", "u8"),
        ("result", "d"),
        ("sums", "d"),
        ("agree", "u32"),
        ("cohort", "u32"),
    ],
}
OBJECTS["private-task"] = [
    *OBJECTS["task"],
    ("clip", "f64"),
    ("multiplier", "f64"),
    ("delta", "f64"),
    ("colluding", "u32"),
    ("steps", "u32"),
    ("bound", "u64"),
    ("variance", "u64"),
]
NUMBERS = {"u8": "<B", "u32": "<I", "u64": "<Q", "i32": "<i"}


def write(kind: Any, value: Any) -> bytes:
    """Write one field."""
    if isinstance(kind, list) and isinstance(kind[0], str):
        return struct.pack("<I", len(value)) + b"".join(
            write(kind[0], v) for v in value
        )
    if isinstance(kind, list):
        items = [write(k, item[name]) for item in value for name, k in kind]
        return struct.pack("<I", len(value)) + b"".join(items)
    if kind in NUMBERS:
        return struct.pack(NUMBERS[kind], value)
    if kind in ("f32", "f64"):
        return bytes.fromhex(value)[::-1]
    raw = value.encode() if kind == "text" else bytes.fromhex(value)
    return raw if kind == "d" else struct.pack("<I", len(raw)) + raw


def read(kind: Any, raw: bytes) -> bytes | None:
    """What follows one field, or None where it does not fit."""
    if isinstance(kind, list):
        head, rest = raw[:4], raw[4:]
        if len(head) < 4:
            return None
        for _ in range(struct.unpack("<I", head)[0]):
            for part in kind if isinstance(kind[0], tuple) else [("", kind[0])]:
                after = read(part[1], rest)
                if after is None:
                    return None
                rest = after
        return rest
    size = 8 if kind == "f64" else 4
    size = struct.calcsize(NUMBERS[kind]) if kind in NUMBERS else size
    if kind == "d":
        size = 32
    if len(raw) >= size and kind in ("text", "hex"):
        length = struct.unpack("<I", raw[:4])[0]
        size += length
        if length > (1024 if kind == "text" else 4096):
            return None
    return raw[size:] if len(raw) >= size else None


def tag_of(name: str) -> bytes:
    """Return the tag that an object begins with."""
    base = name.removesuffix("-2")
    return write("text", f"cryptflow/v{1 if base == name else 2}/{base}")


def is_object(name: str, raw: bytes) -> bool:
    """Say whether a byte string has the form of an object."""
    tag = tag_of(name)
    rest: bytes | None = raw[len(tag) :] if raw.startswith(tag) else None
    for _, kind in (OBJECTS | COHORT)[name]:
        if rest is not None:
            rest = read(kind, rest)
    return rest == b""


# Extensions of a task by id: the fields of each. Flags of tensors have none, and
# one byte for each tensor.
EXTENSIONS: dict[int, list[Any]] = {
    1: OBJECTS["private-task"][len(OBJECTS["task"]) :],
    2: [],
    3: [("trim", "u32")],
    4: [("canaries", "u32")],
}


def is_extended(raw: bytes, tensors: int) -> bool:
    """Say whether a byte string has the form of a task with extensions."""
    tag = write("text", "cryptflow/v2/task")
    rest: bytes | None = raw[len(tag) :] if raw.startswith(tag) else None
    for _, kind in [*OBJECTS["task"], ("count", "u32")]:
        count, rest = rest, None if rest is None else read(kind, rest)
    if rest is None or count is None:
        return False
    seen = [0]
    for _ in range(struct.unpack("<I", count[:4])[0]):
        if len(rest) < 8:
            return False
        number, size = struct.unpack("<II", rest[:8])
        content, rest = rest[8 : 8 + size], rest[8 + size :]
        if number <= seen[-1] or number not in EXTENSIONS or len(content) != size:
            return False
        seen.append(number)
        end: bytes | None = content
        for _, kind in EXTENSIONS[number]:
            end = None if end is None else read(kind, end)
        if number == 2:
            end = b"" if len(content) == tensors and max(content) < 4 else None
        if end != b"" or not any(content):
            return False
    return rest == b"" and seen[-1] > 1


def extensions(file: str) -> None:
    """Check a file of tasks with extensions."""
    for case in load(file):
        raw, items = bytes.fromhex(case["bytes"]), case["extensions"]
        own = write("text", "cryptflow/v2/task")
        own += b"".join(write(k, case["fields"][name]) for name, k in OBJECTS["task"])
        own += struct.pack("<I", len(items))
        for item in items:
            own += struct.pack("<I", item["id"]) + write("hex", item["content"])
        tensors = len(case["fields"]["layout"])
        check(own == raw and is_extended(raw, tensors), "a task with extensions")
        check(hashlib.sha256(raw).hexdigest() == case["sha256"], "its digest")
        for bad in case["malformed"]:
            text = bytes.fromhex(bad["bytes"])
            check(not is_extended(text, tensors), f"malformed task ({bad['why']})")


# Ed25519 (RFC 8032, §5.1), verification alone.

P25519 = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D25519 = -121665 * pow(121666, -1, P25519) % P25519
Point = tuple[int, int]


def add(p: Point, q: Point) -> Point:
    """Add on the twisted Edwards curve -x^2 + y^2 = 1 + d x^2 y^2."""
    (a, b), (c, d) = p, q
    cross = D25519 * a * b * c * d % P25519
    x = (a * d + b * c) * pow(1 + cross, -1, P25519) % P25519
    return x, (b * d + a * c) * pow(1 - cross, -1, P25519) % P25519


def times(k: int, p: Point) -> Point:
    """Add a point k times."""
    total: Point = (0, 1)
    while k:
        if k & 1:
            total = add(total, p)
        p, k = add(p, p), k >> 1
    return total


def point(raw: bytes) -> Point:
    """Decode a point."""
    y = int.from_bytes(raw, "little")
    odd, y = y >> 255, y % 2**255
    square = (y * y - 1) * pow(D25519 * y * y + 1, -1, P25519) % P25519
    x = pow(square, (P25519 + 3) // 8, P25519)
    if x * x % P25519 != square:
        x = x * pow(2, (P25519 - 1) // 4, P25519) % P25519
    check(x * x % P25519 == square, "a point")
    return (P25519 - x if x & 1 != odd else x), y


def signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Verify a signature."""
    base = point((4 * pow(5, -1, P25519) % P25519).to_bytes(32, "little"))
    s = int.from_bytes(signature[32:], "little")
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % ORDER
    right = add(point(signature[:32]), times(k, point(public)))
    return s < ORDER and times(s, base) == right


def canonical(file: str, objects: dict[str, list[Any]]) -> None:
    """Check canonical.json or cohort.json."""
    seen = set()
    for case in load(file):
        name, raw = case["object"], bytes.fromhex(case["bytes"])
        seen.add(name)
        fields = objects[name]
        check({f for f, _ in fields} == set(case["fields"]), f"fields of a {name}")
        own = tag_of(name)
        own += b"".join(write(kind, case["fields"][field]) for field, kind in fields)
        check(own == raw and is_object(name, raw), f"canonical {name}")
        check(hashlib.sha256(raw).hexdigest() == case["sha256"], f"digest of a {name}")
        public, signature = (
            bytes.fromhex(case[k]) for k in ("public_key", "signature")
        )
        check(signed(public, raw, signature), f"signature over a {name}")
        check(not signed(public, raw + b"\0", signature), "signature over another")
        for bad in case.get("malformed", []):
            text = bytes.fromhex(bad["bytes"])
            check(not is_object(name, text), f"malformed {name} ({bad['why']})")
    check(seen == set(objects), "canonical objects")


def head_of(leaves: list[bytes]) -> bytes:
    """The tree head of RFC 6962, §2.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    halves = head_of(leaves[:k]) + head_of(leaves[k:])
    return hashlib.sha256(b"\1" + halves).digest()


def digests() -> None:
    """Check digests.json."""
    for case in load("digests.json"):
        what = case["what"]
        if what == "root":
            head = head_of([bytes.fromhex(f) for f in case["frames"]])
            count = struct.pack("<Q", len(case["frames"]))
            root = derive("cryptflow/v1/root", head, count)
            check([head.hex(), root.hex()] == [case["head"], case["root"]], "root")
            continue
        if what == "initial model":
            raw = write("text", "cryptflow/v1/initial-model") + write(
                "d", case["layout"]
            )
            raw += b"".join(write("f32", v) for v in case["values"])
        elif what == "next model":
            raw = write("text", "cryptflow/v1/model")
            raw += b"".join(write("d", case[k]) for k in ("previous", "spec", "result"))
        else:
            raw = write("d", case["spec"]) + struct.pack(
                "<II", case["from"], case["to"]
            )
            check(raw.hex() == case["bytes"], "ticket")
            continue
        check(hashlib.sha256(raw).hexdigest() == case["digest"], what)


def canaries(rings: dict[int, Ring]) -> None:
    """Check canaries.json: what a key service sees of a contribution."""
    for case in load("canaries.json"):
        ring, count = rings[case["preset"]["id"]], case["canaries"]
        spec, seed = (bytes.fromhex(case[k]) for k in ("spec_digest", "key_seed"))
        frames = [bytes.fromhex(f) for f in case["frames"]]
        rows = parse(frames[-1], rings)
        check(rows is not None, "a control frame with canaries")
        assert rows is not None
        first, chunk = 3 * case["entries"], len(frames) - 1
        n = first + count
        start = header(ring, CONTROL, 1, spec[:16], chunk, 1, 1, n)
        check(frames[-1].startswith(start), "its header")
        raw = b"".join(ring.pack(row[first:]) for row in rows)
        check(raw.hex() == case["residues"], "residues of canaries")
        # Under the deposited key they are errors, the same modulo every prime.
        s = sample(derive("cryptflow/v1/key", seed, spec), ring.n, 0, 2)
        noise = derive("cryptflow/v1/noise", bytes.fromhex(case["noise_seed"]), spec)
        error = list(sample(noise, n, chunk, 3))[first:]
        for j, q in enumerate(ring.primes):
            product = ring.public(spec, chunk, j) * ring.forward(s, j) % q
            product = ring.backward(product, j)[first:n]
            found = [
                (c + int(p)) % q for c, p in zip(rows[j][first:], product, strict=True)
            ]
            check(found == [e % q for e in error], "errors of canaries")
        check(max(map(abs, error)) <= 40, "their bound")
        # The last leaf, the path of the frames beside it, and the root.
        leaf = b"cryptflow/v1/canaries\0" + raw
        path, left = [], frames
        while left:
            size = 1 << len(left).bit_length() - 1
            path.append(head_of(left[:size]).hex())
            left = left[size:]
        check(path == case["path"], "the path of canaries")
        leaves = [*frames, leaf]
        head, number = head_of(leaves), struct.pack("<Q", len(leaves))
        root = derive("cryptflow/v1/root", head, number)
        check(root.hex() == case["root"], "a root with canaries")


def streams() -> None:
    """Check streams.json: samples of given words, every stream of a seed."""
    every: Case = json.loads((VECTORS / "streams.json").read_text())
    fixed = b"".join(struct.pack("<Q", int(w, 16)) for w in every["fixed"]["words"])
    check(gaussian(fixed) == every["fixed"]["samples"], "samples of given words")
    check({c["purpose"] for c in every["cases"]} == {2, 3, 4, 5, 7}, "streams")
    for case in every["cases"]:
        seed, base = bytes.fromhex(case["seed"]), bytes.fromhex(case["base"])
        key = derive(case["tag"], seed, base)
        s = sample(key, case["samples"], case["chunk"], case["purpose"])
        raw = b"".join(struct.pack("<i", v) for v in s)
        check(list(s[:16]) == case["first"], case["stream"])
        check(hashlib.sha256(raw).hexdigest() == case["sha256_of_le32"], case["stream"])
    case = every["rounding"]
    seed, base = bytes.fromhex(case["seed"]), bytes.fromhex(case["base"])
    key = derive("cryptflow/v1/noise", seed, base)
    raw = keystream(key, 4 * case["words"], case["chunk"], 0, 6)
    check(raw[:32].hex() == case["first"], "rounding words")
    check(hashlib.sha256(raw).hexdigest() == case["sha256"], "rounding words")


def components(rings: dict[int, Ring]) -> None:
    """Check components.json: long frames and what makes them none."""
    for case in load("components.json"):
        ring, n = rings[case["preset"]["id"]], case["coefficients"]
        raw = header(
            ring,
            case["encoding"],
            case["components"],
            bytes.fromhex(case["key"]),
            case["chunk"],
            case["terms"],
            case["weight"],
            n,
        )
        residues = [
            [
                (i + 1) * (c + 2) * (j + 3) * case["step"] % q
                for i in range(n if c == 0 else ring.n)
            ]
            for c in range(case["components"])
            for j, q in enumerate(ring.primes)
        ]
        raw += b"".join(ring.pack(r) for r in residues)
        check(len(raw) == case["bytes"], "a long frame's length")
        check(hashlib.sha256(raw).hexdigest() == case["sha256"], "a long frame")
        check(parse(raw, rings) == residues, "a long frame, parsed")
        for bad in case["malformed"]:
            put, at = bytes.fromhex(bad["put"]), bad["at"]
            text = raw[:at] + put + raw[at + len(put) :]
            check(parse(text, rings) is None, f"malformed frame ({bad['why']})")


def main() -> None:
    """Verify every file."""
    rings: dict[int, Ring] = {}
    expander(rings)
    sampler(rings)
    encodings()
    digits()
    frames(rings)
    for case in load("rounds.json"):
        Round(case, rings[case["preset"]["id"]]).verify()
    slots(rings)
    streams()
    components(rings)
    canonical("canonical.json", OBJECTS)
    canonical("cohort.json", COHORT)
    extensions("extensions.json")
    extensions("extended.json")
    canaries(rings)
    digests()
    print(
        "verified: expander, sampler, streams, lanes, digits, frames, malformed, "
        "components, rounds, slots, canonical, cohort, extensions, extended, "
        "canaries, digests"
    )


if __name__ == "__main__":
    main()
