"""NVIDIA FLARE: filters and aggregator that fail closed, and a simulated job."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.filters.exclude_vars import ExcludeVars
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

import cryptflow
from cryptflow import errors
from cryptflow.nvflare import (
    MODEL_FILE,
    RECEIPT,
    EncryptResult,
    FirstModelOnly,
    OpenTask,
    ReceiptAggregator,
    encrypted,
)

ROOT = Path(__file__).resolve().parents[2]
Network = runpy.run_path(str(ROOT / "examples" / "nvflare" / "model.py"))["Network"]
MODEL = {"b": np.zeros(4, np.float32), "w": np.zeros((50, 4), np.float32)}


class Engine:
    """What a filter asks of FLARE's engine: where the run's folder is."""

    def __init__(self, folder):
        self.folder = folder

    def get_workspace(self):
        return self

    def get_run_dir(self, job):
        return str(self.folder)


def context(folder, task="train", name="client-0"):
    """Make contexts of one site's job, as FLARE does for every task."""
    manager = FLContextManager(Engine(folder), name, "job", {}, {})
    return lambda now=task: tell(manager.new_context(), now)


def tell(fl_ctx, task):
    fl_ctx.set_prop(FLContextKey.TASK_NAME, task, private=True, sticky=False)
    return fl_ctx


def data(arrays, kind=DataKind.WEIGHTS, now=0, **meta):
    out = DXO(kind, data=arrays, meta=meta).to_shareable()
    out.set_header(AppConstants.CURRENT_ROUND, now)
    out.set_header(AppConstants.START_ROUND, 0)
    return out


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Run the services for all tests of this file."""
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


def holds(value, arrays):
    """Whether any bytes of arrays are in what FLARE would send."""
    sent = value.to_bytes()
    return any(
        a.tobytes()[k : k + 32] in sent
        for a in arrays.values()
        if a.any()
        for k in range(0, a.nbytes - 32, 32)
    )


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])
def test_two_rounds_through_the_filters(cluster, together, tmp_path, kind):
    """Full weights and differences; metrics and weights travel encrypted."""
    name = f"filters-{kind.value}".lower().replace("_", "-")
    cluster.create_task(name, MODEL, rounds=2, metrics=("loss",))
    rng = np.random.default_rng(1)
    steps = [
        {k: rng.normal(0, 0.1, v.shape).astype(np.float32) for k, v in MODEL.items()}
        for _ in range(3)
    ]
    profiles = Path(cluster.profiles[0]).parent / "{site}.toml"

    def site(i):
        folder = tmp_path / str(i)
        folder.mkdir()
        fl_ctx = context(folder, name=f"client-{i}")
        opened, encrypt = OpenTask(name, str(profiles)), EncryptResult()
        first = {k: v.copy() for k, v in MODEL.items()} | {"n": np.array([7])}
        out = []
        for r in range(2):
            task = opened.process(data(first if r == 0 else {}, now=r), fl_ctx())
            held = from_shareable(task).data
            assert held["n"].tolist() == [7]
            base = held if kind == DataKind.WEIGHTS else {k: 0 for k in MODEL}
            trained = {k: base[k] + steps[i][k] for k in MODEL}
            meta = {
                MetaKey.NUM_STEPS_CURRENT_ROUND: 10 * (i + 1),
                MetaKey.INITIAL_METRICS: {"loss": float(i), "secret": 3.5},
            }
            result = encrypt.process(data(trained, kind, r, **meta), fl_ctx())
            assert not holds(result, trained) and not holds(result, steps[i])
            out.append((held, from_shareable(result)))
        return out, dict(np.load(folder / MODEL_FILE))

    results = together(*[lambda i=i: site(i) for i in range(3)])
    shares = np.array([10, 20, 30]) / 60
    for k in MODEL:
        mean = sum(s * steps[i][k].astype(np.float64) for i, s in enumerate(shares))
        for (_, second), last in results:
            assert np.abs(second[0][k] - mean).max() < 2e-5
            assert np.abs(last[k] - 2 * mean).max() < 4e-5
            assert np.array_equal(last[k], results[0][1][k])
    for rounds, _ in results:
        for r, (_, reply) in enumerate(rounds):
            assert reply.data.keys() == {RECEIPT}
            receipt = reply.data[RECEIPT]
            assert (receipt["round"], receipt["cohort"]) == (r, 3)
            metrics = reply.meta[MetaKey.INITIAL_METRICS]
            assert metrics["loss"] == pytest.approx((20 + 60) / 60, abs=1e-3)
            assert "secret" not in metrics
            assert reply.meta[MetaKey.NUM_STEPS_CURRENT_ROUND] == 1


def test_what_would_leave_in_the_clear_is_refused(cluster, tmp_path):
    cluster.create_task("refusals", MODEL)
    fl_ctx, encrypt = context(tmp_path), EncryptResult()
    trained = {k: v + 1 for k, v in MODEL.items()}
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 5}

    def refused(code, shareable, task="train"):
        with pytest.raises(errors.CryptFlowError) as caught:
            encrypt.process(shareable, fl_ctx(task))
        assert caught.value.code == code

    refused("CF_PLAINTEXT", data(trained, **meta))  # no task came before
    first = {k: v.copy() for k, v in MODEL.items()}
    OpenTask("refusals", str(cluster.profiles[0])).process(data(first), fl_ctx())
    for kind in (DataKind.COLLECTION, DataKind.ANALYTIC, DataKind.METRICS):
        inner = DXO(DataKind.WEIGHTS, data=trained)
        held = {"x": inner} if kind == DataKind.COLLECTION else trained
        refused("CF_PLAINTEXT", data(held, kind, **meta))
    refused("CF_PLAINTEXT", data(trained, **meta), task="submit_model")
    with pytest.raises(Exception, match=r".*"):  # not a DXO: FLARE says so
        encrypt.process(make_reply(ReturnCode.OK), fl_ctx())
    refused("CF_WEIGHT", data(trained))
    refused("CF_WEIGHT", data(trained, **{MetaKey.NUM_STEPS_CURRENT_ROUND: 0}))
    lacking = {"w": trained["w"]}
    refused("CF_LAYOUT_MISMATCH", data(lacking, **meta))
    refused("CF_LAYOUT_MISMATCH", data({**trained, "b": np.zeros(5)}, **meta))
    refused("CF_LAYOUT_MISMATCH", data({**trained, "b": object()}, **meta))
    refused("CF_NOT_FINITE", data({**trained, "b": trained["b"] * np.nan}, **meta))
    # The model is again the one that everybody holds.
    task = OpenTask().process(data({}, now=1), fl_ctx())
    assert not any(v.any() for v in from_shareable(task).data.values())
    # An error says so and brings nothing along.
    failed = data(trained)
    failed.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
    reply = encrypt.process(failed, fl_ctx())
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert not holds(reply, trained) and "DXO" not in reply


class Runner:
    """What a filter asks of FLARE's runner: the job's filters by task."""

    def __init__(self, *chain):
        self.task_result_filters = {"train/out": list(chain)}


class Scope:
    """A site's own filters, which FLARE applies before the job's."""

    def __init__(self, *chain):
        self.task_result_filters = {"out": list(chain), "in": []}


def through(fl_ctx, site, job, value):
    """Apply a site's and a job's result filters, as FLARE does."""
    here = fl_ctx()
    here.set_prop(FLContextKey.SCOPE_OBJECT, Scope(*site), private=True)
    here.set_prop(FLContextKey.RUNNER, Runner(*job), private=True)
    for one in [*site, *job]:
        value = one.process(value, here)
    return value


def test_filters_before_change_what_is_averaged(cluster, together, tmp_path):
    """Here a site's own policy encrypts; the job's filter finds the receipt."""
    cluster.create_task("before", MODEL)
    profiles = Path(cluster.profiles[0]).parent / "{site}.toml"
    grown = np.arange(200, dtype=np.float32).reshape(50, 4) / 1000
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 2}

    def site(i):
        folder = tmp_path / str(i)
        folder.mkdir()
        fl_ctx = context(folder, name=f"client-{i}")
        first = {k: v.copy() for k, v in MODEL.items()}
        OpenTask("before", str(profiles)).process(data(first), fl_ctx())
        trained = {"b": np.zeros(4, np.float32), "w": grown.copy()}
        own = [PercentilePrivacy(percentile=0, gamma=0.05), EncryptResult()]
        value = data(trained, DataKind.WEIGHT_DIFF, **meta)
        reply = through(fl_ctx, own, [EncryptResult()], value)
        assert not holds(reply, {"w": grown})
        return from_shareable(reply), dict(np.load(folder / MODEL_FILE))

    for reply, model in together(*[lambda i=i: site(i) for i in range(3)]):
        assert reply.data.keys() == {RECEIPT} and reply.data[RECEIPT]["round"] == 0
        # Clipped at 0.05 a step, which are two.
        assert np.abs(model["w"] - np.minimum(grown, 0.1)).max() < 1e-3
    (task,) = [t for t in cluster.tasks() if t["task"] == "before"]
    assert task["published"] == 1  # the second filter contributed nothing


@pytest.mark.parametrize("where", ["site", "job"])
def test_a_filter_after_the_encrypting_one_is_refused(cluster, tmp_path, where):
    """It could add to what leaves; and FLARE's own fail at a receipt."""
    cluster.create_task(f"after-{where}", MODEL)
    fl_ctx = context(tmp_path)
    first = {k: v.copy() for k, v in MODEL.items()}
    OpenTask(f"after-{where}", str(cluster.profiles[0])).process(data(first), fl_ctx())
    trained = data({k: v + 1 for k, v in MODEL.items()}, DataKind.WEIGHT_DIFF)
    site = [EncryptResult()] if where == "site" else []
    job = [PercentilePrivacy(), EncryptResult()]
    with pytest.raises(errors.InputError, match="Privacy comes after") as caught:
        through(fl_ctx, site, job if site else job[::-1], trained)
    assert caught.value.code == "CF_CONFIG"
    (task,) = [t for t in cluster.tasks() if t["task"] == f"after-{where}"]
    assert task["committed"] == 0


def test_what_a_filter_took_out_is_named(cluster, tmp_path):
    cluster.create_task("excluded", MODEL)
    fl_ctx, meta = context(tmp_path), {MetaKey.NUM_STEPS_CURRENT_ROUND: 5}
    trained = data({k: v + 1 for k, v in MODEL.items()}, **meta)
    with pytest.raises(errors.RoundError, match="no model went through OpenTask"):
        EncryptResult().process(trained, fl_ctx())
    first = {k: v.copy() for k, v in MODEL.items()}
    OpenTask("excluded", str(cluster.profiles[0])).process(data(first), fl_ctx())
    with pytest.raises(errors.LayoutError, match=r"no 'b', .* ExcludeVars"):
        through(fl_ctx, [], [ExcludeVars(["b"]), EncryptResult()], trained)


@pytest.mark.parametrize("early", [True, False])
def test_a_recipe_may_have_filters_of_its_own(early):
    """FLARE refuses chains of tasks that overlap in part; ours are single tasks."""
    recipe = FedAvgRecipe(
        name="x",
        model=Network(),
        min_clients=3,
        train_script=str(ROOT / "examples" / "nvflare" / "client.py"),
        aggregator=ReceiptAggregator(),
    )
    for step in (early, not early):
        if step:
            recipe.add_client_input_filter(ExcludeVars(["b"]), tasks=["train"])
            recipe.add_client_output_filter(PercentilePrivacy(), tasks=["train"])
        else:
            encrypted(recipe, "x")


def test_a_site_whose_job_ended_waits_no_longer(cluster, tmp_path):
    """Another site failed: its cohort stays incomplete, its process would stay."""
    cluster.create_task("ended", MODEL)
    fl_ctx, ended = context(tmp_path), Signal()
    here = fl_ctx()
    here.set_prop(ReservedKey.RUN_ABORT_SIGNAL, ended, private=True, sticky=True)
    first = {k: v.copy() for k, v in MODEL.items()}
    OpenTask("ended", str(cluster.profiles[0])).process(data(first), here)
    ended.trigger(True)
    trained = {k: v + 1 for k, v in MODEL.items()}
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 5}
    with pytest.raises(errors.UnavailableError, match="job ended") as caught:
        EncryptResult().process(data(trained, **meta), fl_ctx())
    assert caught.value.code == "CF_CANCELLED"


def test_a_site_without_profile_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("CRYPTFLOW_PROFILE", raising=False)
    with pytest.raises(errors.InputError, match="CRYPTFLOW_PROFILE") as caught:
        OpenTask("x").process(data({}), context(tmp_path)())
    assert caught.value.code == "CF_CONFIG"


@pytest.mark.parametrize("aggregator", [None, object()])
def test_a_recipe_without_the_receipts_aggregator_is_refused(aggregator):
    """FLARE's own would fail at every receipt, and the job would end well."""
    recipe = FedAvgRecipe(
        name="x",
        model=Network(),
        min_clients=3,
        train_script=str(ROOT / "examples" / "nvflare" / "client.py"),
    )
    recipe.aggregator = aggregator
    with pytest.raises(errors.InputError, match="ReceiptAggregator") as caught:
        encrypted(recipe, "x")
    assert caught.value.code == "CF_ARGUMENT"


def receipt(client, **other):
    found = {
        "task": "t",
        "round": 0,
        "client": client,
        "cohort": 2,
        "bytes": 9,
        "result": "ab",
    }
    return {RECEIPT: found | other}


def test_the_aggregator_takes_the_receipts_of_a_whole_cohort(monkeypatch):
    aggregator = quiet(monkeypatch)
    for client in ("a", "b"):
        model = FLModel(params=receipt(client), metrics={"loss": 1.5})
        aggregator.accept_model(model)
    out = aggregator.aggregate_model()
    assert out.params == {} and out.metrics == {"loss": 1.5}
    assert [r["client"] for r in aggregator.receipts[0]] == ["a", "b"]


@pytest.mark.parametrize(
    "replies",
    [
        [],
        [receipt("a")],
        [receipt("a"), receipt("a")],
        [receipt("a"), receipt("b"), receipt("c")],
        [receipt("a"), receipt("b", result="cd")],
        [receipt("a"), receipt("b", round=1)],
        [receipt("a"), receipt("b"), {"w": np.ones(3)}],
        [receipt("a"), receipt("b") | {"w": np.ones(3)}],
        [receipt("a"), receipt("b", more=np.ones(3))],
        [receipt("a"), receipt("b", result=np.ones(3))],
        [receipt("a"), receipt("b", bytes=True)],
        [receipt("a"), {RECEIPT: "yes"}],
    ],
)
def test_the_aggregator_refuses(replies, monkeypatch):
    aggregator = quiet(monkeypatch)
    for params in replies:
        aggregator.accept_model(FLModel(params=params))
    with pytest.raises(errors.RoundError) as caught:
        aggregator.aggregate_model()
    assert caught.value.code == "CF_PLAINTEXT"
    assert aggregator.receipts == []
    aggregator.reset_stats()  # the next round is another one
    for client in ("a", "b"):
        aggregator.accept_model(FLModel(params=receipt(client)))
    assert aggregator.aggregate_model().params == {}


def quiet(monkeypatch):
    aggregator = ReceiptAggregator()
    for name in ("info", "error"):
        monkeypatch.setattr(aggregator, name, lambda message: None)
    return aggregator


def test_the_server_s_model_goes_out_once_or_never():
    sent = [FirstModelOnly().process(data(MODEL, now=r), FLContext()) for r in (0, 1)]
    assert from_shareable(sent[0]).data.keys() == MODEL.keys()
    assert from_shareable(sent[1]).data == {}
    never = FirstModelOnly(False).process(data(MODEL), FLContext())
    assert from_shareable(never).data == {}


def test_a_simulated_job_of_three_sites(cluster, tmp_path):
    """The example, run as it is: equal models at all sites, none at the server."""
    profiles = Path(cluster.profiles[0]).parent
    job = [sys.executable, ROOT / "examples" / "nvflare" / "job.py"]
    options = {"check": False, "capture_output": True, "text": True, "timeout": 280}
    made = subprocess.run([*job, "--create", profiles], **options)
    assert made.returncode == 0, made.stderr
    space = tmp_path / "space"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    env.pop("CRYPTFLOW_PROFILE", None)
    done = subprocess.run([*job, profiles, "--workspace", space], env=env, **options)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    found = {p.parent.parent.name: p for p in space.rglob(MODEL_FILE)}
    models = [dict(np.load(p)) for p in sorted(found.values())]
    assert len(models) == 3, said[-6000:]
    for name, array in models[0].items():
        assert all(np.array_equal(array, m[name]) for m in models)
    # All learned what the others have, and the server has none of it.
    accuracies = [
        float(line.rpartition(" ")[2].rstrip("%"))
        for line in said.splitlines()
        if "accuracy on own data" in line
    ]
    assert len(accuracies) >= 9 and max(accuracies) > 80
    first = Network().state_dict()
    pieces = [
        array.tobytes()[k : k + 64]
        for name, array in models[0].items()
        for k in range(0, array.nbytes - 64, 64)
        if (array.ravel() != first[name].numpy().ravel())[k // 4 : k // 4 + 16].any()
    ]
    assert len(pieces) > 100
    server = [
        p
        for p in space.rglob("*")
        if p.is_file() and not any(f"client-{i}" in p.parts for i in range(3))
    ]
    kept = [p for p in server if p.suffix == ".pt"]
    assert kept  # FLARE saves a model every round: it is still the first one
    for path in server:
        content = path.read_bytes()
        assert not any(piece in content for piece in pieces), path
    held = torch.load(kept[0], weights_only=True)
    for name, tensor in held["model"].items():
        assert np.array_equal(np.asarray(tensor), first[name].numpy())
