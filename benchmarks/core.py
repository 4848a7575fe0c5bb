"""Measure the core beside its peers, on one core and on all.

Runs ``go run ./go/cmd/corebench`` (frames as they are sent), the same through
``cryptflow.hazmat`` (Arrow arrays in and out of Python), numpy's addition of
plain float32, TenSEAL, and OpenFHE's Python package. All but the last take turns
in several passes, so that a slow minute of the machine meets them alike. It
writes ``results/core.json``: machine, versions, and rows of ``{what, system,
parameters, clients, values, threads, values_per_second, bytes_per_value,
runs}``. ``what`` is encrypt (with serialising), fold or decrypt (both with
parsing). Ours on all cores also have ``apart_values_per_second`` and
``apart_runs``: as many calls on one core each at the same time, what the machine
has to give. Values are those of one client for encrypt and decrypt, of all
clients for fold; runs are values per second of each run after one of every
pass that does not count, and ``values_per_second`` is their median. A peer that
does not import is listed in ``missing`` with the reason.

Usage: ``python benchmarks/core.py [--output FILE] [--values N] [--runs N]
[--passes N] [--openfhe-python PYTHON]``
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# One thread, also for libraries that decide when they are imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Go looks now and then at how many cores it may use: rows on all cores would run
# with what it saw while rows on one core had the process pinned. It reads this
# variable as it was when the process began.
if __name__ == "__main__" and "GOMAXPROCS" not in os.environ:
    every = {"GOMAXPROCS": str(len(os.sched_getaffinity(0)))}
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | every)

import numpy as np  # noqa: E402
from machine import RESULTS, Row, corebench, cores, write  # noqa: E402
from table import goals, table  # noqa: E402
from timing import Work, median, one_core  # noqa: E402

#: The quantisation step of 16 bits: the precision asked of every system.
STEP = 1 / (2**15 - 1)

HERE = Path(__file__).resolve().parent


def numpy_works(updates: list[Any]) -> list[Work]:
    """Prepare the addition of plain float32 arrays."""
    total = np.empty_like(updates[0])

    def add() -> None:
        total[:] = 0
        for update in updates:
            np.add(total, update, out=total)

    row = {
        "what": "fold",
        "system": "numpy",
        "parameters": "float32 addition",
        "clients": len(updates),
        "values": len(total),
        "bytes_per_value": 4.0,
    }
    return [Work(row, len(total) * len(updates), add)]


def hazmat_works(updates: list[Any]) -> list[Work]:
    """Prepare the raw operations as Python calls them, on one core and all."""
    from cryptflow import hazmat

    clients, values = len(updates), len(updates[0])
    r = hazmat.Round(values=values, clients=clients, bits=16)
    keys = [r.new_key() for _ in updates]
    frames = [r.encrypt(k, u) for k, u in zip(keys, updates, strict=True)]
    total, release = r.aggregate(frames), r.release(keys)
    row = {
        "system": "cryptflow.hazmat",
        "parameters": f"{r.info['preset']} {r.info['mode']} b={r.info['bits']}",
        "clients": clients,
        "values": values,
        "bytes_per_value": r.info["bytes"] / values,
    }
    work = (
        ("encrypt", values, lambda: r.encrypt(r.new_key(), updates[0])),
        ("fold", values * clients, lambda: r.aggregate(frames)),
        ("decrypt", values, lambda: r.decrypt(release, total)),
    )
    out = []
    for what, counted, do in work:
        out.append(Work({"what": what, **row}, counted, do))
        if cores() > 1:
            every = {"what": what, **row, "threads": cores()}
            out.append(Work(every, counted, do, alone=False))
    return out


def tenseal_works(updates: list[Any], missing: list[dict[str, str]]) -> list[Work]:
    """Prepare TenSEAL, or say why not."""
    try:
        importlib.import_module("tenseal")
    except ImportError as error:
        missing.append({"system": "tenseal", "reason": f"does not import: {error}"})
        return []
    import tenseal_peer

    with one_core():
        return tenseal_peer.works(updates, STEP)


def joined(passes: list[list[Row]]) -> list[Row]:
    """Put the runs of the same rows of all passes together."""
    out = []
    for same in zip(*passes, strict=True):
        row = same[0] | median([rate for row in same for rate in row["runs"]])
        if "apart_runs" in row:
            apart = median([rate for row in same for rate in row["apart_runs"]])
            row |= {f"apart_{name}": value for name, value in apart.items()}
        out.append(row)
    return out


def openfhe_rows(
    pythons: list[str],
    values: int,
    clients: int,
    runs: int,
    missing: list[dict[str, str]],
) -> list[Row]:
    """Measure OpenFHE with each interpreter, or say why not."""
    out: list[Row] = []
    for python in pythons:
        script = [python, HERE / "openfhe_peer.py", values, clients, runs, STEP]
        with one_core():
            try:
                done = subprocess.run(
                    [str(word) for word in script],
                    check=False,
                    capture_output=True,
                    text=True,
                )
            except OSError as error:
                missing.append({"system": "openfhe", "reason": str(error)})
                continue
        if done.returncode == 0:
            out += json.loads(done.stdout)
        else:
            said = (done.stdout if done.returncode == 3 else done.stderr).strip()
            last = said.splitlines()[-1] if said else f"exit {done.returncode}"
            missing.append({"system": "openfhe", "reason": last})
    return out


def main() -> None:
    """Run every measurement, write the file and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "core.json")
    parser.add_argument("--values", type=int, default=1 << 20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3, help="in each pass")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument(
        "--openfhe-python",
        metavar="PYTHON",
        default=os.environ.get("OPENFHE_PYTHON"),
        help="another interpreter that imports openfhe; OPENFHE_PYTHON when missing",
    )
    arguments = parser.parse_args()
    values, clients, runs = arguments.values, arguments.clients, arguments.runs

    rng, missing = np.random.default_rng(1), []
    updates = [
        rng.normal(0, 0.2, values).clip(-1, 1).astype(np.float32)
        for _ in range(clients)
    ]
    works = [
        *hazmat_works(updates),
        *numpy_works(updates),
        *tenseal_works(updates, missing),
    ]
    # Milliseconds each: more of them than of what takes a second.
    often = 3
    flags = [f"--values={values}", f"--clients={clients}", f"--runs={runs}"]
    flags.append(f"--threads={','.join(map(str, counts()))}")
    core: list[list[Row]] = []
    for n in range(arguments.passes):
        print(f"pass {n + 1} of {arguments.passes}", file=sys.stderr)
        for k in range(often):
            core.append(corebench(*flags))
            for work in works:
                if k == 0 or work.row["system"] != "tenseal":
                    work.measure(runs)
    rows = joined(core) + [work.result() for work in works]
    pythons = [sys.executable]
    if arguments.openfhe_python:
        pythons.append(arguments.openfhe_python)
    every = runs * arguments.passes
    rows += openfhe_rows(pythons, values, clients, every, missing)

    print(table(rows))
    for gap in missing:
        print(f"missing: {gap['system']} {gap['reason']}")
    print()
    print(goals(rows))
    write(
        arguments.output,
        "make bench",
        {"values": values, "clients": clients, "missing": missing, "rows": rows},
        *("cryptflow", "numpy", "pyarrow", "tenseal", "openfhe"),
    )


def counts() -> list[int]:
    """Return the numbers of threads measured."""
    return sorted({1, cores()})


if __name__ == "__main__":
    main()
