"""The first model: every client starts from the one that the admin signed."""

import re

import numpy as np
import pytest

import cryptflow
from cryptflow import arrays, errors
from cryptflow.session import Session, Tensor

SIZE = 12
FIRST = {"a": np.arange(8, dtype=np.float32), "b": np.full(4, 0.5, np.float32)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("first")) as c:
        yield c


def own():
    return {name: values.copy() for name, values in FIRST.items()}


def test_clients_bring_the_model_that_the_admin_signed(cluster, together):
    cluster.create_task("brought", FIRST, rounds=1, initial_model="clients")

    def client(i):
        mine = own()
        with cluster.connect(i, "brought") as c:
            assert c.initial_model() is None
            fedavg = arrays.FedAvg(mine, c, 10)
            mine["a"] += i
            fedavg.average()
        return mine

    for mine in together(*[lambda i=i: client(i) for i in range(3)]):
        assert np.allclose(mine["a"], FIRST["a"] + 1, atol=1e-3)


@pytest.mark.parametrize("change", [1e-6, -0.0, 1.0])
def test_other_weights_never_start(cluster, change):
    name = f"other-{np.float32(change).tobytes().hex()}"
    cluster.create_task(name, FIRST, initial_model="clients")
    mine = own()
    mine["a"][0] = change  # it was +0: a digest covers bits
    before = mine["a"].copy()
    with cluster.connect(0, name) as c:
        with pytest.raises(errors.RoundError) as caught:
            arrays.FedAvg(mine, c, 10)
        assert caught.value.code == "CF_MODEL_MISMATCH"
        digests = re.findall(r"\b[0-9a-f]{12}\b", str(caught.value))
        assert len(set(digests)) == 2
        assert np.array_equal(mine["a"], before)
        with pytest.raises(errors.RoundError, match="check_initial_model"):
            c.average(np.zeros(SIZE, np.float32), 10)
        flat = np.concatenate([*FIRST.values()])
        c.check_initial_model(flat)
        with pytest.raises(errors.RoundError, match=digests[0]):
            c.check_initial_model(flat + np.float32(1))


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.zeros(SIZE), [0.0]])
def test_what_is_no_model_is_refused(cluster, values):
    if not any(t["task"] == "form" for t in cluster.tasks()):
        cluster.create_task("form", FIRST, initial_model="clients")
    with cluster.connect(0, "form") as c, pytest.raises(errors.CryptFlowError):
        c.check_initial_model(values)


def test_creation_done_again_says_that_the_task_is_complete(cluster):
    cluster.create_task("twice", FIRST)
    for model, text in ((FIRST, "it is complete"), ({"a": FIRST["a"]}, "another")):
        with pytest.raises(errors.RoundError, match=text) as caught:
            cluster.create_task("twice", model)
        assert caught.value.code == "CF_TASK_EXISTS"
    with pytest.raises(errors.InputError, match="stored or clients"):
        cluster.create_task("thrice", FIRST, initial_model="nobody")


class Liar:
    """A client whose aggregator says that every client brings the model."""

    layout = (Tensor("a", (8,)), Tensor("b", (4,)))

    def initial_model(self):
        return None

    def check_initial_model(self, weights):
        assert weights.shape == (SIZE,) and weights.dtype == np.float32
        if not np.array_equal(weights, np.concatenate([*FIRST.values()])):
            raise errors.from_code("CF_MODEL_MISMATCH", "other weights")


def test_a_session_asks_the_client_whether_its_weights_are_the_first_model():
    mine = own()
    state = Session(arrays.ArrayWeights(mine), Liar(), 1).state_dict()
    mine["b"][3] = 7
    with pytest.raises(errors.RoundError, match="other weights"):
        Session(arrays.ArrayWeights(mine), Liar(), 1)
    Session(arrays.ArrayWeights(mine), Liar(), 1, state=state)  # it began before
