"""Federated averaging in Keras' ``fit``, on any backend.

.. code-block:: python

    model.fit(
        x, y, epochs=5, callbacks=[FedAvg(client, num_examples=len(x))]
    )

Callbacks run in the order of the list, after the epoch's validation: those
after this one see the cohort's weights and, in ``logs``, its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from cryptflow.errors import LayoutError
from cryptflow.session import Averager, Flat, Layout, Session, Tensor, named_metrics

__all__ = ["FedAvg", "ModelWeights"]


class ModelWeights:
    """The floating-point weights of a Keras model, flat, in a canonical layout.

    All of ``model.weights`` that training may change, BatchNorm moments
    included, under their paths. Keras numbers layers by process ("dense_3"):
    numbers are counted again from the model's first layer, and the model's own
    name is left out, so that all clients agree. What a frozen layer holds,
    integers and the state of random generators stay as they are.

    Parameters
    ----------
    model : keras.Model
        Built, in any floating-point type; values travel as float32.
    include : callable, optional
        Which canonical names travel; all when missing.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model is not built.
    """

    def __init__(
        self, model: keras.Model, include: Callable[[str], bool] | None = None
    ) -> None:
        if not ready(model):
            raise _layout_error(
                "the model has no weights yet: give it a keras.Input, or call "
                "model.build(input_shape)"
            )
        self.model = model
        self._placed: list[tuple[int, Any]] = []
        self._layout: list[Tensor] = []
        at = 0
        for name, variable in _changing(model):
            if include is not None and not include(name):
                continue
            tensor = Tensor(name, tuple(int(n) for n in variable.shape))
            self._placed.append((at, variable))
            self._layout.append(tensor)
            at += tensor.count

    @property
    def layout(self) -> Layout:
        """Names and shapes of the weights that travel."""
        return self._layout

    def read(self, out: Flat) -> None:
        """Copy all values to `out`, float32, shape (values,)."""
        for (at, variable), tensor in zip(self._placed, self._layout, strict=True):
            part = out[at : at + tensor.count].reshape(tensor.shape)
            value = keras.ops.cast(variable, "float32")
            np.copyto(part, keras.ops.convert_to_numpy(value))

    def write(self, values: Flat) -> None:
        """Replace all values; the optimizer's state is not touched."""
        for (at, variable), tensor in zip(self._placed, self._layout, strict=True):
            # A copy: backends may keep the array that they are given.
            part = values[at : at + tensor.count].reshape(tensor.shape).copy()
            variable.assign(part)


def ready(model: keras.Model) -> bool:
    """Whether every layer has its weights."""
    return bool(model.built and all(x.built for x in model._flatten_layers()))


def _changing(model: keras.Model) -> Iterator[tuple[str, Any]]:
    names = _Names(model.name)  # of all weights, whether they travel or not
    seen = {
        id(v)
        for layer in model._flatten_layers()
        if not layer.trainable
        for v in layer.weights
    }
    for variable in model.weights:
        name = names.of(variable.path)
        number = keras.backend.is_float_dtype(variable.dtype)
        if id(variable) in seen or not number or 0 in variable.shape:
            continue
        seen.add(id(variable))
        yield name, variable


class _Names:
    """Paths with the numbers of their parts counted from the first on."""

    def __init__(self, root: str) -> None:
        self._root = root + "/"
        self._known: dict[tuple[str, str], str] = {}
        self._used: dict[tuple[str, str], int] = {}
        self._taken: set[str] = set()

    def of(self, path: str) -> str:
        out = ""
        for part in path.removeprefix(self._root).split("/"):
            key = (out, part)
            if key not in self._known:
                stem, _, number = part.rpartition("_")
                base = stem if stem and number.isdigit() else part
                count = self._used.get((out, base), 0)
                self._used[out, base] = count + 1
                self._known[key] = f"{base}_{count}" if count else base
            out += ("/" if out else "") + self._known[key]
        name, count = out, 1
        while name in self._taken:  # a layer that is built of equal names
            name, count = f"{out}:{count}", count + 1
        self._taken.add(name)
        return name


def _layout_error(text: str) -> LayoutError:
    error = LayoutError(text)
    error.code = "CF_LAYOUT_MISMATCH"
    return error


class FedAvg(keras.callbacks.Callback):
    """Encrypted federated averaging at the end of epochs.

    Parameters
    ----------
    client : Averager
        A connected client. Those of ``logs`` that its task names as metrics,
        such as loss, travel encrypted.
    num_examples : int
        Examples this client trains on: its weight in the mean.
    epochs_per_round : int
        Local epochs between two averagings.
    include : callable, optional
        Which canonical names of weights travel; all when missing.

    Attributes
    ----------
    reports : list
        The report of every round so far.

    Notes
    -----
    The first weights are the task's, put in place when training begins. A model
    that is not built then is built by its first batch: what that batch trained
    is replaced by the task's first model.

    After a round ``logs`` has the report's numbers under ``cohort_`` names, in
    the History object and the progress bar too.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's; raised before anything is trained
        if the model is built.
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
        self._joined: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the task's first model in place, unless the model waits for data."""
        if self._session is not None and self._joined is not self.model:
            raise _layout_error("this FedAvg belongs to another model; make a new one")
        if self._session is None and ready(self.model):
            self._join()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Put the task's first model in place of what one batch has built."""
        if self._session is None:
            self._join()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Average when the round's epochs are done."""
        assert self._session is not None
        said = {} if logs is None else logs
        report = self._session.on_epoch_end(named_metrics(self._client, said) or None)
        if report is not None:
            self.reports.append(report)
            if hasattr(report, "scalars"):
                said.update(report.scalars())

    def _join(self) -> None:
        weights = ModelWeights(self.model, self._include)
        self._session = Session(
            weights,
            self._client,
            self._num_examples,
            epochs_per_round=self._epochs_per_round,
        )
        self._joined = self.model
