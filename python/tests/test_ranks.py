"""Jobs of several processes: one client, of which rank zero talks to the services."""

import json
import os
import socket
import subprocess
import sys

import pytest

CLIENT = """
import json
import os
import sys
import numpy as np
import torch
from cryptflow.errors import RoundError

rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
out = sys.argv[1]


class Alone:
    layout, metric_names, fails = None, (), False

    def __init__(self, size):
        self.size, self.calls = size, []

    @property
    def position(self):
        return {"next": len(self.calls)}

    def initial_model(self):
        assert rank == 0, "another rank talks to the services"
        return np.full(self.size, 0.5, np.float32)

    def average(self, update, num_examples, *metrics):
        assert rank == 0, "another rank talks to the services"
        if self.fails:
            raise RoundError("the round is over")
        self.calls.append((float(np.abs(update).max()), num_examples))
        return update / 4, f"report {len(self.calls)}"


def keep(model, client, reports):
    state = [t.double().sum().item() for t in model.state_dict().values()]
    text = json.dumps([state, client.calls, reports])
    open(f"{out}/{rank}.json", "w").write(text)
"""

LOOP = """
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from cryptflow.errors import LayoutError
from cryptflow.torch import FedAvg, ModuleWeights

dist.init_process_group("gloo")
model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
client = Alone(4 * 4 + 4 * 5)
ddp = nn.parallel.DistributedDataParallel(model)
fedavg = FedAvg(ddp, client, 10)
optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
gen = torch.Generator().manual_seed(rank)
reports = []
for _ in range(2):
    optimizer.zero_grad()
    ddp(torch.randn(8, 4, generator=gen)).pow(2).mean().backward()
    optimizer.step()
    reports.append(fedavg.on_epoch_end())
client.fails = True
try:
    fedavg.on_epoch_end()
except RoundError as error:
    reports.append(str(error))
sharded = nn.Linear(4, 4)
mesh = init_device_mesh("cpu", (2,))
sharded.weight = nn.Parameter(distribute_tensor(sharded.weight.data, mesh, [Shard(0)]))
try:
    ModuleWeights(sharded)
except LayoutError as error:
    reports.append(str(error).split(";")[0])
from torch.distributed.fsdp import FullyShardedDataParallel
try:
    whole = nn.Linear(4, 4)
    ModuleWeights(FullyShardedDataParallel(whole, device_id=torch.device("cpu")))
except LayoutError as error:
    reports.append(str(error).split(";")[0])
keep(model, client, reports)
dist.destroy_process_group()
"""

LIGHTNING = """
import lightning.pytorch as L
from cryptflow.lightning import FedAvg

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
    def training_step(self, batch, _):
        return self.net(batch[0]).pow(2).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)
client, net = Alone(5), Net()
fedavg = FedAvg(client, 10)
t = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
              enable_progress_bar=False, enable_checkpointing=False, callbacks=[fedavg])
t.fit(net, data)
t.save_checkpoint(f"{out}/one.ckpt")
rank = t.global_rank
keep(net, client, fedavg.reports)
"""

TRANSFORMERS = """
from transformers import Trainer, TrainingArguments
from cryptflow.transformers import FedAvg

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
    def forward(self, x):
        return {"loss": self.net(x).pow(2).mean()}

gen = torch.Generator().manual_seed(1)
data = [{"x": torch.randn(4, generator=gen)} for _ in range(32)]
args = TrainingArguments(out, use_cpu=True, num_train_epochs=2, report_to="none",
    per_device_train_batch_size=8, save_strategy="epoch", disable_tqdm=True)
client, net = Alone(5), Net()
fedavg = FedAvg(client, 10)
Trainer(model=net, args=args, train_dataset=data, callbacks=[fedavg]).train()
if rank == 0:
    assert os.path.exists(f"{out}/checkpoint-4/cryptflow.pt")
keep(net, client, fedavg.reports)
"""


def launch(program, folder, ranks=2):
    """Run a program as torchrun would; return what the ranks kept."""
    script = folder / "program.py"
    script.write_text(CLIENT + program)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    job |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if ranks == 1:  # Lightning starts the others itself
        del job["WORLD_SIZE"]
    running = [
        subprocess.Popen(
            [sys.executable, script, folder],
            env=os.environ | job | {"RANK": f"{r}", "LOCAL_RANK": f"{r}"}
            if ranks > 1
            else os.environ | job,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(ranks)
    ]
    said = [p.communicate(timeout=900)[0] for p in running]
    assert [p.returncode for p in running] == [0] * ranks, "\n".join(said)[-5000:]
    return [json.loads((folder / f"{r}.json").read_text()) for r in (0, 1)]


LAST = ["the round is over", "tensor 'weight' is sharded", "the model is sharded"]


@pytest.mark.parametrize(
    ("program", "ranks", "more"),
    [
        (
            LOOP,
            2,
            ["the round is over", "tensor 'weight' is sharded", "the model is sharded"],
        ),
        (LIGHTNING, 1, []),
        (TRANSFORMERS, 2, []),
    ],
    ids=["torch", "lightning", "transformers"],
)
def test_a_job_is_one_client(tmp_path, program, ranks, more):
    (state, calls, reports), (other, none, told) = launch(program, tmp_path, ranks)
    assert state == other
    assert len(calls) == 2 and none == []
    assert all(change > 0 and examples == 10 for change, examples in calls)
    assert reports == told == ["report 1", "report 2", *more]
