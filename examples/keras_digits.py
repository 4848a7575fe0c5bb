"""One client of a federation: Keras' fit with one callback more.

The services and three clients on one machine:

    cryptflow up --clients 3 &                  # on the machine of the services
    python examples/keras_digits.py --create cryptflow-data/profiles/admin.toml
    for i in 0 1 2; do
        python examples/keras_digits.py cryptflow-data/profiles/client-$i.toml &
    done; wait
"""

import argparse

import keras
from sklearn.datasets import load_digits

import cryptflow
from cryptflow.keras import FedAvg

CLIENTS, EPOCHS = 3, 5

parser = argparse.ArgumentParser()
parser.add_argument("profile")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
args = parser.parse_args()

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(10),
    ]
)
if args.create:
    names = [f"client-{i}" for i in range(CLIENTS)]
    metrics = ("loss", "val_loss")
    print(
        cryptflow.create_task(
            "keras-digits", model, clients=names, profile=args.profile,
            rounds=EPOCHS, metrics=metrics,
        )
    )  # fmt: skip
    raise SystemExit

client = cryptflow.connect(args.profile, task="keras-digits")
mine = int(client.name.rpartition("-")[2])
x, y = load_digits(return_X_y=True)  # every third example: this client's own data
x, y = x[mine::CLIENTS] / 16, y[mine::CLIENTS]

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.05, 0.9), loss, metrics=["accuracy"])
fedavg = FedAvg(client, num_examples=len(y))
model.fit(x, y, epochs=EPOCHS, validation_split=0.2, callbacks=[fedavg], verbose=2)
print(*fedavg.reports, sep="\n")
print(f"accuracy on own data {model.evaluate(x, y, verbose=0)[1]:.1%}")
