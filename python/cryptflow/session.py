"""One model's way through the rounds of a task, whatever trains it.

An adapter for a framework says how weights are read and written
(`Weights`); `Session` does the rest: it compares layouts before
anything is trained, remembers the model at the round's start, forms the
update, hands it to a client and applies the mean. Callbacks for Keras,
Lightning and others are thin over it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cryptflow._metrics import named_metrics
from cryptflow.errors import InputError, LayoutError, RoundError, from_code

__all__ = [
    "Averager",
    "Layout",
    "Session",
    "Tensor",
    "Weights",
    "check_arguments",
    "compare_layouts",
    "named_metrics",
]

_log = logging.getLogger(__name__)

Flat = npt.NDArray[np.float32]

Report = TypeVar("Report", covariant=True)


@dataclass(frozen=True)
class Tensor:
    """Name and shape of one array of a model, and what kind of array it is.

    Attributes
    ----------
    name : str
    shape : tuple of int
    precise : bool
        Whether its values span magnitudes, as moments of many channels do: they
        travel in several digits, so that small ones keep their bits.
    nonnegative : bool
        Whether no value may become negative, as of a variance: noise of a mean
        does not take it below zero.
    """

    name: str
    shape: tuple[int, ...]
    precise: bool = False
    nonnegative: bool = False

    @property
    def count(self) -> int:
        """Number of values, the product of the shape."""
        return int(np.prod(self.shape, dtype=np.int64))


Layout = Sequence[Tensor]


def pieces(layout: Layout, flat: Flat) -> Iterator[Flat]:
    """Yield the values of each tensor, views of a flat array in its shape."""
    at = 0
    for tensor in layout:
        yield flat[at : at + tensor.count].reshape(tensor.shape)
        at += tensor.count


class Weights(Protocol):
    """Access to the values that travel, in layout order."""

    @property
    def layout(self) -> Layout:
        """Names, shapes and kinds of the tensors that travel."""

    def read(self, out: Flat) -> None:
        """Copy all values, flat, to `out`."""

    def write(self, values: Flat) -> None:
        """Replace all values, in place."""


class Averager(Protocol[Report]):
    """What a session needs of a client."""

    @property
    def layout(self) -> Layout | None:
        """The task's layout; None when the client accepts any."""

    def initial_model(self) -> Flat | None:
        """Return the task's first model; None when every client brings it.

        An averager that has `check_initial_model` is given the weights then: it
        raises where they are others than the task's.
        """

    def average(
        self,
        update: Flat,
        num_examples: int,
        metrics: Mapping[str, float] | None = None,
    ) -> tuple[Flat, Report]:
        """Contribute an update; return the cohort's mean and a report.

        The update is not modified before the call returns.
        """


def compare_layouts(task: Layout, model: Layout) -> None:
    """Refuse a model whose layout, in names and shapes, is not the task's.

    What kinds of tensors there are, the task says.

    Raises
    ------
    cryptflow.errors.LayoutError
        Names the first difference in name, shape or count.
    """
    cure = (
        "make the model as the task's owner did, with the same layers or names "
        "trained and chosen, or create a task for this one"
    )
    for i, (want, got) in enumerate(zip(task, model, strict=False)):
        if want.name != got.name:
            raise LayoutError(
                f"tensor {i}: the task has {want.name!r}, the model {got.name!r}; "
                + cure
            )
        if want.shape != got.shape:
            raise LayoutError(
                f"tensor {want.name!r}: the task has shape {want.shape}, "
                f"the model {got.shape}; {cure}"
            )
    if len(task) > len(model):
        raise LayoutError(f"the model lacks {task[len(model)].name!r}; {cure}")
    if len(model) > len(task):
        raise LayoutError(f"the task does not have {model[len(task)].name!r}; {cure}")


def check_arguments(client: Any, num_examples: Any, epochs_per_round: Any = 1) -> None:
    """Refuse what no session can be made of, before anything is trained.

    Raises
    ------
    cryptflow.errors.InputError
        `client` is not a client or `epochs_per_round` not a positive integer
        (CF_ARGUMENT); `num_examples` is not one, or above the task's weight_cap
        (CF_WEIGHT).
    """
    if isinstance(client, type) or not hasattr(client, "layout"):
        raise InputError(
            f"client is of type {type(client).__name__}, not a connected client: "
            "pass what cryptflow.connect returned"
        )
    for name, value, code in (
        ("num_examples", num_examples, "CF_WEIGHT"),
        ("epochs_per_round", epochs_per_round, "CF_ARGUMENT"),
    ):
        number = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not number or value < 1:
            raise from_code(code, f"{name} is {value!r}; it is a positive integer")
    cap = getattr(client, "weight_cap", None)
    if cap is not None and num_examples > cap:
        raise from_code(
            "CF_WEIGHT",
            f"num_examples is {num_examples}; the task allows 1 to {cap}: "
            "create it with weight_cap at least the largest client's number",
        )


def compare_first(client: Any, weights: Flat) -> None:
    """Refuse weights that are not the task's first model, which nobody keeps.

    Raises
    ------
    cryptflow.errors.RoundError
        CF_MODEL_MISMATCH.
    """
    # Averagers that are no client of a task have nothing to compare with.
    getattr(client, "check_initial_model", lambda _: None)(weights)


class Session(Generic[Report]):
    """One model's way through the rounds of a task.

    Parameters
    ----------
    weights : Weights
        Access to the model's values.
    client : Averager
        Takes updates and returns means.
    num_examples : int
        Weight of this client's updates, 1 to the task's weight_cap.
    epochs_per_round : int
        Local epochs between two averagings.
    state : mapping, optional
        What `state_dict` returned: the session goes on from there, and the
        model keeps the values it has. A client that can is resumed too.

    Raises
    ------
    cryptflow.errors.LayoutError
        The model's layout is not the task's.
    cryptflow.errors.RoundError
        The state is another model's; or every client brings the first model, and
        this one's weights are not it (CF_MODEL_MISMATCH).
    cryptflow.errors.InputError
        What `check_arguments` refuses; something else than weights was passed, or
        a state that `state_dict` did not return (CF_ARGUMENT).

    Notes
    -----
    Values are kept in float32: `master`, the model everybody holds, and what
    the model really held at the round's start. The two differ where the model
    stores fewer bits; small means then add up in the master and are not lost
    to rounding. An averaging that fails changes nothing: it may be tried again.
    """

    def __init__(
        self,
        weights: Weights,
        client: Averager[Report],
        num_examples: int,
        *,
        epochs_per_round: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        check_arguments(client, num_examples, epochs_per_round)
        needs = ("layout", "read", "write")
        if isinstance(weights, type) or not all(hasattr(weights, n) for n in needs):
            raise InputError(
                f"weights is of type {type(weights).__name__}: pass the adapter's "
                "ModelWeights(model), ModuleWeights(module) or ArrayWeights(arrays)"
            )
        layout = weights.layout
        if client.layout is not None:
            compare_layouts(client.layout, layout)
        size = sum(t.count for t in layout)
        if size == 0:
            raise LayoutError(
                "the model has no values that travel: is every layer frozen, or does "
                "include choose none?"
            )
        self._layout = layout if client.layout is None else client.layout
        self._weights, self._client = weights, client
        self._num_examples, self._epochs_per_round = num_examples, epochs_per_round
        self._epochs = 0
        self._master = np.empty(size, np.float32)
        self._update = np.empty(size, np.float32)
        self._position: Any = None
        if state is not None:
            self._restore(state)
            return
        self.ready()
        first = client.initial_model()
        if first is None:
            weights.read(self._master)
            compare_first(client, self._master)
            self._start = self._master.copy()
        else:
            self._check(first)
            self._start = np.empty(size, np.float32)
            self._replace(first)
        self._note()

    @property
    def epochs(self) -> int:
        """Epochs since the first, those before `state` included."""
        return self._epochs

    def ready(self) -> None:
        """Warn when training may be in vain: the task has ended or moved on.

        A closed client and services that are away are errors.
        """
        # A state may still be loaded, so that this is no error; averagers that
        # cannot know have no such method.
        try:
            getattr(self._client, "ready", lambda: None)()
        except RoundError as error:
            _log.warning("training may be in vain: %s", error)

    def on_epoch_end(self, metrics: Mapping[str, float] | None = None) -> Report | None:
        """Average when a round's epochs are done; return its report, else None.

        A sum that did not open for most of the cohort counts for nobody. That is a
        warning here: training goes on, and the next round starts from the same
        model.
        """
        self._epochs += 1
        if self._epochs % self._epochs_per_round:
            return None
        try:
            return self.average(metrics)
        except RoundError as error:
            if error.code == "CF_ROUND_FAILED":
                _log.warning("%s", error)
                return None
            self._epochs -= 1
            raise
        except BaseException:
            self._epochs -= 1
            raise

    def average(self, metrics: Mapping[str, float] | None = None) -> Report:
        """Contribute the update since the round's start and apply the mean.

        Parameters
        ----------
        metrics : mapping of str to float, optional
            Scalars such as loss, for the report's means over the cohort.
        """
        self._weights.read(self._update)
        self._refuse_negative(self._update)
        np.subtract(self._update, self._start, out=self._update)
        given = () if metrics is None else (metrics,)
        mean, report = self._client.average(
            self._update, int(self._num_examples), *given
        )
        self._check(mean)
        self._replace(self._stepped(mean))
        self._note()
        described: Report = self._described(report)
        return described

    def reset(self) -> None:
        """Put the model that everybody holds in place again, as after a round."""
        self._replace(self._master)

    def state_dict(self) -> dict[str, Any]:
        """Return what another session needs to go on from here.

        Plain values and arrays of float32, shape (values,): `master`, the model
        everybody holds, `start`, what this client's model made of it, `epochs`
        since the first, and the client's `position` after the last round. The
        client may be closed.
        """
        return {
            "master": self._master.copy(),
            "start": self._start.copy(),
            "epochs": self._epochs,
            "position": self._position,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        keys = {"master", "start", "epochs", "position"}
        if not isinstance(state, Mapping) or not keys <= state.keys():
            raise InputError(
                "this is not a state that state_dict() of a FedAvg returned"
            )
        for name in ("master", "start"):
            values = np.asarray(state[name])
            if values.shape != self._master.shape:
                raise from_code(
                    "CF_MODEL_MISMATCH",
                    f"the state has {values.shape} values for a model of "
                    f"{self._master.shape}: it is another model's",
                )
        np.copyto(self._master, np.asarray(state["master"]))
        self._start = np.asarray(state["start"]).astype(np.float32)
        self._epochs = int(state["epochs"])
        if state["position"] is not None:
            client: Any = self._client
            client.resume(state["position"])
        self._position = state["position"]

    def _positive(self, values: Flat) -> Iterator[tuple[Tensor, Flat]]:
        """Yield the tensors that stay non-negative, as views."""
        for tensor, part in zip(
            self._layout, pieces(self._layout, values), strict=True
        ):
            if tensor.nonnegative:
                yield tensor, part

    def _refuse_negative(self, values: Flat) -> None:
        for tensor, part in self._positive(values):
            if part.size and part.min() < 0:
                raise InputError(
                    f"tensor {tensor.name!r} holds {part.min():g}, and the task says "
                    "that it is never negative: nothing was sent; put the last "
                    "round's values back, or create the task with "
                    f"nonnegative=['!{tensor.name}']"
                )

    def _stepped(self, mean: Flat) -> Flat:
        """Return the next master: what stays non-negative does, for everybody."""
        out: Flat = np.add(self._master, mean)
        for _, part in self._positive(out):
            part[part <= 0] = 0  # a zero of either sign too
        return out

    def _described(self, report: Any) -> Any:
        """Add to a report what only the model's values say."""
        bounds = getattr(report, "bounds", None)
        if bounds is None or not hasattr(report, "coarse"):
            return report
        from cryptflow._coarse import coarse_tensors, warn_once

        names = coarse_tensors(self._layout, self._master, bounds)
        if not names:
            return report
        info: Mapping[str, Any] = getattr(self._client, "info", {})
        warn_once(names, str(info.get("digest")), str(info.get("client")))
        return replace(report, coarse=names)

    def _note(self) -> None:
        self._position = getattr(self._client, "position", None)

    def _check(self, values: Flat) -> None:
        if values.shape != self._master.shape:
            raise from_code(
                "CF_MODEL_MISMATCH",
                f"received {values.shape} values for a model of {self._master.shape}",
            )

    def _replace(self, values: Flat) -> None:
        np.copyto(self._master, values)
        self._weights.write(self._master)
        self._weights.read(self._start)
