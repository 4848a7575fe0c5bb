"""One client of a federation: scikit-learn's SGDClassifier.

The services and three clients on one machine:

    cryptflow up --clients 3 &                  # on the machine of the services
    python examples/sklearn_digits.py --create cryptflow-data/profiles/admin.toml
    for i in 0 1 2; do
        python examples/sklearn_digits.py cryptflow-data/profiles/client-$i.toml &
    done; wait
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

import cryptflow
from cryptflow.arrays import FedAvg

CLIENTS, EPOCHS = 3, 5

parser = argparse.ArgumentParser()
parser.add_argument("profile")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
args = parser.parse_args()

if args.create:
    names = [f"client-{i}" for i in range(CLIENTS)]
    first = {"coef_": np.zeros((10, 64)), "intercept_": np.zeros(10)}
    print(
        cryptflow.create_task(
            "sklearn-digits", first, clients=names, profile=args.profile, rounds=EPOCHS
        )
    )
    raise SystemExit

client = cryptflow.connect(args.profile, task="sklearn-digits")
mine = int(client.name.rpartition("-")[2])
x, y = load_digits(return_X_y=True)  # every third example: this client's own data
x, y = x[mine::CLIENTS] / 16, y[mine::CLIENTS]

model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)
model.partial_fit(x[:1], y[:1], classes=range(10))  # makes coef_ and intercept_
fedavg = FedAvg(model, client, num_examples=len(y), names=["coef_", "intercept_"])
for _ in range(EPOCHS):
    model.partial_fit(x, y)
    loss = log_loss(y, model.predict_proba(x), labels=range(10))
    print(fedavg.average({"loss": loss}))
    print(f"accuracy on own data {model.score(x, y):.1%}")
