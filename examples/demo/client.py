"""One client: a process of its own with its own data.

Only the demo records updates and means; they are compared with float64
arithmetic afterwards. A client of yours is examples/torch_digits.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

import digits
import numpy as np
import torch
from cut import cut_off

import cryptflow
from cryptflow.torch import FedAvg


class Recorder:
    """A client that also writes down what went in and what came out."""

    def __init__(self, client: cryptflow.Client, folder: Path) -> None:
        self._client, self._folder, self.rounds = client, folder, 0

    @property
    def layout(self):
        """The task's layout."""
        return self._client.layout

    def initial_model(self):
        """Return the task's first model."""
        return self._client.initial_model()

    def check_initial_model(self, weights):
        """Refuse weights that are not it, where every client brings it."""
        self._client.check_initial_model(weights)

    def average(self, update, num_examples):
        """Average, and keep update and mean."""
        np.save(self._folder / f"update-{self.rounds}.npy", update)
        mean, report = self._client.average(update, num_examples)
        np.save(self._folder / f"mean-{self.rounds}.npy", mean)
        self.rounds += 1
        return mean, report


def say(**line) -> None:
    """Tell the parent."""
    print(json.dumps(line), flush=True)


def end_with_parent() -> None:
    """End this process when the parent is gone, however it went."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Train and average until the rounds are done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--vanish", type=int, default=-1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shard = np.load(args.folder / "data.npz")
    x, y = torch.from_numpy(shard["x"]), torch.from_numpy(shard["y"])
    test = np.load(args.folder.parent / "test.npz")
    test_x, test_y = torch.from_numpy(test["x"]), torch.from_numpy(test["y"])
    line = cut_off(os.environ["DEMO_AGGREGATOR"]) if args.vanish >= 0 else None
    if line:
        os.environ["CRYPTFLOW_AGGREGATOR"] = line.address
    with cryptflow.connect(args.profile, progress=False) as client:
        recorder = Recorder(client, args.folder)
        model = digits.network(args.seed + 1)  # replaced by the task's first model
        fedavg = FedAvg(model, recorder, num_examples=len(y))
        # What torch loads on first use is not training.
        digits.train(digits.network(0), x[:1], y[:1], 0)
        say(event="ready", client=args.number)
        sys.stdin.readline()
        threading.Thread(target=end_with_parent, daemon=True).start()
        for number in range(args.rounds):
            began = time.perf_counter()
            digits.train(model, x, y, digits.order_seed(args.seed, args.number, number))
            seconds = {"train": time.perf_counter() - began}
            if line and number == args.vanish:
                say(event="vanish", client=args.number, round=number)
                line.kill_after(50_000)
            report = fedavg.on_epoch_end()
            line_of = {
                "event": "round",
                "client": args.number,
                "round": number,
                "cohort": [int(c.rpartition("-")[2]) for c in report.clients],
                "seconds": {**seconds, **report.seconds},
                "bytes_up": report.bytes_up,
                "bytes_down": report.bytes_down,
                "clipped": sum(report.clipped.values()),
                "result": report.result_digest,
                "bound": report.stated_bound,
                "preset": report.preset,
                "bits": report.bits,
                "weight": report.weight,
            }
            if args.number == 0:
                line_of["accuracy"] = digits.accuracy(model, test_x, test_y)
            say(**line_of)


if __name__ == "__main__":
    try:
        main()
    except cryptflow.errors.CryptFlowError as error:
        say(event="error", code=error.code, text=str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
