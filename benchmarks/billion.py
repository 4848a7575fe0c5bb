"""Encrypt, and upload, a mapped update of a billion values in flat memory.

Two runs on one file of float32 values, made under --folder and removed
afterwards. *Stream*: ``corebench --stream`` encrypts all of it for two clients
without keeping a frame, then folds, opens and compares it with the values
range by range. *Upload*: a client process contributes the mapped file to an
aggregator and a key service on this machine; its memory is sampled while it
does. Memory is RssAnon of ``/proc/PID/status``: everything but mappings of
files, so that the update's own mapping does not count. Writes
``results/billion.json`` and fails when either run needs more than 256 MiB.

Usage: ``python benchmarks/billion.py [--output FILE] [--values N]
[--folder FOLDER] [--no-upload]``
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, Row, corebench, write

LIMIT = 256 << 20


def status(field: str) -> int:
    """Return one size of this process in bytes."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"the kernel does not tell {field}")
    return int(found[1]) << 10


class Sampler:
    """The largest RssAnon of this process until the block ends."""

    def __enter__(self) -> Sampler:
        """Begin to sample, every 20 ms."""
        self.peak, self.mapped, self._stop = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            self.peak = max(self.peak, status("RssAnon"))
            self.mapped = max(self.mapped, status("RssFile"))
            if self._stop.wait(0.02):
                return

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def contribute(profile: str, file: str, values: int, out: Any) -> None:
    """Contribute a mapped file; report seconds and memory."""
    import cryptflow

    update = np.memmap(file, np.float32, "r", shape=(values,))
    with cryptflow.connect(profile, task="billion", progress=False) as client:
        start = status("RssAnon")
        with Sampler() as memory:
            began = time.monotonic()
            client.contribute(update, 1)
            seconds = time.monotonic() - began
    out.put(
        {
            "seconds": seconds,
            "values_per_second": values / seconds,
            "memory": {
                "measure": "RssAnon of /proc/PID/status of the client, every 20 ms",
                "start_bytes": start,
                "peak_bytes": memory.peak,
                "mapped_bytes": memory.mapped,
                "resident_bytes": status("VmHWM"),
            },
        }
    )


def upload(file: Path, values: int, folder: Path) -> Row:
    """Upload to real services, in a process that is measured."""
    import cryptflow

    spawn = mp.get_context("spawn")
    out = spawn.Queue()
    with cryptflow.LocalCluster(2, folder=folder / "cluster") as cluster:
        cluster.create_task(
            "billion",
            ([("flat", (values,))], np.memmap(file, np.float32, "r", shape=(values,))),
            rounds=1,
            value_range=1.0,
            weight_cap=1,
        )
        process = spawn.Process(
            target=contribute, args=(str(cluster.profiles[0]), str(file), values, out)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the client ended with {process.exitcode}")
        result: Row = out.get()
    return {"values": values, **result}


def main() -> None:
    """Run both and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "billion.json")
    parser.add_argument("--values", type=int, default=1_000_000_000)
    parser.add_argument("--folder", type=Path, help="a disk with 16 bytes a value")
    parser.add_argument("--no-upload", action="store_true", help="stream only")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"limit_bytes": LIMIT}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        file, values = folder / "update.f32", arguments.values
        stream = corebench(f"--stream={file}", f"--values={values}", "--clients=2")
        result["stream"] = stream
        rates = ", ".join(
            f"{what} {rate / 1e6:.0f}"
            for what, rate in stream["values_per_second"].items()
        )
        print(f"stream: {values:,} values, {rates} million values/s")
        show(stream["memory"])
        if not arguments.no_upload:
            result["upload"] = upload(file, values, folder)
            print(f"upload: {result['upload']['seconds']:.1f} s")
            show(result["upload"]["memory"])
    write(arguments.output, "make bench-billion", result, "cryptflow", "numpy")
    peaks = {k: result[k]["memory"]["peak_bytes"] for k in result if k != "limit_bytes"}
    above = [f"{k} {n >> 20} MiB" for k, n in peaks.items() if n > LIMIT]
    if above:
        raise SystemExit(f"more than {LIMIT >> 20} MiB: {', '.join(above)}")


def show(memory: Row) -> None:
    """Print what memory was needed."""
    print(
        f"  peak {memory['peak_bytes'] / (1 << 20):.0f} MiB besides "
        f"{memory['mapped_bytes'] / (1 << 20):.0f} MiB of mapped files"
    )


if __name__ == "__main__":
    main()
