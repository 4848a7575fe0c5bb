"""FedAvg on torch modules: layout, precision, and the loop itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cryptflow import errors
from cryptflow._callback import TorchRounds
from cryptflow.session import Tensor
from cryptflow.torch import FedAvg, ModuleWeights


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def names(model, **kwargs):
    return [t.name for t in ModuleWeights(model, **kwargs).layout]


def flat(model):
    weights = ModuleWeights(model)
    out = np.empty(sum(t.count for t in weights.layout), np.float32)
    weights.read(out)
    return out


def train(model, seed, steps=3):
    gen = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        x = torch.randn(8, 1, 6, 6, generator=gen)
        y = torch.randint(0, 3, (8,), generator=gen)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return optimizer


def test_layout_has_parameters_and_float_buffers():
    assert names(Small()) == [
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "head.weight",
        "head.bias",
    ]


def test_wrappers_do_not_change_names():
    model = Small()
    assert names(nn.DataParallel(model)) == names(model)
    assert names(torch.compile(model)) == names(model)


def test_tied_tensors_travel_once():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    assert names(model) == ["a.weight", "a.bias", "b.bias"]


def test_frozen_parameters_and_excluded_names_stay():
    model = Small()
    model.conv.weight.requires_grad_(False)
    chosen = names(model, include=lambda n: not n.startswith("norm"))
    assert chosen == ["conv.bias", "head.weight", "head.bias"]


def test_lazy_and_complex_tensors_are_refused_by_name():
    with pytest.raises(errors.LayoutError, match="weight"):
        ModuleWeights(nn.LazyLinear(3))
    model = nn.Module()
    model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(errors.LayoutError, match="phase"):
        ModuleWeights(model)


@pytest.mark.parametrize(
    "made, words",
    [
        (lambda: FedAvg(nn.Linear, None, 1), "class Linear is not a torch module"),
        (lambda: FedAvg(None, nn.Linear(2, 2), 1), "NoneType is not a torch module"),
        (lambda: FedAvg(nn.Linear(2, 2), None, 1), "not a connected client"),
        (lambda: ModuleWeights(nn.Linear(2, 2), ["bias"]), "include is a list"),
        (
            lambda: ModuleWeights(nn.Linear(2, 2, device="meta")),
            "'weight' has no values",
        ),
    ],
)
def test_arguments_that_are_something_else(made, words):
    with pytest.raises(errors.InputError, match=words):
        made()


def test_a_state_of_something_else_is_refused(table):
    _, seats = table(6)
    fedavg = FedAvg(nn.Linear(2, 2), seats[0], 1)
    for state in ({}, None, nn.Linear(2, 2).state_dict()):
        with pytest.raises(errors.InputError, match="state_dict"):
            fedavg.load_state_dict(state)


def test_read_and_write_round_trip_strided():
    model = Small()
    model.head.weight.data = torch.randn(4, 3).t()
    values = flat(model)
    other = Small()
    ModuleWeights(other).write(values)
    assert np.array_equal(flat(other), values)


def test_tensors_that_change_are_noticed():
    model = Small()
    weights = ModuleWeights(model)
    model.head = nn.Linear(4, 5)
    with pytest.raises(errors.LayoutError, match="make a new one"):
        weights.write(np.zeros(100, np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_three_clients_end_with_the_float64_mean(dtype, table, together):
    torch.manual_seed(0)
    first = Small().to(dtype)
    models = [Small().to(dtype) for _ in range(3)]
    weights = [300, 120, 7]
    t, seats = table(flat(first).size, initial=flat(first))
    torch.set_default_dtype(dtype)
    try:
        fed = [FedAvg(m, s, w) for m, s, w in zip(models, seats, weights, strict=True)]
        assert all(np.array_equal(flat(m), flat(first)) for m in models)
        want = flat(first).astype(np.float64)
        for turn in range(2):
            for i, m in enumerate(models):
                train(m, 10 * turn + i)
            updates = [flat(m).astype(np.float64) - want for m in models]
            reports = together(*[f.on_epoch_end for f in fed])
            assert reports == [{"round": turn + 1}] * 3
            want = want + np.average(updates, axis=0, weights=weights)
            got = [flat(m) for m in models]
            assert all(np.array_equal(g, got[0]) for g in got)
            # Rounding of master and sum to float32 comes on top of the bound.
            slack = 4 * np.spacing(np.float32(np.max(np.abs(want))))
            assert np.max(np.abs(got[0] - want)) <= t.bound(weights) + slack
            want = got[0].astype(np.float64)
    finally:
        torch.set_default_dtype(torch.float32)


def test_integer_buffers_and_optimizer_state_stay(table, together):
    models = [Small() for _ in range(2)]
    _, seats = table(flat(models[0]).size, clients=2, initial=flat(models[0]))
    fed = [FedAvg(m, s, 1) for m, s in zip(models, seats, strict=True)]
    optimizers = [train(m, i) for i, m in enumerate(models)]
    states = [
        [s["momentum_buffer"].clone() for s in o.state.values()] for o in optimizers
    ]
    batches = [int(m.norm.num_batches_tracked) for m in models]
    together(*[f.on_epoch_end for f in fed])
    assert [int(m.norm.num_batches_tracked) for m in models] == batches
    for o, before in zip(optimizers, states, strict=True):
        for s, b in zip(o.state.values(), before, strict=True):
            assert torch.equal(s["momentum_buffer"], b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_means_add_up_in_a_float32_master(dtype, table, together):
    """Half precision cannot hold 1 + 2^-12; the master can."""
    models = [nn.Linear(1, 1, bias=False).to(dtype) for _ in range(2)]
    _, seats = table(
        1, clients=2, weight_cap=1, initial=np.ones(1, np.float32), value_range=1.0
    )
    fed = [FedAvg(m, s, 1) for m, s in zip(models, seats, strict=True)]
    step = 2.0**-6  # representable beside 1 in both types
    for _ in range(64):
        with torch.no_grad():
            models[0].weight.add_(step)  # the mean, 2^-7, moves by half a step
        together(*[f.on_epoch_end for f in fed])
    assert abs(models[1].weight.item() - 1.5) < 0.01


def test_epochs_per_round(table, together):
    models = [nn.Linear(2, 2) for _ in range(2)]
    _, seats = table(6, clients=2, initial=np.zeros(6, np.float32))
    fed = [
        FedAvg(m, s, 1, epochs_per_round=3) for m, s in zip(models, seats, strict=True)
    ]
    reports = [together(*[f.on_epoch_end for f in fed])[0] for _ in range(6)]
    assert reports == [None, None, {"round": 1}, None, None, {"round": 2}]


def test_a_failed_average_changes_nothing():
    class Broken:
        layout = None
        calls = 0

        def initial_model(self):
            return None

        def average(self, update, num_examples):
            self.calls += 1
            self.seen = update.copy()
            if self.calls == 1:
                raise errors.UnavailableError("gone")
            return np.zeros_like(update), "report"

    model, client = nn.Linear(2, 2), Broken()
    fed = FedAvg(model, client, 5)
    with torch.no_grad():
        model.weight.add_(0.25)
    before = flat(model)
    with pytest.raises(errors.UnavailableError):
        fed.on_epoch_end()
    first = client.seen
    assert np.array_equal(flat(model), before)
    assert fed.on_epoch_end() == "report"
    assert np.array_equal(client.seen, first)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ([Tensor("weight", (2, 2)), Tensor("bias", (3,))], "'bias'.*shape"),
        ([Tensor("kernel", (2, 2)), Tensor("bias", (2,))], "'kernel'.*'weight'"),
        ([Tensor("weight", (2, 2))], "does not have 'bias'"),
        (
            [Tensor("weight", (2, 2)), Tensor("bias", (2,)), Tensor("x", (1,))],
            "lacks 'x'",
        ),
    ],
)
def test_another_layout_names_the_first_difference(table, layout, words):
    _, seats = table(6, clients=2, layout=layout)
    with pytest.raises(errors.LayoutError, match=words):
        FedAvg(nn.Linear(2, 2), seats[0], 1)


@pytest.mark.parametrize("bad", [0, -3, 2.5, True, None])
def test_num_examples_is_a_positive_integer(table, bad):
    _, seats = table(6, clients=2)
    with pytest.raises(errors.InputError) as caught:
        FedAvg(nn.Linear(2, 2), seats[0], bad)
    assert caught.value.code == "CF_WEIGHT"


@pytest.mark.parametrize("order", ["torch, cryptflow", "cryptflow, torch"])
def test_import_order(order):
    text = (
        f"import {order}, numpy as np\n"
        "from cryptflow import hazmat\n"
        "r = hazmat.Round(10, clients=2); k = r.new_key()\n"
        "print(len(r.encrypt(k, np.zeros(10, np.float32))))\n"
        "print(float(torch.ones(3).sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert done.stdout.split() == ["2", "3.0"]


def test_data_loader_workers_that_fork():
    """Loading the library first and forking then is refused, not a hang."""
    text = (
        "import numpy as np, torch\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "from cryptflow import errors, hazmat\n"
        "r = hazmat.Round(10, clients=2); r.new_key()\n"
        "class Plain(Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return i\n"
        "class Uses(Plain):\n"
        "    def __getitem__(self, i): r.new_key(); return i\n"
        "print(sorted(int(x) for x in DataLoader(Plain(), None, num_workers=2)))\n"
        "try: list(DataLoader(Uses(), None, num_workers=1))\n"
        "except errors.InternalError as e: print('spawn' in str(e))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.stdout.splitlines() == ["[0, 1, 2, 3]", "True"], done.stderr


def test_what_was_read_does_not_change_with_the_model():
    model = Small()
    values = flat(model)
    before = values.copy()
    train(model, 1)
    assert np.array_equal(values, before)
    assert not np.array_equal(flat(model), before)


def test_a_part_called_module_keeps_its_name():
    model = nn.Module()
    model.module, model.weight = nn.Linear(2, 2), nn.Parameter(torch.zeros(1))
    assert names(model) == ["weight", "module.weight", "module.bias"]


def test_extra_state_stays_and_copies_are_refused():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return torch.ones(4)

        def set_extra_state(self, state):
            pass

    class Copies(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "weight"] = self.weight * 2

    assert names(Extra(2, 2)) == ["weight", "bias"]
    with pytest.raises(errors.LayoutError, match="copy of 'weight'"):
        ModuleWeights(Copies(2, 2))
    assert names(Copies(2, 2), include=lambda n: n != "weight") == ["bias"]


def test_a_loop_with_autocast_accumulation_and_a_schedule(table, together):
    """As PyTorch's automatic mixed precision examples have it."""
    models = [nn.DataParallel(Small()) for _ in range(3)]
    weights = [9, 4, 1]
    t, seats = table(flat(models[0]).size, initial=flat(models[0]), weight_cap=9)

    def client(i):
        model = models[i]
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
        scaler = torch.amp.GradScaler("cpu")
        fedavg = FedAvg(model, seats[i], weights[i])
        gen = torch.Generator().manual_seed(i)
        for _ in range(2):
            for step in range(4):
                x = torch.randn(8, 1, 6, 6, generator=gen)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(x).float().pow(2).mean() / 2
                scaler.scale(loss).backward()
                if step % 2:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad()
            schedule.step()
            fedavg.on_epoch_end()
        return optimizer.param_groups[0]["lr"]

    want = flat(models[0]).astype(np.float64)
    rates = together(*[lambda i=i: client(i) for i in range(3)])
    for entries in t.history:
        updates, n = zip(*entries, strict=True)
        want += np.average(np.float64(updates), axis=0, weights=n)
    assert max(rates) < 1e-9 and len(t.history) == 2
    for m in models:
        assert np.abs(flat(m) - want).max() <= 2 * t.bound(weights) + 1e-6


def test_a_checkpoint_goes_on(tmp_path):
    """Through torch.save, in the middle of a round; secrets are not in it."""

    class Alone:
        layout, metric_names, resumed = None, (), None

        def __init__(self):
            self.calls = []

        @property
        def position(self):
            return {"next": len(self.calls)}

        def resume(self, position):
            self.resumed = position

        def initial_model(self):
            return np.full(6, 0.5 + len(self.calls), np.float32)

        def average(self, update, num_examples):
            self.calls.append(update.copy())
            return update / 2, "report"

    def step(model, fedavg):
        with torch.no_grad():
            model.weight.add_(0.25)
        return fedavg.on_epoch_end()

    model, client = nn.Linear(2, 2), Alone()
    fedavg = FedAvg(model, client, 5, epochs_per_round=2)
    said = [step(model, fedavg) for _ in range(3)]
    state = {"model": model.state_dict(), "fedavg": fedavg.state_dict()}
    torch.save(state, tmp_path / "c.pt")
    said.append(step(model, fedavg))
    assert said == [None, "report"] * 2

    other, again = nn.Linear(2, 2), Alone()
    resumed = FedAvg(other, again, 5, epochs_per_round=2)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["fedavg"])
    assert again.resumed == {"next": 1}
    assert step(other, resumed) == "report"
    assert np.array_equal(again.calls[0], client.calls[1])
    assert np.array_equal(flat(other), flat(model))
    with pytest.raises(errors.RoundError, match="values for a model of"):
        FedAvg(nn.Linear(3, 2), Alone2(), 5).load_state_dict(state["fedavg"])


class Alone2:
    """A client that takes any model."""

    layout = None

    def initial_model(self):
        return None


def test_a_missing_argument_of_a_callback_names_the_class_that_was_called():
    with pytest.raises(TypeError, match=r"^FedAvg\.__init__\(\) .*'num_examples'"):
        TorchRounds(object())
