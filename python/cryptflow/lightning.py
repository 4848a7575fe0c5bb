"""Federated averaging in a Lightning trainer.

.. code-block:: python

    trainer = Trainer(max_epochs=5, callbacks=[FedAvg(client, num_examples=len(data))])
    trainer.fit(module, loader)

Serves ``lightning`` and ``pytorch_lightning``, whichever is imported before it;
the first that is installed otherwise.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cryptflow._callback import TorchRounds
from cryptflow._ranks import refuse_strangers
from cryptflow.errors import InputError

__all__ = ["FedAvg"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _bases() -> tuple[type, ...]:
    there = [name for name in _PACKAGES if name in sys.modules]
    if not there:
        there = [n for n in _PACKAGES if find_spec(n.partition(".")[0])][:1]
    if not there:
        raise ImportError("cryptflow.lightning needs lightning: pip install lightning")
    return tuple(import_module(name).Callback for name in there)


if TYPE_CHECKING:
    _Callback = object
else:
    _Callback = type("_Callback", _bases(), {})


class FedAvg(TorchRounds, _Callback):
    """Encrypted federated averaging at the end of training epochs.

    Parameters
    ----------
    client : Averager
        A connected client. Those of the trainer's callback metrics that its
        task names, such as loss, travel encrypted.
    num_examples : int
        Examples this client trains on: its weight in the mean.
    epochs_per_round : int
        Local epochs between two averagings.
    include : callable, optional
        Which names of the module's state dict travel; all floating-point ones
        when missing.

    Attributes
    ----------
    reports : list
        The report of every round so far.

    Notes
    -----
    The task's first model is put in place when training starts, after the
    sanity check. Validation runs before the end of a training epoch: it sees
    local weights; checkpoints written at the end of an epoch hold the
    cohort's. A round's numbers, :meth:`cryptflow.RoundReport.scalars`, are
    logged: loggers get them, and ``EarlyStopping`` may monitor them. A
    checkpoint holds the callback's state; training that goes on from it needs a
    client of the same name, and that no round was published in between. With
    ``fast_dev_run`` the layout is compared and nothing is sent.

    With DDP the job is one client: rank zero alone talks to the services, and
    `num_examples` is the job's.

    Raises
    ------
    cryptflow.errors.LayoutError
        The module's layout is not the task's, or it is sharded; raised before
        any training.
    cryptflow.errors.InputError
        The trainer's processes do not share torch.distributed, or the callback
        has averaged another module, or ckpt_path was saved without a callback
        (CF_ARGUMENT).
    """

    _checkpoint: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse processes that cannot be one client together."""
        refuse_strangers(trainer.world_size)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the cohort's model in place, or go on from a checkpoint."""
        if trainer.ckpt_path and self._checkpoint is None:
            raise InputError(
                f"{trainer.ckpt_path} was saved without this callback and does not say "
                "which round it belongs to: go on from a checkpoint of a trainer that "
                "had it, or load the module from it and fit without ckpt_path"
            )
        self._join(pl_module, self._checkpoint)
        self._checkpoint = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember that what the model holds from now on is this client's."""
        self._begin_epoch()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Average when the round's epochs are done, and log the round."""
        if trainer.fast_dev_run:
            return
        report = self._end_epoch(trainer.callback_metrics)
        if hasattr(report, "scalars"):
            pl_module.log_dict(report.scalars(), on_step=False, on_epoch=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say so when the model is not the cohort's at the end."""
        if not trainer.fast_dev_run:
            self._end_training()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the cohort's model and the position."""
        return self._saved()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._checkpoint = dict(state_dict) or None
