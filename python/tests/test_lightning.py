"""Lightning's trainer, under both of its names."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import cryptflow
from cryptflow.client import layout_of
from cryptflow.errors import InputError, LayoutError

MODEL = """
import logging
import os
import warnings
import sys
import numpy as np
import torch
{imports}
logging.getLogger(L.__name__).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning|pytorch_lightning|torch")


class Net(L.LightningModule):
    def __init__(self, width=8, rate=0.05):
        super().__init__()
        self.rate = rate
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, width),
            torch.nn.BatchNorm1d(width),
            torch.nn.Linear(width, 1),
        )
        self.seen = []

    def training_step(self, batch, _):
        loss = (self.net(batch[0]) - batch[0].sum(1, keepdim=True)).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, _):
        self.log("val", self.net(batch[0]).mean())
        self.seen.append(next(self.net.parameters()).detach().clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


def loader(seed):
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)


def trainer(callbacks, epochs=2, **more):
    quiet = dict(accelerator="cpu", devices=1, enable_progress_bar=False,
                 enable_model_summary=False, logger=False, enable_checkpointing=False)
    return L.Trainer(max_epochs=epochs, callbacks=callbacks, **(quiet | more))


class Alone:
    layout, metric_names = None, ("loss",)
    position = None
    def __init__(self, first=None): self.first, self.calls = first, []
    def initial_model(self): return self.first
    def average(self, update, num_examples, metrics=None):
        self.calls.append((update.copy(), num_examples, metrics))
        return np.zeros_like(update), Report(len(self.calls))


class Report:
    def __init__(self, number): self.round = number
    def scalars(self): return {"cohort_round": float(self.round)}
"""
NEW = "import lightning.pytorch as L\nfrom cryptflow.lightning import FedAvg"
OLD = "import pytorch_lightning as L\nfrom cryptflow.lightning import FedAvg"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run a program in this process, with Lightning's new name."""
    monkeypatch.chdir(tmp_path)

    def run(program=""):
        names = {"__name__": "program"}
        exec(
            compile(MODEL.replace("{imports}", NEW) + program, "program", "exec"), names
        )
        return names

    return run


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


@pytest.mark.parametrize("imports", [NEW, OLD], ids=["lightning", "pytorch_lightning"])
def test_fit_in_three_processes(cluster, federation, here, imports, request):
    name = re.sub("[^a-z]+", "-", request.node.callspec.id)
    torch.manual_seed(1)
    net = here()["Net"]()
    cluster.create_task(name, net, rounds=2, weight_cap=40)
    program = f"""
{MODEL.replace("{imports}", imports)}
from cryptflow.torch import ModuleWeights
net = Net()
fedavg = FedAvg(client, num_examples=10 * (mine + 1))
assert isinstance(fedavg, L.Callback)
trainer([fedavg]).fit(net, loader(mine), loader(9))
assert [r.round for r in fedavg.reports] == [0, 1]
assert fedavg.reports[0].metrics["loss"] > 0
client.save(ModuleWeights(net))
"""
    federation(cluster, name, program, layout_of(net)[1])


def test_hooks_run_in_the_documented_order(here):
    """Validation sees local weights; the sanity check is left alone."""
    here(
        """
first = np.full(4 * 8 + 8 + 32 + 9, 0.5, np.float32)
net, client = Net(), Alone(first)
before = next(net.parameters()).detach().clone()
fedavg = FedAvg(client, 7)
trainer([fedavg], num_sanity_val_steps=1).fit(net, loader(1), loader(2))
sanity, local = net.seen[0], net.seen[1]
assert torch.equal(sanity, before)
assert not torch.equal(local, torch.full_like(local, 0.5))
assert torch.equal(next(net.parameters()), torch.full_like(local, 0.5))
assert [c[1] for c in client.calls] == [7, 7] and set(client.calls[0][2]) == {"loss"}
"""
    )


def test_loggers_get_the_round_s_numbers(here):
    here(
        """
from lightning.pytorch.loggers import CSVLogger
net = Net()
log = CSVLogger(".", name="log", version=0)
trainer([FedAvg(Alone(), 7, epochs_per_round=2)], 4, logger=log).fit(net, loader(1))
text = open("log/version_0/metrics.csv").read()
assert "cohort_round" in text.splitlines()[0]
assert "1.0" in text and "2.0" in text
"""
    )


def test_a_checkpoint_goes_on(here):
    """Model, epochs of the round and the optimizer's momentum come back."""
    here(
        """
def run(stop):
    torch.manual_seed(3)
    client, net = Alone(np.full(81, 0.1, np.float32)), Net()
    fedavg = FedAvg(client, 7, epochs_per_round=2)
    if stop:
        t = trainer([fedavg], 3)
        t.fit(net, loader(1))
        t.save_checkpoint("middle.ckpt")
        assert len(client.calls) == 1
        client, net = Alone(np.full(81, 9.0, np.float32)), Net()
        trainer([FedAvg(client, 7, epochs_per_round=2)], 4).fit(
            net, loader(1), ckpt_path="middle.ckpt")
    else:
        trainer([fedavg], 4).fit(net, loader(1))
        client.calls = client.calls[1:]
    return client.calls
(a,), (b,) = run(True), run(False)
assert np.allclose(a[0], b[0], atol=1e-6), abs(a[0] - b[0]).max()
"""
    )


def test_a_checkpoint_of_another_trainer_is_refused(here):
    here(
        """
import pytest
from cryptflow.errors import InputError
t = trainer([], 1)
t.fit(Net(), loader(1))
t.save_checkpoint("plain.ckpt")
client = Alone(np.full(81, 0.1, np.float32))
with pytest.raises(InputError, match="plain.ckpt was saved without this callback"):
    trainer([FedAvg(client, 7)], 2).fit(Net(), loader(1), ckpt_path="plain.ckpt")
assert not client.calls
"""
    )


def test_another_layout_is_refused_before_training(cluster, here):
    names = here()
    cluster.create_task("narrow", names["Net"]())
    net = names["Net"](9)
    before = layout_of(net)[1]
    with cluster.connect(0, "narrow") as client:
        with pytest.raises(LayoutError, match=r"'net\.0\.weight'"):
            names["trainer"]([names["FedAvg"](client, 3)]).fit(net, names["loader"](1))
    assert np.array_equal(layout_of(net)[1], before)


def test_several_processes_are_refused(here):
    names = here()
    fedavg = names["FedAvg"](names["Alone"](), 3)

    class Two:
        world_size = 2

    with pytest.raises(InputError, match="devices=1") as caught:
        fedavg.setup(Two(), None, "fit")
    assert caught.value.code == "CF_ARGUMENT"


def test_a_trainer_of_the_other_package_takes_it():
    """Whoever imports CryptFlow first need not know which name comes later."""
    program = MODEL.replace(
        "{imports}",
        "from cryptflow.lightning import FedAvg\nimport pytorch_lightning as L",
    )
    program += """
client = Alone()
trainer([FedAvg(client, 7)]).fit(Net(), loader(1))
assert len(client.calls) == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_stopping_and_checkpoints_follow_the_cohort(here):
    """EarlyStopping on the cohort's mean; ModelCheckpoint has the cohort's model."""
    here(
        """
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
class Worse(Report):
    def scalars(self): return {"cohort_loss": float(self.round)}
Report = Worse
client, net = Alone(np.full(81, 0.5, np.float32)), Net()
best = ModelCheckpoint(".", "best", monitor="cohort_loss", mode="min")
last = ModelCheckpoint(".", "last")
stop = EarlyStopping("cohort_loss", mode="min", patience=2)
t = trainer([stop, best, last, FedAvg(client, 7)], 9, enable_checkpointing=True)
t.fit(net, loader(1), loader(2))
assert len(client.calls) == 3 and stop.stopped_epoch == 2
for path in (best.best_model_path, last.best_model_path):
    for name, v in torch.load(path, weights_only=True)["state_dict"].items():
        assert v.is_floating_point() <= bool((v == 0.5).all()), name
"""
    )


def test_a_checkpoint_goes_on_in_another_process_s_client(cluster, here, together):
    """With services, and saved after the client was closed."""
    names = here()
    torch.manual_seed(1)
    first = names["Net"]()
    cluster.create_task("goes-on", first, rounds=2)
    zeros = np.zeros_like(layout_of(first)[1])

    def others(i):
        with cluster.connect(i, "goes-on") as client:
            return [client.average(zeros, 1)[1].round for _ in range(2)]

    def trains():
        rounds = []
        for epochs, path in ((1, None), (2, "one.ckpt")):
            net = names["Net"]()
            with cluster.connect(0, "goes-on") as client:
                fedavg = names["FedAvg"](client, 1)
                t = names["trainer"]([fedavg], epochs)
                t.fit(net, names["loader"](1), ckpt_path=path)
            t.save_checkpoint("one.ckpt")
            rounds += [r.round for r in fedavg.reports]
        return rounds

    jobs = [trains, lambda: others(1), lambda: others(2)]
    assert together(*jobs) == [[0, 1]] * 3


def test_a_trial_run_sends_nothing(here):
    here(
        """
client, net = Alone(np.full(81, 0.5, np.float32)), Net()
trainer([FedAvg(client, 7)], fast_dev_run=True).fit(net, loader(1), loader(2))
assert client.calls == []
"""
    )


def test_training_that_ends_inside_a_round_says_so(here, caplog):
    names = here("fedavg = FedAvg(Alone(), 7, epochs_per_round=2); net = Net()")
    fedavg, net, data = names["fedavg"], names["net"], names["loader"](1)
    names["trainer"]([fedavg], 1).fit(net, data)
    assert "training ended inside a round" in caplog.text and not fedavg.reports
    caplog.clear()
    names["trainer"]([fedavg], 1).fit(net, data)
    assert not [r for r in caplog.records if r.name.startswith("cryptflow")]
    assert len(fedavg.reports) == 1


def test_a_further_fit_begins_from_the_cohort_s_model(here):
    here(
        """
client, net = Alone(np.full(81, 0.5, np.float32)), Net(rate=0.0)
net.net[1].momentum = 0.0
fedavg = FedAvg(client, 7)
trainer([fedavg], 1).fit(net, loader(1))
torch.nn.init.constant_(net.net[2].bias, 5.0)
trainer([fedavg], 1).fit(net, loader(1))
assert [np.abs(c[0]).max() for c in client.calls] == [0.0, 0.0]
try:
    trainer([fedavg], 1).fit(Net(), loader(1))
except ValueError as error:
    assert "make a new one" in str(error)
else:
    raise AssertionError("another module was trained")
"""
    )


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_small_means_add_up_in_every_precision(here, precision):
    here(
        f"""
client, net = Alone(np.ones(81, np.float32)), Net(rate=0.0)
net.net[1].momentum = 0.0
client.average = lambda update, n, *m: (np.full_like(update, 2.0**-10), Report(1))
trainer([FedAvg(client, 7)], 16, precision={precision!r}, accumulate_grad_batches=2,
        gradient_clip_val=0.5).fit(net, loader(1))
want = 1 + 16 * 2.0**-10
assert all(abs(float(p.detach().mean()) - want) < 2.0**-7 for p in net.parameters())
"""
    )
