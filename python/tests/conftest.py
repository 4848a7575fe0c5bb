"""A cohort in one process: real encryption, threads for clients."""

import threading

import numpy as np
import pytest

from cryptflow import hazmat


class Table:
    """Where the clients of one cohort meet: averages under encryption."""

    def __init__(self, values, clients, weight_cap, value_range):
        self.round = hazmat.Round(
            values, clients=clients, weight_cap=weight_cap, value_range=value_range
        )
        self.values, self.clients = values, clients
        self.args = {"weight_cap": weight_cap, "value_range": value_range}
        self.barrier = threading.Barrier(clients, action=self._add)
        self.entries, self.mean, self.history = {}, None, []

    def _add(self):
        r = hazmat.Round(self.values, clients=self.clients, **self.args)
        keys, frames = [], []
        for update, weight in self.entries.values():
            keys.append(r.new_key())
            frames.append(r.encrypt(keys[-1], update, weight))
        opened = r.decrypt(r.release(keys), r.aggregate(frames))
        self.mean = opened.to_numpy(zero_copy_only=False).copy()
        self.history.append(list(self.entries.values()))

    def bound(self, weights):
        limit = self.args["value_range"]
        return self.round.error_bound(limit, weights) + limit * 2.0**-23


class Seat:
    """One client at the table."""

    layout = None

    def __init__(self, table, number, initial=None, layout=None):
        self.table, self.number, self.initial = table, number, initial
        self.layout = layout

    def initial_model(self):
        return self.initial

    def average(self, update, num_examples):
        self.table.entries[self.number] = (update.copy(), num_examples)
        self.table.barrier.wait(60)
        return self.table.mean, {"round": len(self.table.history)}


@pytest.fixture
def table():
    """Return a function that makes a table and its seats."""

    def make(values, clients=3, weight_cap=300, value_range=1.0, **seat):
        t = Table(values, clients, weight_cap, value_range)
        return t, [Seat(t, i, **seat) for i in range(clients)]

    return make


@pytest.fixture
def together():
    """Return a function that runs callables at once and returns their results."""

    def run(*jobs):
        results, failures = [None] * len(jobs), []

        def work(i):
            try:
                results[i] = jobs[i]()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failures:
            raise failures[0]
        return results

    return run


@pytest.fixture
def rng():
    """Return a seeded generator."""
    return np.random.default_rng(11)
