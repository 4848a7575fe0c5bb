"""Measure the core on one thread beside its peers.

Runs ``go run ./go/cmd/corebench`` and, in the same session, numpy's float32
addition and TenSEAL where it imports, and writes ``results/core.json``:
machine, versions, and rows of ``{what, system, parameters, threads,
values_per_second, bytes_per_value, runs}``. Values are those of one client for
encrypt and decrypt, of all clients for fold; runs are values per second of
each run and ``values_per_second`` is their median.

Usage: ``python benchmarks/core.py [--output FILE] [--values N] [--runs N]``
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One thread, also for libraries that decide when they are imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


def go(*arguments: str) -> str:
    """Run a go command in the repository and return what it prints."""
    done = subprocess.run(
        ["go", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def processor() -> str:
    """Return the processor's name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def versions() -> dict[str, str | None]:
    """Return the versions of everything measured; None for what is missing."""
    found: dict[str, str | None] = {
        "go": go("env", "GOVERSION"),
        "lattigo": go(
            "list", "-m", "-f", "{{.Version}}", "github.com/tuneinsight/lattigo/v5"
        ),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    try:
        found["tenseal"] = importlib.metadata.version("tenseal")
    except importlib.metadata.PackageNotFoundError:
        found["tenseal"] = None
    return found


def measure(row: Row, values: int, runs: int, work: Callable[[], object]) -> Row:
    """Time work, once to warm up and then runs times."""
    rates = []
    for k in range(runs + 1):
        start = time.perf_counter()
        work()
        if k > 0:
            rates.append(values / (time.perf_counter() - start))
    return row | {
        "threads": 1,
        "values_per_second": statistics.median(rates),
        "runs": rates,
    }


def numpy_rows(values: int, clients: int, runs: int) -> list[Row]:
    """Measure the addition of plain float32 arrays."""
    rng = np.random.default_rng(1)
    updates = [rng.normal(0, 0.2, values).astype(np.float32) for _ in range(clients)]
    total = np.empty(values, np.float32)

    def add() -> None:
        total[:] = 0
        for update in updates:
            np.add(total, update, out=total)

    row = {
        "what": "fold",
        "system": "numpy",
        "parameters": f"float32 addition, {clients} clients",
        "bytes_per_value": 4.0,
    }
    return [measure(row, values * clients, runs, add)]


class Tenseal:
    """TenSEAL's CKKS vectors with serialisation, as its users call them."""

    def __init__(
        self, degree: int, chain: list[int], scale: int, values: int, clients: int
    ) -> None:
        self.library = importlib.import_module("tenseal")
        self.context = self.library.context(
            self.library.SCHEME_TYPE.CKKS,
            degree,
            -1,
            chain,
            self.library.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,
        )
        self.context.global_scale = 2.0**scale
        self.slots = degree // 2
        self.clients = clients
        self.update = np.random.default_rng(1).normal(0, 0.2, values).tolist()
        self.contribution = self.encrypt()
        self.result = [total.serialize() for total in self.fold()]

    def encrypt(self) -> list[bytes]:
        """Encrypt one update to bytes."""
        starts = range(0, len(self.update), self.slots)
        chunks = (self.update[i : i + self.slots] for i in starts)
        vector = self.library.ckks_vector
        return [vector(self.context, chunk).serialize() for chunk in chunks]

    def read(self, raw: bytes) -> Any:
        """Read one vector from bytes."""
        return self.library.ckks_vector_from(self.context, raw)

    def fold(self) -> list[Any]:
        """Read and add up as many contributions as there are clients."""
        out = []
        for raw in self.contribution:
            total = self.read(raw)
            for _ in range(self.clients - 1):
                total += self.read(raw)
            out.append(total)
        return out

    def decrypt(self) -> list[list[float]]:
        """Read and decrypt the result."""
        return [self.read(raw).decrypt() for raw in self.result]


def tenseal_rows(values: int, clients: int, runs: int) -> list[Row]:
    """Measure NVIDIA FLARE's default parameters and the smallest usable ones."""
    rows: list[Row] = []
    for degree, chain, scale in ((8192, [60, 40, 40], 40), (4096, [54, 54], 26)):
        peer = Tenseal(degree, chain, scale, values, clients)
        row = {
            "system": "tenseal",
            "parameters": f"N={degree} {chain} symmetric, bytes in and out, "
            f"{clients} clients",
            "bytes_per_value": sum(map(len, peer.contribution)) / values,
        }
        rows += [
            measure(row | {"what": "encrypt"}, values, runs, peer.encrypt),
            measure(row | {"what": "fold"}, values * clients, runs, peer.fold),
            measure(row | {"what": "decrypt"}, values, runs, peer.decrypt),
        ]
    return rows


def main() -> None:
    """Run every measurement and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "core.json"
    )
    parser.add_argument("--values", type=int, default=1 << 20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    values, clients, runs = arguments.values, arguments.clients, arguments.runs

    flags = [f"--values={values}", f"--clients={clients}", f"--runs={runs}"]
    rows: list[Row] = json.loads(go("run", "./go/cmd/corebench", *flags))
    rows += numpy_rows(values, clients, runs)
    missing = []
    try:
        importlib.import_module("tenseal")
    except ImportError as error:
        missing.append({"system": "tenseal", "reason": f"does not import: {error}"})
    else:
        rows += tenseal_rows(values, clients, max(5, runs - 2))

    report = {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/core.py",
        "versions": versions(),
        "values": values,
        "clients": clients,
        "missing": missing,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        rate = f"{row['values_per_second'] / 1e6:9.2f} M values/s"
        size = f"{row['bytes_per_value']:6.2f} bytes/value"
        print(f"{row['what']:8} {row['system']:10} {rate} {size}  {row['parameters']}")
    for gap in missing:
        print(f"missing: {gap['system']} {gap['reason']}", file=sys.stderr)


if __name__ == "__main__":
    main()
