"""The digits of scikit-learn, split unevenly, and a small network for them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

BATCH = 8


class Network(nn.Module):
    """Two convolutions and two dense layers: 105,322 parameters.

    Normalised by groups, not by batches: statistics of batches differ between
    clients whose labels do (Hsieh et al., *The non-IID data quagmire of
    decentralized machine learning*, 2020).
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 16, 192), nn.ReLU(), nn.Linear(192, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, 10), of images, shape (n, 1, 8, 8)."""
        return self.head(self.features(x))


def network(seed: int) -> Network:
    """Return a freshly initialised network, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network()


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x and y for training, then x and y held back for testing.

    x has shape (n, 1, 8, 8), float32 from 0 to 1; a fifth is held back.
    """
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    a, b, c, d = train_test_split(x, y, test_size=0.2, random_state=seed, stratify=y)
    return a, c, b, d


def split(
    labels: np.ndarray, clients: int, seed: int, *, alpha: float = 0.5, least: int = 40
) -> list[np.ndarray]:
    """Deal out examples so that every client has other digits more often.

    Each digit is dealt in proportions drawn from a Dirichlet distribution
    (Hsu, Qi, Brown 2019); drawn again until every client has `least` examples.

    Returns
    -------
    list of numpy.ndarray
        Indexes of each client's examples; every index occurs once.
    """
    rng = np.random.default_rng(seed)
    if clients * least > len(labels) // 2:
        least = len(labels) // (4 * clients)
    while True:
        parts: list[list[int]] = [[] for _ in range(clients)]
        for digit in range(10):
            which = rng.permutation(np.flatnonzero(labels == digit))
            cuts = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
            for part, some in zip(
                parts, np.split(which, (cuts * len(which)).astype(int)), strict=True
            ):
                part.extend(some.tolist())
        if min(map(len, parts)) >= least:
            return [np.sort(np.array(p)) for p in parts]


def train(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, seed: int, rate: float = 0.05
) -> None:
    """Train one local epoch in place; the seed fixes the order of examples."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(model.parameters(), rate)
    model.train()
    for batch in order.split(BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


def order_seed(seed: int, client: int, round_number: int) -> int:
    """Return the seed of one client's epoch."""
    return (seed * 1_000_003 + client) * 1_000_003 + round_number


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the fraction of examples that the model gets right."""
    model.eval()
    return float((model(x).argmax(1) == y).float().mean())
