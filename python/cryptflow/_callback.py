"""What callbacks of torch trainers share: modules, ranks and checkpoints."""

from __future__ import annotations

from typing import Any

from torch import nn

from cryptflow._ranks import of_rank_zero
from cryptflow._rounds import Rounds
from cryptflow.session import Averager, Weights
from cryptflow.torch import ModuleWeights, as_tensors

__all__ = ["TorchRounds"]


class TorchRounds(Rounds):
    """The rounds of a module in a job of one or several processes."""

    def _parts(self, model: nn.Module) -> tuple[Weights, Averager[Any]]:
        return ModuleWeights(model, self._include), of_rank_zero(self._client)

    def _saved(self) -> dict[str, Any]:
        """Return the session's state as a checkpoint may hold it; empty without."""
        return {} if self._session is None else as_tensors(self._session.state_dict())
