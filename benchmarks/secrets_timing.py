"""Whether running times depend on secrets, in the manner of dudect.

Runs the tests of the Go packages that compare fixed with random inputs (see
``go/timing``), prints their table and writes ``results/timing.json``. A
difference is one that comes again: everything is measured twice, and what only
one run finds is unclear.

Usage: ``python benchmarks/secrets_timing.py [--output FILE] [--measurements N]``
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

from machine import RESULTS, ROOT, Row, write
from table import aligned

PACKAGES = ("ckks", "encoding", "tag")

#: A row of the tables: name, measurements, medians in ns, |t|, crop, verdict.
ROW = re.compile(
    r"^ +(\S.*?) {2,}(\d+) +(\d+) +(\d+) +([\d.]+) (none|spread|[\d.]+ %) +(\S.*)$",
    re.M,
)

HEAD = ["what", "package", "verdict", "fixed, µs", "random, µs", "t", "t again"]


def measured(package: str, measurements: int) -> list[Row]:
    """Run one package's comparison; return its rows."""
    words = ["go", "test", f"./go/{package}", "-run", "TestTimingOf", "-count", "1"]
    done = subprocess.run(
        [*words, "-timeout", "6h", "-v"],
        cwd=ROOT,
        env=os.environ | {"CRYPTFLOW_TIMING": str(measurements)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    rows = [
        {
            "what": what,
            "package": package,
            "measurements": int(n),
            "nanoseconds": {"fixed": int(fixed), "random": int(random)},
            "t": float(t),
            "verdict": verdict,
        }
        for what, n, fixed, random, t, _, verdict in ROW.findall(done.stdout)
    ]
    if not rows:
        raise SystemExit(f"go/{package} printed no table:\n{done.stdout}")
    return rows


def cells(row: Row) -> list[str]:
    """Return a row of the table that people read."""
    times = (f"{row['nanoseconds'][k] / 1e3:.1f}" for k in ("fixed", "random"))
    ts = (f"{t:.1f}" for t in (row["t"], row["t_again"]))
    return [row["what"], f"go/{row['package']}", row["verdict"], *times, *ts]


def both(first: Row, again: Row) -> Row:
    """Return a row with both runs: what they do not agree on is unclear."""
    agree = first["verdict"] == again["verdict"]
    verdict = first["verdict"] if agree else "unclear: measure more"
    return first | {"t_again": again["t"], "verdict": verdict}


def main() -> None:
    """Measure twice, print the table, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "timing.json")
    parser.add_argument("--measurements", type=int, default=20_000)
    arguments = parser.parse_args()
    rows = []
    for package in PACKAGES:
        twice = [measured(package, arguments.measurements) for _ in range(2)]
        rows += [both(*pair) for pair in zip(*twice, strict=True)]
    print(aligned([HEAD, *map(cells, rows)], 3))
    write(arguments.output, "make timing", {"rows": rows})


if __name__ == "__main__":
    main()
