"""Clients against a real aggregator and a real key service over mutual TLS."""

import contextlib
import copy
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cryptflow
from cryptflow import errors
from cryptflow._progress import Bars
from cryptflow._rounds import Rounds
from cryptflow.client import PHASES, layout_of
from cryptflow.session import Session, Tensor
from cryptflow.torch import FedAvg

ROOT = Path(__file__).resolve().parents[2]
SIZE = 30_000
LAYOUT = [Tensor("a", (SIZE // 2,)), Tensor("b", (SIZE // 4, 2))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Run the services for all tests of this file."""
    with cryptflow.LocalCluster(4, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


@pytest.fixture
def task(cluster, request):
    """Create a task named after the test and return its name."""

    def make(model=None, **options):
        model = (LAYOUT, np.zeros(SIZE, np.float32)) if model is None else model
        name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
        cluster.create_task(name, model, **options)
        return name

    return make


def updates(rng, n=3, scale=0.2):
    return [rng.normal(0, scale, SIZE).astype(np.float32) for _ in range(n)]


@pytest.mark.parametrize("mode", ["sum-key", "shared-key"])
def test_means_are_those_of_float64(cluster, task, together, rng, mode):
    name = task(mode=mode, rounds=2, weight_cap=200, max_clients=3)
    weights = [200, 3, 77]
    for_round = [updates(rng), updates(rng)]

    def client(i):
        with cluster.connect(i, name) as c:
            return [c.average(u[i], weights[i]) for u in for_round]

    results = together(*[lambda i=i: client(i) for i in range(3)])
    for number, given in enumerate(for_round):
        used = [r[number][1].weight for r in results]
        want = sum(w * u.astype(np.float64) for w, u in zip(used, given, strict=True))
        want /= sum(used)
        mean, report = results[0][number]
        assert np.abs(mean - want).max() <= report.stated_bound + 1e-7
        assert all(np.array_equal(r[number][0], mean) for r in results)
        assert (report.round, report.cohort, report.attempts) == (number, 3, 1)
        assert report.weight_sum == sum(used) and mean.dtype == np.float32
        assert tuple(report.seconds) == PHASES and report.seconds["agree"] > 0
        assert report.service_round == 2 * number + 1  # after agreeing on ranges
        if mode == "sum-key":
            assert used == weights
            assert report.bytes_up < 4 * SIZE and report.bytes_down < 4.5 * SIZE


@pytest.mark.parametrize("encoding", ["slots", "slots-ci"])
def test_a_task_in_slots(cluster, task, together, rng, encoding):
    name = task(mode="shared-key", encoding=encoding, rounds=1, max_clients=3)
    given = updates(rng)

    def client(i):
        with cluster.connect(i, name) as c:
            assert c.info["encoding"] == encoding
            return c.average(given[i], 1000)

    mean, report = together(*[lambda i=i: client(i) for i in range(3)])[0]
    want = np.mean(np.asarray(given, np.float64), axis=0)
    assert np.abs(mean - want).max() <= report.stated_bound + 1e-7
    assert report.clipped_total == 0


@pytest.mark.parametrize("mode", ["sum-key", "shared-key"])
def test_ranges_reach_to_the_ends_of_float32(cluster, task, together, mode):
    """Largest, smallest, huge and tiny layers of one update keep their bounds."""
    top, least = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    one = np.float32(
        [
            [top, -top, 0, -0.0],
            [least, -least, 0, -0.0],
            [1e30, -1e30, least, 0],
            [1e-30, -1e-30, least, 0],
        ]
    )
    given = [u.reshape(-1) for u in (one, one, np.roll(one, 1, axis=1))]
    layout = [Tensor(name, (4,)) for name in ("top", "least", "large", "small")]
    name = task((layout, np.zeros(16, np.float32)), mode=mode, rounds=1, max_clients=3)

    def client(i):
        with cluster.connect(i, name) as c:
            return c.average(given[i], 1000)

    mean, report = together(*[lambda i=i: client(i) for i in range(3)])[0]
    want = np.mean(np.asarray(given, np.float64), axis=0)
    rounding = np.maximum(abs(want) * 2.0**-24, float(least) / 2)
    bounds = np.repeat([report.bounds[t.name] for t in layout], 4)
    assert (abs(mean - want) <= bounds + rounding).all()
    assert report.clipped_total == 0


@pytest.mark.parametrize("limit", [0, -1, np.nan, np.inf, 1e39, "1", {"a": 0}])
def test_fixed_ranges_are_positive_numbers(task, limit):
    with pytest.raises(errors.InputError, match="positive number") as caught:
        task(value_range=limit)
    assert caught.value.code == "CF_ARGUMENT"


def test_the_first_model_arrives(cluster, task, rng):
    first = rng.normal(size=SIZE).astype(np.float32)
    name = task((LAYOUT, first))
    with cluster.connect(0, name) as c:
        assert np.array_equal(c.initial_model(), first)
        assert list(c.layout) == LAYOUT
        assert "client-0" in repr(c) and name in repr(c)


def test_bad_updates_are_refused_by_name(cluster, task, rng):
    name = task(weight_cap=50)
    good = updates(rng, 1)[0]
    nan, infinite = good.copy(), good.copy()
    nan[SIZE // 2 + 5] = np.nan
    infinite[3] = -np.inf
    with cluster.connect(0, name) as c:
        for update, weight, code, text in [
            (nan, 1, "CF_NOT_FINITE", '"b"'),
            (infinite, 1, "CF_NOT_FINITE", '"a"'),
            (good[:-1], 1, "CF_LAYOUT_MISMATCH", str(SIZE)),
            (good[:0], 1, "CF_ARGUMENT", "empty"),
            (good.astype(np.float64), 1, "CF_ARGUMENT", "float64"),
            (good.astype(np.int32), 1, "CF_ARGUMENT", "int32"),
            (good.reshape(2, -1), 1, "CF_ARGUMENT", "shape"),
            (list(good[:3]), 1, "CF_ARGUMENT", "list"),
            (good, 0, "CF_WEIGHT", "1 to 50"),
            (good, -1, "CF_WEIGHT", "1 to 50"),
            (good, 51, "CF_WEIGHT", "1 to 50"),
            (good, 1.5, "CF_ARGUMENT", "integer"),
            (good, True, "CF_ARGUMENT", "integer"),
        ]:
            with pytest.raises(errors.InputError, match=re.escape(text)) as caught:
                c.contribute(update, weight)
            assert caught.value.code == code
        # Of a whole cohort only this client is here: nothing was waited for.
        for metrics in ({"accuracy": 1.0}, {"loss": np.nan}, {"loss": good}, [0.5]):
            with pytest.raises(errors.InputError, match="metric"):
                c.contribute(good, 1, metrics)


def test_too_many_examples_are_refused_before_training(cluster, task):
    model = nn.Linear(4, 3)
    with cluster.connect(0, task(model, weight_cap=50)) as c:
        FedAvg(model, c, num_examples=50)
        for made in (lambda: FedAvg(model, c, 51), lambda: Rounds(c, 51)):
            with pytest.raises(errors.InputError, match="weight_cap") as caught:
                made()
            assert caught.value.code == "CF_WEIGHT"


def test_clients_are_not_copied(cluster, task):
    with cluster.connect(0, task()) as c:
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(errors.InputError, match="connect in each process"):
                copied(c)
        assert c.initial_model() is not None  # and the original goes on


def test_strided_updates_and_clipping(cluster, task, together, rng):
    name = task(value_range={"a": 0.1, "*": 1.0}, max_clients=3)
    wide = np.zeros((SIZE, 2), np.float32)
    wide[:, 0] = 0.05
    wide[:7, 0] = 0.5  # in "a", beyond its range
    wide[-5:, 0] = 0.5  # in "b", within

    def client(i):
        with cluster.connect(i, name) as c:
            return c.average(wide[:, 0], 1000)

    mean, report = together(*[lambda i=i: client(i) for i in range(3)])[0]
    assert report.clipped == {"a": 7} and report.clipped_total == 21
    assert report.clipped_all == {"a": 21} and report.seconds["agree"] == 0
    assert np.allclose(mean[:7], 0.1, atol=1e-4)
    assert np.allclose(mean[-5:], 0.5, atol=1e-4)
    assert report.bounds["a"] < report.bounds["b"] == report.stated_bound


def test_another_layout_is_refused_before_training(cluster, task):
    model = nn.Linear(4, 3)
    name = task(model)
    with cluster.connect(0, name) as c:
        with pytest.raises(errors.LayoutError, match=r"'weight'.*\(3, 4\).*\(3, 5\)"):
            FedAvg(nn.Linear(5, 3), c, num_examples=1)
        with pytest.raises(errors.LayoutError, match="lacks 'bias'"):
            FedAvg(nn.Linear(4, 3, bias=False), c, num_examples=1)


def test_a_torch_loop_in_three_processes(cluster, task, tmp_path):
    """Three processes train; their models agree with averaging in float64."""
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    name = task(first, rounds=2, weight_cap=40, max_clients=3, value_range=2.0)
    program = tmp_path / "client.py"
    program.write_text(
        """
import sys, numpy as np, torch, cryptflow
from torch import nn
from cryptflow.torch import FedAvg, ModuleWeights
profile, name, mine, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
client = cryptflow.connect(profile, task=name)
fedavg = FedAvg(model, client, num_examples=10 * (mine + 1))
bound = 0
for r in range(2):
    gen = torch.Generator().manual_seed(100 * r + mine)
    for _ in range(5):
        x = torch.randn(16, 6, generator=gen)
        loss = ((model(x) - x[:, :2]) ** 2).mean()
        model.zero_grad(); loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    bound += fedavg.on_epoch_end().stated_bound
flat = np.empty(sum(p.numel() for p in model.parameters()), np.float32)
ModuleWeights(model).read(flat)
np.savez(out, flat=flat, bound=bound)
"""
    )
    running = [
        subprocess.Popen(
            [sys.executable, program, p, name, str(i), tmp_path / f"{i}.npz"]
        )
        for i, p in enumerate(cluster.profiles[:3])
    ]
    assert [p.wait(120) for p in running] == [0, 0, 0]
    got = [np.load(tmp_path / f"{i}.npz") for i in range(3)]
    assert all(np.array_equal(g["flat"], got[0]["flat"]) for g in got)
    state = layout_of(first)[1].astype(np.float64)
    for r in range(2):
        total = np.zeros_like(state)
        for mine in range(3):
            model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
            nn.utils.vector_to_parameters(
                torch.tensor(state, dtype=torch.float32), model.parameters()
            )
            start = layout_of(model)[1].astype(np.float64)
            gen = torch.Generator().manual_seed(100 * r + mine)
            for _ in range(5):
                x = torch.randn(16, 6, generator=gen)
                model.zero_grad()
                ((model(x) - x[:, :2]) ** 2).mean().backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p -= 0.1 * p.grad
            total += 10 * (mine + 1) * (layout_of(model)[1] - start)
        state = state + total / 60
    # The second round trains from models that differ by the first's bound.
    assert np.abs(got[0]["flat"] - state).max() < 4 * got[0]["bound"]


@pytest.mark.parametrize("ranges", ["negotiated", "adaptive"])
def test_another_process_goes_on_from_a_position(cluster, task, together, rng, ranges):
    """Every round has clients of its own, as where a process lives for one."""
    name = task(rounds=3, weight_cap=10, max_clients=3, ranges=ranges)
    sessions = {}

    class Values:
        layout = LAYOUT

        def __init__(self, values):
            self.values = values

        def read(self, out):
            out[:] = self.values

        def write(self, values):
            self.values = values.copy()

    def client(i):
        def work():
            values, state = sessions.get(i, (np.zeros(SIZE, np.float32), None))
            weights = Values(values)
            with cluster.connect(i, name) as c:
                session = Session(weights, c, 5, state=state)
                weights.values = weights.values + update[i]
                report = session.average()
                state = session.state_dict()
            state = json.loads(json.dumps(state["position"])), state
            sessions[i] = weights.values, state[1] | {"position": state[0]}
            return report

        return work

    want, bound = np.zeros(SIZE), 0.0
    for r in range(3):
        update = updates(rng)
        reports = together(*map(client, range(3)))
        assert {x.round for x in reports} == {r}
        want += np.mean(update, axis=0, dtype=np.float64)
        bound += reports[0].stated_bound
    for values, state in sessions.values():
        assert np.array_equal(values, sessions[0][0])
        assert np.array_equal(state["master"], values)
        assert np.abs(values - want).max() <= bound + 1e-6


def test_a_position_of_another_task_is_refused(cluster, task, request):
    cluster.create_task("elsewhere", (LAYOUT, np.zeros(SIZE, np.float32)))
    name = task()
    with cluster.connect(0, "elsewhere") as a, cluster.connect(0, name) as b:
        position = b.position
        b.resume(position)
        with pytest.raises(errors.RoundError, match="of another task") as caught:
            a.resume(position)
        assert caught.value.code == "CF_MODEL_MISMATCH"
        for change in (
            {"model": "00"},
            {"ranges": [1.0]},
            {"ranges": [1.0, -1.0]},
            {"unknown": 1},
        ):
            with pytest.raises(errors.InputError):
                b.resume(position | change)
        with pytest.raises(errors.CorruptError):
            b.resume(position | {"checkpoint": "nobody signed this"})


def test_a_closed_client_says_so(cluster, task, rng):
    with cluster.connect(0, task()) as client:
        pass
    for use in (
        client.initial_model,
        lambda: client.position,
        lambda: client.average(updates(rng)[0], 10),
    ):
        with pytest.raises(errors.InputError, match="inside its with block") as caught:
            use()
        assert caught.value.code == "CF_BAD_HANDLE"


def test_a_late_client_leaves_with_a_clear_message(
    cluster, task, together, rng, caplog
):
    name = task(rounds=2, max_clients=3, value_range=1.0)
    given = updates(rng)

    def client(i):
        with cluster.connect(i, name) as c:
            c.average(given[i], 10)

    together(*[lambda i=i: client(i) for i in range(3)])
    with cluster.connect(3, name) as late:
        with pytest.raises(errors.RoundError, match="joined late") as caught:
            late.average(given[0], 10)
        assert caught.value.code == "CF_MODEL_MISMATCH"
        with pytest.raises(errors.RoundError, match="a checkpoint") as caught:
            late.ready()
        assert caught.value.code == "CF_MODEL_MISMATCH"
        # A session says so before anything is trained.
        module = nn.Module()
        module.a = nn.Parameter(torch.zeros(SIZE // 2))
        module.b = nn.Parameter(torch.zeros(SIZE // 4, 2))
        assert "in vain" not in caplog.text
        FedAvg(module, late, 10)
        assert "training may be in vain: round" in caplog.text


@pytest.mark.parametrize(
    ("phase", "ranges"),
    [("agree", "negotiated")]
    + [
        (phase, ranges)
        for phase in ("encrypt", "upload", "wait", "decrypt")
        for ranges in ("negotiated", "fixed")
    ],
)
def test_an_interrupted_averaging_goes_on(
    cluster, task, together, rng, caplog, phase, ranges
):
    """Called again in the same process, it counts once and ends in its round."""
    fixed = {"value_range": 1.0} if ranges == "fixed" else {}
    name = task(rounds=2, max_clients=3, **fixed)
    for_round, weights, interrupts = [updates(rng), updates(rng)], [5, 6, 7], []

    def client(i):
        def observe(now, *_):
            if i == 0 and now == phase and len(interrupts) < 2:
                interrupts.append(now)
                raise KeyboardInterrupt

        results = []
        with cluster.connect(i, name, on_phase=observe) as c:
            for u in for_round:
                while True:
                    try:
                        results.append(c.average(u[i], weights[i]))
                        break
                    except KeyboardInterrupt:
                        continue
        return results

    results = together(*[lambda i=i: client(i) for i in range(3)])
    assert len(interrupts) == 2
    assert "going on with" in caplog.text or phase in ("agree", "encrypt", "upload")
    for number, given in enumerate(for_round):
        want = sum(
            w * u.astype(np.float64) for w, u in zip(weights, given, strict=True)
        )
        mean, report = results[0][number]
        assert np.abs(mean - want / 18).max() <= report.stated_bound + 1e-7
        assert all(np.array_equal(r[number][0], mean) for r in results)
        assert (report.round, report.cohort, report.weight_sum) == (number, 3, 18)
        assert report.attempts == 1


@pytest.mark.parametrize("when", ["waiting", "opening"])
def test_ctrl_c_ends_a_client_and_the_others_go_on(cluster, task, together, rng, when):
    name = task(rounds=1, deadline=3, value_range=1.0)
    program = f"""
import signal, numpy as np, cryptflow
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it is ignored
c = cryptflow.connect({str(cluster.profiles[3])!r}, task={name!r},
                      on_phase=lambda p, *_: print(p, flush=True))
u = np.zeros({SIZE}, np.float32)
if {when!r} == "waiting":
    c.average(u, 1)
else:
    print("wait", flush=True)
    c.contribute(u, 1)
    c.resume(c.position)  # as another process: what was contributed is forgotten
    c.contribute(u, 1)  # no further round opens
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=-1, text=True
    )
    for line in process.stdout:
        if line.strip() == "wait":
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=120)[1]  # far beyond what it takes
    assert "KeyboardInterrupt" in stderr and process.returncode != 0
    given = updates(rng)

    def client(i):
        with cluster.connect(i, name) as c:
            return c.average(given[i], 10)

    report = together(*[lambda i=i: client(i) for i in range(3)])[0][1]
    assert report.cohort in (3, 4)


def test_profiles_and_environment(cluster, task, tmp_path, monkeypatch):
    name = task(value_range=1.0)
    with pytest.raises(errors.InputError, match="no profile") as caught:
        cryptflow.connect()
    assert caught.value.code == "CF_CONFIG"
    monkeypatch.setenv("CRYPTFLOW_PROFILE", str(cluster.profiles[0]))
    monkeypatch.setenv("CRYPTFLOW_TASK", name)
    with cryptflow.connect() as c:
        assert c.name == "client-0"
    wrong = cluster.folder / "profiles" / "wrong.toml"
    text = cluster.profiles[0].read_text()
    wrong.write_text(text.replace("aggregator", "agregator", 1))
    with pytest.raises(errors.InputError, match=r'"agregator".*"aggregator"'):
        cryptflow.connect(wrong)
    monkeypatch.setenv("CRYPTFLOW_ADMIN_KEY", "00" * 32)
    with pytest.raises(errors.CorruptError, match="not signed by the admin"):
        cryptflow.connect()
    monkeypatch.delenv("CRYPTFLOW_ADMIN_KEY")
    monkeypatch.setenv("CRYPTFLOW_TASK", "no-such-task")
    with pytest.raises(errors.NotFoundError, match="no-such-task"):
        cryptflow.connect()
    monkeypatch.setenv("CRYPTFLOW_TASK", name)
    monkeypatch.setenv("CRYPTFLOW_KMS", "127.0.0.1:1")
    with pytest.raises(errors.UnavailableError, match="key service"):
        cryptflow.connect()
    # The aggregator's port answers with the aggregator's certificate.
    address = re.search(r'aggregator = "(.*)"', text)[1]
    monkeypatch.setenv("CRYPTFLOW_KMS", address)
    with pytest.raises(errors.AccessError) as caught:
        cryptflow.connect()
    assert caught.value.code == "CF_CERTIFICATE"


def test_arguments_are_refused_in_words(cluster):
    arrays = {"w": np.zeros(3, np.float32)}
    for options, text in (
        ({"rounds": 2.5}, "rounds is 2.5; it is a positive integer"),
        ({"deadline": "60"}, "deadline is '60'; it is a positive integer"),
        ({"metrics": "loss"}, r"metrics is a string: pass a list, \['loss'\]"),
    ):
        with pytest.raises(errors.InputError, match=text):
            cluster.create_task("never", arrays, **options)
    for number in (-1, 4):
        with pytest.raises(errors.InputError, match=f"there is no client {number}"):
            cluster.connect(number, "never")


def test_tasks_are_refused_by_name(cluster, task):
    name = task()
    model = (LAYOUT, np.zeros(SIZE, np.float32))
    with pytest.raises(errors.RoundError, match=name) as caught:
        cluster.create_task(name, model)
    assert caught.value.code == "CF_TASK_EXISTS"
    for options, text in [
        ({"rounds": 0}, "rounds"),
        ({"bits": 99}, "bits"),
        ({"mode": "open"}, "open"),
        ({"min_cohort": 9}, "min_cohort"),
        ({"fraction": 2.0}, "fraction"),
        ({"value_range": -1.0}, "range"),
        ({"ranges": "guessed"}, "negotiated"),
        ({"ranges": "adaptive", "value_range": 1.0}, "value_range"),
        ({"metrics": ["A loss"]}, "A loss"),
        ({"metrics": "loss"}, "['loss']"),
        ({"rounds": 2.5}, "rounds is 2.5"),
        ({"weight_cap": "9"}, "weight_cap is '9'"),
        ({"preset": "n1024-q26"}, "n1024-q26"),
    ]:
        with pytest.raises(errors.InputError, match=re.escape(text)):
            cluster.create_task("other", model, **options)
    with pytest.raises(errors.LayoutError):
        cluster.create_task("other", 7)
    with pytest.raises(errors.LayoutError, match="class Linear"):
        cluster.create_task("other", nn.Linear)
    with pytest.raises(errors.InputError, match=r'tensor "b".*left out'):
        cluster.create_task(
            "other", (LAYOUT, np.full(SIZE, [*[0.0] * (SIZE - 1), np.inf]))
        )
    with pytest.raises(errors.InputError, match="this cluster has 4, counted from 0"):
        cluster.connect(-1, name)
    with pytest.raises(errors.AccessError, match="admin"):
        cryptflow.create_task(
            "other", model, clients=["client-0"], profile=cluster.profiles[0]
        )


def test_the_log_of_the_key_service_verifies(cluster, task):
    name = task()
    audit = cluster.audit()
    assert audit["verified"] and audit["entries"] == len(audit["records"])
    assert any(
        r["event"] == "task-created" and r["task"] == name for r in audit["records"]
    )


def test_nothing_of_an_update_is_on_a_disk_or_in_a_log(cluster, task, together, rng):
    name = task(max_clients=3, value_range=1.0)
    given = updates(rng)
    seen, looked = [], threading.Event()

    def look():
        # Unlike rglob, walk passes over folders of earlier rounds that go meanwhile.
        for folder, _, files in os.walk(cluster.folder):
            if "profiles" not in Path(folder).parts:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):
                        seen.append(Path(folder, file).read_bytes())

    def client(i):
        with cluster.connect(i, name) as c:
            if i == 0:
                try:
                    contribution = c.contribute(given[i], 10)
                    look()
                finally:
                    looked.set()
                c.collect(contribution)
            else:
                looked.wait()
                c.average(given[i], 10)

    together(*[lambda i=i: client(i) for i in range(3)])
    everything = b"".join(seen)
    assert b"CFF1" in everything  # frames were there
    assert not any(
        given[0][k : k + 8].tobytes() in everything for k in range(0, SIZE, 999)
    )


def test_progress_is_shown_when_wanted_only(cluster, task, together, rng, capfd):
    name = task(max_clients=3)
    given = updates(rng)
    phases = []

    def client(i):
        def note(phase, done, total):
            phases.append(phase)
            assert 0 <= done <= total

        options = {"progress": True, "on_phase": note} if i == 0 else {}
        with cluster.connect(i, name, **options) as c:
            c.average(given[i], 10)

    together(*[lambda i=i: client(i) for i in range(3)])
    shown = capfd.readouterr().err
    assert "encrypt" in shown and "upload" in shown and "client" in shown
    assert {"encrypt", "upload", "wait", "download", "decrypt"} <= set(phases)


def test_a_long_wait_for_others_is_said_where_there_are_no_bars(monkeypatch, caplog):
    """Another client died: a process without a terminal would hang in silence."""
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("cryptflow._progress.time", clock)
    with Bars(False, None) as observe:
        for now[0] in range(0, 200, 5):  # rounds are tried again every 40 seconds
            observe("agree", 0 if now[0] % 40 == 0 else 2, 3)
    said = [r.getMessage() for r in caplog.records if r.name == "cryptflow"]
    assert [m.partition(",")[0].rpartition(" for ")[2] for m in said] == [
        "30 s",
        "60 s",
        "120 s",
    ]
    assert "2 of 3 are here" in said[0]
    caplog.clear()
    with Bars(False, None) as observe:
        for now[0] in range(0, 200, 5):
            observe("wait", 3 if now[0] % 25 == 0 else 1, 3)
            observe("upload", 1, 9)  # its own work is nobody's fault
    assert not caplog.records


def test_the_library_refuses_a_forked_child(cluster, task):
    name = task()
    with cluster.connect(0, name) as c:
        c.initial_model()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                c.initial_model()
                code = "none"
            except errors.CryptFlowError as error:
                code = error.code
            os.write(write, code.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 100) == b"CF_FORK"
        assert c.initial_model() is not None


def test_an_outage_is_said_while_it_lasts(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cryptflow.client._PATIENT", 0.3)
    with cryptflow.LocalCluster(2, folder=tmp_path / "data") as cluster:
        model = LAYOUT, np.zeros(SIZE, np.float32)
        cluster.create_task("t", model, value_range=1.0)

        def watch(phase, *_):
            if phase == "wait":
                cluster.stop()
            if "no answer for" in caplog.text:
                raise KeyboardInterrupt

        with cluster.connect(0, "t", on_phase=watch) as client:
            with pytest.raises(KeyboardInterrupt):
                client.average(np.zeros(SIZE, np.float32), 1)
    assert "tried again until nothing has moved for 10 minutes" in caplog.text
    assert caplog.text.count("no answer for") == 1


def test_services_stop_with_their_cluster(tmp_path):
    with cryptflow.LocalCluster(2, folder=tmp_path) as c:
        assert c.floor == 2
        c.create_task("t", {"w": np.zeros(10)})
        assert [t["task"] for t in c.tasks()] == ["t"]
    with pytest.raises(errors.UnavailableError):
        c.tasks()
    log = c.log_file.read_text()
    assert log.count("msg=stopped") == 2 and "floor is 2" in log
    with c:  # the same folder goes on
        assert [t["task"] for t in c.tasks()] == ["t"]


def test_a_report_prints_as_one_line(cluster, task, together, rng):
    name = task(max_clients=3)
    given = updates(rng)

    def client(i):
        with cluster.connect(i, name) as c:
            return c.average(given[i], 10)[1]

    report = together(*[lambda i=i: client(i) for i in range(3)])[0]
    text = str(report)
    assert "\n" not in text and "3 clients" in text and "float32" in text
    as_json = json.loads(json.dumps(report.to_dict()))
    assert as_json["cohort"] == 3 and as_json["clients"] == list(report.clients)
    html = report._repr_html_()
    assert html.startswith("<table>") and "3 clients" in html


def test_a_plan_says_what_it_costs():
    options = cryptflow.plan(1_000_000, clients=8, calibrate=False)
    assert options[0]["wire_bytes_per_value_up"] <= 2.6
    assert [o["preset"] for o in options][:2] == ["n8192-q204", "n4096-q102"]
    assert all(o["security_bits"] == 128 for o in options)
    measured = cryptflow.plan(10_000, clients=3, bits=12, mode="shared-key")
    assert all(o["encrypt_seconds"] > 0 for o in measured)
    with pytest.raises(errors.InputError, match="4 to 30"):
        cryptflow.plan(10, clients=3, bits=64)
    for wrong, words in [
        ({"mode": 5}, "mode must be a string"),
        ({"privacy": "much"}, "Privacy"),
        ({"clients": 3.0}, "clients must be an integer"),
    ]:
        with pytest.raises(errors.InputError, match=words) as caught:
            cryptflow.plan(**{"values": 10, "clients": 3} | wrong)
        assert caught.value.code == "CF_ARGUMENT"
