"""Measure whole rounds between processes on this machine.

Four (or eight) client processes, an aggregator and a key service over mutual
TLS, updates of published model sizes, 16 bits: seconds from the first client's
call to the last client's mean, peak resident memory, bytes each way. Beside
them, in the same run, as many processes that send float32 over plain TCP to a
summing numpy server. Writes ``results/round.json``.

Usage: ``python benchmarks/round.py [--output FILE] [--runs N] [--sizes M ...]``
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing as mp
import os
import platform
import re
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Values and tensors of each model.
MODELS = {
    "1.66M": (1_663_370, 8),
    "11.7M": (11_689_512, 62),
    "25.6M": (25_557_032, 161),
}


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


def ours(values: int, tensors: int, clients: int, runs: int) -> dict[str, Any]:
    """Measure rounds of CryptFlow."""
    import cryptflow

    spawn = mp.get_context("spawn")
    start, out = spawn.Barrier(clients), spawn.Queue()
    with cryptflow.LocalCluster(clients) as cluster:
        made = cluster.create_task(
            "bench",
            (layout_of(values, tensors), np.zeros(values, np.float32)),
            rounds=runs + 1,
            weight_cap=10,
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
        "parameters": f"{made['preset']} {made['mode']} b={made['bits']}",
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


def plain(values: int, clients: int, runs: int) -> dict[str, Any]:
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


def main() -> None:
    """Run every measurement and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "results" / "round.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--clients", nargs="+", type=int, default=[4, 8])
    args = parser.parse_args()
    rows = []
    head = (
        "model",
        "clients",
        "system",
        "seconds",
        "ratio",
        "up MB",
        "down MB",
        "peaks",
    )
    print("{:>6} {:>7}  {:15} {:>8} {:>6} {:>7} {:>7}  {}".format(*head))
    for name in args.sizes:
        values, tensors = MODELS[name]
        for clients in args.clients:
            base = plain(values, clients, args.runs)
            for row in (base, ours(values, tensors, clients, args.runs)):
                ratio = row["seconds"] / base["seconds"]
                row |= {
                    "values": values,
                    "tensors": tensors,
                    "clients": clients,
                    "ratio": ratio,
                }
                rows.append(row)
                peaks = ", ".join(
                    f"{k} {v >> 20} MiB" for k, v in row.get("peak_bytes", {}).items()
                )
                print(
                    f"{name:>6} {clients:7}  {row['system']:15} {row['seconds']:8.3f} "
                    f"{ratio:6.1f} {row['bytes_up'] / 1e6:7.1f} "
                    f"{row['bytes_down'] / 1e6:7.1f}  {peaks}",
                    flush=True,
                )
    import cryptflow

    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": re.search(
                r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()
            )[1],
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
        },
        "versions": {
            "cryptflow": cryptflow.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "rows": rows,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
