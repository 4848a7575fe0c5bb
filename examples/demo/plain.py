"""The same federation without encryption, for comparison."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import digits
import numpy as np
import torch

from cryptflow.torch import ModuleWeights


def run(
    shards: Sequence[tuple[np.ndarray, np.ndarray]],
    test: tuple[np.ndarray, np.ndarray],
    cohorts: Sequence[Sequence[int]],
    seed: int,
) -> list[float]:
    """Average in float64 what the same clients learn from the same seeds.

    Parameters
    ----------
    shards : sequence of (x, y)
        Examples of each client.
    test : (x, y)
        Examples held back.
    cohorts : sequence of sequence of int
        Which clients take part in each round.
    seed : int
        Of the first model and of every epoch's order.

    Returns
    -------
    list of float
        Test accuracy after each round.
    """
    torch.set_num_threads(1)
    model = digits.network(seed)
    weights = ModuleWeights(model)
    size = sum(t.count for t in weights.layout)
    start, after = np.empty(size, np.float32), np.empty(size, np.float32)
    x, y = (torch.from_numpy(a) for a in test)
    scores = []
    for number, cohort in enumerate(cohorts):
        weights.read(start)
        total = np.zeros(size, np.float64)
        examples = 0
        for client in cohort:
            local = copy.deepcopy(model)
            cx, cy = (torch.from_numpy(a) for a in shards[client])
            digits.train(local, cx, cy, digits.order_seed(seed, client, number))
            ModuleWeights(local).read(after)
            total += (after - start).astype(np.float64) * len(cy)
            examples += len(cy)
        weights.write(start + (total / examples).astype(np.float32))
        scores.append(digits.accuracy(model, x, y))
    return scores
