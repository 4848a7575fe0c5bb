"""Federated averaging in a Lightning trainer.

.. code-block:: python

    trainer = Trainer(max_epochs=5, callbacks=[FedAvg(client, num_examples=len(data))])
    trainer.fit(module, loader)

Serves ``lightning`` and ``pytorch_lightning``, whichever is imported before it;
the first that is installed otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cryptflow.errors import InputError
from cryptflow.session import Averager, Session, named_metrics
from cryptflow.torch import ModuleWeights

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


class FedAvg(_Callback):
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
    cohort's. A checkpoint holds the callback's state; training that goes on
    from it needs a client of the same name, and that no round was published in
    between.

    Raises
    ------
    cryptflow.errors.LayoutError
        The module's layout is not the task's; raised before any training.
    cryptflow.errors.InputError
        The trainer runs in several processes (CF_ARGUMENT).
    """

    def __init__(
        self,
        client: Averager[Any],
        num_examples: int,
        epochs_per_round: int = 1,
        include: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        self.reports: list[Any] = []
        self._client, self._include = client, include
        self._num_examples, self._epochs_per_round = num_examples, epochs_per_round
        self._session: Session[Any] | None = None
        self._state: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse trainers of several processes, of which each has its own copy."""
        if trainer.world_size > 1:
            error = InputError(
                f"the trainer has {trainer.world_size} processes; a client of a "
                "federation trains in one: use devices=1"
            )
            error.code = "CF_ARGUMENT"
            raise error

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Put the task's first model in place, or go on from a checkpoint."""
        if self._session is None or self._state is not None:
            self._session = Session(
                ModuleWeights(pl_module, self._include),
                self._client,
                self._num_examples,
                epochs_per_round=self._epochs_per_round,
                state=self._state,
            )
            self._state = None

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Average when the round's epochs are done, and log the round."""
        assert self._session is not None
        metrics = named_metrics(self._client, trainer.callback_metrics)
        report = self._session.on_epoch_end(metrics or None)
        if report is None:
            return
        self.reports.append(report)
        if not hasattr(report, "scalars"):
            return
        for logger in trainer.loggers:
            logger.log_metrics(report.scalars(), step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the cohort's model and the position."""
        if self._session is None:
            return {}
        state = self._session.state_dict()
        # Tensors, which a checkpoint that allows weights only may hold.
        return state | {k: torch.from_numpy(state[k]) for k in ("master", "start")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._state = dict(state_dict) or None
