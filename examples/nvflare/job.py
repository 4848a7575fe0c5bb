"""A job of NVIDIA FLARE whose server sees receipts instead of models.

The services and a simulation of three sites on one machine:

    cryptflow up --clients 3 &
    python examples/nvflare/job.py --create cryptflow-data/profiles
    python examples/nvflare/job.py cryptflow-data/profiles
"""

import argparse
import os
from pathlib import Path

from model import Network
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

import cryptflow
from cryptflow.nvflare import ReceiptAggregator, encrypted

SITES, ROUNDS = ["client-0", "client-1", "client-2"], 3

parser = argparse.ArgumentParser()
parser.add_argument("profiles", type=Path, help="folder of profiles")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
parser.add_argument("--workspace", default="/tmp/nvflare/cryptflow")
args = parser.parse_args()
profiles = args.profiles.resolve()

if args.create:
    task = {"clients": SITES, "rounds": ROUNDS, "metrics": ("accuracy",)}
    admin = profiles / "admin.toml"
    print(cryptflow.create_task("flare-digits", Network(), profile=admin, **task))
    raise SystemExit

workspace = os.path.abspath(args.workspace)
os.chdir(Path(__file__).parent)
recipe = FedAvgRecipe(
    name="digits",
    model=Network(),
    min_clients=len(SITES),
    num_rounds=ROUNDS,
    train_script="client.py",
    aggregator=ReceiptAggregator(),
)
encrypted(recipe, "flare-digits", profile=profiles / "{site}.toml")
run = recipe.execute(SimEnv(clients=SITES, workspace_root=workspace))
print(run.get_status(), run.get_result())
