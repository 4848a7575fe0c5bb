"""One client of a federation: a torch loop with three lines of CryptFlow.

The services and three clients on one machine:

    pip install '.[torch]' scikit-learn
    cryptflow up --clients 3 &                  # on the machine of the services
    python examples/torch_digits.py --create cryptflow-data/profiles/admin.toml
    for i in 0 1 2; do
        python examples/torch_digits.py cryptflow-data/profiles/client-$i.toml &
    done; wait
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import cryptflow
from cryptflow.torch import FedAvg

CLIENTS, EPOCHS = 3, 5

parser = argparse.ArgumentParser()
parser.add_argument("profile")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
args = parser.parse_args()

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
if args.create:
    names = [f"client-{i}" for i in range(CLIENTS)]
    print(
        cryptflow.create_task(
            "torch-digits", model, clients=names, profile=args.profile, rounds=EPOCHS
        )
    )
    raise SystemExit

client = cryptflow.connect(args.profile, task="torch-digits")
mine = int(client.name.rpartition("-")[2])
x, y = load_digits(return_X_y=True)  # every third example: this client's own data
x = torch.tensor(x[mine::CLIENTS] / 16, dtype=torch.float32)
y = torch.tensor(y[mine::CLIENTS])

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
fedavg = FedAvg(model, client, num_examples=len(y))
for _ in range(EPOCHS):
    for batch in torch.randperm(len(y)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    print(fedavg.on_epoch_end({"loss": loss.item()}))
    print(f"accuracy on own data {(model(x).argmax(1) == y).float().mean():.1%}")
