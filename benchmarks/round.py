"""Measure whole rounds between processes on this machine.

Four (or eight) client processes, an aggregator and a key service over mutual
TLS, updates of published model sizes, 16 bits: seconds from the first client's
call to the last client's mean, peak resident memory, bytes each way; with a
fixed range, and with ranges that the cohort negotiates first, the default.

Beside them, in the same run: as many processes that send float32 over plain TCP
to a summing numpy server (before and after ours), and for four clients and up to
11.7 M values Flower's plaintext FedAvg and NVIDIA FLARE's classes for
homomorphic encryption, each where it is installed; FLARE with fewer clients where
its ciphertexts need more memory than there is. Writes
``results/round.json``: rows, and in ``missing`` which peers there are none of,
and why.

Usage: ``python benchmarks/round.py [--output FILE] [--runs N] [--sizes M ...]
[--clients N ...] [--flower-python PYTHON] [--nvflare-python PYTHON]``
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, Row, write
from table import aligned

#: Values and tensors of each model.
MODELS = {
    "1.66M": (1_663_370, 8),
    "11.7M": (11_689_512, 62),
    "25.6M": (25_557_032, 161),
}


#: What peers are measured with; their rounds take minutes.
PEER_CLIENTS, PEER_VALUES, PEER_RUNS = 4, 12_000_000, 2

#: Memory of FLARE's ciphertexts: bytes a value and client, at client and server.
FLARE_BYTES = 750

HERE = Path(__file__).resolve().parent


def layout_of(values: int, tensors: int) -> list[tuple[str, tuple[int]]]:
    """Split values over tensors of about the same size."""
    sizes = [values // tensors] * tensors
    sizes[-1] += values - sum(sizes)
    return [(f"t{i}", (n,)) for i, n in enumerate(sizes)]


def peak(pid: int) -> int:
    """Return a process's largest resident set in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def client(
    profile: str, task: str, values: int, runs: int, start: Any, out: Any
) -> None:
    """Take part in some rounds; report times of each."""
    import cryptflow

    rng = np.random.default_rng(os.getpid())
    update = rng.normal(0, 0.1, values).astype(np.float32)
    with cryptflow.connect(profile, task=task, progress=False) as c:
        for _ in range(runs):
            start.wait()
            began = time.monotonic()
            mean, report = c.average(update, 10)
            update + mean
            out.put((began, time.monotonic(), report.to_dict()))
        out.put(peak(os.getpid()))


def services(cluster: Any) -> dict[str, int]:
    """Return the peak memory of both services."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) > 3 and str(cluster.folder).encode() in words[3]:
                found[words[1].decode()] = peak(int(entry.name))
    return found


def ours(
    values: int, tensors: int, clients: int, runs: int, value_range: float | None
) -> Row:
    """Measure rounds of CryptFlow; without a range, the cohort negotiates."""
    import cryptflow

    spawn = mp.get_context("spawn")
    start, out = spawn.Barrier(clients), spawn.Queue()
    with cryptflow.LocalCluster(clients) as cluster:
        made = cluster.create_task(
            "bench",
            (layout_of(values, tensors), np.zeros(values, np.float32)),
            rounds=runs + 1,
            weight_cap=10,
            value_range=value_range,
        )
        processes = [
            spawn.Process(
                target=client, args=(str(p), "bench", values, runs + 1, start, out)
            )
            for p in cluster.profiles
        ]
        for p in processes:
            p.start()
        said = [out.get() for _ in range(clients * (runs + 2))]
        for p in processes:
            p.join()
        memory = services(cluster)
    memory["client"] = max(s for s in said if isinstance(s, int))
    rounds: dict[int, list[Any]] = {}
    for s in said:
        if not isinstance(s, int):
            rounds.setdefault(s[2]["round"], []).append(s)
    seconds = [
        max(e for _, e, _ in r) - min(b for b, _, _ in r)
        for n, r in sorted(rounds.items())
        if n > 0  # the first warms up
    ]
    reports = [s[2] for r in rounds.values() for s in r]
    phases = {
        p: statistics.median(r["seconds"][p] for r in reports)
        for p in reports[0]["seconds"]
    }
    return {
        "system": "cryptflow",
        "parameters": f"{made['preset']} {made['mode']} b={made['bits']}, ranges "
        + ("negotiated" if value_range is None else "fixed"),
        "seconds": statistics.median(seconds),
        "runs": seconds,
        "phases": phases,
        "bytes_up": statistics.median(r["bytes_up"] for r in reports),
        "bytes_down": statistics.median(r["bytes_down"] for r in reports),
        "peak_bytes": memory,
    }


def receive(connection: socket.socket, into: np.ndarray) -> None:
    """Fill an array from a connection."""
    view, at = memoryview(into).cast("B"), 0
    while at < len(view):
        at += connection.recv_into(view[at:])


def plain_client(port: int, values: int, runs: int, start: Any, out: Any) -> None:
    """Send float32 and receive the mean."""
    update = np.full(values, 0.1, np.float32)
    mean = np.empty(values, np.float32)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(runs):
            start.wait()
            began = time.monotonic()
            connection.sendall(memoryview(update).cast("B"))
            receive(connection, mean)
            update + mean
            out.put((began, time.monotonic()))


def plain(values: int, clients: int, runs: int) -> Row:
    """Measure a server that adds float32 from plain TCP."""
    spawn = mp.get_context("spawn")
    start, out = spawn.Barrier(clients), spawn.Queue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        processes = [
            spawn.Process(
                target=plain_client, args=(port, values, runs + 1, start, out)
            )
            for _ in range(clients)
        ]
        for p in processes:
            p.start()
        connections = [server.accept()[0] for _ in range(clients)]
        total, update = np.empty(values, np.float32), np.empty(values, np.float32)
        seconds = []
        for _ in range(runs + 1):
            total[:] = 0
            for c in connections:
                receive(c, update)
                total += update
            total /= clients
            for c in connections:
                c.sendall(memoryview(total).cast("B"))
            said = [out.get() for _ in range(clients)]
            seconds.append(max(e for _, e in said) - min(b for b, _ in said))
        for p in processes:
            p.join()
        for c in connections:
            c.close()
    return {
        "system": "numpy over TCP",
        "parameters": "float32, no encryption",
        "seconds": statistics.median(seconds[1:]),
        "runs": seconds[1:],
        "bytes_up": 4 * values,
        "bytes_down": 4 * values,
    }


def peer(python: str, script: str, *sizes: int) -> Row | str:
    """Run a peer's script; return its row, or why there is none."""
    words = [python, str(HERE / f"{script}.py"), *map(str, sizes)]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        row: Row = json.loads(done.stdout.splitlines()[-1])
        return row
    said = (done.stdout if done.returncode == 3 else done.stderr).strip()
    return said.splitlines()[-1] if said else f"exit {done.returncode}"


def peers(
    values: int, tensors: int, clients: int, pythons: dict[str, str]
) -> tuple[list[Row], list[dict[str, str]]]:
    """Measure the peers, where their rounds are worth waiting for."""
    rows: list[Row] = []
    missing: list[dict[str, str]] = []
    if clients != PEER_CLIENTS or values > PEER_VALUES:
        return rows, missing
    for name, script, arrays in (
        ("Flower FedAvg", "flower_peer", 1),
        ("Flower FedAvg", "flower_peer", tensors),
        ("NVIDIA FLARE HE", "nvflare_peer", tensors),
    ):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        fit = clients
        if script == "nvflare_peer":
            fit = min(clients, memory // (values * FLARE_BYTES))
        if fit < clients:
            reason = (
                f"not run with {values / 1e6:.2f} M values and {clients} clients: its "
                f"ciphertexts need about {values * clients * FLARE_BYTES >> 30} GiB"
            )
            missing.append({"system": name, "reason": reason})
        if fit < 2:
            continue
        got = peer(pythons[script], script, values, arrays, fit, PEER_RUNS)
        if isinstance(got, str):
            missing.append({"system": name, "reason": got})
            continue
        if fit < clients:
            rows.append(plain(values, fit, PEER_RUNS) | {"clients": fit})
        rows.append(got | {"clients": fit})
    return rows, missing


def measured(values: int, tensors: int, clients: int, runs: int) -> list[Row]:
    """Measure plaintext and ours at one size, plaintext first and last."""
    base = plain(values, clients, runs)
    rows = [base]
    rows += [ours(values, tensors, clients, runs, r) for r in (1.0, None)]
    base["runs"] += plain(values, clients, runs)["runs"]
    base["seconds"] = statistics.median(base["runs"])
    return rows


def table(rows: list[Row]) -> str:
    """Return one line a row."""
    head = ["values", "clients", "system", "parameters", "peaks, MiB"]
    lines = [[*head, "seconds", "ratio", "MB up", "MB down"]]
    for r in rows:
        peaks = (f"{k} {v >> 20}" for k, v in r.get("peak_bytes", {}).items())
        cells = [f"{r['values'] / 1e6:.2f} M", str(r["clients"]), r["system"]]
        cells += [r["parameters"], ", ".join(peaks) or "-"]
        cells += [f"{r['seconds']:.3f}", f"{r['ratio']:.1f}"]
        sizes = (f"{r[f'bytes_{way}'] / 1e6:.1f}" for way in ("up", "down"))
        lines.append([*cells, *sizes])
    return aligned(lines, 5)


def main() -> None:
    """Run every measurement and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "round.json")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--clients", nargs="+", type=int, default=[4, 8])
    for name in ("flower", "nvflare"):
        parser.add_argument(
            f"--{name}-python",
            metavar="PYTHON",
            default=os.environ.get(f"{name.upper()}_PYTHON", sys.executable),
            help=f"an interpreter that imports {name}; this one when missing",
        )
    args = parser.parse_args()
    pythons = {"flower_peer": args.flower_python, "nvflare_peer": args.nvflare_python}
    missing: list[dict[str, str]] = []
    cases = [(*MODELS[name], n) for name in args.sizes for n in args.clients]
    found: list[list[Row]] = []
    for values, tensors, clients in cases:
        print(f"{values / 1e6:.2f} M values, {clients} clients", file=sys.stderr)
        found.append(measured(values, tensors, clients, args.runs))
    for (values, tensors, clients), same in zip(cases, found, strict=True):
        print(f"peers: {values / 1e6:.2f} M, {clients} clients", file=sys.stderr)
        more, gaps = peers(values, tensors, clients, pythons)
        same += more
        missing += [gap for gap in gaps if gap not in missing]
        base: dict[int, float] = {}
        for row in same:
            row |= {"values": values, "tensors": tensors}
            row.setdefault("clients", clients)
            # numpy's row comes first among those of as many clients.
            base.setdefault(row["clients"], row["seconds"])
            row["ratio"] = row["seconds"] / base[row["clients"]]
    rows = [row for same in found for row in same]
    print(table(rows))
    for gap in missing:
        print(f"missing: {gap['system']}: {gap['reason']}")
    write(
        args.output,
        "make bench-round",
        {"rows": rows, "missing": missing},
        *("cryptflow", "numpy", "flwr", "nvflare"),
    )


if __name__ == "__main__":
    main()
