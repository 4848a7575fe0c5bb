"""Flower: a stub Grid, the simulation engine, a real SuperLink."""

import copy
import difflib
import json
import os
import pickle
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp import strategy as theirs
from flwr.supercore.task_identity import TaskIdentity

import cryptflow
from cryptflow import errors
from cryptflow.client import layout_of
from cryptflow.flower import EncryptedFedAvg, FedAdam, FedAvgM, FedYogi, encrypted

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "examples" / "flower"
FIRST = {"w": np.linspace(-1, 1, 60, dtype=np.float32).reshape(20, 3)}
STEPS = {"w": FIRST["w"], "steps": np.zeros((), np.int64)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Let messages be made outside a run."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)


class StubGrid(Grid):
    """Three nodes in this process, at work at the same time."""

    def __init__(self, app, cluster):
        self.app, self.seen = app, []
        profile = str(cluster.folder / "profiles" / "client-{partition-id}.toml")
        self.contexts = {
            100 + i: Context(
                run_id=1,
                node_id=100 + i,
                node_config={"partition-id": i, "cryptflow-profile": profile},
                state=RecordDict(),
                run_config={},
            )
            for i in range(3)
        }

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        replies = [None] * len(messages)

        def work(i, message):
            node = message.metadata.dst_node_id
            content = RecordDict(dict(message.content))
            known = message.metadata
            own = Message(content, node, known.message_type, ttl=known.ttl)
            try:
                replies[i] = self.app(own, self.contexts[node])
            except Exception as error:  # as a SuperNode does
                replies[i] = Message(Error(code=0, reason=repr(error)), reply_to=own)

        self.seen += messages
        threads = [threading.Thread(target=work, args=x) for x in enumerate(messages)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.seen += replies
        return replies


def app_of(task, trained, **options):
    """Return an app whose handler moves the model by a node's own step.

    Without a task it is Flower's alone.
    """
    app = ClientApp(mods=[encrypted(task, **options)] if task else [])

    @app.train()
    def train(message, context):
        i = context.node_config["partition-id"]
        arrays = {k: a.numpy() for k, a in message.content["arrays"].items()}
        trained.setdefault(i, []).append({k: a.copy() for k, a in arrays.items()})
        arrays["w"] = arrays["w"] + np.float32(0.1) * (i + 1) * np.cos(arrays["w"])
        if "steps" in arrays:
            arrays["steps"] = arrays["steps"] + 1
        metrics = {"num-examples": 10 * (i + 1), "loss": 0.5 + i, "private": 7.0}
        content = {
            "arrays": ArrayRecord({k: Array(np.asarray(a)) for k, a in arrays.items()}),
            "metrics": MetricRecord(metrics),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        i = context.node_config["partition-id"]
        held = message.content["arrays"]["w"].numpy()
        trained.setdefault(i, []).append({"w": held})
        metrics = MetricRecord({"num-examples": 1, "accuracy": 0.5})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def plain(rounds, optimizer=None):
    """Return the models of the same app, averaged in float64."""
    model, out = FIRST["w"].astype(np.float64), []
    for _ in range(rounds):
        steps = [0.1 * (i + 1) * np.cos(model) for i in range(3)]
        model = model + np.average(steps, axis=0, weights=[10, 20, 30])
        out.append(model)
    return out


def start(strategy, grid, rounds=3, first=STEPS):
    record = ArrayRecord({k: Array(a) for k, a in first.items()})
    return strategy.start(grid, record, num_rounds=rounds, timeout=60)


def test_rounds_give_the_means_of_float64(cluster):
    cluster.create_task("stub", FIRST, rounds=3, weight_cap=40)
    trained = {}
    grid = StubGrid(app_of("stub", trained), cluster)
    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)
    result = start(strategy, grid)
    for i, models in trained.items():
        assert np.array_equal(models[0]["w"], FIRST["w"])
        for got, want in zip(models[1:], plain(2), strict=True):
            assert np.abs(got["w"] - want).max() < 1e-4
        assert [int(m["steps"]) for m in models] == [0, 1, 2]  # the node's own
        held = grid.contexts[100 + i].state["cryptflow.arrays"]["w"].numpy()
        assert np.abs(held - plain(3)[-1]).max() < 2e-4
        assert np.array_equal(
            held, grid.contexts[100].state["cryptflow.arrays"]["w"].numpy()
        )
    with pytest.raises(errors.RoundError, match="with the clients"):
        len(result.arrays)  # the server has no model
    assert [len(r) for r in strategy.receipts] == [3, 3, 3]
    assert {r["client"] for r in strategy.receipts[0]} == {
        f"client-{i}" for i in range(3)
    }
    metrics = dict(result.train_metrics_clientapp[1])
    assert metrics["cohort_loss"] == pytest.approx(
        (10 * 0.5 + 20 * 1.5 + 30 * 2.5) / 60
    )
    assert "private" not in metrics and "loss" not in metrics


def test_nothing_but_receipts_goes_through_flower(cluster):
    cluster.create_task("watched", FIRST, rounds=2, weight_cap=40)
    grid = StubGrid(app_of("watched", {}), cluster)
    start(EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3), grid, 2)
    replies = [m for m in grid.seen if m.metadata.src_node_id >= 100]
    assert len(replies) == 6
    for reply in replies:
        assert not reply.content.array_records
        assert set(reply.content) == {"cryptflow", "metrics"}
    later = [m for m in grid.seen if m.metadata.dst_node_id >= 100][3:]
    assert all(not m.content["arrays"] for m in later)


OPTIMIZERS = pytest.mark.parametrize(
    ("ours", "flower", "options"),
    [
        (FedAdam, theirs.FedAdam, {"eta": 0.2, "tau": 0.05}),
        (FedYogi, theirs.FedYogi, {"eta": 0.2, "tau": 0.05}),
        (
            FedAvgM,
            theirs.FedAvgM,
            {"server_learning_rate": 0.8, "server_momentum": 0.5},
        ),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)


@OPTIMIZERS
def test_optimizers_are_flower_s(ours, flower, options):
    """The same steps for the same means, and the same bits twice."""
    ours, flower = ours(**options), flower(**options)
    rng = np.random.default_rng(4)
    model, state, again = FIRST["w"].ravel().copy(), {}, {}
    momentum = isinstance(flower, theirs.FedAvgM)

    def hold(values):
        record = ArrayRecord({"w": Array(values.copy())})
        flower.current_arrays = record if momentum else {"w": values.copy()}

    hold(model)
    for number in range(1, 5):
        mean = rng.normal(0, 0.1, model.size).astype(np.float32)
        aggregated = model + mean
        metrics = MetricRecord({"num-examples": 1})
        arrays = ArrayRecord({"w": Array(aggregated)})
        reply = Message(
            RecordDict({"arrays": arrays, "metrics": metrics}),
            dst_node_id=1,
            message_type="train",
        )
        want, _ = flower.aggregate_train(number, [reply])
        step = ours.step(mean, state, number)
        assert np.array_equal(step, ours.step(mean, again, number))
        assert step.dtype == np.float32
        model = model + step
        assert np.abs(model - want["w"].numpy()).max() < 1e-5
        hold(model)


@OPTIMIZERS
def test_a_run_with_a_server_optimizer_is_flower_s(cluster, ours, flower, options):
    """The same app under Flower's own strategy, in the clear, from the same start."""
    name = ours.__name__.lower()
    nodes = {"min_train_nodes": 3, "min_available_nodes": 3}
    cluster.create_task(name, FIRST, rounds=3, weight_cap=40)
    sealed = StubGrid(app_of(name, {}, optimizer=ours(**options)), cluster)
    result = start(EncryptedFedAvg(**nodes), sealed, first=FIRST)
    clear = StubGrid(app_of(None, {}), cluster)
    strategy = flower(**options, **nodes, fraction_evaluate=0)
    want = start(strategy, clear, first=FIRST).arrays["w"].numpy()
    held = [c.state["cryptflow.arrays"]["w"].numpy() for c in sealed.contexts.values()]
    assert np.array_equal(held[0], held[1]) and np.array_equal(held[0], held[2])
    assert np.abs(want - FIRST["w"]).max() > 0.1
    bounds = [m["cohort_error"] for m in result.train_metrics_clientapp.values()]
    assert len(bounds) == 3
    # An error of one mean is in the momentum, and in what is trained, of later ones.
    assert np.abs(held[0] - want).max() <= 3 * sum(bounds) + 1e-6


def test_plaintext_is_refused_on_both_sides(cluster):
    cluster.create_task("strict", FIRST, rounds=2, weight_cap=40)
    naive = ClientApp()

    @naive.train()
    def train(message, context):
        content = {
            "arrays": message.content["arrays"],
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)
    with pytest.raises(errors.RoundError, match="in the clear") as caught:
        start(strategy, StubGrid(naive, cluster), 1)
    assert caught.value.code == "CF_PLAINTEXT"
    sealed = ClientApp(mods=[encrypted("strict")])

    @sealed.query()
    def query(message, context):
        return Message(RecordDict({"a": message.content["a"]}), reply_to=message)

    grid = StubGrid(sealed, cluster)
    content = RecordDict({"a": ArrayRecord({"w": Array(FIRST["w"])})})
    message = Message(content, 100, "query")
    (reply,) = grid.send_and_receive([message])
    assert "the reply has arrays; they stay" in reply.error.reason


def test_replies_without_receipts_and_other_results_fail_the_run(cluster):
    strategy = EncryptedFedAvg(min_train_nodes=2, min_available_nodes=2)

    def reply(node, receipt):
        content = {"metrics": MetricRecord({"num-examples": 1})}
        if receipt:
            content["cryptflow"] = ConfigRecord(receipt)
        return Message(RecordDict(content), dst_node_id=node, message_type="train")

    good = {"task": "t", "round": 0, "result": "a"}
    with pytest.raises(errors.RoundError, match="1 receipts in 2"):
        strategy.aggregate_train(1, [reply(1, good), reply(2, None)])
    with pytest.raises(errors.RoundError, match="2 different results"):
        strategy.aggregate_train(1, [reply(1, good), reply(2, good | {"result": "b"})])
    with pytest.raises(errors.RoundError, match="no client finished") as caught:
        strategy.aggregate_train(1, [])
    assert caught.value.code == "CF_ROUND_ABORTED"
    with pytest.raises(errors.InputError, match="fraction_train"):
        EncryptedFedAvg(fraction_train=0.5)


def test_a_client_that_gave_no_answer_in_time_is_told_apart():
    """Flower says that a message is not in its database: nothing to go by."""
    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)
    strategy._timeout = 60.0
    sent = Message(RecordDict(), dst_node_id=1, message_type="train")
    late = [Message(Error(code=c, reason="gone"), reply_to=sent) for c in (3, 4)]
    for reply in late:
        with pytest.raises(errors.RoundError, match="no answer within 60 s") as caught:
            strategy.aggregate_train(1, [reply])
        assert caught.value.code == "CF_ROUND_ABORTED"


def test_the_reason_of_a_failed_round_is_a_client_s(cluster):
    """The server's log says what to mend, not only that nothing came."""
    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)
    with pytest.raises(errors.RoundError, match=r"3 failed; .* no such task") as caught:
        start(strategy, StubGrid(app_of("not-there", {}), cluster), 1)
    assert caught.value.code == "CF_ROUND_ABORTED"


def test_a_mean_with_contributions_of_another_run_fails_both(cluster):
    """Two runs of one task at a time: no client's mean is that of its run."""
    cluster.create_task("twice", FIRST, rounds=3, weight_cap=40)
    found = {}

    def run(i, nodes):
        grid = StubGrid(app_of("twice", {}), cluster)
        grid.contexts = {n: c for n, c in grid.contexts.items() if n in nodes}
        strategy = EncryptedFedAvg(min_train_nodes=1, min_available_nodes=1)
        with pytest.raises(errors.RoundError, match="another run") as caught:
            start(strategy, grid, 1)
        found[i] = caught.value.code, strategy.receipts

    runs = [
        threading.Thread(target=run, args=x) for x in enumerate([{100}, {101, 102}])
    ]
    for r in runs:
        r.start()
    for r in runs:
        r.join()
    assert found == dict.fromkeys(range(2), ("CF_CONTRIBUTION_CONFLICT", []))


def test_a_client_does_not_try_longer_than_its_server_waits(cluster, monkeypatch):
    """A run that ended leaves no client behind whose update the next one has."""
    cluster.create_task("left", FIRST, rounds=1, weight_cap=40, deadline=5)
    grid = StubGrid(app_of("left", {}), cluster)
    del grid.contexts[102]  # its cohort of 3 stays incomplete
    strategy = EncryptedFedAvg(min_train_nodes=2, min_available_nodes=2)
    record = ArrayRecord({k: Array(a) for k, a in STEPS.items()})
    with pytest.raises(errors.RoundError, match="was incomplete") as caught:
        strategy.start(grid, record, num_rounds=1, timeout=2)
    assert caught.value.code == "CF_ROUND_ABORTED"


def test_the_cohort_s_model_is_written_at_the_clients(cluster, tmp_path):
    cluster.create_task("kept", FIRST, rounds=1, weight_cap=40)
    file = tmp_path / "model-{partition-id}.npz"
    grid = StubGrid(app_of("kept", {}, model_file=file), cluster)
    result = start(EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3), grid, 1)
    for i in range(3):
        model = dict(np.load(tmp_path / f"model-{i}.npz"))
        assert np.abs(model["w"] - plain(1)[0]).max() < 1e-4
        held = grid.contexts[100 + i].state["cryptflow.arrays"]
        assert np.array_equal(model["w"], held["w"].numpy()) and model["steps"] == 1
    assert len(list(tmp_path.iterdir())) == 3  # nothing half written
    for save in (result.arrays.to_torch_state_dict, result.arrays.to_numpy_ndarrays):
        with pytest.raises(errors.RoundError, match="model_file"):
            save()


class Advanced(EncryptedFedAvg):
    """The loop of Flower's advanced example, which keeps what it evaluated."""

    def start(self, grid, initial_arrays, num_rounds=3, timeout=60, evaluate_fn=None):
        result, arrays = theirs.Result(), initial_arrays
        if evaluate_fn:
            evaluate_fn(0, arrays)
        for number in range(1, num_rounds + 1):
            messages = self.configure_train(number, arrays, ConfigRecord(), grid)
            replies = grid.send_and_receive(messages, timeout=timeout)
            found, metrics = self.aggregate_train(number, replies)
            if found:
                result.arrays = arrays = found
            if metrics is not None:
                result.train_metrics_clientapp[number] = metrics
            if evaluate_fn:
                evaluate_fn(number, arrays)
        str(result)  # Flower logs it
        return result


READERS = {
    "torch": lambda a: a.to_torch_state_dict(),
    "numpy": lambda a: a.to_numpy_ndarrays(),
    "items": lambda a: a.items(),
    "values": lambda a: a.values(),
    "keys": lambda a: a.keys(),
    "list": list,
    "dict": dict,
    "len": len,
    "one": lambda a: a["w"],
    "get": lambda a: a.get("w"),
    "in": lambda a: "w" in a,
    "copy": lambda a: a.copy(),
    "spread": lambda a: {**a},
    "equal": lambda a: a == ArrayRecord(),
    "bytes": lambda a: a.count_bytes(),
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
    "set": lambda a: a.update(w=Array(FIRST["w"])),
    "sent": lambda a: Message(RecordDict({"a": a}), 1, "train").object_id,
}


def test_what_reads_the_model_at_the_server_hears_where_it_is(cluster, caplog):
    cluster.create_task("loop", FIRST, rounds=1, weight_cap=40)
    grid = StubGrid(app_of("loop", {}), cluster)
    strategy = Advanced(min_train_nodes=3, min_available_nodes=3)
    result = start(strategy, grid, 1)
    assert result.arrays and "AtTheClients" in repr(result.arrays)
    assert "model_file" in caplog.text  # said before the first round
    for name, read in READERS.items():
        with pytest.raises(errors.RoundError, match="model_file") as caught:
            read(result.arrays)
        assert caught.value.code == "CF_STATE", name


def test_nodes_that_bring_other_arrays_than_the_task_s_do_not_start(cluster):
    cluster.create_task("own-first", FIRST, rounds=1, initial_model="clients")
    trained = {}
    grid = StubGrid(app_of("own-first", trained), cluster)
    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)
    with pytest.raises(errors.RoundError, match="the weights that the task was"):
        start(strategy, grid, 1, first={"w": FIRST["w"] + np.float32(1)})
    assert not trained
    grid = StubGrid(app_of("own-first", trained), cluster)
    start(strategy, grid, 1, first=FIRST)
    assert all(np.array_equal(t[0]["w"], FIRST["w"]) for t in trained.values())


def test_a_loop_that_evaluates_at_the_server_fails_after_the_first_round(cluster):
    cluster.create_task("loop-judged", FIRST, rounds=2, weight_cap=40)
    grid = StubGrid(app_of("loop-judged", {}), cluster)
    seen = []

    def evaluate(number, arrays):
        seen.append(arrays.to_torch_state_dict()["w"])

    record = ArrayRecord({k: Array(a) for k, a in FIRST.items()})
    strategy = Advanced(min_train_nodes=3, min_available_nodes=3)
    with pytest.raises(errors.RoundError, match="with the clients"):
        strategy.start(grid, record, num_rounds=2, evaluate_fn=evaluate)
    assert len(seen) == 1  # the first model, before the first round


def test_the_page_s_strategy_with_its_own_loop_runs(cluster, capsys):
    page = (ROOT / "docs" / "frameworks" / "flower.md").read_text(encoding="utf-8")
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "def start" in b
    )
    names = {}
    exec(compile(block, "flower.md", "exec"), names)
    cluster.create_task(
        "own-loop", FIRST, rounds=5, weight_cap=40, metrics=["accuracy"]
    )
    kept = []

    def measured(message, context):
        kept.append((context.node_id, message.content["config"].get("keep")))
        i = context.node_config["partition-id"]
        content = {
            "arrays": message.content["arrays"],
            "metrics": MetricRecord({"num-examples": 10 * (i + 1), "accuracy": 0.5}),
        }
        return Message(RecordDict(content), reply_to=message)

    app = ClientApp(mods=[encrypted("own-loop")])
    app.train()(measured)
    strategy = names["CustomFedAvg"](min_train_nodes=3, min_available_nodes=3)
    result = start(strategy, StubGrid(app, cluster), 5, first=FIRST)
    assert [k for n, k in kept if n == 100] == [None, True, False, False, False]
    assert capsys.readouterr().out.count("'cohort_accuracy': 0.5") == 5
    with pytest.raises(errors.RoundError, match="with the clients"):
        dict(result.arrays)


def test_wrong_calls_are_refused_before_anything_is_trained(cluster, tmp_path):
    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)
    with pytest.raises(errors.InputError, match="evaluate_fn") as caught:
        strategy.start(None, ArrayRecord(), evaluate_fn=lambda *_: None)
    assert caught.value.code == "CF_ARGUMENT"
    cluster.create_task("early", FIRST, rounds=1, weight_cap=40)
    trained = {}
    file = tmp_path / "missing" / "model.npz"
    grid = StubGrid(app_of("early", trained, model_file=file), cluster)
    with pytest.raises(errors.RoundError, match="model_file: no folder"):
        start(EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3), grid, 1)
    grid = StubGrid(app_of("early", trained), cluster)
    for context in grid.contexts.values():
        del context.node_config["partition-id"]
    with pytest.raises(errors.RoundError, match="has no partition-id"):
        start(EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3), grid, 1)
    assert not trained


def test_evaluation_has_the_cohort_s_model_and_keeps_its_metrics(cluster):
    cluster.create_task("evaluated", FIRST, rounds=1, weight_cap=40)
    trained = {}
    options = {"min_train_nodes": 3, "min_available_nodes": 3, "fraction_evaluate": 1.0}
    grid = StubGrid(app_of("evaluated", trained, evaluate_metrics=True), cluster)
    result = start(EncryptedFedAvg(**options), grid, 1)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == 0.5
    assert np.abs(trained[0][-1]["w"] - plain(1)[0]).max() < 1e-4
    cluster.create_task("silent", FIRST, rounds=1, weight_cap=40)
    grid = StubGrid(app_of("silent", {}), cluster)
    start(EncryptedFedAvg(**options), grid, 1)
    reasons = [m.error.reason for m in grid.seen if m.has_error()]
    assert len(reasons) == 3 and all("would leave in the clear" in r for r in reasons)


def test_what_a_handler_says_stays_on_its_machine(cluster):
    cluster.create_task("raising", FIRST, rounds=1, weight_cap=40)
    app = ClientApp(mods=[encrypted("raising")])

    @app.train()
    def train(message, context):
        raise ValueError("the patient's name is in here")

    grid = StubGrid(app, cluster)
    with pytest.raises(errors.RoundError):
        start(EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3), grid, 1)
    reasons = [m.error.reason for m in grid.seen if m.has_error()]
    assert len(reasons) == 3
    assert all("ValueError" in r and "patient" not in r for r in reasons)


def test_another_model_is_refused(cluster):
    cluster.create_task("shape", {"w": np.zeros((4, 4), np.float32)}, weight_cap=40)
    grid = StubGrid(app_of("shape", {}), cluster)
    with pytest.raises(errors.RoundError):
        start(EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3), grid, 1)
    reasons = [m.error.reason for m in grid.seen if m.has_error()]
    assert all("the task has shape (4, 4)" in r for r in reasons)


def difference():
    """Return the changed lines between the two example apps."""
    out = []
    for file in sorted((APPS / "plain").rglob("*.[pt][yo]*")):
        other = APPS / "encrypted" / file.relative_to(APPS / "plain")
        if "__pycache__" not in file.parts:
            a, b = (f.read_text().splitlines() for f in (file, other))
            lines = difflib.unified_diff(a, b, lineterm="", n=0)
            out += [x for x in lines if x[0] in "+-" and x[:3] not in ("+++", "---")]
    return out


def test_the_example_differs_by_few_lines_which_the_page_shows():
    changed = difference()
    assert 0 < len([x for x in changed if x.startswith("+")]) <= 10
    page = (ROOT / "docs" / "frameworks" / "flower.md").read_text()
    shown = re.search(r"```diff\n(.*?)```", page, re.S)[1].splitlines()
    assert [x for x in shown if x[0] in "+-"] == changed


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def digits(cluster, name):
    """Create the example's task; return its first model."""
    sys.path.insert(0, str(APPS / "encrypted"))
    try:
        from digits.task import Net
    finally:
        sys.path.pop(0)
    torch.manual_seed(2)
    net = Net()
    cluster.create_task(name, net, rounds=3, weight_cap=700)
    return layout_of(net)[1]


@pytest.mark.parametrize("engine", ["deployment", "simulation"])
def test_the_example_runs(cluster, tmp_path, engine):
    """A real SuperLink; three SuperNodes on loopback, or the simulation engine."""
    # Both engines run the example as it is, whose task is called digits.
    with cryptflow.LocalCluster(3, folder=tmp_path / "cluster") as own:
        first = digits(own, "digits")
        home, port = tmp_path / "home", free_port()
        home.mkdir()
        # Flower's simulation imports TensorFlow where it is installed, before the
        # app imports torch: a process that does so aborts, whatever the app.
        stub = tmp_path / "without" / "tensorflow"
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text("raise ModuleNotFoundError('left out')")
        bin_ = Path(sys.executable).parent
        env = os.environ | {
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "NO_COLOR": "1",
            "PYTHONPATH": str(stub.parent),
            "CRYPTFLOW_PROFILE": str(
                own.folder / "profiles/client-{partition-id}.toml"
            ),
        }
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "lab"\n\n[superlink.lab]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        database, running = home / "link.db", []

        def spawn(name, *command):
            with (home / f"{name}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [str(c) for c in command],
                        env=env,
                        cwd=home,
                        stdout=log,
                        stderr=log,
                    )
                )

        def run(*command):
            return subprocess.run(
                [str(c) for c in command],
                env=env,
                cwd=home,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )

        host = ("--host", "127.0.0.1", "--port")
        try:
            simulated = ["--simulation"] if engine == "simulation" else []
            spawn(
                "superlink", bin_ / "flower-superlink", "--insecure", *host, port,
                "--database", database, "--disable-runtime-dependency-installation",
                *simulated,
            )  # fmt: skip
            began = time.monotonic()
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                    break
                except OSError:
                    late = time.monotonic() - began > 60
                    log = (home / "superlink.log").read_text()
                    assert running[0].poll() is None and not late, log
            for i in range(3 if engine == "deployment" else 0):
                spawn(
                    f"node{i}", bin_ / "flower-supernode", "--insecure", "--superlink",
                    f"127.0.0.1:{port}", *host, free_port(), "--node-config",
                    f"partition-id={i} num-partitions=3",
                )  # fmt: skip
            command = [bin_ / "flwr", "run", APPS / "encrypted", "lab", "--stream"]
            if simulated:
                resources = "num-supernodes=3 client-resources-num-cpus=1 "
                resources += "init-args-num-cpus=3"
                command += ["--federation-config", resources]
            done = run(*command)
            assert done.returncode == 0, done.stdout + done.stderr
            listed = json.loads(
                run(bin_ / "flwr", "ls", "lab", "--format", "json").stdout
            )
            status = listed["runs"][0]["status"]
            logs = "\n".join(f.read_text()[-3000:] for f in home.glob("*.log"))
            assert status == "finished:completed", done.stdout[-3000:] + logs
        finally:
            for p in reversed(running):
                p.terminate()
            for p in running:
                try:
                    p.wait(10)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
        losses = re.findall(r"'cohort_loss': ([\d.]+)", done.stdout)
        assert len(losses) >= 3 and float(losses[2]) < float(losses[0])
        (stood,) = [t for t in own.tasks() if t["task"] == "digits"]
        assert stood["published"] == 3
        everything = b"".join(
            f.read_bytes() for f in home.rglob("*") if f.is_file() and f.stat().st_size
        )
        sqlite3.connect(database).close()
        # Not one run of 16 consecutive values of the trained model or an update.
        assert first.tobytes()[:64] not in everything
