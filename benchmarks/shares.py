"""Where the time of the core goes, from CPU profiles.

Runs ``corebench --only`` for encrypt, fold and decrypt on one core and sorts
the samples of ``go tool pprof`` into kinds of work by the function they were
taken in. Writes ``results/shares.json``.

Usage: ``python benchmarks/shares.py [--output FILE] [--runs N] [--values N]``
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from machine import RESULTS, go, write
from table import WORK, aligned

#: Kind of work and the functions that belong to it; the first match counts.
KINDS = (
    ("AES-CTR", r"fips140/aes|crypto/aes|keystream|[./]aes|[./]ctr"),
    ("SHA-256", r"sha256|sha512"),
    ("transform", r"(?i)inverse|ntt|butterfly|forward"),
    ("product with the key", r"(?i)multiply|product|MRed|expander"),
    ("sampler", r"(?i)gauss|sampler"),
    ("tag", r"cryptflow/go/tag\."),
    ("packing", r"(?i)pack|frame\.|encoding/binary|Endian"),
    ("modular sum", r"(?i)fold\.|reduce"),
    (
        "message",
        r"(?i)message|Decrypt|Encrypt|write|\.below|split|join|excess|garner|difference|balanced|field",
    ),
    ("encoding", r"(?i)encoding\.|stochastic|lanes|nearest"),
    ("runtime, copies", r"runtime\.|memmove|memclr|syscall|sync"),
)


def kind(function: str) -> str:
    """Return the kind of work that a function does."""
    for name, pattern in KINDS:
        if re.search(pattern, function):
            return name
    return "other"


def shares(top: str) -> dict[str, float]:
    """Sum the flat times of ``pprof -top`` by kind, as shares of 1."""
    seconds: dict[str, float] = {}
    line = re.compile(r"^\s*([\d.]+)(ms|s|us|ns)?\s+[\d.]+%\s+\S+\s+\S+\s+\S+\s+(.*)$")
    scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, None: 1.0}
    for text in top.splitlines():
        found = line.match(text)
        if found:
            name = kind(found[3])
            seconds[name] = seconds.get(name, 0) + float(found[1]) * scale[found[2]]
    total = sum(seconds.values())
    if total == 0:
        raise SystemExit("no samples: the work was too short, give more --runs")
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: s / total for name, s in ordered if s > 0}


def main() -> None:
    """Profile, write the file and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "shares.json")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--values", type=int, default=1 << 20)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        binary = str(Path(folder) / "corebench")
        go("build", "-o", binary, "./go/cmd/corebench")
        for what in WORK:
            profile = str(Path(folder) / what)
            flags = [f"-only={what}", f"-profile={profile}", f"-runs={arguments.runs}"]
            go("run", "./go/cmd/corebench", *flags, f"-values={arguments.values}")
            top = go("tool", "pprof", "-top", "-nodecount=500", binary, profile)
            found[what] = shares(top)
    names = list(dict.fromkeys(n for s in found.values() for n in s))
    lines = [("share of the time", *WORK)]
    for name in names:
        parts = [found[w].get(name, 0.0) for w in WORK]
        lines.append((name, *(f"{100 * p:.0f} %" if p else "" for p in parts)))
    print(aligned(lines, 1))
    result = {"parameters": "n4096-q102 sum-key b=16", "threads": 1, "shares": found}
    write(arguments.output, "make bench-shares", result, "cryptflow")


if __name__ == "__main__":
    main()
