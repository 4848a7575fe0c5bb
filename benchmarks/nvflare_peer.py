"""Whole rounds with NVIDIA FLARE's classes for homomorphic encryption.

FLARE's simulator refuses encryption, which needs a provisioned project, so
these are its own classes between processes over plain TCP: the encryptor of
its filter, FOBS, the weighted aggregation, FOBS again, the decryptor. What a
provisioned project adds (TLS, polling, storage) is left out: rounds are longer
there.

A script of its own, so that an interpreter with nvflare can run it:
``round.py`` does. Prints a row as JSON, or the reason why there is none with
exit status 3.

Usage: ``python nvflare_peer.py VALUES TENSORS CLIENTS RUNS``
"""

from __future__ import annotations

import json
import logging
import multiprocessing as mp
import os
import re
import socket
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def peak() -> int:
    """Return this process's largest resident set in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def put(connection: socket.socket, message: bytes) -> None:
    """Send a message and its length."""
    connection.sendall(struct.pack("<Q", len(message)))
    connection.sendall(message)


def get(connection: socket.socket) -> memoryview:
    """Receive a message."""
    head = bytearray(8)
    fill(connection, memoryview(head))
    message = bytearray(struct.unpack("<Q", head)[0])
    fill(connection, memoryview(message))
    return memoryview(message)


def fill(connection: socket.socket, view: memoryview) -> None:
    """Fill a view from a connection."""
    at = 0
    while at < len(view):
        n = connection.recv_into(view[at:])
        if n == 0:
            raise EOFError("the peer has gone")
        at += n


def contexts() -> tuple[bytes, bytes]:
    """Return what FLARE's provisioning gives a client and the server."""
    from nvflare.lighter.impl.he import HEBuilder

    builder: Any = HEBuilder()
    builder.initialize(None, None)
    return (
        builder.get_serialized_context(is_client=True),
        builder.get_serialized_context(),
    )


def client(
    port: int,
    context: bytes,
    sizes: list[int],
    runs: int,
    start: Any,
    out: Any,
    peaks: Any,
) -> None:
    """Encrypt, send, receive and decrypt some rounds."""
    logging.disable(logging.INFO)
    import tenseal as ts
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
    from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
    from nvflare.fuel.utils import fobs

    encryptor, decryptor = HEModelEncryptor(), HEModelDecryptor()
    encryptor.tenseal_context = decryptor.tenseal_context = ts.context_from(context)
    encryptor.encrypt_layers, encryptor.n_iter = [True], 10
    rng = np.random.default_rng(os.getpid())
    update = [rng.normal(0, 0.1, n).astype(np.float32) for n in sizes]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(runs):
            start.wait()
            began = time.monotonic()
            named = {f"t{i}": u for i, u in enumerate(update)}
            sealed, which = encryptor.encryption(named, FLContext())
            message = fobs.dumps(sealed)
            put(connection, message)
            up = len(message)
            del sealed, named, message
            reply = get(connection)
            mean = decryptor.decryption(fobs.loads(bytes(reply)), which, FLContext())
            applied = [u + np.asarray(mean[f"t{i}"]) for i, u in enumerate(update)]
            out.put((began, time.monotonic(), up, len(reply)))
            error = max(float(np.abs(a).max()) for a in applied)
            assert error < 10, "the mean is not one of updates"
    peaks.put(peak())


def main() -> None:
    """Measure and print."""
    logging.disable(logging.INFO)
    try:
        import nvflare
        from nvflare.app_common.aggregators.weighted_aggregation_helper import (
            WeightedAggregationHelper,
        )
        from nvflare.app_opt.he import decomposers
        from nvflare.fuel.utils import fobs
    except ImportError as error:
        print(f"does not import: {error}")
        raise SystemExit(3) from None
    values, tensors, clients, runs = map(int, sys.argv[1:5])
    sizes = [values // tensors] * tensors
    sizes[-1] += values - sum(sizes)
    decomposers.register()
    theirs, _ = contexts()
    spawn = mp.get_context("spawn")
    start, out, peaks = spawn.Barrier(clients), spawn.Queue(), spawn.Queue()
    rounds = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        processes = [
            spawn.Process(
                target=client, args=(port, theirs, sizes, runs, start, out, peaks)
            )
            for _ in range(clients)
        ]
        for p in processes:
            p.start()
        connections = [server.accept()[0] for _ in range(clients)]
        for r in range(runs):
            helper = WeightedAggregationHelper(weigh_by_local_iter=False)
            for i, c in enumerate(connections):
                helper.add(fobs.loads(bytes(get(c))), 10.0, f"client-{i}", r)
            message = fobs.dumps(helper.get_result())
            for c in connections:
                put(c, message)
            del message
            rounds.append([out.get() for _ in connections])
        memory = max(peaks.get() for _ in processes)
        for p in processes:
            p.join()
        for c in connections:
            c.close()
    seconds = [max(s[1] for s in r) - min(s[0] for s in r) for r in rounds]
    row = {
        "system": "NVIDIA FLARE HE",
        "parameters": "N=8192 [60,40,40] symmetric, its classes over plain TCP",
        "version": nvflare.__version__,
        "seconds": statistics.median(seconds),
        "runs": seconds,
        "bytes_up": rounds[0][0][2],
        "bytes_down": rounds[0][0][3],
        "peak_bytes": {"server": peak(), "client": memory},
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
