"""A client that has its update ready: it notes when the mean comes and when it
answers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def peak() -> int:
    """Return this process's largest resident set in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


@app.train()
def train(message: Message, context: Context) -> Message:
    """Apply the mean, make the next update, send it."""
    arrays = {k: a.numpy() for k, a in message.content["arrays"].items()}
    came = time.monotonic()
    rng = np.random.default_rng(os.getpid())
    updates = {
        k: Array(rng.normal(0, 0.1, v.shape).astype(np.float32))
        for k, v in arrays.items()
    }
    journal = Path(str(context.run_config["journal"]))
    note = {"came": came, "leaves": time.monotonic(), "peak": peak()}
    name = f"{context.node_config['partition-id']}.jsonl"
    with (journal / name).open("a") as out:
        out.write(json.dumps(note) + "\n")
    record = {
        "arrays": ArrayRecord(updates),
        "metrics": MetricRecord({"num-examples": 10}),
    }
    return Message(RecordDict(record), reply_to=message)
