"""Federated averaging in Keras' ``fit``, on any backend.

.. code-block:: python

    model.fit(
        x, y, epochs=5, callbacks=[FedAvg(client, num_examples=len(x))]
    )

Callbacks run in the order of the list, after the epoch's validation: those
after this one see the cohort's weights and, in ``logs``, its numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from os import PathLike
from typing import Any

import keras
import numpy as np

from cryptflow._backup import Backup
from cryptflow._kinds import Kind, of_buffer
from cryptflow._rounds import Rounds
from cryptflow.errors import InputError, LayoutError
from cryptflow.session import Averager, Flat, Layout, Tensor, Weights, pieces

__all__ = ["FedAvg", "ModelWeights"]


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
        if waiting := _waiting(model):
            raise LayoutError(
                f"layer {waiting[-1]!r} has no weights yet: give the model a "
                "keras.Input, or call it on one batch"
            )
        self._variables: list[Any] = []
        self._layout: list[Tensor] = []
        names, stays, kinds = _canonical_names(model), _frozen(model), _kinds(model)
        for variable in {id(v): v for v in model.weights}.values():
            name, shape = names[id(variable)], tuple(int(n) for n in variable.shape)
            number = keras.backend.is_float_dtype(variable.dtype)
            if id(variable) in stays or not number or 0 in shape:
                continue
            if include is None or include(name):
                self._variables.append(variable)
                kind = kinds.get(id(variable), (False, False))
                self._layout.append(Tensor(name, shape, *kind))
        mine = {id(v) for v in self._variables}
        # Such layers compute with constants made of their weights.
        self._derived = [
            x
            for x in model._flatten_layers()
            if isinstance(x, keras.layers.Normalization)
            and any(id(v) in mine for v in x.weights)
        ]

    @property
    def layout(self) -> Layout:
        """Names, shapes and kinds of the weights that travel.

        What a layer keeps beside what is trained, such as moments, is precise; a
        variance is never negative.
        """
        return self._layout

    def read(self, out: Flat) -> None:
        """Copy all values to `out`, float32, shape (values,)."""
        places = pieces(self._layout, out)
        for place, variable in zip(places, self._variables, strict=True):
            value = keras.ops.cast(variable, "float32")
            np.copyto(place, keras.ops.convert_to_numpy(value))

    def write(self, values: Flat) -> None:
        """Replace all values; the optimizer's state is not touched."""
        parts = pieces(self._layout, values)
        for part, variable in zip(parts, self._variables, strict=True):
            variable.assign(part.copy())  # backends may keep what they are given
        for layer in self._derived:
            layer.finalize_state()


def _waiting(model: keras.Model) -> list[str]:
    """Names of the layers that would yet make weights of their own."""
    bases = keras.layers.Layer.build, keras.Model.build
    layers = [x for x in model._flatten_layers() if type(x).build not in bases]
    return [x.name for x in layers if not x.built]


def _frozen(model: keras.Model) -> set[int]:
    """Weights that training does not change, by identity."""
    out = set()
    for layer in model._flatten_layers():
        if not layer.trainable:
            out |= {id(v) for v in layer.weights}
        # Weights that were made to be trained; moments never were.
        out |= {id(v) for v in layer._trainable_variables if not v.trainable}
    return out


def _kinds(model: keras.Model) -> dict[int, Kind]:
    """Say of each weight that was not made to be trained, by identity, its kind."""
    out = {}
    for layer in model._flatten_layers():
        variances = set()
        if isinstance(layer, keras.layers.BatchNormalization):
            variances.add(id(layer.moving_variance))
        if isinstance(layer, keras.layers.Normalization):
            variances.add(id(getattr(layer, "adapt_variance", None)))
        for v in layer._non_trainable_variables:
            shape = tuple(int(n) for n in v.shape)
            out[id(v)] = of_buffer(v.name, shape, id(v) in variances)
    return out


def _canonical_names(model: keras.Model) -> dict[int, str]:
    """Names of all weights by identity; layers are walked as `model.weights` does."""
    names: dict[int, str] = {}
    used: Counter[tuple[str, str]] = Counter()

    def counted(above: str, name: str) -> str:
        stem, _, number = name.rpartition("_")
        base = stem if stem and number.isdigit() else name
        used[above, base] += 1
        again = used[above, base] - 1
        return f"{above}{base}_{again}" if again else above + base

    def walk(layer: Any, above: str) -> None:
        for v in [*layer._trainable_variables, *layer._non_trainable_variables]:
            if id(v) not in names:
                names[id(v)] = counted(above, v.name)
        for part in layer._layers:
            # What has no weights, or had them elsewhere, is not counted.
            if any(id(v) not in names for v in part.weights):
                walk(part, counted(above, part.name) + "/")

    walk(model, "")
    for v in model.weights:  # a class may say that it has others
        if id(v) not in names:
            names[id(v)] = counted("", v.name)
    return names


class FedAvg(Rounds, keras.callbacks.Callback):
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
        Wrong arguments, a backup without its folder, another model (CF_ARGUMENT).
    """

    def __init__(
        self,
        client: Averager[Any],
        num_examples: int,
        epochs_per_round: int = 1,
        include: Callable[[str], bool] | None = None,
        backup: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(client, num_examples, epochs_per_round, include)
        self._backup = None if backup is None else Backup(backup)
        self._state = None if self._backup is None else self._backup.load()
        self.initial_epoch = 0 if self._state is None else int(self._state["epochs"])

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
        if self._session is not None:
            self._refuse_other_weights()
        elif _waiting(self.model):
            return  # until the first batch
        self._begin()

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
            self._begin()
            self._begin_epoch()  # it had begun when there were no weights yet
            return step(batches)

        model.train_function = first

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember that what the model holds from now on is this client's."""
        self._begin_epoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Average when the round's epochs are done."""
        if self._session is None:
            raise LayoutError(
                "there was no batch in the first epoch: pass data to fit, or a "
                "model that has its weights"
            )
        said = {} if logs is None else logs
        report = self._end_epoch(said)
        if report is None:
            return
        self.initial_epoch = self._session.epochs
        if self._backup is not None:
            self._backup.save(self._session.state_dict())
        if hasattr(report, "scalars"):
            said.update(report.scalars())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Say so when the model is not the cohort's at the end."""
        self._end_training()

    def _parts(self, model: keras.Model) -> tuple[Weights, Averager[Any]]:
        return ModelWeights(model, self._include), self._client

    def _begin(self) -> None:
        self._join(self.model, self._state)
        if self._state is not None:
            # A backup is of a round's end, and has not the model's own values.
            self._reset()
            self._state = None

    def _refuse_other_weights(self) -> None:
        assert self._weights is not None
        if self._joined is not self.model:
            return  # `_join` refuses it
        if ModelWeights(self.model, self._include).layout != self._weights.layout:
            raise LayoutError(
                "other weights of the model are trainable now than when FedAvg "
                "joined the task; make a task and a FedAvg for them"
            )


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
