"""The model, its data and one client's training."""

import torch
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    """A small network for 8 by 8 pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        """Return scores of the ten digits."""
        return self.last(torch.relu(self.norm(self.first(x))))


def load_data(partition_id, num_partitions):
    """Return pixels and labels of one site."""
    x, y = load_digits(return_X_y=True)
    mine = slice(partition_id, None, num_partitions)
    return torch.tensor(x[mine] / 16, dtype=torch.float32), torch.tensor(y[mine])


def train(net, x, y, epochs, lr, batch):
    """Train in place; return the last epoch's mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(y)).split(batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)
