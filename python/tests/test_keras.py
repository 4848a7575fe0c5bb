"""Keras: the TensorFlow backend in this process, torch in others."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import re
import subprocess
import sys

import numpy as np
import pytest

import cryptflow

# A model whose layers Keras numbers anew in every process that has made others.
MODEL = """
import os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np

def build(width=8, lazy=False):
    layers = [
        keras.layers.Dense(width, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1, seed=3),
        keras.layers.Dense(1),
    ]
    return keras.Sequential(layers if lazy else [keras.Input((4,)), *layers])

def data(seed, n=48):
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype("float32")
    return x, x.sum(1, keepdims=True)
"""

# One client, whose mean is its own update.
ALONE = """
class Alone:
    layout, metric_names = None, ("loss", "val_loss")
    def __init__(self, first=None): self.first, self.calls = first, []
    def initial_model(self): return self.first
    def average(self, update, num_examples, metrics=None):
        self.calls.append((update.copy(), num_examples, metrics))
        return update.copy(), Report(len(self.calls))

class Report:
    def __init__(self, number): self.round = number
    def scalars(self): return {"cohort_round": float(self.round)}
"""


# Moments travel, seeds and counters and frozen layers do not; names agree.
TRAVELS = """
from cryptflow.keras import ModelWeights
def names(model): return [t.name for t in ModelWeights(model).layout]
base = ["dense/kernel", "dense/bias", "batch_normalization/gamma",
        "batch_normalization/beta", "batch_normalization/moving_mean",
        "batch_normalization/moving_variance", "dense_1/kernel", "dense_1/bias"]
assert names(build()) == base, names(build())
assert names(build()) == base  # the second model of this process
frozen = build()
frozen.layers[0].trainable = False
frozen.layers[1].trainable = False
assert names(frozen) == base[6:], names(frozen)
inputs = keras.Input((4,))
shared = keras.layers.Dense(4, name="block_7")
outputs = keras.layers.Dense(1)(shared(shared(inputs)))
assert names(keras.Model(inputs, outputs)) == [
    "block/kernel", "block/bias", "dense/kernel", "dense/bias"]
only = ModelWeights(build(), lambda n: n.endswith("kernel"))
assert [t.name for t in only.layout] == ["dense/kernel", "dense_1/kernel"]
"""

# The optimizer and random seeds keep their state, however the epoch is run.
STATE = """
from cryptflow.keras import FedAvg
for options in OPTIONS:
    model = build()
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    client = Alone(np.full(81, 0.25, np.float32))
    x, y = data(1)
    fedavg = FedAvg(client, 5)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0, callbacks=[fedavg])
    assert int(model.optimizer.iterations) == 6
    assert [c[1] for c in client.calls] == [5, 5]
    assert set(client.calls[0][2]) == {"loss"}
    assert len(fedavg.reports) == 2
"""

# A model without an Input begins after its first batch.
LAZY = """
from cryptflow.errors import LayoutError
from cryptflow.keras import FedAvg, ModelWeights
model = build(lazy=True)
try:
    ModelWeights(model)
except LayoutError as error:
    assert error.code == "CF_LAYOUT_MISMATCH" and "keras.Input" in str(error)
else:
    raise AssertionError
model.compile(keras.optimizers.SGD(0.0), "mse")
first = np.linspace(-1, 1, 81).astype(np.float32)
client = Alone(first)
class At(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        got = np.empty(81, np.float32)
        ModelWeights(self.model).read(got)
        # moments of BatchNorm move also at a learning rate of zero
        same = got == first
        assert same[:56].all() and same[72:].all()
x, y = data(1)
model.fit(x, y, epochs=1, batch_size=16, verbose=0, callbacks=[FedAvg(client, 3), At()])
assert len(client.calls) == 1
"""


def run(*programs, backend="tensorflow"):
    """Run programs in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", MODEL + ALONE + "\n".join(programs)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run a program in this process, on the TensorFlow backend."""
    monkeypatch.chdir(tmp_path)

    def run(program):
        import keras

        assert keras.backend.backend() == "tensorflow"
        try:
            exec(compile(MODEL + ALONE + program, "program", "exec"), {})
        finally:
            keras.mixed_precision.set_global_policy("float32")
            keras.backend.clear_session()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("tensorflow", "jit_compile=True, steps_per_execution=2"),
        ("torch", ""),
    ],
)
def test_fit_in_three_processes(cluster, federation, backend, options):
    name = re.sub("[^a-z]+", "-", f"{backend} {options}".lower()).strip("-")
    made = run(
        """
from cryptflow.keras import ModelWeights
keras.utils.set_random_seed(1)
weights = ModelWeights(build())
flat = np.empty(sum(t.count for t in weights.layout), np.float32)
weights.read(flat)
print(repr([(t.name, t.shape) for t in weights.layout]))
print(flat.tobytes().hex())
""",
        backend=backend,
    ).splitlines()
    layout, first = eval(made[-2]), np.frombuffer(bytes.fromhex(made[-1]), np.float32)
    assert [n for n, _ in layout][-2:] == ["dense_1/kernel", "dense_1/bias"]
    cluster.create_task(name, (layout, first), rounds=2, weight_cap=100)
    program = f"""
{MODEL}
from cryptflow.keras import FedAvg, ModelWeights
build(3)  # numbers of layers differ between processes
model = build()
model.compile(keras.optimizers.SGD(0.05), "mse", {options})
x, y = data(mine)
fedavg = FedAvg(client, num_examples=16 * (mine + 1))
history = model.fit(x, y, epochs=2, batch_size=16, callbacks=[fedavg],
                    validation_data=data(9), verbose=0)
assert len(fedavg.reports) == 2
assert history.history["cohort_round"] == [0.0, 1.0]
own, cohort = history.history["loss"][-1], history.history["cohort_loss"][-1]
assert abs(cohort - fedavg.reports[-1].metrics["loss"]) < 1e-9 and own != cohort
client.save(ModelWeights(model), losses=history.history["cohort_loss"])
"""
    got = federation(cluster, name, program, first, KERAS_BACKEND=backend)
    assert all(np.array_equal(g["losses"], got[0]["losses"]) for g in got)


def test_what_travels(here):
    here(TRAVELS)


def test_the_optimizer_and_seeds_keep_their_state(here):
    modes = "dict(), dict(jit_compile=True), dict(run_eagerly=True)"
    here(f"OPTIONS = [{modes}, dict(steps_per_execution=3)]\n{STATE}")


def test_a_model_without_an_input_begins_after_its_first_batch(here):
    here(LAZY)


def test_the_torch_backend():
    run(TRAVELS, "OPTIONS = [{}]", STATE, LAZY, backend="torch")


def test_epochs_per_round_and_other_callbacks(here):
    """Those after FedAvg see its numbers; validation sees the local weights."""
    out = here(
        """
from cryptflow.keras import FedAvg, ModelWeights
class After(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None): print(epoch, sorted(logs))
class Zero(Alone):
    def average(self, update, n, metrics=None):
        super().average(update, n, metrics)
        return np.zeros_like(update), Report(len(self.calls))
model = build()
model.compile("sgd", "mse")
client = Zero()
weights = ModelWeights(model)
before, after = (np.empty(81, np.float32) for _ in range(2))
weights.read(before)
x, y = data(1)
stop = keras.callbacks.EarlyStopping(monitor="cohort_round", mode="min", patience=0)
kept = keras.callbacks.ModelCheckpoint("kept.weights.h5", save_weights_only=True)
history = model.fit(x, y, epochs=9, verbose=0, validation_data=data(2),
    callbacks=[FedAvg(client, 3, epochs_per_round=2), After(), kept, stop])
assert set(client.calls[0][2]) == {"loss", "val_loss"}
assert history.history["cohort_round"] == [1.0, 2.0]
weights.read(after)
assert (before == after).all()  # the cohort's mean was zero
other = build()
other.load_weights("kept.weights.h5")
ModelWeights(other).read(after)
assert (before == after).all()  # saved after the averaging
# Validation ran before it.
assert history.history["val_loss"][1] != model.evaluate(*data(2), verbose=0)
"""
    )
    assert out.splitlines() == [
        "0 ['loss', 'val_loss']",
        "1 ['cohort_round', 'loss', 'val_loss']",
        "2 ['loss', 'val_loss']",
        "3 ['cohort_round', 'loss', 'val_loss']",
    ]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_low_precision_keeps_small_means(here, policy):
    """Means below a weight's last bit add up in the float32 master."""
    here(
        f"""
keras.mixed_precision.set_global_policy("{policy}")
from cryptflow.keras import FedAvg
class Small(Alone):
    def average(self, update, n, metrics=None):
        super().average(update, n, metrics)
        return np.full_like(update, 0.001), Report(1)
model = build()
model.compile(keras.optimizers.SGD(0.0), "mse")
fedavg = FedAvg(Small(np.ones(81, np.float32)), 3)
x, y = data(1)
model.fit(x, y, epochs=8, verbose=0, callbacks=[fedavg])
kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.weights[0], "float32"))
assert abs(kernel - 1.008).max() < 2**-8, kernel
"""
    )


def test_another_layout_is_refused_before_training(here, cluster):
    out = here(
        f"""
import cryptflow
from cryptflow.errors import LayoutError
from cryptflow.keras import FedAvg
cluster_profile, admin = {str(cluster.profiles[0])!r}, {str(cluster.admin_profile)!r}
names = ["client-0", "client-1", "client-2"]
cryptflow.create_task("narrow", build(), clients=names, profile=admin)
model = build(9)
model.compile("sgd", "mse")
with cryptflow.connect(cluster_profile, task="narrow") as client:
    try:
        model.fit(*data(1), verbose=0, callbacks=[FedAvg(client, 3)])
    except LayoutError as error:
        print(error)
assert int(model.optimizer.iterations) == 0
"""
    )
    assert "tensor 'dense/kernel': the task has shape (4, 8), the model (4, 9)" in out


def test_a_second_fit_goes_on_and_another_model_is_refused(here):
    here(
        """
from cryptflow.errors import LayoutError
from cryptflow.keras import FedAvg
client = Alone()
fedavg = FedAvg(client, 3)
model, x, y = build(), *data(1)
model.compile("sgd", "mse")
for _ in range(2):
    model.fit(x, y, verbose=0, callbacks=[fedavg])
assert len(client.calls) == 2
other = build()
other.compile("sgd", "mse")
try:
    other.fit(x, y, verbose=0, callbacks=[fedavg])
except LayoutError as error:
    assert "another model" in str(error)
else:
    raise AssertionError
"""
    )
