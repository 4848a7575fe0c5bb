"""make demo: several processes agree on a model that no server sees."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import defaultdict
from pathlib import Path
from queue import Queue
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import check
import digits
import numpy as np
import plain
import report as reporting
import torch

import cryptflow
from cryptflow.torch import ModuleWeights

HERE = Path(__file__).parent
RANGE = 0.5


def arguments() -> argparse.Namespace:
    """Return the command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--mode", choices=("sum-key", "shared-key"), default="sum-key")
    p.add_argument("--clients", type=int, default=5)
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--bits", type=int, default=16)
    p.add_argument("--drop", type=int, choices=(0, 1), default=0)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--out", type=Path, default=Path("build/demo"))
    args = p.parse_args()
    if not 2 <= args.clients <= 64:
        p.error("--clients reaches from 2 to 64")
    if args.rounds < 1 or (args.drop and (args.rounds < 2 or args.clients < 4)):
        p.error("--rounds is positive; --drop 1 needs 2 rounds and 4 clients")
    return args


class Clients:
    """The client processes and what they say."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.lines: Queue[dict[str, Any]] = Queue()

    def start(self, number: int, command: list[str], env: dict[str, str]) -> None:
        """Start one client and listen to it."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
            start_new_session=True,  # Ctrl-C comes to us, and we stop them
        )
        self.processes.append(process)

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                self.lines.put(json.loads(line))
            self.lines.put({"event": "end", "client": number, "status": process.wait()})

        threading.Thread(target=listen, daemon=True).start()

    def go(self) -> None:
        """Let all clients start once all are connected.

        A round's deadline counts from its first contribution: nobody should
        miss it because another process was quicker to import torch.
        """
        for _ in self.processes:
            line = self.lines.get()
            if line["event"] != "ready":
                raise SystemExit(_failure(line))
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()  # stays open: its end is ours

    def stop(self) -> None:
        """Kill whoever still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()


def _failure(line: dict[str, Any]) -> str:
    """Say how a client failed."""
    if line["event"] == "error":
        return f"a client failed: {line['text']} [{line['code']}]"
    return f"client {line['client']} ended with status {line['status']}"


def follow(clients: Clients, args: argparse.Namespace) -> list[dict[int, Any]]:
    """Print a line for every round; return what each client said of each."""
    rounds: list[dict[int, Any]] = [{} for _ in range(args.rounds)]
    running, vanished = set(range(args.clients)), set()
    began, shown = time.perf_counter(), 0
    header = "round  clients  accuracy  largest wait   up/client  down/client   time"
    print(header + "\n" + "-" * len(header), flush=True)
    while running:
        line = clients.lines.get()
        if line["event"] == "vanish":
            vanished.add(line["client"])
        elif line["event"] == "error":
            raise SystemExit(_failure(line))
        elif line["event"] == "end":
            running.discard(line["client"])
            if line["client"] in vanished:
                print(f"       client {line['client']} vanished while it uploaded")
            elif line["status"] != 0:
                raise SystemExit(_failure(line))
        else:
            rounds[line["round"]][line["client"]] = line
        while shown < args.rounds and rounds[shown]:
            said = rounds[shown]
            if set(next(iter(said.values()))["cohort"]) != set(said):
                break
            n = len(said)
            wait = max(s["seconds"]["wait"] for s in said.values())
            up = sum(s["bytes_up"] for s in said.values()) / n / 1000
            down = sum(s["bytes_down"] for s in said.values()) / n / 1000
            print(
                f"{shown + 1:5}  {n:7}  {said[0]['accuracy']:8.1%}  {wait:10.2f} s  "
                f"{up:7.1f} kB  {down:8.1f} kB  {time.perf_counter() - began:4.1f} s",
                flush=True,
            )
            shown += 1
    return rounds


def errors(rounds: list[dict[int, Any]], folder: Path) -> tuple[list, list]:
    """Compare every round's mean with float64; return errors and bounds."""
    found, bounds = [], []
    for number, said in enumerate(rounds):
        cohort = sorted(said)
        updates = [np.load(folder / str(c) / f"update-{number}.npy") for c in cohort]
        means = [np.load(folder / str(c) / f"mean-{number}.npy") for c in cohort]
        if any(not np.array_equal(m, means[0]) for m in means):
            raise SystemExit(f"round {number + 1}: clients opened different means")
        error, rounding = check.mean_error(
            updates, [said[c]["weight"] for c in cohort], means[0], RANGE
        )
        found.append(error)
        bounds.append(said[cohort[0]]["bound"] + rounding)
    return found, bounds


def search(disk: check.Disk, live: Path, folder: Path, last: int) -> dict[str, Any]:
    """Look for client 0's updates in all that the aggregator held."""
    held = disk.stop()
    if not held["frames"]:
        raise SystemExit(f"no frames were seen in {disk.source}: nothing was searched")
    pieces: list[bytes] = []
    for number in range(last + 1):
        pieces += check.windows(np.load(folder / "0" / f"update-{number}.npy"), 16)
    planted = folder / "planted"
    planted.mkdir()
    (planted / "file").write_bytes(
        b"\0" * 100 + np.load(folder / "0" / "update-0.npy").tobytes()
    )
    if not check.holds(planted, pieces):
        raise SystemExit("the search does not find an update where there is one")
    hits = check.holds(disk.folder, pieces) + check.holds(live, pieces)
    return {**held, "pieces_searched": len(pieces), "found_in": [str(h) for h in hits]}


def main() -> int:
    """Run the demo; return the exit status."""
    args = arguments()
    work = (args.out / "work").resolve()
    shutil.rmtree(work, ignore_errors=True)  # of a run that failed; no other folder
    work.mkdir(parents=True)
    train_x, train_y, test_x, test_y = digits.images(args.seed)
    shards = [
        (train_x[i], train_y[i]) for i in digits.split(train_y, args.clients, args.seed)
    ]
    np.savez(work / "test.npz", x=test_x, y=test_y)
    for number, (x, y) in enumerate(shards):
        (work / str(number)).mkdir()
        np.savez(work / str(number) / "data.npz", x=x, y=y)
    model = digits.network(args.seed)
    parameters = sum(t.count for t in ModuleWeights(model).layout)
    print(
        f"{args.clients} clients with {', '.join(str(len(y)) for _, y in shards)} "
        f"digits each, dealt unevenly; {parameters:,} parameters; {args.mode}, "
        f"{args.bits} bits\n",
        flush=True,
    )
    clients = Clients()
    cohort = min(3, args.clients)
    with cryptflow.LocalCluster(
        args.clients, min_cohort=cohort, folder=work / "cluster"
    ) as cluster:
        cluster.create_task(
            "digits", model, rounds=args.rounds, bits=args.bits, mode=args.mode,
            weight_cap=max(len(y) for _, y in shards), value_range=RANGE,
            min_cohort=cohort, deadline=5 if args.drop else 60,
        )  # fmt: skip
        disk = check.Disk(cluster.aggregator_folder, work / "disk")
        try:
            for number, profile in enumerate(cluster.profiles):
                command = [
                    sys.executable, str(HERE / "client.py"), "--profile", str(profile),
                    "--number", str(number), "--rounds", str(args.rounds),
                    "--seed", str(args.seed), "--folder", str(work / str(number)),
                ]  # fmt: skip
                if args.drop and number == args.clients - 1:
                    command += ["--vanish", "1"]
                address = tomllib.loads(profile.read_text())["aggregator"]
                env = {"DEMO_AGGREGATOR": address, "CRYPTFLOW_TASK": "digits"}
                clients.start(number, command, env)
            clients.go()
            rounds = follow(clients, args)
        finally:
            clients.stop()
        audit = cluster.audit()
        disk_held = search(disk, cluster.aggregator_folder, work, args.rounds - 1)
    test = test_x, test_y
    return conclude(args, parameters, shards, test, rounds, audit, disk_held)


def conclude(args, parameters, shards, test, rounds, audit, disk_held) -> int:
    """Check, print and write what came out."""
    work = (args.out / "work").resolve()
    found, bounds = errors(rounds, work)
    cohorts = [sorted(said) for said in rounds]
    plaintext = plain.run(shards, test, cohorts, args.seed)
    every = [s for said in rounds for s in said.values()]
    by_round = {
        p: [sum(s["seconds"][p] for s in said.values()) / len(said) for said in rounds]
        for p in reporting.PHASES
    }
    totals: dict[str, float] = defaultdict(float)
    for s in every:
        for phase, seconds in s["seconds"].items():
            totals[phase] += seconds
    result = {
        "clients": args.clients,
        "rounds": args.rounds,
        "mode": args.mode,
        "bits": args.bits,
        "preset": every[0]["preset"],
        "parameters": parameters,
        "cohorts": [len(c) for c in cohorts],
        "accuracy_encrypted": [said[0]["accuracy"] for said in rounds],
        "accuracy_plaintext": plaintext,
        "max_abs_mean_error": max(found),
        "max_abs_mean_error_by_round": found,
        "stated_bound": max(bounds),
        "stated_bound_by_round": bounds,
        "clipped": sum(s["clipped"] for s in every),
        "wire_bytes_per_value_up": sum(s["bytes_up"] for s in every)
        / len(every)
        / parameters,
        "wire_bytes_per_value_down": sum(s["bytes_down"] for s in every)
        / len(every)
        / parameters,
        "seconds": dict(totals),
        "seconds_by_round": by_round,
        "result_digests": [said[0]["result"] for said in rounds],
        "aggregator_disk": disk_held,
        "audit_checkpoint": audit["checkpoint"],
        "audit_entries": audit["entries"],
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
        },
        "versions": {
            "cryptflow": cryptflow.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    show(result)
    (args.out / "report.json").write_text(json.dumps(result, indent=1) + "\n")
    reporting.draw(result, args.out / "demo.png")
    print(f"\nwritten: {args.out / 'report.json'} and {args.out / 'demo.png'}")
    if any(e > b for e, b in zip(found, bounds, strict=True)):
        print("A decrypted mean is further off than the stated bound.", file=sys.stderr)
        return 1
    if disk_held["found_in"]:
        print("An update's bytes are on the aggregator's disk.", file=sys.stderr)
        return 1
    shutil.rmtree(work)  # updates in the clear; kept for a look when a check failed
    return 0


def show(r: dict[str, Any]) -> None:
    """Print the end of the demo."""
    rows = [
        [str(i + 1), str(n), f"{a:.1%}", f"{b:.1%}", f"{e:.1e}", f"{s:.1e}"]
        for i, (n, a, b, e, s) in enumerate(
            zip(
                r["cohorts"],
                r["accuracy_encrypted"],
                r["accuracy_plaintext"],
                r["max_abs_mean_error_by_round"],
                r["stated_bound_by_round"],
                strict=True,
            )
        )
    ]
    header = ["round", "clients", "encrypted", "plaintext", "largest error", "bound"]
    print("\n" + reporting.table(header, rows) + "\n")
    rows = [
        [p, f"{s:.2f} s", f"{s / sum(r['seconds'].values()):.1%}"]
        for p, s in ((p, r["seconds"][p]) for p in reporting.PHASES)
    ]
    print(reporting.table(["all clients", "seconds", "share"], rows) + "\n")
    up, down = r["wire_bytes_per_value_up"], r["wire_bytes_per_value_down"]
    disk = r["aggregator_disk"]
    checkpoint = r["audit_checkpoint"].splitlines()
    print(f"wire         {up:.2f} bytes a value up, {down:.2f} down; float32 has 4")
    print(f"clipped      {r['clipped']} values outside ±{RANGE}")
    print(
        f"aggregator   {disk['files']} contributions copied from its disk, "
        f"{disk['bytes'] / 1e6:.1f} MB of frames; {disk['pieces_searched']} pieces of "
        f"client 0's updates: {'FOUND' if disk['found_in'] else 'none found'}"
    )
    print(
        f"audit log    {r['audit_entries']} entries, verified; "
        f"checkpoint {checkpoint[1]} {checkpoint[2]}"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except cryptflow.errors.CryptFlowError as error:
        sys.exit(f"the demo failed: {error} [{error.code}]")
