"""Tensors whose small values drown in the step of their largest."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cryptflow.session import Flat, Layout, pieces

__all__ = ["coarse_tensors", "first_coarse", "listed", "warn_once"]

_log = logging.getLogger("cryptflow")

# Values of a tensor that are looked at, and which of their magnitudes counts as
# a small one.
_SAMPLE, _SMALL = 1024, 0.1

# What was said before: task, client and tensor.
_said: set[tuple[str, str, str]] = set()


def coarse_tensors(
    layout: Layout, values: Flat, bounds: Mapping[str, float]
) -> tuple[str, ...]:
    """Return the names of tensors whose bound exceeds their smaller values.

    Those are the tenth percentile of the magnitudes that are not zero, of at
    most 1024 values all over the tensor. Precise tensors are left out.
    """
    out = []
    for tensor, part in zip(layout, pieces(layout, values), strict=True):
        bound = bounds.get(tensor.name, 0.0)
        if tensor.precise or not bound > 0:
            continue
        # An odd step meets all columns of a table with an even number of them.
        sample = np.abs(part.reshape(-1)[:: part.size // _SAMPLE | 1])
        sample = sample[sample > 0]
        if sample.size == 0:
            continue
        k = int(sample.size * _SMALL)
        if float(np.partition(sample, k)[k]) < bound:
            out.append(tensor.name)
    return tuple(out)


def first_coarse(
    layout: Layout, values: Flat, steps: int, ranges: Mapping[str, float]
) -> tuple[str, ...]:
    """Return those of a first model whose smaller values will be below a step.

    Where ranges are agreed on, an update as large as the tensor is assumed.
    """
    bounds = {}
    for tensor, part in zip(layout, pieces(layout, values), strict=True):
        largest = float(np.abs(part).max()) if part.size else 0.0
        bounds[tensor.name] = ranges.get(tensor.name, largest) / steps
    return coarse_tensors(layout, values, bounds)


def warn_once(names: Iterable[str], task: str, client: str) -> None:
    """Say once, for each tensor, that its smaller values are noise."""
    new = [n for n in names if (task, client, n) not in _said]
    _said.update((task, client, n) for n in new)
    if new:
        _log.warning(
            "smaller values of %s are below the error that averaging may make: "
            "create the task with more bits, or with precise=[%r]",
            listed(new),
            new[0],
        )


def listed(names: Any) -> str:
    """Return some names, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(repr(n) for n in shown[:3]) + more
