"""Nobody sets a clip range: training with updates of very different sizes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import cryptflow
from cryptflow import errors
from cryptflow.client import layout_of
from cryptflow.torch import FedAvg, ModuleWeights

CLIENTS, EPOCHS = 3, 3
#: Function-preserving scales of the two layers, and of the rounds' learning rates.
FIRST, SECOND = 1e3, 1e-3
RATES = [1.0, 1e-3, 1.0, 1.0, 1e-3]


class Scaled(nn.Module):
    """A network whose first layer's updates are 10⁶ times its second's."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)
        with torch.no_grad():
            for p in self.first.parameters():
                p.mul_(FIRST)
            for p in self.second.parameters():
                p.mul_(SECOND)

    def forward(self, x):
        return self.second(torch.relu(self.first(x) / FIRST)) / SECOND


def shards():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    held = (x[1500:], y[1500:])
    return [(x[i:1500:CLIENTS], y[i:1500:CLIENTS]) for i in range(CLIENTS)], held


def train(model, data, rate, seed):
    """Train for some local epochs; return the last loss."""
    order = torch.Generator().manual_seed(seed)
    groups = [
        {"params": model.first.parameters(), "lr": 0.5 * rate * FIRST**2},
        {"params": model.second.parameters(), "lr": 0.5 * rate * SECOND**2},
    ]
    optimizer = torch.optim.SGD(groups)
    x, y = data
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y), generator=order).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
    return loss.item()


def accuracy(model, data):
    return float((model(data[0]).argmax(1) == data[1]).float().mean())


def plain(data):
    """The same training, averaged in float64 without encryption."""
    torch.manual_seed(7)
    models = [Scaled() for _ in range(CLIENTS)]
    for m in models[1:]:
        m.load_state_dict(models[0].state_dict())
    weights = np.array([len(y) for _, y in data], np.float64)
    for number, rate in enumerate(RATES):
        start = layout_of(models[0])[1].astype(np.float64)
        updates = []
        for i, m in enumerate(models):
            train(m, data[i], rate, 10 * number + i)
            updates.append(layout_of(m)[1] - start)
        mean = np.average(updates, axis=0, weights=weights)
        for m in models:
            ModuleWeights(m).write((start + mean).astype(np.float32))
    return models[0], updates


def test_training_without_a_clip_range_loses_no_accuracy(tmp_path, together):
    data, held = shards()
    want, updates = plain(data)
    sizes = [np.abs(u).max() for u in np.split(updates[0], [64 * 32 + 32])]
    assert sizes[0] > 1e5 * sizes[1]  # what this test is about
    torch.manual_seed(7)
    first = Scaled()
    with cryptflow.LocalCluster(CLIENTS, folder=tmp_path) as cluster:
        cluster.create_task("scaled", first, rounds=len(RATES), metrics=["loss", "lr"])

        def client(i):
            with cluster.connect(i, "scaled") as c:
                model = Scaled()
                fedavg = FedAvg(model, c, num_examples=len(data[i][1]))
                reports = []
                for number, rate in enumerate(RATES):
                    loss = train(model, data[i], rate, 10 * number + i)
                    reports.append(fedavg.on_epoch_end({"loss": loss, "lr": rate}))
                return model, reports

        results = together(*[lambda i=i: client(i) for i in range(CLIENTS)])
    got, reports = results[0]
    assert accuracy(got, held) == pytest.approx(accuracy(want, held), abs=0.011)
    assert accuracy(want, held) > 0.85
    for number, report in enumerate(reports):
        assert report.round == number and report.clipped_total == 0
        assert report.metrics["lr"] == pytest.approx(RATES[number], abs=1e-6)
        assert 0 < report.metrics["loss"] < 3
        assert report.bounds["second.weight"] < 1e-5 * report.bounds["first.weight"]
    change = reports[0].ranges["first.weight"] / reports[1].ranges["first.weight"]
    assert change >= 100  # between rounds
    assert all(np.array_equal(layout_of(m)[1], layout_of(got)[1]) for m, _ in results)


def test_metrics_are_numbers_that_the_task_names(tmp_path):
    layout = {"w": np.zeros(9, np.float32)}
    with cryptflow.LocalCluster(2, folder=tmp_path) as cluster:
        cluster.create_task("m", layout, value_range=1.0)
        with cluster.connect(0, "m") as c:
            update = np.zeros(9, np.float32)
            for metrics, code, text in [
                ({"f1": 0.5}, "CF_ARGUMENT", "f1"),
                ({"loss": "low"}, "CF_ARGUMENT", "low"),
                ({"loss": float("nan")}, "CF_NOT_FINITE", "loss"),
                ({"loss": float("inf")}, "CF_NOT_FINITE", "loss"),
            ]:
                with pytest.raises(errors.InputError, match=text) as caught:
                    c.contribute(update, 1, metrics)
                assert caught.value.code == code


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1.0, 1e30, 3.4e38])
def test_updates_of_every_size(tmp_path, together, size):
    """Denormals, zeros of both signs and the largest float32."""
    values = np.array([0.0, -0.0, size, -size, size / 3], np.float32)
    model = {"w": np.zeros(5, np.float32), "other": np.zeros(4, np.float32)}
    update = np.concatenate([values, np.full(4, 1e-3, np.float32)])
    with cryptflow.LocalCluster(2, folder=tmp_path) as cluster:
        cluster.create_task("sizes", model, rounds=1, bits=24)

        def client(i):
            with cluster.connect(i, "sizes") as c:
                return c.average(update, 1000)

        mean, report = together(*[lambda i=i: client(i) for i in range(2)])[0]
    error = np.abs(mean.astype(np.float64) - update)
    assert report.clipped_total == 0 and np.isfinite(mean).all()
    assert (error[:5] <= report.bounds["w"] * (1 + 1e-6) + size * 2**-23).all()
    assert (error[5:] <= report.bounds["other"] * (1 + 1e-6) + 1e-9).all()
    assert report.bounds["w"] <= max(size, 2.0**-126) * 2**-20
