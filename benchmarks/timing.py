"""Timing of one kind of work, on one core or on all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
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


@dataclass
class Work:
    """One kind of work, measured a few times in each of several passes.

    Passes over everything that is compared take turns, so that a slow minute
    of the machine meets all alike.
    """

    row: Row
    values: int
    do: Callable[[], object]
    alone: bool = True
    rates: list[float] = field(default_factory=list)

    def measure(self, runs: int) -> None:
        """Run once to warm up, then `runs` times; note values a second."""
        with one_core() if self.alone else nullcontext():
            self.do()
            for _ in range(runs):
                start = time.perf_counter()
                self.do()
                self.rates.append(self.values / (time.perf_counter() - start))

    def result(self) -> Row:
        """Return the row with all runs and their median."""
        return {"threads": 1, **self.row, **median(self.rates)}


def median(rates: list[float]) -> Row:
    """Return what a row says of its runs."""
    return {"values_per_second": statistics.median(rates), "runs": rates}
