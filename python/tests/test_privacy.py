"""Differential privacy: real noise under encryption, and what it spends."""

import json
import math
import os
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

import cryptflow
from cryptflow import Privacy, errors, privacy
from cryptflow.session import Tensor

SIZE = 20_000
LAYOUT = [Tensor("a", (SIZE // 2,)), Tensor("b", (SIZE // 4, 2))]
MODEL = (LAYOUT, np.zeros(SIZE, np.float32))
PROMISE = Privacy(clip_norm=2.0, noise_multiplier=1.2, delta=1e-5)

# A client process: so many rounds with updates of its own, from a position
# another process left where there is one.
PROGRAM = """
import json, pathlib, sys
import numpy as np
import cryptflow

profile, task, mine, rounds, folder = sys.argv[1:]
folder = pathlib.Path(folder)
left = folder / f"position-{mine}.json"
with cryptflow.connect(profile, task=task) as client:
    if left.exists():
        client.resume(json.loads(left.read_text()))
    for _ in range(int(rounds)):
        rng = np.random.default_rng(int(mine))
        update = rng.normal(0, 1, client.info["values"]).astype(np.float32)
        update *= np.float32(0.5 if mine == "0" else 500) / np.linalg.norm(update)
        mean, report = client.average(update, 1000 * (int(mine) + 1))
        np.savez(folder / f"{mine}-{report.round}.npz", update=update, mean=mean)
        (folder / f"{mine}-{report.round}.json").write_text(
            json.dumps(report.to_dict())
        )
    left.write_text(json.dumps(client.position))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Run the services for all tests of this file."""
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


def by_hand(multiplier, delta, rounds):
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.GaussianDpEvent(multiplier), rounds
    )
    return RdpAccountant().compose(event).get_epsilon(delta)


def run_clients(cluster, name, rounds, folder):
    script = folder / "client.py"
    script.write_text(PROGRAM)
    running = [
        subprocess.Popen(
            [sys.executable, script, p, name, str(i), str(rounds), folder],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ),
        )
        for i, p in enumerate(cluster.profiles)
    ]
    said = [p.communicate(timeout=900)[0] for p in running]
    assert [p.returncode for p in running] == [0, 0, 0], "\n".join(said)[-6000:]


def test_three_processes_and_three_more_that_go_on(cluster, tmp_path):
    """Noise of the promised width, epsilon of all rounds, also after a restart."""
    cluster.create_task("private", MODEL, rounds=3, bits=20, privacy=PROMISE)
    run_clients(cluster, "private", 2, tmp_path)
    run_clients(cluster, "private", 1, tmp_path)
    spent = []
    for r in range(3):
        got = [dict(np.load(tmp_path / f"{i}-{r}.npz")) for i in range(3)]
        reports = [json.loads((tmp_path / f"{i}-{r}.json").read_text()) for i in (0, 1)]
        assert all(np.array_equal(g["mean"], got[0]["mean"]) for g in got)
        # What is averaged: updates clipped to the norm, all with weight 1.
        clipped = [
            g["update"] * min(1, PROMISE.clip_norm / np.linalg.norm(g["update"]))
            for g in got
        ]
        noise = got[0]["mean"].astype(np.float64) - np.mean(clipped, axis=0)
        report = reports[0]
        # Split over min_cohort - 1 = 2 clients, added by 3: √1.5 of the promise.
        width = PROMISE.noise_multiplier * PROMISE.clip_norm * math.sqrt(1.5) / 3
        assert width <= report["noise"] <= 1.01 * width
        # Six standard deviations: a probability of 2·10⁻⁹ each.
        assert abs(noise.std() / report["noise"] - 1) < 6 / math.sqrt(2 * SIZE)
        assert abs(noise.mean()) < 6 * report["noise"] / math.sqrt(SIZE)
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 6 / math.sqrt(SIZE)
        assert report["weight"] == 1 and report["weight_sum"] == 3
        assert report["clipped_total"] == 0 and report["metrics"] == {}
        assert report["delta"] == PROMISE.delta and report["round"] == r
        assert reports[1]["epsilon"] == report["epsilon"]
        hand = by_hand(PROMISE.noise_multiplier, PROMISE.delta, r + 1)
        assert hand <= report["epsilon"] <= hand + 1e-5
        spent.append(report["epsilon"])
    assert spent == sorted(spent) and len(set(spent)) == 3


def test_noise_is_drawn_anew_for_every_round(cluster, together):
    cluster.create_task("anew", MODEL, rounds=2, privacy=PROMISE)

    def client(i):
        with cluster.connect(i, "anew") as c:
            assert c.privacy == PROMISE and c.metric_names == ()
            update = np.zeros(SIZE, np.float32)
            return [c.average(update, 5) for _ in range(2)]

    (first, report), (second, _) = together(*[lambda i=i: client(i) for i in range(3)])[
        0
    ]
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(SIZE)
    assert f"ε = {report.epsilon:.3g}" in str(report)
    assert report.scalars()["cohort_epsilon"] == report.epsilon
    assert "epsilon" in report._repr_html_()


def test_updates_that_are_not_finite_name_their_tensor(cluster):
    cluster.create_task("finite", MODEL, privacy=PROMISE)
    bad = np.zeros(SIZE, np.float32)
    bad[-1] = np.nan
    with cluster.connect(0, "finite") as c:
        with pytest.raises(errors.InputError, match='"b"') as caught:
            c.contribute(bad, 1)
        assert caught.value.code == "CF_NOT_FINITE"
        with pytest.raises(errors.InputError) as caught:
            c.contribute(bad * 0, 0)
        assert caught.value.code == "CF_WEIGHT"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mode": "shared-key"}, "sum-key"),
        ({"encoding": "slots"}, "lanes"),
        ({"rounding": "stochastic"}, "nearest"),
        ({"ranges": "negotiated"}, "ranges"),
        ({"ranges": "adaptive"}, "ranges"),
        ({"value_range": 1.0}, "clip norm"),
        ({"weight_cap": 100}, "weight_cap"),
        ({"metrics": ["loss"]}, "metrics"),
        ({"bits": 25}, "24 bits"),
        ({"bits": 5}, "more bits"),
        ({"privacy": Privacy(0.0, 1.0)}, "clip_norm"),
        ({"privacy": Privacy(1.0, math.inf)}, "noise_multiplier"),
        ({"privacy": Privacy(1.0, 1e-3)}, "noise multiplier"),
        ({"privacy": Privacy(1.0, 1.0, 2.0)}, "delta"),
        ({"privacy": Privacy(1.0, 1.0, 1e-12)}, "delta"),
        ({"privacy": Privacy(1.0, 1.0, 1e-5, 3)}, "collude"),
        ({"privacy": Privacy(1.0, 1.0, 1e-5, -1)}, "colluding"),
    ],
)
def test_what_cannot_be_promised_is_refused(cluster, options, why):
    with pytest.raises(errors.InputError, match=why):
        cluster.create_task("refused", MODEL, **{"privacy": PROMISE, **options})


def test_without_the_accountant_a_private_task_is_not_joined(cluster, monkeypatch):
    cluster.create_task("accounted", MODEL, privacy=PROMISE)
    monkeypatch.setattr(privacy, "find_spec", lambda name: None)
    with pytest.raises(errors.InputError, match="pip install dp-accounting"):
        cluster.connect(0, "accounted")


def test_reports_without_privacy_have_no_epsilon(cluster, together):
    cluster.create_task("public", MODEL, rounds=1)

    def client(i):
        with cluster.connect(i, "public") as c:
            assert c.privacy is None
            return c.average(np.ones(SIZE, np.float32), 1, {"loss": 1.0})[1]

    for report in together(*[lambda i=i: client(i) for i in range(3)]):
        assert (report.epsilon, report.delta, report.noise) == (None, None, 0.0)
        assert report.metrics["loss"] == pytest.approx(1.0, abs=1e-3)
        assert "cohort_epsilon" not in report.scalars()


@pytest.mark.parametrize("multiplier", [0.7, 1.0, 4.0])
def test_epsilon_is_dp_accountings_and_grows(multiplier):
    before = 0.0
    for rounds in (1, 2, 10, 100):
        spent = privacy.epsilon(multiplier, 1e-5, rounds)
        hand = by_hand(multiplier, 1e-5, rounds)
        if hand > 27:
            assert spent == math.inf
            continue
        assert hand <= spent <= hand + 1e-4  # a sliver of delta is set aside
        assert before < spent
        assert privacy.epsilon(multiplier, 1e-6, rounds) > spent
        assert privacy.epsilon(multiplier, 1e-5, rounds, honest=0.5) > spent
        before = spent
    assert privacy.epsilon(multiplier, 1e-5, 0) == 0.0
    assert privacy.epsilon(multiplier, 1e-5, 1, honest=0) == math.inf


def test_the_least_multiplier_that_keeps_epsilon():
    z = privacy.noise_multiplier(2.0, 1e-5, 30)
    assert privacy.epsilon(z, 1e-5, 30) <= 2.0 < privacy.epsilon(z - 2e-4, 1e-5, 30)
    with pytest.raises(errors.InputError):
        privacy.noise_multiplier(1e-6, 1e-5, 1 << 20)


def test_the_planner_shows_what_privacy_costs():
    """More bits cost bytes and bring the noise down to what is promised."""
    request = {"clients": 10, "privacy": PROMISE, "calibrate": False}
    plans = {b: cryptflow.plan(10**6, bits=b, **request)[0] for b in (14, 16, 20)}
    inflation = [plans[b]["privacy"]["inflation"] for b in plans]
    assert inflation == sorted(inflation, reverse=True)
    assert inflation[0] > 1.05 and 1 < inflation[-1] < 1.001
    ideal = PROMISE.noise_multiplier * math.sqrt(3 / 2) / 3
    noise = plans[20]["privacy"]["noise_of_mean_over_clip_norm"]
    assert ideal <= noise < 1.01 * ideal
    assert plans[20]["bytes_up"] > plans[14]["bytes_up"]
    with pytest.raises(errors.InputError, match="more bits"):
        cryptflow.plan(10**8, bits=8, **request)
    with pytest.raises(errors.InputError, match="sum-key"):
        cryptflow.plan(1000, mode="shared-key", **request)
    assert "privacy" not in cryptflow.plan(1000, clients=3, calibrate=False)[0]


def test_importing_the_package_does_not_import_the_accountant():
    program = "import sys, cryptflow.client; assert 'dp_accounting' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
