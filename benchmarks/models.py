"""Measure the models of the FedML-HE table beside its figures.

Jin et al., *FedML-HE*, arXiv:2303.10837v3, Table 4: models from 101 to
109,482,240 parameters, every parameter encrypted, 3 clients; seconds of
encryption, aggregation and decryption together, and bytes of one client's
ciphertexts, on an 8-core i7-7700 with PALISADE. It does not give the three
apart. Ours are the same lengths with values drawn, each with the planner's
parameters, 16 bits. Writes ``results/models.json``.

Usage: ``python benchmarks/models.py [--output FILE] [--runs N] [--largest N]``
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from machine import RESULTS, Row, corebench, cores, write
from table import WORK, aligned

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30


class Published(NamedTuple):
    """One line of the table.

    Attributes
    ----------
    seconds : float or None
        "HE Time", of all clients and the server; None where the figure could
        not be compared with a second account of the paper.
    size : float or None
        "Ciphertext", bytes of one client; None likewise.
    """

    model: str
    parameters: int
    seconds: float | None = None
    size: float | None = None


TABLE = (
    Published("Linear Model", 101),
    Published("TimeSeries Transformer", 5_609),
    Published("MLP (2 FC)", 79_510),
    Published("LeNet", 88_648),
    Published("RNN (2 LSTM + 1 FC)", 822_570),
    Published("CNN (2 Conv + 2 FC)", 1_663_370, 2.456, 103.15 * MB),
    Published("MobileNet", 3_315_428),
    Published("ResNet-18", 12_556_426),
    Published("ResNet-34", 21_797_672),
    Published("ResNet-50", 25_557_032, 46.672, 1.58 * GB),
    Published("GroupViT", 55_726_609),
    Published("Vision Transformer", 86_389_248, 112.504, 5.35 * GB),
    Published("BERT", 109_482_240, 136.914, 6.78 * GB),
)

CLIENTS = 3


def size(n: float) -> str:
    """Return bytes for people, in powers of 1,024 as the paper does."""
    for unit, one in (("GB", GB), ("MB", MB), ("KB", KB)):
        if n >= one:
            return (
                f"{n / one:.3g} {unit}" if n / one < 999.5 else f"{n / one:.0f} {unit}"
            )
    return f"{n:.0f} B"


def line(published: Published, rows: list[Row], threads: int) -> Row:
    """Put what was measured for one model beside what was published."""
    mine = {
        r["what"]: r
        for r in rows
        if r["values"] == published.parameters and r["threads"] == threads
    }
    seconds = {
        what: r["values"] * (CLIENTS if what == "fold" else 1) / r["values_per_second"]
        for what, r in mine.items()
    }
    return {
        "model": published.model,
        "parameters": published.parameters,
        "clients": CLIENTS,
        "threads": threads,
        "scheme": mine["encrypt"]["parameters"],
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
        "all_clients_seconds": sum(seconds.values())
        + (CLIENTS - 1) * seconds["encrypt"],
        "bytes": mine["encrypt"]["bytes"],
        "runs": {what: r["runs"] for what, r in mine.items()},
        "published": {
            "seconds": published.seconds,
            "bytes": published.size,
        },
    }


def text(lines: list[Row]) -> str:
    """Return the table for people."""
    head = ("model", "parameters", *WORK, "published", "bytes", "published")
    out: list[tuple[str, ...]] = [head]
    for x in lines:
        theirs = x["published"]
        known = theirs["seconds"] is not None
        out.append(
            (
                x["model"],
                f"{x['parameters']:,}",
                *(f"{x['seconds'][w]:.2g}" for w in WORK),
                f"{theirs['seconds']:.3f}" if known else "n/a",
                size(x["bytes"]),
                size(theirs["bytes"]) if known else "n/a",
            )
        )
    return aligned(out, 1)


def main() -> None:
    """Measure, write the file and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "models.json")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--largest", type=int, default=TABLE[-1].parameters)
    arguments = parser.parse_args()
    models = [m for m in TABLE if m.parameters <= arguments.largest]
    threads = sorted({1, cores()})
    rows = corebench(
        f"--counts={','.join(str(m.parameters) for m in models)}",
        f"--clients={CLIENTS}",
        f"--runs={arguments.runs}",
        f"--threads={','.join(map(str, threads))}",
    )
    lines = [line(m, rows, t) for t in threads for m in models]
    print(text([x for x in lines if x["threads"] == 1]))
    print("seconds on one core: encrypt of one client, fold of all, decrypt of one")
    write(
        arguments.output,
        "make bench-models",
        {
            "published": "Jin et al., FedML-HE, arXiv:2303.10837v3, Table 4",
            "clients": CLIENTS,
            "rows": lines,
        },
        "cryptflow",
    )


if __name__ == "__main__":
    main()
