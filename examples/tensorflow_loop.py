"""One client of a federation: a TensorFlow loop of one's own.

The services and three clients on one machine:

    cryptflow up --clients 3 &                  # on the machine of the services
    python examples/tensorflow_loop.py --create cryptflow-data/profiles/admin.toml
    for i in 0 1 2; do
        python examples/tensorflow_loop.py cryptflow-data/profiles/client-$i.toml &
    done; wait
"""

import argparse

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import cryptflow
from cryptflow.keras import ModelWeights
from cryptflow.session import Session

CLIENTS, EPOCHS = 3, 5

parser = argparse.ArgumentParser()
parser.add_argument("profile")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
args = parser.parse_args()

keras.utils.set_random_seed(0)
hidden = keras.layers.Dense(64, activation="relu")
model = keras.Sequential([keras.Input((64,)), hidden, keras.layers.Dense(10)])
if args.create:
    names = [f"client-{i}" for i in range(CLIENTS)]
    print(
        cryptflow.create_task(
            "tf-digits", model, clients=names, profile=args.profile, rounds=EPOCHS
        )
    )
    raise SystemExit

client = cryptflow.connect(args.profile, task="tf-digits")
mine = int(client.name.rpartition("-")[2])
x, y = load_digits(return_X_y=True)  # every third example: this client's own data
x, y = (x[mine::CLIENTS] / 16).astype("float32"), y[mine::CLIENTS]
batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y)).batch(32)
entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.SGD(0.1, momentum=0.9)


@tf.function
def train(inputs, labels):
    """Take one step and return its loss."""
    with tf.GradientTape() as tape:
        loss = entropy(labels, model(inputs, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


session = Session(ModelWeights(model), client, num_examples=len(y))
for _ in range(EPOCHS):
    for inputs, labels in batches:
        loss = train(inputs, labels)
    print(session.on_epoch_end({"loss": float(loss)}))
    correct = tf.argmax(model(x), 1).numpy() == y
    print(f"accuracy on own data {correct.mean():.1%}")
