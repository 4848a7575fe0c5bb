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

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import TrainerCallback

from cryptflow.errors import InputError
from cryptflow.session import Averager, Session, named_metrics
from cryptflow.torch import ModuleWeights

__all__ = ["FedAvg"]


class FedAvg(TrainerCallback):
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
    numbers of a round stand in ``trainer.state.log_history``.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's; raised before any training.
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
        self.reports: list[Any] = []
        self._client, self._include = client, include
        self._num_examples, self._epochs_per_round = num_examples, epochs_per_round
        self._session: Session[Any] | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Put the task's first model in place."""
        model: nn.Module = kwargs["model"]
        if args.world_size > 1:
            error = InputError(
                f"the trainer has {args.world_size} processes; a client of a "
                "federation trains in one"
            )
            error.code = "CF_ARGUMENT"
            raise error
        if self._session is None:
            self._session = Session(
                ModuleWeights(model, self._include),
                self._client,
                self._num_examples,
                epochs_per_round=self._epochs_per_round,
            )

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average when the round's epochs are done, and log the round."""
        assert self._session is not None
        last: dict[str, Any] = {}
        for logs in state.log_history:
            last.update(logs)
        report = self._session.on_epoch_end(named_metrics(self._client, last) or None)
        if report is None:
            return
        self.reports.append(report)
        if hasattr(report, "scalars"):
            place = {"epoch": state.epoch, "step": state.global_step}
            state.log_history.append(report.scalars() | place)
