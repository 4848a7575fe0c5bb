"""Federated averaging in a PyTorch loop.

.. code-block:: python

    fedavg = FedAvg(model, client, num_examples=len(train_set))
    for epoch in range(epochs):
        loss = train_one_epoch(model, loader, optimizer)
        print(fedavg.on_epoch_end({"loss": loss}))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from cryptflow.errors import LayoutError
from cryptflow.session import Averager, Flat, Layout, Report, Session, Tensor

__all__ = ["FedAvg", "ModuleWeights"]

_WRAPPERS = {"module", "_orig_mod"}


class ModuleWeights:
    """The floating-point values of a module, flat, in a canonical layout.

    Trainable parameters and floating-point buffers of the state dict, in its
    order, under their names there without the prefixes that DataParallel and
    ``torch.compile`` add. A tensor that occurs twice travels once, under its
    first name. Integer buffers and frozen parameters stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
        On any device, in any floating-point type; values travel as float32.
    include : callable, optional
        Which names travel; all when missing.

    Raises
    ------
    cryptflow.errors.LayoutError
        A tensor is not initialised yet, complex, or sharded over processes.
    """

    def __init__(
        self, model: nn.Module, include: Callable[[str], bool] | None = None
    ) -> None:
        self._model, self._include = model, include
        self._names = [(name, tuple(t.shape)) for name, t in self._tensors()]

    @property
    def layout(self) -> Layout:
        """Names and shapes of the tensors that travel."""
        return [Tensor(name, shape) for name, shape in self._names]

    def read(self, out: Flat) -> None:
        """Copy all values to `out`, float32, shape (values,)."""
        flat = torch.from_numpy(out)
        with torch.no_grad():
            for at, tensor in self._placed():
                part = flat[at : at + tensor.numel()]
                part.copy_(tensor.detach().reshape(-1))

    def write(self, values: Flat) -> None:
        """Replace all values in place; the optimizer's state is not touched."""
        flat = torch.from_numpy(values)
        with torch.no_grad():
            for at, tensor in self._placed():
                part = flat[at : at + tensor.numel()]
                tensor.copy_(part.view(tensor.shape))

    def _placed(self) -> Iterator[tuple[int, torch.Tensor]]:
        at = 0
        tensors = list(self._tensors())
        if [(name, tuple(t.shape)) for name, t in tensors] != self._names:
            raise _layout_error(
                "the model's tensors changed since FedAvg was made; make a new one"
            )
        for _, tensor in tensors:
            yield at, tensor
            at += tensor.numel()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        trains = {id(p) for p in self._model.parameters() if p.requires_grad}
        seen = set()
        for raw, tensor in self._model.state_dict(keep_vars=True).items():
            if not isinstance(tensor, torch.Tensor):
                continue
            name = ".".join(p for p in raw.split(".") if p not in _WRAPPERS)
            parameter = isinstance(tensor, nn.Parameter)
            if parameter and id(tensor) not in trains:
                continue
            if self._include is not None and not self._include(name):
                continue
            if is_lazy(tensor):
                raise _layout_error(
                    f"tensor {name!r} has no shape yet: run one batch before FedAvg"
                )
            if hasattr(tensor, "placements"):
                raise _layout_error(f"tensor {name!r} is sharded; gather it first")
            if tensor.is_complex():
                raise _layout_error(f"tensor {name!r} is {tensor.dtype}, not real")
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


def _layout_error(text: str) -> LayoutError:
    error = LayoutError(text)
    error.code = "CF_LAYOUT_MISMATCH"
    return error


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

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's; raised before any training.
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
        self._session = Session(
            ModuleWeights(model, include),
            client,
            num_examples,
            epochs_per_round=epochs_per_round,
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
