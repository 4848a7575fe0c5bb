"""Timing of one kind of work, on one core or on all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import Row


def pin(cores: set[int]) -> None:
    """Keep every thread of this process, and those to come, on some cores."""
    for entry in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(entry.name), cores)
        except ProcessLookupError:  # the thread has ended
            continue


@contextmanager
def one_core() -> Iterator[None]:
    """Run on one core, whatever threads a library starts."""
    every = os.sched_getaffinity(0)
    pin({min(every)})
    try:
        yield
    finally:
        pin(every)


def measure(row: Row, values: int, runs: int, work: Callable[[], object]) -> Row:
    """Time work, once to warm up and then runs times; the median counts."""
    rates = []
    for k in range(runs + 1):
        start = time.perf_counter()
        work()
        if k > 0:
            rates.append(values / (time.perf_counter() - start))
    return {
        "threads": 1,
        **row,
        "values_per_second": statistics.median(rates),
        "runs": rates,
    }
