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
    with pytest.raises(InputError, match="one job") as caught:
        fedavg.on_train_begin(Two(), None, None, model=None)
    assert caught.value.code == "CF_ARGUMENT"


def test_training_goes_on_from_a_checkpoint(here):
    """Model, epochs of the round and position come back, in the middle too."""
    here(
        """
def run(stop):
    torch.manual_seed(3)
    model = build()
    client = Alone(np.full(sum(p.numel() for p in model.parameters()), 0.1, np.float32))
    plain = dict(lr_scheduler_type="constant", learning_rate=1e-3)
    if stop:
        once = trainer(model, [FedAvg(client, 7, 2)], 4, save_strategy="epoch", **plain)
        once.add_callback(Stop())
        once.train()
        assert len(client.calls) == 1
        client, model = Alone(np.full_like(client.first, 9.0)), build()
        again = trainer(model, [FedAvg(client, 7, 2)], 4, **plain)
        again.train(resume_from_checkpoint=True)
        assert client.resumed == {"round": 1}
    else:
        trainer(model, [FedAvg(client, 7, 2)], 4, **plain).train()
        client.calls = client.calls[1:]
    return client.calls

class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 9

Alone.position = property(lambda self: {"round": len(self.calls)})
Alone.resume = lambda self, position: setattr(self, "resumed", position)
# What dropout drew differs after going on; without it runs are the same.
for p in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
    setattr(BertConfig, p, 0.0)
built = build
def build():
    model = built()
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout): m.p = 0.0
    return model
(a,), (b,) = run(True), run(False)
assert np.abs(b[0]).max() > 1e-4
assert np.allclose(a[0], b[0], atol=1e-6), abs(a[0] - b[0]).max()
"""
    )


def test_a_checkpoint_without_our_file_is_refused(here):
    with pytest.raises(InputError, match=r"no cryptflow\.pt in out.checkpoint-3"):
        here(
            """
trainer(build(), [], 1, save_strategy="epoch").train()
client = Alone()
trainer(build(), [FedAvg(client, 7)]).train(resume_from_checkpoint=True)
"""
        )


def test_a_loop_as_in_the_course(here):
    """Tokenizer, padding, bf16, accumulation, the best model, early stopping."""
    here(
        """
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (DataCollatorWithPadding, EarlyStoppingCallback,
                          PreTrainedTokenizerFast)
words = Tokenizer(models.WordLevel({"[PAD]": 0, "good": 1, "bad": 2}, "[PAD]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
texts = ["good good", "bad", "good", "bad bad bad"] * 6
data = [tokenizer(t) | {"labels": int(t.startswith("good"))} for t in texts]

class Together(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = len(fedavg.reports) == 3

torch.manual_seed(1)
model, client = build(), Alone()
fedavg = FedAvg(client, len(data))
args = TrainingArguments(output_dir="out", num_train_epochs=9, use_cpu=True, bf16=True,
    per_device_train_batch_size=4, gradient_accumulation_steps=2, warmup_steps=2,
    eval_strategy="epoch", save_strategy="epoch", logging_steps=1, report_to="none",
    load_best_model_at_end=True, metric_for_best_model="eval_loss", disable_tqdm=True)
t = Trainer(model=model, args=args, train_dataset=data, eval_dataset=data,
    processing_class=tokenizer, data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda p: {"n": len(p.label_ids)},
    callbacks=[fedavg, Together(), EarlyStoppingCallback(5)])
t.train()
assert len(client.calls) == 3 and all(np.abs(c[0]).max() > 0 for c in client.calls)
assert os.path.exists("out/checkpoint-9/cryptflow.pt")
"""
    )


def test_training_that_ends_inside_a_round_says_so(here, caplog):
    names = here("fedavg = FedAvg(Alone(), 7, epochs_per_round=2); model = build()")
    fedavg, model = names["fedavg"], names["model"]
    names["trainer"](model, [fedavg], 1).train()
    assert "training ended inside a round" in caplog.text and not fedavg.reports
    caplog.clear()
    names["trainer"](model, [fedavg], 1).train()
    assert not [r for r in caplog.records if r.name.startswith("cryptflow")]
    assert len(fedavg.reports) == 1


def test_further_training_begins_from_the_cohort_s_model(here):
    here(
        """
model, client = build(), Alone()
fedavg = FedAvg(client, 7)
trainer(model, [fedavg], 1).train()
torch.nn.init.constant_(model.classifier.bias, 5.0)  # as the best model, loaded
trainer(model, [fedavg], 1).train()
assert len(client.calls) == 2 and np.abs(client.calls[1][0]).max() < 2
try:
    trainer(build(), [fedavg], 1).train()
except ValueError as error:
    assert "make a new one" in str(error)
else:
    raise AssertionError("another model was trained")
"""
    )


def test_averaging_in_adapters_of_a_bfloat16_base(here):
    """The base stays in its type and unchanged; small means are not lost."""
    here(
        """
model = adapted(build().to(torch.bfloat16))
for p in model.parameters():
    p.data = p.data.to(torch.bfloat16)
size = sum(p.numel() for p in model.parameters() if p.requires_grad)
client = Alone(np.ones(size, np.float32))
client.average = lambda update, n, *m: (np.full_like(update, 2.0**-10), Report(1))
trainer(model, [FedAvg(client, 7)], 16, learning_rate=0.0).train()
adapters = [p for p in model.parameters() if p.requires_grad]
want = 1 + 16 * 2.0**-10
assert all(abs(float(p.detach().float().mean()) - want) < 2.0**-7 for p in adapters)
assert all(p.dtype == torch.bfloat16 for p in model.parameters())
"""
    )
