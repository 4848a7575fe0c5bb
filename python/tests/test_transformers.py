"""Hugging Face's Trainer on tiny models made here: nothing is downloaded."""

import numpy as np
import pytest
import torch

import cryptflow
from cryptflow.client import layout_of
from cryptflow.errors import InputError, LayoutError

MODEL = """
import os
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
               "TOKENIZERS_PARALLELISM": "false"}
import numpy as np
import torch
from transformers import (BertConfig, BertForSequenceClassification, Trainer,
                          TrainerCallback, TrainingArguments)
from cryptflow.transformers import FedAvg


def build(width=16):
    return BertForSequenceClassification(BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=2))


def adapted(model=None):
    from peft import LoraConfig, TaskType, get_peft_model
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, lora_alpha=4,
                        target_modules=["query", "value"])
    return get_peft_model(model or build(), config)


def data(seed):
    g = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(0, 50, (8,), generator=g),
             "labels": torch.tensor(i % 2)} for i in range(24)]


def trainer(model, callbacks, epochs=2, **more):
    options = dict(num_train_epochs=epochs, per_device_train_batch_size=8,
        report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        use_cpu=True, seed=1, learning_rate=1e-2)
    args = TrainingArguments(output_dir="out", **(options | more))
    return Trainer(model=model, args=args,
                   train_dataset=data(1), eval_dataset=data(2), callbacks=callbacks)


class Alone:
    layout, metric_names = None, ("loss", "eval_loss")
    def __init__(self, first=None): self.first, self.calls = first, []
    def initial_model(self): return self.first
    def average(self, update, num_examples, metrics=None):
        self.calls.append((update.copy(), num_examples, metrics))
        return np.zeros_like(update), Report(len(self.calls))


class Report:
    def __init__(self, number): self.round = number
    def scalars(self): return {"cohort_round": float(self.round)}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run a program in this process."""
    monkeypatch.chdir(tmp_path)

    def run(program=""):
        names = {"__name__": "program"}
        exec(compile(MODEL + program, "program", "exec"), names)
        return names

    return run


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


@pytest.mark.parametrize("what", ["build", "adapted"])
def test_train_in_three_processes(cluster, federation, here, what):
    """The whole model, and the adapters of LoRA alone."""
    torch.manual_seed(1)
    names = here()
    model = names[what]()
    cluster.create_task(what, model, rounds=2, weight_cap=40)
    layout, first = layout_of(model)
    if what == "adapted":
        assert {part for t in layout for part in t.name.split(".")} & {"lora_A"}
        assert all("lora" in t.name or "classifier" in t.name for t in layout)
        assert first.size < layout_of(names["build"]())[1].size / 4
    program = f"""
{MODEL}
from cryptflow.torch import ModuleWeights
torch.manual_seed(5)  # the frozen base is the same for all; a hub gives it
model = {what}()
frozen = {{n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}}
fedavg = FedAvg(client, num_examples=10 * (mine + 1))
t = trainer(model, [fedavg])
t.train_dataset = data(mine)
t.train()
assert [r.round for r in fedavg.reports] == [0, 1]
assert fedavg.reports[0].metrics["loss"] > 0
assert sum("cohort_loss" in logs for logs in t.state.log_history) == 2
for n, p in model.named_parameters():
    assert n not in frozen or torch.equal(p, frozen[n])
client.save(ModuleWeights(model))
"""
    federation(cluster, what, program, first)


def test_evaluation_and_saving_see_the_cohort_s_weights(here):
    here(
        """
class Watch(TrainerCallback):
    seen = []
    def on_evaluate(self, args, state, control, *, model, **kwargs):
        self.seen.append(model.classifier.bias.detach().clone())
model = build()
size = sum(p.numel() for p in model.parameters())
client = Alone(np.full(size, 0.01, np.float32))
fedavg = FedAvg(client, 7)
t = trainer(model, [fedavg, Watch()], eval_strategy="epoch", save_strategy="epoch")
t.train()
assert [c[1] for c in client.calls] == [7, 7]
assert np.abs(client.calls[0][0]).max() > 0
assert set(client.calls[0][2]) == {"loss"}
assert set(client.calls[1][2]) == {"loss", "eval_loss"}
for bias in Watch.seen:
    assert torch.equal(bias, torch.full_like(bias, 0.01))
saved = BertForSequenceClassification.from_pretrained("out/checkpoint-6")
assert torch.equal(saved.classifier.bias, Watch.seen[0])
"""
    )


def test_rounds_of_several_epochs(here):
    here(
        """
client = Alone()
fedavg = FedAvg(client, 7, epochs_per_round=2)
trainer(build(), [fedavg], epochs=5).train()
assert len(client.calls) == len(fedavg.reports) == 2
"""
    )


def test_another_layout_is_refused_before_training(cluster, here):
    names = here()
    cluster.create_task("narrow", names["build"]())
    model = names["build"](32)
    before = layout_of(model)[1]
    with cluster.connect(0, "narrow") as client:
        fedavg = names["FedAvg"](client, 3)
        with pytest.raises(LayoutError, match="has shape"):
            names["trainer"](model, [fedavg]).train()
    assert np.array_equal(layout_of(model)[1], before)


def test_several_processes_are_refused(here):
    names = here()

    class Two:
        world_size = 2

    fedavg = names["FedAvg"](names["Alone"](), 3)
    with pytest.raises(InputError, match="trains in one") as caught:
        fedavg.on_train_begin(Two(), None, None, model=None)
    assert caught.value.code == "CF_ARGUMENT"
