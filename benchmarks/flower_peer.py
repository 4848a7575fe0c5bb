"""Whole rounds of Flower: plaintext FedAvg between processes on loopback.

A SuperLink and a SuperNode for every client, as Flower deploys them, without
TLS. A round lasts from the first client's answer, with its update ready, to
the moment at which the last client has the mean in its next message.

A script of its own, so that an interpreter with flwr can run it: ``round.py``
does. Prints a row as JSON, or the reason why there is none with exit status 3.

Usage: ``python flower_peer.py VALUES ARRAYS CLIENTS RUNS``
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
APP = HERE / "flower"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_COLOR": "1",
}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def peaks(parent: int, found: dict[str, int], stop: threading.Event) -> None:
    """Note the largest resident set of this process's descendants, by name."""
    while not stop.wait(0.2):
        kin = {parent}
        known = sorted(int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit())
        for pid in known:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            fields = dict(x.split(":", 1) for x in status.splitlines() if ":" in x)
            if int(fields["PPid"]) not in kin:
                continue
            kin.add(pid)
            name = next((Path(w.decode()).name for w in words[:3] if b"fl" in w), "")
            size = int(fields.get("VmHWM", "0 kB").split()[0]) << 10
            found[name] = max(found.get(name, 0), size)


def await_link(port: int, link: subprocess.Popen[bytes]) -> None:
    """Wait until the SuperLink answers."""
    began = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
        except OSError:
            if link.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit("the SuperLink did not start") from None
            time.sleep(0.1)
        else:
            return


def run(home: Path, values: int, arrays: int, clients: int, rounds: int) -> Any:
    """Run the app and return peak memory by process."""
    port, env = free_port(), os.environ | QUIET
    env |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "FLWR_HOME": str(home)}
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "lab"\n\n[superlink.lab]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    processes: list[subprocess.Popen[bytes]] = []

    def spawn(name: str, *command: str) -> None:
        with (home / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=log)
            )

    found: dict[str, int] = {}
    stop = threading.Event()
    watch = threading.Thread(target=peaks, args=(os.getpid(), found, stop))
    watch.start()
    here = ("--host", "127.0.0.1", "--port")
    try:
        spawn(
            "superlink", str(BIN / "flower-superlink"), "--insecure", *here,
            str(port), "--disable-runtime-dependency-installation",
        )  # fmt: skip
        await_link(port, processes[0])
        for i in range(clients):
            spawn(
                f"supernode{i}", str(BIN / "flower-supernode"), "--insecure",
                "--superlink", f"127.0.0.1:{port}", *here, str(free_port()),
                "--node-config", f"partition-id={i} num-partitions={clients}",
            )  # fmt: skip
        config = {"values": values, "arrays": arrays, "nodes": clients}
        said = " ".join(f"{k}={v}" for k, v in (config | {"rounds": rounds}).items())
        command = [str(BIN / "flwr"), "run", str(APP), "lab", "--stream"]
        command += ["--run-config", f'{said} journal="{home}"']
        done = subprocess.run(
            command, env=env, cwd=home, capture_output=True, text=True, check=False,
            timeout=1800,
        )  # fmt: skip
        # `flwr run` exits with 0 even when the run failed.
        ls = [str(BIN / "flwr"), "ls", "lab", "--format", "json"]
        listed = subprocess.run(
            ls, env=env, cwd=home, capture_output=True, text=True, check=False
        )
        status = json.loads(listed.stdout)["runs"][0]["status"]
        if status != "finished:completed":
            raise SystemExit(f"the run ended as {status}:\n{done.stdout[-3000:]}")
    finally:
        stop.set()
        watch.join()
        for p in reversed(processes):
            p.terminate()
        for p in processes:
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
    return found


def main() -> None:
    """Measure and print."""
    try:
        import flwr
    except ImportError as error:
        print(f"does not import: {error}")
        raise SystemExit(3) from None
    values, arrays, clients, runs = map(int, sys.argv[1:5])
    with tempfile.TemporaryDirectory(prefix="flower-") as name:
        home = Path(name)
        # The first round warms up; what the last one gives is never collected.
        found = run(home, values, arrays, clients, runs + 2)
        notes = [
            [
                json.loads(line)
                for line in (home / f"{i}.jsonl").read_text().splitlines()
            ]
            for i in range(clients)
        ]
    seconds = []
    for r in range(1, runs + 1):
        first = min(n[r]["leaves"] for n in notes)
        seconds.append(max(n[r + 1]["came"] for n in notes) - first)
    server = {k: v for k, v in found.items() if "serverapp" in k or "superlink" in k}
    row = {
        "system": "Flower FedAvg",
        "parameters": f"float32, {arrays} array{'s' * (arrays > 1)}, no encryption",
        "version": flwr.__version__,
        "seconds": statistics.median(seconds),
        "runs": seconds,
        "bytes_up": 4 * values,
        "bytes_down": 4 * values,
        "peak_bytes": {
            "server": sum(server.values()),
            "client": max(n["peak"] for notes_of in notes for n in notes_of),
        },
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
