"""A cohort in one process: real encryption, threads for clients."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

# Triton, which torch loads at some point, aborts the process when TensorFlow's
# copy of LLVM is there first; the other order is fine.
import triton  # noqa: F401

from cryptflow import hazmat

# What several files of tests share is imported by name.
sys.path.append(os.path.dirname(__file__))


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


# What every client process of `federation` begins with: a client that keeps
# what went through it, and says so at the end.
PRELUDE = """
import sys
import numpy as np
import cryptflow

profile, task, mine, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]


class Recorder:
    def __init__(self, client):
        self.client, self.rounds = client, []

    def __getattr__(self, name):
        return getattr(self.client, name)

    def average(self, update, num_examples, metrics=None):
        mean, report = self.client.average(update, num_examples, metrics)
        entry = (update.copy(), num_examples, mean.copy(), report.stated_bound)
        self.rounds.append(entry)
        return mean, report

    def save(self, weights, **more):
        flat = np.empty(sum(t.count for t in weights.layout), np.float32)
        weights.read(flat)
        updates, examples, means, bounds = map(np.array, zip(*self.rounds))
        np.savez(out, flat=flat, updates=updates, weights=examples, means=means,
                 bounds=bounds, **more)


client = Recorder(cryptflow.connect(profile, task=task))
"""


@pytest.fixture
def federation(tmp_path):
    """Run a program in three client processes; hold its means to float64's.

    The program finds `client`, `mine` (its number) and `task`, and ends with
    `client.save(weights)`. What all saved is returned, a mapping a client.
    """

    def run(cluster, task, program, first, timeout=900, **env):
        script = tmp_path / "program.py"
        script.write_text(PRELUDE + program)
        running = [
            subprocess.Popen(
                [sys.executable, script, p, task, str(i), tmp_path / f"{i}.npz"],
                cwd=tmp_path,
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i, p in enumerate(cluster.profiles[:3])
        ]
        said = [p.communicate(timeout=timeout)[0] for p in running]
        assert [p.returncode for p in running] == [0, 0, 0], "\n".join(said)[-6000:]
        got = [dict(np.load(tmp_path / f"{i}.npz")) for i in range(3)]
        model = np.array(first, np.float64)
        for r, bound in enumerate(got[0]["bounds"]):
            weights = np.array([g["weights"][r] for g in got], np.float64)
            updates = np.array([g["updates"][r] for g in got], np.float64)
            assert np.abs(updates).max() > 0
            mean = np.average(updates, axis=0, weights=weights)
            for g in got:
                assert np.abs(g["means"][r] - mean).max() <= bound
            model += mean
        total = sum(got[0]["bounds"])
        for g in got:
            assert np.array_equal(g["flat"], got[0]["flat"])
            rounding = np.abs(model).max() * 2.0**-22
            assert np.abs(g["flat"] - model).max() <= total + rounding
        return got

    return run
