"""The parameter study: accuracy against bytes against seconds.

    python benchmarks/study            # about ten minutes on two free cores
    python benchmarks/study --quick    # a minute, other results: for tests

Trains real federations with real ciphertexts at every point, beside the same
federation averaged in float64 (same seeds, so that differences are paired),
and measures bytes and seconds of every combination of parameters.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from problems import LOADERS, SPLITS, Network, Problem, problem
from systems import SECAGG_BYTES, Ours, Plain, Rounded, System, ours, peers, weighted
from tqdm import tqdm

import cryptflow

RESULT = Path(__file__).parents[1] / "results" / "study.json"

FULL: dict[str, Any] = {
    "seeds": 5,
    "rounds": 12,
    "bits": (4, 6, 8, 12, 16, 24),
    "cohorts": (3, 8, 24),
    "problems": tuple(LOADERS),
    "splits": tuple(SPLITS),
}
QUICK: dict[str, Any] = FULL | {
    "seeds": 2,
    "rounds": 3,
    "bits": (4, 16),
    "cohorts": (3,),
}


Job = tuple[str, int, str, int]


def federate(p: Problem, system: System, seed: int, rounds: int) -> float:
    """Train for some rounds; return the accuracy on held-out data."""
    net = Network(p.held[0].shape[1], p.hidden, p.classes, seed)
    shapes = {name: int(np.prod(s)) for name, s in net.shapes.items()}
    values, weights = net.values, [len(y) for _, y in p.shards]
    for number in range(rounds):
        updates = [
            net.train(values, data, 1000 * seed + 50 * number + i).astype(np.float32)
            for i, data in enumerate(p.shards)
        ]
        values = values + system.mean(updates, weights, shapes)
    return net.accuracy(values, p.held)


def middle_of(setting: dict[str, Any]) -> int:
    """Return the cohort in which most is tried."""
    return int(setting["cohorts"][len(setting["cohorts"]) // 2])


def federations(setting: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return problem, clients and split of every federation, longest first.

    All cohorts with the first split, the middle one with the others.
    """
    middle, first = middle_of(setting), setting["splits"][0]
    return [
        (name, clients, split)
        for clients in sorted(setting["cohorts"], reverse=True)
        for name in setting["problems"]
        for split in setting["splits"]
        if split == first or clients == middle
    ]


def points(setting: dict[str, Any], clients: int, split: str) -> list[System]:
    """Return the systems whose accuracy is measured.

    Means do not depend on the preset, which only has to have room: every
    combination of mode, encoding and bits is trained with the first preset
    that does, and 16 bits in the middle cohort with all of them, to show just
    that; so with rounding to nearest. The largest cohort leaves slots out, and
    splits after the first have lanes with stochastic rounding alone.
    """
    middle, whole = middle_of(setting), split == setting["splits"][0]
    seen: set[tuple[str, str, int]] = set()
    chosen: list[System] = [Plain(), Rounded()]
    for p in ours(setting["bits"], clients):
        if p.encoding != "lanes" and (clients > middle or not whole):
            continue
        key = (p.mode, p.encoding, p.bits)
        if key not in seen or (whole and clients == middle and p.bits == 16):
            seen.add(key)
            chosen.append(p)
    if whole and clients == middle:
        chosen += [
            Ours("sum-key", "n4096-q102", "lanes", b, clients, "nearest")
            for b in setting["bits"]
        ]
    return chosen + peers()


def train(setting: dict[str, Any], job: Job) -> dict[str, Any]:
    """Train one system's federations, one for each seed."""
    name, clients, split, number = job
    system = points(setting, clients, split)[number]
    found = [
        federate(problem(name, clients, seed, split), system, seed, setting["rounds"])
        for seed in range(setting["seeds"])
    ]
    return {
        "problem": name,
        "clients": clients,
        "split": split,
        "system": system.name,
        **system.about,
        "accuracy": found,
    }


def accuracies(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Train every federation; pair each accuracy with that of float64."""
    jobs: list[Job] = [
        (*f, number)
        for f in federations(setting)
        for number in range(len(points(setting, *f[1:])))
    ]
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), spawn) as pool:
        work = pool.map(partial(train, setting), jobs)
        rows = list(tqdm(work, total=len(jobs), desc="accuracy", unit=" point"))
    same = ("problem", "clients", "split")
    exact = {
        tuple(r[k] for k in same): r["accuracy"]
        for r in rows
        if r["system"] == Plain.name
    }
    for r in rows:
        pairs = zip(r["accuracy"], exact[tuple(r[k] for k in same)], strict=True)
        r["difference"] = [a - b for a, b in pairs]
    return rows


def spreads(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how many examples and classes clients have, over all seeds."""
    rows = []
    for name, clients, split in federations(setting):
        held = [
            y
            for seed in range(setting["seeds"])
            for _, y in problem(name, clients, seed, split).shards
        ]
        rows.append({
            "problem": name, "clients": clients, "split": split,
            "examples": sorted(len(y) for y in held),
            "classes": sorted(len(set(y.tolist())) for y in held),
        })  # fmt: skip
    return rows


def costs(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure bytes and seconds of every combination, among eight clients."""
    systems: list[System] = [Plain(), *ours(setting["bits"], 8), *peers()]
    rows = []
    for system in tqdm(systems, desc="cost", unit=" point"):
        cost = system.cost()
        row = {"system": system.name, **system.about}
        if cost is None:
            row["bytes_per_value"] = SECAGG_BYTES
        else:
            row |= asdict(cost) | {"seconds": cost.seconds}
        rows.append(row)
    return rows


def sizes(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Return bytes a value of every cohort size, from the planner."""
    rows = []
    for clients in (3, 8, 16, 64, 256, 1024):
        for bits in setting["bits"]:
            for mode in ("sum-key", "shared-key"):
                try:
                    options = cryptflow.plan(
                        1_000_000, clients=clients, bits=bits, mode=mode,
                        weight_cap=1, calibrate=False,
                    )  # fmt: skip
                except cryptflow.errors.InputError:
                    continue
                keys = (
                    "preset", "wire_bytes_per_value_up", "wire_bytes_per_value_down",
                    "security_bits", "security_source", "log2_modulus", "ring_degree",
                    "failure_probability_log2", "lanes", "delta_bits",
                )  # fmt: skip
                rows += [
                    {"clients": clients, "bits": bits, "mode": mode}
                    | {k: o[k] for k in keys}
                    for o in options
                ]
    return rows


def check() -> None:
    """Refuse to go on when our mean is not that of float64 within its bound."""
    rng = np.random.default_rng(0)
    given = [rng.normal(0, 0.1, 500).astype(np.float32) for _ in range(3)]
    system = Ours("sum-key", "n4096-q102", "lanes", 16, 3)
    off = system.mean(given, [5, 7, 1000], {"a": 200, "b": 300}) - weighted(
        given, [5, 7, 1000]
    )
    if np.abs(off).max() > 1e-4:
        raise SystemExit(f"the encrypted mean is off by {np.abs(off).max()}")


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute, for tests")
    parser.add_argument("--out", type=Path, default=RESULT, help="file of results")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["CRYPTFLOW_NUM_THREADS"] = "1"
    check()
    setting = QUICK if args.quick else FULL
    cost, size = costs(setting), sizes(setting)
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/study", *sys.argv[1:]]),
        "setting": setting,
        "cost": cost,
        "size": size,
        "spread": spreads(setting),
        "accuracy": accuracies(setting),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {args.out}")
