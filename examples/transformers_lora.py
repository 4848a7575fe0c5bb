"""One client of a federation: LoRA with Hugging Face's Trainer; adapters travel.

The services and three clients on one machine:

    pip install '.[transformers]' scikit-learn
    cryptflow up --clients 3 &                  # on the machine of the services
    python examples/transformers_lora.py --create cryptflow-data/profiles/admin.toml
    for i in 0 1 2; do
        python examples/transformers_lora.py cryptflow-data/profiles/client-$i.toml &
    done; wait
"""

import argparse
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import cryptflow
from cryptflow.transformers import FedAvg

CLIENTS, EPOCHS = 3, 5

parser = argparse.ArgumentParser()
parser.add_argument("profile")
parser.add_argument("--create", action="store_true", help="create the task, as admin")
args = parser.parse_args()

torch.manual_seed(0)  # the same base everywhere; yours comes from_pretrained(…)
config = ViTConfig(
    image_size=8, patch_size=2, num_channels=1, hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=128, hidden_dropout_prob=0, num_labels=10,
)  # fmt: skip
lora = LoraConfig(
    r=8, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]
)
model = get_peft_model(ViTForImageClassification(config), lora)
if args.create:
    names = [f"client-{i}" for i in range(CLIENTS)]
    print(
        cryptflow.create_task(
            "lora", model, clients=names, profile=args.profile, rounds=EPOCHS
        )
    )
    raise SystemExit

client = cryptflow.connect(args.profile, task="lora")
mine = int(client.name.rpartition("-")[2])
x, y = load_digits(return_X_y=True)  # every third example: this client's own data
x = torch.tensor(x[mine::CLIENTS] / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
y = torch.tensor(y[mine::CLIENTS])

options = TrainingArguments(
    output_dir=tempfile.mkdtemp(), num_train_epochs=EPOCHS, learning_rate=5e-3,
    per_device_train_batch_size=16, logging_steps=10, save_strategy="no",
    report_to="none", disable_tqdm=True, use_cpu=True,
)  # fmt: skip
data = [{"pixel_values": x[i], "labels": y[i]} for i in range(len(y))]
fedavg = FedAvg(client, num_examples=len(data))
trainer = Trainer(model=model, args=options, train_dataset=data, callbacks=[fedavg])
trainer.train()
print(*fedavg.reports, sep="\n")
right = trainer.predict(data).predictions.argmax(1) == y.numpy()
print(f"accuracy on own data {right.mean():.1%}")
