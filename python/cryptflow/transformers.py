"""Federated averaging in Hugging Face's Trainer.

.. code-block:: python

    trainer = Trainer(
        model=model, args=args, train_dataset=data,
        callbacks=[FedAvg(client, num_examples=len(data))],
    )
    trainer.train()

With PEFT, frozen weights stay where they are: adapters alone travel.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainerCallback

from cryptflow._callback import TorchRounds
from cryptflow._ranks import refuse_strangers
from cryptflow.errors import InputError

__all__ = ["FedAvg"]

_FILE = "cryptflow.pt"


class FedAvg(TorchRounds, TrainerCallback):
    """Encrypted federated averaging at the end of epochs.

    Parameters
    ----------
    client : Averager
        A connected client. Those of the trainer's last logs that its task
        names, such as loss, travel encrypted.
    num_examples : int
        Examples this client trains on: its weight in the mean.
    epochs_per_round : int
        Local epochs between two averagings.
    include : callable, optional
        Which names of the model's state dict travel; all floating-point ones
        that training changes when missing.

    Attributes
    ----------
    reports : list
        The report of every round so far.

    Notes
    -----
    The task's first model is put in place when training begins. Evaluation and
    saving come after the end of an epoch: they see the cohort's weights. The
    numbers of a round stand in ``trainer.state.log_history``. Every checkpoint
    holds a ``cryptflow.pt`` beside the model, from which
    ``train(resume_from_checkpoint=…)`` goes on; that needs a client of the same
    name, and that no round was published in between.

    In a job of several processes rank zero alone talks to the services, and
    `num_examples` is the job's.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's, or it is sharded; raised before
        any training.
    cryptflow.errors.InputError
        The trainer's processes do not share torch.distributed, the callback has
        averaged another model, or a checkpoint lacks its ``cryptflow.pt``
        (CF_ARGUMENT).
    """

    _metrics_late = 1  # evaluation comes after the end of an epoch

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Put the cohort's model in place, or go on from a checkpoint."""
        refuse_strangers(args.world_size)
        self._join(kwargs["model"], _checkpoint(args, state))

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Remember that what the model holds from now on is this client's."""
        self._begin_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average when the round's epochs are done, and log the round."""
        last: dict[str, Any] = {}
        for logs in state.log_history:
            last.update(logs)
        report = self._end_epoch(last)
        if hasattr(report, "scalars"):
            place = {"epoch": state.epoch, "step": state.global_step}
            state.log_history.append(report.scalars() | place)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say so when the model is not the cohort's at the end."""
        self._end_training()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep beside the model what going on from it needs."""
        if args.should_save:
            torch.save(self._saved(), os.path.join(_folder(args, state), _FILE))


def _folder(args: Any, state: Any) -> str:
    return os.path.join(args.output_dir, f"checkpoint-{state.global_step}")


def _checkpoint(args: Any, state: Any) -> dict[str, Any] | None:
    """Return what a checkpoint that the trainer goes on from holds of ours."""
    if state.global_step == 0:
        return None
    there = [str(args.resume_from_checkpoint), _folder(args, state)]
    for path in (os.path.join(folder, _FILE) for folder in there):
        if os.path.exists(path):
            found: dict[str, Any] = torch.load(
                path, map_location="cpu", weights_only=True
            )
            return found
    raise InputError(
        f"there is no {_FILE} in {there[1]}: go on from a checkpoint under "
        "output_dir that was written with this callback"
    )
