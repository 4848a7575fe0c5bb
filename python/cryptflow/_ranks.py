"""A client in a job of several processes that train one model together.

With torch.distributed every process ("rank") holds the same model after every
step, and the job is one client of the federation: rank zero alone talks to the
services, the others receive from it what it received. All ranks make the same
calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch.distributed as dist

from cryptflow.errors import CryptFlowError, InputError, InternalError
from cryptflow.session import Flat, Layout, compare_first

__all__ = ["of_rank_zero", "refuse_strangers"]

T = TypeVar("T")


def of_rank_zero(client: Any) -> Any:
    """Return a client for this rank: the same one where there is one process."""
    if not hasattr(client, "initial_model"):
        return client  # a mistake, which Session names
    several = dist.is_available() and dist.is_initialized()
    return _Rank(client) if several and dist.get_world_size() > 1 else client


def refuse_strangers(world_size: int) -> None:
    """Refuse a trainer whose processes torch.distributed does not know.

    Raises
    ------
    cryptflow.errors.InputError
        CF_ARGUMENT.
    """
    if world_size < 2 or (dist.is_available() and dist.is_initialized()):
        return
    raise InputError(
        f"the trainer has {world_size} processes without torch.distributed, and a "
        "client of a federation is one job: use one (devices=1), or DDP"
    )


class _Rank:
    """The client of rank zero, as every rank sees it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def layout(self) -> Layout | None:
        layout: Layout | None = self._client.layout
        return layout

    @property
    def weight_cap(self) -> int | None:
        cap: int | None = getattr(self._client, "weight_cap", None)
        return cap

    @property
    def position(self) -> dict[str, Any] | None:
        """Where rank zero's client is; None elsewhere, where nothing is saved."""
        if dist.get_rank():
            return None
        position: dict[str, Any] | None = getattr(self._client, "position", None)
        return position

    def resume(self, position: Mapping[str, Any]) -> None:
        _from_zero(lambda: self._client.resume(position))

    def ready(self) -> None:
        _from_zero(getattr(self._client, "ready", lambda: None))

    def initial_model(self) -> Flat | None:
        work: Callable[[], Flat | None] = self._client.initial_model
        return _from_zero(work)

    def check_initial_model(self, weights: Flat) -> None:
        # The ranks of a job hold one model: rank zero's is compared.
        _from_zero(lambda: compare_first(self._client, weights))

    def average(
        self, update: Flat, num_examples: int, *metrics: Mapping[str, float]
    ) -> tuple[Flat, Any]:
        def work() -> tuple[Flat, Any]:
            mean, report = self._client.average(update, num_examples, *metrics)
            return mean, report

        return _from_zero(work)


def _from_zero(work: Callable[[], T]) -> T:
    """Do `work` on rank zero; return its result, or raise its error, everywhere."""
    answer: list[Any] = [None, None]
    mine: BaseException | None = None
    if dist.get_rank() == 0:
        try:
            answer[0] = work()
        except BaseException as error:
            mine = error
            known = isinstance(error, CryptFlowError)
            # Of what is not ours the others learn the kind, without its values.
            told = f"rank zero of this job stopped: {type(error).__name__}"
            answer[1] = error if known else InternalError(told)
    dist.broadcast_object_list(answer, src=0)
    if mine is not None:
        raise mine
    if answer[1] is not None:
        raise answer[1]
    result: T = answer[0]
    return result
