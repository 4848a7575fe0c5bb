"""Federated averaging in a PyTorch loop.

.. code-block:: python

    fedavg = FedAvg(model, client, num_examples=len(train_set))
    for epoch in range(epochs):
        loss = train_one_epoch(model, loader, optimizer)
        print(fedavg.on_epoch_end({"loss": loss}))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from cryptflow._kinds import Kind, of_buffer
from cryptflow._ranks import of_rank_zero
from cryptflow.errors import LayoutError
from cryptflow.session import Averager, Flat, Layout, Report, Session, Tensor, pieces

__all__ = ["FedAvg", "ModuleWeights", "as_tensors"]

_WRAPPERS = {"module", "_orig_mod"}

# Wrappers whose parameters are pieces, and whose state dicts are copies.
_SHARDED = {"FullyShardedDataParallel"}


class ModuleWeights:
    """The floating-point values of a module, flat, in a canonical layout.

    Trainable parameters and floating-point buffers of the state dict, in its
    order, under their names there without the prefixes that DataParallel and
    ``torch.compile`` add. A tensor that occurs twice travels once, under its
    first name. Integer buffers, frozen parameters and what else a state dict
    holds (extra state, scales of quantised weights) stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
        On any device, in any floating-point type; values travel as float32.
    include : callable, optional
        Which names travel; all when missing.

    Raises
    ------
    cryptflow.errors.LayoutError
        `model` is not a module; or a tensor is not initialised yet, complex,
        sharded over processes, or a copy that writing would not reach.
    """

    def __init__(
        self, model: nn.Module, include: Callable[[str], bool] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            kind = model.__name__ if isinstance(model, type) else type(model).__name__
            what = "class" if isinstance(model, type) else "object"
            raise LayoutError(
                f"the {what} {kind} is not a torch module: "
                "pass the model that is trained"
            )
        if include is not None and not callable(include):
            raise LayoutError(
                f"include is a {type(include).__name__}; it is a function of a name "
                "that says whether the tensor travels"
            )
        self._model, self._include = model, include
        kinds = _kinds(model)
        self._layout = [
            Tensor(name, tuple(t.shape), *kinds.get(id(t), (False, False)))
            for name, t in self._tensors()
        ]

    @property
    def layout(self) -> Layout:
        """Names, shapes and kinds of the tensors that travel.

        Buffers, such as BatchNorm's moments or the vectors of a spectral norm, are
        precise; a running variance is never negative.
        """
        return self._layout

    def read(self, out: Flat) -> None:
        """Copy all values to `out`, float32, shape (values,)."""
        with torch.no_grad():
            for part, tensor in self._placed(out):
                part.copy_(tensor.detach())

    def write(self, values: Flat) -> None:
        """Replace all values in place; the optimizer's state is not touched."""
        with torch.no_grad():
            for part, tensor in self._placed(values):
                tensor.copy_(part)

    def _placed(self, flat: Flat) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pair the parts of flat values with the model's tensors."""
        tensors = list(self._tensors())
        known = [(t.name, t.shape) for t in self._layout]
        if [(name, tuple(t.shape)) for name, t in tensors] != known:
            raise LayoutError(
                "the model's tensors changed since FedAvg was made; make a new one"
            )
        for part, (_, tensor) in zip(pieces(self._layout, flat), tensors, strict=True):
            yield torch.from_numpy(part), tensor

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        if any(type(m).__name__ in _SHARDED for m in self._model.modules()):
            raise LayoutError("the model is sharded; every process needs whole tensors")
        trains = {id(p) for p in self._model.parameters() if p.requires_grad}
        held = trains | {id(b) for b in self._model.buffers()}
        seen = set()
        for name, tensor in _named(self._model):
            if id(tensor) not in held and not tensor.grad_fn:
                continue
            if self._include is not None and not self._include(name):
                continue
            if is_lazy(tensor):
                raise LayoutError(
                    f"tensor {name!r} has no shape yet: run one batch before FedAvg"
                )
            if tensor.is_meta:
                raise LayoutError(
                    f"tensor {name!r} has no values (device meta): load them first"
                )
            if hasattr(tensor, "placements") or hasattr(tensor, "ds_id"):
                raise LayoutError(
                    f"tensor {name!r} is sharded; every process needs whole tensors"
                )
            if id(tensor) not in held:
                raise LayoutError(
                    f"the state dict has a copy of {name!r}, not the tensor that "
                    "is trained; leave it out with include"
                )
            if tensor.is_complex():
                raise LayoutError(
                    f"tensor {name!r} is {tensor.dtype}, not real: "
                    "leave it out with include, or keep it as two real ones"
                )
            if not tensor.is_floating_point():
                continue
            place = (
                tensor.device,
                tensor.data_ptr(),
                tuple(tensor.shape),
                tensor.stride(),
            )
            if tensor.numel() == 0 or place in seen:
                continue
            seen.add(place)
            yield name, tensor


def _kinds(model: nn.Module) -> dict[int, Kind]:
    """Say of each buffer, by identity, of what kind it is."""
    out = {}
    for module in model.modules():
        norm = isinstance(module, _NormBase)
        for name, buffer in module.named_buffers(recurse=False):
            shape = () if norm or is_lazy(buffer) else buffer.shape
            out[id(buffer)] = of_buffer(name, shape, norm and name == "running_var")
    return out


def _named(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return a state dict's tensors under the names that wrappers do not change."""
    state = model.state_dict(keep_vars=True).items()
    raw = [(name, t) for name, t in state if isinstance(t, torch.Tensor)]
    short = [
        (".".join(p for p in name.split(".") if p not in _WRAPPERS), t)
        for name, t in raw
    ]
    # A model of somebody's own may have a part that is called module.
    alone = max(Counter(name for name, _ in short).values(), default=1) == 1
    return short if alone else raw


def as_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's state with tensors for arrays.

    That is what a checkpoint may hold that ``torch.load`` reads with
    ``weights_only=True``.
    """
    arrays = {k: torch.from_numpy(state[k]) for k in ("master", "start")}
    return {**state, **arrays}


class FedAvg(Generic[Report]):
    """Encrypted federated averaging of a module after local epochs.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place; replaced in place by the cohort's model.
    client : Averager
        A connected client.
    num_examples : int
        Examples this client trains on: its weight in the mean.
    epochs_per_round : int
        Local epochs between two averagings.
    include : callable, optional
        Which names of the state dict travel; all floating-point ones when
        missing.

    Notes
    -----
    In a job of torch.distributed, make it in every process after
    ``init_process_group`` and call it in all of them: rank zero alone talks to the
    services, and every rank's model is replaced. `num_examples` is the job's.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's; raised before any training.
    cryptflow.errors.InputError
        `num_examples` is not from 1 to the task's weight_cap (CF_WEIGHT).
    """

    def __init__(
        self,
        model: nn.Module,
        client: Averager[Report],
        num_examples: int,
        *,
        epochs_per_round: int = 1,
        include: Callable[[str], bool] | None = None,
    ) -> None:
        self._parts = ModuleWeights(model, include), of_rank_zero(client), num_examples
        self._epochs_per_round = epochs_per_round
        self._session: Session[Report] = Session(
            *self._parts, epochs_per_round=epochs_per_round
        )

    def on_epoch_end(self, metrics: Mapping[str, float] | None = None) -> Report | None:
        """Average when the round's epochs are done.

        Parameters
        ----------
        metrics : mapping of str to float, optional
            Scalars that the task names, such as loss: they travel encrypted,
            and the report has the cohort's weighted mean.

        Returns
        -------
        report or None
            The client's report of the round; None between rounds.
        """
        return self._session.on_epoch_end(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model's and the optimizer's.

        Tensors and plain values, no secret: the cohort's model and how far this
        client came.
        """
        return as_tensors(self._session.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; the model's own is loaded beside it.

        Raises
        ------
        cryptflow.errors.RoundError
            It is another model's or another task's (CF_MODEL_MISMATCH).
        """
        self._session = Session(
            *self._parts,
            epochs_per_round=self._epochs_per_round,
            state={} if state_dict is None else state_dict,
        )
