"""A session through the calls of a framework's trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from cryptflow.errors import InputError
from cryptflow.session import (
    Averager,
    Session,
    Weights,
    check_arguments,
    named_metrics,
)

__all__ = ["Rounds"]

_log = logging.getLogger(__name__)


class Rounds:
    """The rounds of one model in one task, however often a trainer is called.

    Parameters and attributes are those of the callbacks that derive from it; what
    their session is made of, they say in `_parts`.
    """

    def __init__(
        self,
        client: Averager[Any],
        num_examples: int,
        epochs_per_round: int = 1,
        include: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        check_arguments(client, num_examples, epochs_per_round)
        if include is not None and not callable(include):
            raise InputError(
                f"include is a {type(include).__name__}: pass a function of a "
                "weight's name that says whether it travels"
            )
        self.reports: list[Any] = []
        self._client, self._include = client, include
        self._num_examples, self._epochs_per_round = num_examples, epochs_per_round
        self._session: Session[Any] | None = None
        self._weights: Weights | None = None
        self._joined: Any = None  # the model
        self._inside = False  # of a round: local weights that nobody else has

    #: Rounds before a trainer has all its metrics.
    _metrics_late = 0

    __init__.__qualname__ = "FedAvg.__init__"  # what a TypeError names

    def _parts(self, model: Any) -> tuple[Weights, Averager[Any]]:
        """Return the access to a model's values, and the client of this process."""
        raise NotImplementedError

    def _join(self, model: Any, state: Mapping[str, Any] | None = None) -> None:
        """Put the cohort's model in place, or go on from a checkpoint's state.

        A call that ended inside a round is gone on with; otherwise a further call
        begins from the cohort's model, whatever the weights are by then.
        """
        if self._session is None or state is not None:
            weights, client = self._parts(model)
            self._session = Session(
                weights,
                client,
                self._num_examples,
                epochs_per_round=self._epochs_per_round,
                state=state,
            )
            self._weights, self._joined = weights, model
            self._inside = state is not None
            return
        if model is not self._joined:
            raise InputError("this FedAvg belongs to another model; make a new one")
        self._session.ready()
        if not self._inside:
            self._session.reset()

    def _reset(self) -> None:
        """Put the model that everybody holds in place, as after a round."""
        assert self._session is not None
        self._session.reset()
        self._inside = False

    def _begin_epoch(self) -> None:
        """Remember that what the model holds from now on is this client's."""
        self._inside = True

    def _end_epoch(self, values: Mapping[str, Any]) -> Any:
        """Average when the round's epochs are done; return its report, else None."""
        assert self._session is not None
        due = (self._session.epochs + 1) % self._epochs_per_round == 0
        metrics: dict[str, float] = {}
        if due:
            late = self._metrics_late
            metrics = named_metrics(self._client, values, allowed=late)
        report = self._session.on_epoch_end(metrics or None)
        if report is not None:
            self._inside = False
            self.reports.append(report)
        return report

    def _end_training(self) -> None:
        """Say so when the model is not the cohort's at the end."""
        if self._inside:
            _log.warning(
                "training ended inside a round: the model has local epochs that "
                "were not averaged; epochs should be a multiple of epochs_per_round"
            )
