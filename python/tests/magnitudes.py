"""A cohort that trains on raw columns, under encryption and in the clear."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cryptflow.session import Session

CLIENTS, ROUNDS = 3, 30
EXAMPLES = [60, 48, 36]
#: Standard deviations of raw columns.
SCALES = np.float32([0.01, 0.1, 1, 10, 100])


class Plain:
    """A cohort that averages in the clear, in float64."""

    def __init__(self, layout):
        self.layout, self.given = layout, {}
        self.barrier = threading.Barrier(CLIENTS, action=self.add)

    def add(self):
        weights = list(self.given)
        rows = [self.given[w] for w in weights]
        self.mean = np.average(rows, axis=0, weights=weights).astype(np.float32)

    def initial_model(self):
        return None

    def average(self, update, num_examples, metrics=None):
        self.given[num_examples] = update.astype(np.float64)
        self.barrier.wait(60)
        return self.mean, {}


def columns(seed, n):
    """Raw columns far from zero, and what a model is to say of them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 5)).astype(np.float32)
    y = z.sum(axis=1, keepdims=True) + np.float32(0.1) * z[:, :1] ** 2
    return (z + np.float32([3, -2, 1, 0.5, 0])) * SCALES, y


def federate(build, access, train, evaluate, clients):
    """Losses of every round, and the models at the end."""
    models = [build() for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        made = zip(models, clients, EXAMPLES, strict=True)
        sessions = list(pool.map(lambda a: Session(access(a[0]), *a[1:]), made))
        losses, reports = [], []
        for number in range(ROUNDS):
            for i, model in enumerate(models):
                train(model, *columns(100 * number + i, EXAMPLES[i]))
            reports.append(list(pool.map(lambda s: s.average(), sessions)))
            losses.append(evaluate(models[0], *columns(99_999, 200)))
    return np.array(losses), models, reports
