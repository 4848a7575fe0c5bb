"""Metrics: the names of frameworks, and what is said of those that do not travel."""

import logging

import numpy as np
import pytest

import cryptflow
from cryptflow import errors
from cryptflow.session import named_metrics

FIRST = {"w": np.zeros(4, np.float32)}
NAMES = ("AUROC", "loss", "val/loss")


class Named:
    metric_names = NAMES


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("metrics")) as c:
        yield c


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "cryptflow")
    return lambda: [r.getMessage() for r in caplog.records]


def test_what_does_not_travel_is_named_once(said):
    client = Named()
    found = {"loss": 1e30, "AUROC": float("nan"), "train/loss": 1.0}
    for _ in range(3):
        assert named_metrics(client, found) == {}
    auroc, loss, validation = said()
    assert "'AUROC'" in auroc and "nan" in auroc
    assert "'loss'" in loss and "1e+30" in loss and "±4194304" in loss
    assert "'val/loss'" in validation and "train/loss" in validation
    assert named_metrics(client, dict.fromkeys(NAMES, 2.0)) == dict.fromkeys(NAMES, 2.0)
    assert len(said()) == 3


def test_a_metric_that_arrived_before_may_stay_away(said):
    client = Named()
    assert len(named_metrics(client, dict.fromkeys(NAMES, 2.0))) == 3
    assert named_metrics(client, {"loss": 1, "AUROC": 1}) == {"loss": 1, "AUROC": 1}
    assert not said()


def test_a_trainer_that_evaluates_later_has_its_time(said):
    client = Named()
    for found in ({"loss": 1.0}, {"loss": 1.0, "AUROC": 1.0}, {"loss": 1.0}):
        named_metrics(client, found, allowed=1)
    (line,) = said()
    assert "'val/loss'" in line


def test_each_client_hears_of_its_own(said):
    for _ in range(2):
        named_metrics(Named(), {})
    assert len(said()) == 6


def test_metrics_under_their_frameworks_names(cluster, together, said):
    cluster.create_task("named", FIRST, rounds=2, metrics=NAMES)

    def client(i):
        with cluster.connect(i, "named") as c:
            update = np.zeros(4, np.float32)
            with pytest.raises(errors.InputError, match=r'"loss" is 1e\+30.*4194304'):
                c.contribute(update, 10, {"loss": 1e30})
            given = {"val/loss": float(i), "AUROC": -(2.0**22)}
            c.average(update, 10, given)
            return c.average(update, 10, given)[1]

    for report in together(*[lambda i=i: client(i) for i in range(3)]):
        assert report.metrics == pytest.approx({"val/loss": 1.0, "AUROC": -(2.0**22)})
        assert report.scalars()["cohort_val/loss"] == pytest.approx(1.0)
    # "loss" was in the call that was refused, and travelled in no other.
    assert len(said()) == 3 and all("'loss'" in line for line in said())


def test_a_name_that_never_arrives_is_said_once_a_client(cluster, together, said):
    cluster.create_task("missing", FIRST, rounds=2, metrics=NAMES)

    def client(i):
        with cluster.connect(i, "missing") as c:
            for _ in range(2):
                c.average(np.zeros(4, np.float32), 10, {"loss": 0.5, "AUROC": 0.5})

    together(*[lambda i=i: client(i) for i in range(3)])
    assert len(said()) == 3 and all("'val/loss'" in line for line in said())


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\n", "x" * 129])
def test_names_that_would_not_print_are_refused(cluster, name):
    with pytest.raises(errors.InputError, match="printable ASCII"):
        cluster.create_task("unprintable", FIRST, metrics=[name])
