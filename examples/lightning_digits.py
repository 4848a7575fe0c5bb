"""One client of a federation: Lightning's Trainer with one callback more.

The services and three clients on one machine:

    pip install '.[lightning]' scikit-learn
    cryptflow up --clients 3 &                  # on the machine of the services
    python examples/lightning_digits.py --create cryptflow-data/profiles/admin.toml
    for i in 0 1 2; do
        python examples/lightning_digits.py cryptflow-data/profiles/client-$i.toml &
    done; wait
"""

import argparse

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cryptflow
from cryptflow.lightning import FedAvg

CLIENTS, EPOCHS = 3, 5


class Digits(L.LightningModule):
    """A small classifier, as for any training with Lightning."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, _):
        """Return the loss; what is logged is what the task may name."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


parser = argparse.ArgumentParser()
parser.add_argument("profile")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
args = parser.parse_args()

L.seed_everything(0, verbose=False)
module = Digits()
if args.create:
    names = [f"client-{i}" for i in range(CLIENTS)]
    task = cryptflow.create_task(
        "lightning", module, clients=names, profile=args.profile, rounds=EPOCHS
    )
    print(task)
    raise SystemExit

client = cryptflow.connect(args.profile, task="lightning")
mine = int(client.name.rpartition("-")[2])
x, y = load_digits(return_X_y=True)  # every third example: this client's own data
x = torch.tensor(x[mine::CLIENTS] / 16, dtype=torch.float32)
y = torch.tensor(y[mine::CLIENTS])

fedavg = FedAvg(client, num_examples=len(y))
trainer = L.Trainer(
    max_epochs=EPOCHS, callbacks=[fedavg], accelerator="cpu", logger=False,
    enable_checkpointing=False, enable_progress_bar=False,
)  # fmt: skip
trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True))
print(*fedavg.reports, sep="\n")
print(f"accuracy on own data {(module.net(x).argmax(1) == y).float().mean():.1%}")
