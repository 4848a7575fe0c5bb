"""Plain numpy and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

import cryptflow
from cryptflow.arrays import ArrayWeights, FedAvg
from cryptflow.errors import LayoutError, from_code
from cryptflow.session import Session, Tensor


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


def test_arrays_are_read_and_written_in_place():
    source = {"w": np.arange(6.0).reshape(2, 3).T, "b": np.ones((), np.float32)}
    weights = ArrayWeights(source)
    assert weights.layout == [Tensor("w", (3, 2)), Tensor("b", ())]
    flat = np.empty(7, np.float32)
    weights.read(flat)
    assert flat.tolist() == [0, 3, 1, 4, 2, 5, 1]
    kept = source["w"]
    weights.write(-flat)
    assert source["w"] is kept and kept[1].tolist() == [-1, -4] and source["b"] == -1


def test_what_does_not_travel_is_refused_by_name():
    class Estimator:
        coef_ = (1.0,)
        classes_ = np.arange(3)

    for names, text in (
        (["missing_"], "fit once before"),
        (["coef_"], "'coef_/0' is float"),
        (["classes_"], "'classes_' is int64"),
        (None, "pass names"),
    ):
        with pytest.raises(LayoutError, match=text) as caught:
            ArrayWeights(Estimator(), names)
        assert caught.value.code == "CF_LAYOUT_MISMATCH"


def test_lists_of_arrays_travel_by_number():
    source = {"coefs_": [np.zeros((2, 3)), np.ones(4)]}
    weights = ArrayWeights(source)
    assert weights.layout == [Tensor("coefs_/0", (2, 3)), Tensor("coefs_/1", (4,))]
    kept = source["coefs_"][1]
    weights.write(np.arange(10, dtype=np.float32))
    assert kept.tolist() == [6, 7, 8, 9]
    source["coefs_"].pop()
    with pytest.raises(LayoutError, match="1 arrays now, not 2"):
        weights.read(np.empty(10, np.float32))


def test_what_cannot_be_written_is_refused_before_training():
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(LayoutError, match="'w' is read-only"):
        ArrayWeights({"w": frozen})
    model = SGDClassifier(average=True)
    model.partial_fit(np.eye(3), [0, 1, 2], classes=range(3))
    with pytest.raises(LayoutError, match="use average=False"):
        ArrayWeights(model, ["coef_", "intercept_"])
    with pytest.raises(LayoutError, match=r"pass a list, \['coef_'\]"):
        ArrayWeights(model, "coef_")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (SGDClassifier(random_state=0), ["coef_", "intercept_"]),
        (MLPClassifier((5,), random_state=0), ["coefs_", "intercepts_"]),
    ],
)
def test_scikit_learn_trains_on_from_what_was_written(model, names):
    x, y = np.eye(4), np.arange(4) % 3
    model.partial_fit(x, y, classes=range(3))
    weights = ArrayWeights(model, names)
    flat = np.full(sum(t.count for t in weights.layout), 5, np.float32)
    weights.write(flat)
    model.partial_fit(np.zeros((1, 4)), [0])
    weights.read(flat)
    assert np.abs(flat[:12] - 5).max() < 0.1 and flat.std() > 0


def test_an_array_that_changed_its_shape_is_refused():
    source = {"w": np.ones(3)}
    weights = ArrayWeights(source)
    source["w"] = np.ones(4)
    with pytest.raises(LayoutError, match=r"shape \(4,\) now"):
        weights.read(np.empty(3, np.float32))


def test_the_library_may_replace_its_arrays_between_rounds(table, together):
    """As scikit-learn does: they are looked up by name in every round."""
    t, seats = table(4, weight_cap=10)

    def job(seat):
        def work():
            source = {"w": np.zeros(4)}
            fedavg = FedAvg(source, seat, seat.number + 1)
            source["w"] = np.full(4, 0.1 * seat.number)
            fedavg.average()
            return source["w"]

        return work

    got = together(*map(job, seats))
    want = (0 * 1 + 0.1 * 2 + 0.2 * 3) / 6
    for array in got:
        assert array.dtype == np.float64
        assert np.abs(array - want).max() <= t.bound([1, 2, 3])


def test_scikit_learn_in_three_processes(cluster, federation):
    rng = np.random.default_rng(3)
    first = {"coef_": rng.normal(0, 0.1, (10, 64)), "intercept_": np.zeros(10)}
    cluster.create_task("sklearn", first, rounds=2, weight_cap=700)
    program = """
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from cryptflow.arrays import ArrayWeights, FedAvg

x, y = load_digits(return_X_y=True)
x, y = x[mine::3] / 16, y[mine::3]
model = SGDClassifier(loss="log_loss", random_state=mine)
model.partial_fit(x[:1], y[:1], classes=range(10))
fedavg = FedAvg(model, client, num_examples=len(y), names=["coef_", "intercept_"])
for _ in range(2):
    model.partial_fit(x, y)
    report = fedavg.average({"loss": 1 - model.score(x, y)})
assert 0 < report.metrics["loss"] < 1
client.save(ArrayWeights(model, ["coef_", "intercept_"]), score=model.score(x, y))
"""
    flat = np.concatenate([first["coef_"].ravel(), first["intercept_"]])
    got = federation(cluster, "sklearn", program, flat.astype(np.float32))
    assert min(g["score"] for g in got) > 0.85


def test_a_sum_that_opened_for_nobody_stops_no_training(caplog):
    """The model and its start stay; the next averaging gives what was learned."""
    given = []

    class Cohort:
        layout = None

        def initial_model(self):
            return np.zeros(1, np.float32)

        def average(self, update, num_examples, metrics=None):
            given.append(float(update[0]))
            if len(given) == 1:
                raise from_code("CF_ROUND_FAILED", "2 of 3 clients could not open it")
            return np.ones(1, np.float32), "report"

    w = {"w": np.zeros(1, np.float32)}
    session = Session(ArrayWeights(w), Cohort(), 1)
    w["w"] += 2
    assert session.on_epoch_end() is None
    assert "could not open it" in caplog.text and w["w"] == 2
    w["w"] += 1
    assert session.on_epoch_end() == "report"
    assert given == [2, 3] and w["w"] == 1
