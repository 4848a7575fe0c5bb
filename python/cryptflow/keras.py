"""Federated averaging in Keras' ``fit``, on any backend.

.. code-block:: python

    model.fit(
        x, y, epochs=5, callbacks=[FedAvg(client, num_examples=len(x))]
    )

Callbacks run in the order of the list, after the epoch's validation: those
after this one see the cohort's weights and, in ``logs``, its numbers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from cryptflow.errors import InputError, LayoutError, from_code
from cryptflow.session import Averager, Flat, Layout, Session, Tensor, named_metrics

__all__ = ["FedAvg", "ModelWeights"]

_log = logging.getLogger(__name__)


class ModelWeights:
    """The floating-point weights of a Keras model, flat, in a canonical layout.

    All of ``model.weights`` that training may change, BatchNorm moments
    included. What is frozen, integers and the state of random generators stay
    as they are.

    Parameters
    ----------
    model : keras.Model
        Built, in any floating-point type; values travel as float32.
    include : callable, optional
        Which canonical names travel; all when missing.

    Raises
    ------
    cryptflow.errors.LayoutError
        A layer has no weights yet.

    Notes
    -----
    A weight's ``path`` ("sequential_1/dense_3/kernel") depends on what else a
    process has made and on where a layer was built: a model that was loaded
    has other paths than the one that was saved. Canonical names follow the
    layers instead: the names of those that contain a weight, from below the
    model down, each without the number that Keras appended to it and counted
    again among its siblings ("dense_1/kernel" is the second dense layer's), so
    that all who make the same model agree. A layer that is used twice counts
    where it comes first.
    """

    def __init__(
        self, model: keras.Model, include: Callable[[str], bool] | None = None
    ) -> None:
        waiting = [x.name for x in model._flatten_layers() if _waits(x)]
        if waiting:
            raise LayoutError(
                f"layer {waiting[-1]!r} has no weights yet: give the model a "
                "keras.Input, or call it on one batch"
            )
        self._placed: list[tuple[int, Any]] = []
        self._layout: list[Tensor] = []
        at, stays = 0, _frozen(model)
        for name, variable in _named(model):
            number = keras.backend.is_float_dtype(variable.dtype)
            if id(variable) in stays or not number or 0 in variable.shape:
                continue
            if include is not None and not include(name):
                continue
            tensor = Tensor(name, tuple(int(n) for n in variable.shape))
            self._placed.append((at, variable))
            self._layout.append(tensor)
            at += tensor.count
        mine = {id(v) for _, v in self._placed}
        # Such layers compute with constants made of their weights.
        self._derived = [
            x
            for x in model._flatten_layers()
            if isinstance(x, keras.layers.Normalization)
            and any(id(v) in mine for v in x.weights)
        ]

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
        for layer in self._derived:
            layer.finalize_state()


def _waits(layer: Any) -> bool:
    """Whether a layer would yet make weights of its own."""
    own = type(layer).build not in (keras.layers.Layer.build, keras.Model.build)
    return own and not layer.built


def _frozen(model: keras.Model) -> set[int]:
    """Weights that training does not change, by identity."""
    out = set()
    for layer in model._flatten_layers():
        if not layer.trainable:
            out |= {id(v) for v in layer.weights}
        # Weights that were made to be trained; moments never were.
        out |= {id(v) for v in layer._trainable_variables if not v.trainable}
    return out


def _named(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Weights with their canonical names, each once, in the model's order."""
    places: dict[int, list[tuple[int, str]]] = {}

    def walk(layer: Any, above: list[tuple[int, str]]) -> None:
        for v in [*layer._trainable_variables, *layer._non_trainable_variables]:
            places.setdefault(id(v), [*above, (id(v), v.name)])
        for part in layer._layers:
            walk(part, [*above, (id(part), part.name)])

    walk(model, [])
    known: dict[tuple[str, int], str] = {}
    used: dict[tuple[str, str], int] = {}
    seen = set()
    for variable in model.weights:
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        name = ""
        for mark, part in places.get(id(variable), [(id(variable), variable.name)]):
            key = (name, mark)
            if key not in known:
                stem, _, number = part.rpartition("_")
                base = stem if stem and number.isdigit() else part
                count = used.get((name, base), 0)
                used[name, base] = count + 1
                known[key] = f"{base}_{count}" if count else base
            name += ("/" if name else "") + known[key]
        yield name, variable


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
    backup : path, optional
        A file (.npz) that has the cohort's model and the client's position
        after every round. Where it exists already, training goes on from it.

    Attributes
    ----------
    reports : list
        The report of every round so far.
    initial_epoch : int
        Epochs of the rounds so far, the backup's included: ``fit``'s argument
        of that name when training goes on.

    Notes
    -----
    The first weights are the task's, put in place when training begins. The
    layers of a model that has no weights then are built from the shapes of the
    first batch, before it is trained on. A further ``fit`` starts from the
    cohort's model again, whatever the weights are by then, unless the last one
    left a round unfinished: then it goes on with the local weights.

    After a round ``logs`` has the report's numbers under ``cohort_`` names, in
    the History object and the progress bar too.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's; raised before anything is trained.
    cryptflow.errors.CorruptError
        The backup cannot be read.
    cryptflow.errors.InputError
        `include` is not a function, or the backup's folder does not exist.
    """

    def __init__(
        self,
        client: Averager[Any],
        num_examples: int,
        epochs_per_round: int = 1,
        include: Callable[[str], bool] | None = None,
        backup: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if include is not None and not callable(include):
            raise InputError(
                f"include is a {type(include).__name__}: pass a function of a "
                "weight's name that says whether it travels"
            )
        self.reports: list[Any] = []
        self.initial_epoch = 0
        self._client, self._include = client, include
        self._num_examples, self._epochs_per_round = num_examples, epochs_per_round
        self._backup = None if backup is None else Path(backup)
        if self._backup is not None and (
            self._backup.is_dir() or not self._backup.parent.is_dir()
        ):
            raise InputError(
                f"backup is {str(self._backup)!r}: pass a file in a folder that exists"
            )
        self._state = None if self._backup is None else _load(self._backup)
        if self._state is not None:
            self.initial_epoch = self._state["epochs"]
        self._session: Session[Any] | None = None
        self._joined: Any = None
        self._weights: ModelWeights | None = None
        self._inside = False  # of a round: local weights that nobody else has

    def set_model(self, model: Any) -> None:
        """Refuse what is not a model of the Keras that this class comes from."""
        if not isinstance(model, keras.Model):
            raise InputError(
                f"a {type(model).__module__}.{type(model).__qualname__} is not a model "
                f"of Keras {keras.__version__}; TF_USE_LEGACY_KERAS must not be set"
            )
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the cohort's model in place, unless the layers wait for data."""
        if self._session is None:
            if not any(_waits(x) for x in self.model._flatten_layers()):
                self._join()
            return
        if self._joined is not self.model:
            raise LayoutError("this FedAvg belongs to another model; make a new one")
        assert self._weights is not None
        if ModelWeights(self.model, self._include).layout != self._weights.layout:
            raise LayoutError(
                "other weights of the model are trainable now than when FedAvg "
                "joined the task; make a task and a FedAvg for them"
            )
        if not self._inside:
            self._weights.write(self._session.state_dict()["master"])

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Have the first step build the model and begin with the task's."""
        if self._session is not None:
            return
        model = self.model
        step = model.train_function

        def first(batches: Any) -> Any:
            model.train_function = step
            _build(model, batches)
            self._join()
            return step(batches)

        model.train_function = first

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember that what the model holds from now on is this client's."""
        self._inside = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Average when the round's epochs are done."""
        if self._session is None:
            raise LayoutError(
                "there was no batch in the first epoch: pass data to fit, or a "
                "model that has its weights"
            )
        said = {} if logs is None else logs
        report = self._session.on_epoch_end(named_metrics(self._client, said) or None)
        if report is None:
            return
        self._inside = False
        self.initial_epoch += self._epochs_per_round
        self.reports.append(report)
        if self._backup is not None:
            _save(self._backup, self._session.state_dict(), self.initial_epoch)
        if hasattr(report, "scalars"):
            said.update(report.scalars())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Say so when the model is not the cohort's at the end."""
        if self._inside:
            _log.warning(
                "training ended inside a round: the model has local epochs that "
                "were not averaged; epochs should be a multiple of epochs_per_round"
            )

    def _join(self) -> None:
        weights = ModelWeights(self.model, self._include)
        session: Session[Any] = Session(
            weights,
            self._client,
            self._num_examples,
            epochs_per_round=self._epochs_per_round,
            state=self._state,
        )
        if self._state is not None:
            weights.write(self._state["master"])
            self._state = None
        self._session, self._weights, self._joined = session, weights, self.model


def _build(model: keras.Model, batches: Any) -> None:
    """Trace one training step on TensorFlow, which makes all variables.

    Nothing is computed and no batch is used; other backends' ``fit`` builds
    models before it calls any callback.
    """
    import tensorflow as tf

    def step(data: Any) -> Any:
        return model.train_step(data)

    try:
        plain = tf.autograph.experimental.do_not_convert(step)
        tf.function(plain).get_concrete_function(batches.element_spec)
    except Exception as error:
        raise LayoutError(
            "the model has no weights yet, and a training step cannot be traced to "
            "make them: call the model on one batch before fit"
        ) from error


def _save(path: Path, state: dict[str, Any], epochs: int) -> None:
    rest = json.dumps({"epochs": epochs, "position": state["position"]})
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        np.savez(file, master=state["master"], start=state["start"], rest=rest)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _load(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            rest = json.loads(str(file["rest"]))
            return {
                "master": file["master"],
                "start": file["start"],
                "epochs": int(rest["epochs"]),
                "position": rest["position"],
            }
    except (BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
        raise from_code(
            "CF_STORAGE_CORRUPT", f"{path} is not a backup of FedAvg; remove it"
        ) from error
