"""A TensorFlow loop whose model is mirrored on several devices."""

import subprocess
import sys

PROGRAM = """
import os
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from cryptflow.keras import ModelWeights
from cryptflow.session import Session


class Alone:
    layout, metric_names, position = None, ("loss",), None
    def initial_model(self): return np.full(8 * 4 + 4 + 4 * 4 + 5, 0.25, np.float32)
    def average(self, update, num_examples, metrics=None):
        assert np.any(update)
        return np.zeros_like(update), num_examples


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    layers = tf.keras.layers
    model = tf.keras.Sequential([
        tf.keras.Input((8,)), layers.Dense(4), layers.BatchNormalization(),
        layers.Dense(1),
    ])
    optimizer = tf.keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)


@tf.function
def train(batch):
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2) / 8
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss
    losses = strategy.run(step, args=(batch,))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)


def replicas():
    for variable in model.variables:
        copies = strategy.experimental_local_results(variable.value)
        assert len(copies) == 2
        yield [np.asarray(c) for c in copies]


session = Session(ModelWeights(model), Alone(), 7)
data = tf.data.Dataset.from_tensor_slices(tf.random.normal((24, 8), seed=1)).batch(8)
for _ in range(2):
    for batch in strategy.experimental_distribute_dataset(data):
        loss = train(batch)
    assert any(np.any(a != 0.25) for a, _ in replicas())
    assert session.on_epoch_end({"loss": float(loss)}) == 7
    # The mean is zero: the first model again, on every device.
    for copies in replicas():
        assert all(np.allclose(c, 0.25, atol=1e-6) for c in copies)
        assert np.array_equal(*copies)
print("done")
"""


def test_a_round_reaches_every_replica_of_a_mirrored_model():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr[-3000:]
