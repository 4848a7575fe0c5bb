"""Keras on its backends, of which a process has one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cryptflow

CASES = Path(__file__).with_name("keras_cases.py")
LAYOUT = {
    "dense/kernel": (4, 8),
    "dense/bias": (8,),
    "batch_normalization/gamma": (8,),
    "batch_normalization/beta": (8,),
    "batch_normalization/moving_mean": (8,),
    "batch_normalization/moving_variance": (8,),
    "dense_1/kernel": (8, 1),
    "dense_1/bias": (1,),
}


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_in_one_process(backend):
    options = ["--import-mode=importlib", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, CASES],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 30
    assert "skipped" not in done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


# One task; every two rounds the model is compiled in another way. Every second
# time another connection, callback and model go on from the backup. A client of
# MIRRORED has its model on two devices.
PROGRAM = """
import os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from contextlib import nullcontext as scope
import keras
from cryptflow.keras import FedAvg, ModelWeights

if mine in MIRRORED:
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    scope = strategy.scope

def build(width, *first):
    return keras.Sequential([
        *first,
        keras.layers.Dense(width, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1, seed=3),
        keras.layers.Dense(1),
    ])

for _ in range(mine):
    build(3, keras.Input((4,)))  # so that numbers of layers differ
x = np.random.default_rng(mine).normal(size=(48, 4)).astype("float32")
y = x.sum(1, keepdims=True)
cohort = []
for number, options in enumerate(MODES):
    if number % 2:
        client.client.close()
        client.client = cryptflow.connect(profile, task=task)
    if number % 2 or number == 0:
        with scope():
            model = build(8) if mine == 1 else build(8, keras.Input((4,)))
        fedavg = FedAvg(client, num_examples=16 * (mine + 1),
                        backup=f"backup{mine}.npz")
    with scope():
        model.compile(keras.optimizers.SGD(0.05), "mse", **options)
    assert fedavg.initial_epoch == 2 * number
    history = model.fit(x, y, initial_epoch=2 * number, epochs=2 * number + 2,
                        batch_size=16, validation_split=0.25, callbacks=[fedavg],
                        verbose=0).history
    reports = fedavg.reports[-2:]
    assert history["cohort_round"] == [2.0 * number, 2.0 * number + 1]
    assert history["cohort_clipped"] == [0.0, 0.0]
    assert history["cohort_bytes_up"] == [r.bytes_up for r in reports]
    assert min(history["cohort_seconds"]) > 0
    assert history["cohort_loss"] == [r.metrics["loss"] for r in reports]
    assert history["cohort_loss"] != history["loss"]
    cohort += history["cohort_loss"]
    for variable in model.weights if mine in MIRRORED else ():
        copies = strategy.experimental_local_results(variable.value)
        assert len(copies) == 2 and np.array_equal(*map(np.asarray, copies))
client.save(ModelWeights(model), losses=cohort)
"""


@pytest.mark.parametrize(
    ("backend", "mirrored", "modes"),
    [
        (
            "tensorflow",
            [],
            [
                {},
                {"jit_compile": True},
                {"run_eagerly": True},
                {"steps_per_execution": 2},
            ],
        ),
        ("tensorflow", [1], [{}]),
        ("torch", [], [{}, {}]),
    ],
    ids=["tensorflow", "mirrored", "torch"],
)
def test_fit_in_three_processes(cluster, federation, rng, backend, mirrored, modes):
    first = {
        name: rng.normal(0.5, 0.1, shape).astype(np.float32)
        for name, shape in LAYOUT.items()
    }
    rounds = 2 * len(modes)
    task = "mirrored" if mirrored else backend
    cluster.create_task(task, first, rounds=rounds, weight_cap=100)
    flat = np.concatenate([a.ravel() for a in first.values()])
    program = f"MODES, MIRRORED = {modes!r}, {mirrored!r}\n{PROGRAM}"
    got = federation(cluster, task, program, flat, KERAS_BACKEND=backend)
    assert all(np.array_equal(g["losses"], got[0]["losses"]) for g in got)
    assert len(got[0]["losses"]) == rounds
