"""Learning problems, split unevenly between clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer, load_digits

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

#: Concentration of the Dirichlet distribution by which labels are spread.
ALPHA = 0.5
#: Exponent of the power law of uneven sizes.
POWER = 1.5
#: Fewest examples of a client.
FEWEST = 2


@dataclass
class Problem:
    """Training data of each client, and data that nobody trains on."""

    name: str
    split: str
    shards: list[tuple[Array, Labels]]
    held: tuple[Array, Labels]
    hidden: int
    classes: int


LOADERS = {"digits": (load_digits, 32), "breast-cancer": (load_breast_cancer, 16)}


def dirichlet(y: Labels, clients: int, rng: np.random.Generator) -> Labels:
    """Spread each label by shares of a Dirichlet distribution."""
    owner = np.empty(len(y), np.int64)
    for label in range(int(y.max()) + 1):
        mine = np.flatnonzero(y == label)
        shares = rng.dirichlet(np.full(clients, ALPHA))
        owner[mine] = rng.choice(clients, len(mine), p=shares)
    for client in range(clients):
        while (owner == client).sum() < FEWEST:
            taken = rng.integers(len(owner))
            if (owner == owner[taken]).sum() > FEWEST:  # leaves nobody short
                owner[taken] = client
    return owner


def labels(y: Labels, clients: int, rng: np.random.Generator) -> Labels:
    """Give each client one of equal runs of the examples in order of label.

    The order of the labels is drawn. Eight clients have two or three of ten
    labels each; of two labels all clients but one have a single one.
    """
    rank = rng.permutation(int(y.max()) + 1)
    owner = np.empty(len(y), np.int64)
    runs = np.array_split(np.argsort(rank[y], kind="stable"), clients)
    for client, run in enumerate(runs):
        owner[run] = client
    return owner


def sizes(y: Labels, clients: int, rng: np.random.Generator) -> Labels:
    """Deal examples of any label in numbers that follow a power law."""
    law = np.arange(1, clients + 1, dtype=np.float64) ** -POWER
    spare = len(y) - FEWEST * clients
    ends = FEWEST * np.arange(1, clients + 1) + np.rint(
        spare * np.cumsum(law) / law.sum()
    )
    owner = np.searchsorted(ends, np.arange(len(y)), side="right")
    return rng.permutation(owner.astype(np.int64))


#: Kinds of split; the study takes every combination with the first one.
SPLITS = {"dirichlet": dirichlet, "labels": labels, "sizes": sizes}


def problem(name: str, clients: int, seed: int, split: str = "dirichlet") -> Problem:
    """Draw a problem: a quarter is held out, the rest split between clients.

    Every client has at least two examples.
    """
    load, hidden = LOADERS[name]
    rng = np.random.default_rng(seed)
    x, y = load(return_X_y=True)
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    order = rng.permutation(len(y))
    x, y = x[order], y[order].astype(np.int64)
    cut = len(y) // 4
    owner = SPLITS[split](y[cut:], clients, rng)
    parts = [np.flatnonzero(owner == c) + cut for c in range(clients)]
    shards = [(x[p], y[p]) for p in parts]
    held, classes = (x[:cut], y[:cut]), int(y.max()) + 1
    return Problem(name, split, shards, held, hidden, classes)


class Network:
    """One hidden layer of tanh and a softmax, in float64."""

    def __init__(self, inputs: int, hidden: int, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shapes = {
            "first.weight": (inputs, hidden),
            "first.bias": (hidden,),
            "second.weight": (hidden, classes),
            "second.bias": (classes,),
        }
        first = rng.normal(0, inputs**-0.5, (inputs, hidden))
        second = rng.normal(0, hidden**-0.5, (hidden, classes))
        parts = [first, np.zeros(hidden), second, np.zeros(classes)]
        self.values = np.concatenate([p.ravel() for p in parts])

    def parts(self, values: Array) -> list[Array]:
        """Cut flat values into the layers' arrays, as views."""
        out, at = [], 0
        for shape in self.shapes.values():
            size = int(np.prod(shape))
            out.append(values[at : at + size].reshape(shape))
            at += size
        return out

    def train(self, values: Array, data: tuple[Array, Labels], seed: int) -> Array:
        """Return what two local epochs of SGD change, batches of 16."""
        rng, own = np.random.default_rng(seed), values.copy()
        w1, b1, w2, b2 = self.parts(own)
        x, y = data
        for _ in range(2):
            order = rng.permutation(len(y))
            for at in range(0, len(y), 16):
                batch = order[at : at + 16]
                hidden = np.tanh(x[batch] @ w1 + b1)
                error = softmax(hidden @ w2 + b2)
                error[np.arange(len(batch)), y[batch]] -= 1
                error /= len(batch)
                back = error @ w2.T * (1 - hidden**2)
                w2 -= 0.1 * hidden.T @ error
                b2 -= 0.1 * error.sum(0)
                w1 -= 0.1 * x[batch].T @ back
                b1 -= 0.1 * back.sum(0)
        return own - values

    def accuracy(self, values: Array, data: tuple[Array, Labels]) -> float:
        """Return the share of right answers."""
        w1, b1, w2, b2 = self.parts(values)
        answers = np.tanh(data[0] @ w1 + b1) @ w2 + b2
        return float((answers.argmax(1) == data[1]).mean())


def softmax(z: Array) -> Array:
    """Return probabilities, by row."""
    e = np.exp(z - z.max(1, keepdims=True))
    out: Array = e / e.sum(1, keepdims=True)
    return out
