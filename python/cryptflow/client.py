"""A client of a task, and what it reports of a round.

`connect` reads a profile and returns a `Client`; its
`Client.average` encrypts an update, uploads it, waits for the cohort,
and returns the decrypted mean. Adapters for frameworks are built on it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from html import escape
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt

from cryptflow._coarse import first_coarse, listed, warn_once
from cryptflow._kinds import chosen, in_company
from cryptflow._metrics import miss
from cryptflow._native import Handle, call, receive, send, threads
from cryptflow._progress import Bars, Observer
from cryptflow.errors import (
    CryptFlowError,
    InputError,
    LayoutError,
    RoundError,
    UnavailableError,
    from_code,
)
from cryptflow.privacy import Privacy, epsilon, require
from cryptflow.session import Layout, Tensor, Weights

__all__ = [
    "Client",
    "Contribution",
    "RoundReport",
    "connect",
    "create_task",
    "plan",
]

Flat = npt.NDArray[np.float32]
Path = str | PathLike[str]

_log = logging.getLogger(__name__)

#: Parts of a round's work, in order.
PHASES = ("agree", "encrypt", "upload", "wait", "download", "decrypt")

#: Milliseconds that one look at a running operation takes.
_POLL = 50


@dataclass(frozen=True)
class RoundReport:
    """What a round gave and what it cost this client.

    Attributes
    ----------
    task : str
        Name of the task.
    round : int
        Number of updates averaged before, from 0.
    service_round : int
        The services' number of the round, which counts aborted rounds and
        those in which the cohort agreed on ranges.
    mode, preset : str
        Key mode and parameters.
    bits : int
        Bits of a value.
    cohort : int
        Clients in the mean.
    clients : tuple of str
        Their names.
    weight : int
        This client's weight, as used.
    weight_sum : int
        The cohort's.
    values : int
        Values of the update.
    clipped : dict of str to int
        This client's values outside their range, by tensor; none when empty.
    clipped_all : dict of str to int
        The cohort's, by tensor; none when empty. Missing for models with more
        tensors than one chunk has room for.
    clipped_total : int
        The cohort's, of all tensors.
    effective_bits : dict of str to float
        How many of `bits` this client's largest value used, by tensor: less
        where its update is smaller than the cohort's largest.
    ranges : dict of str to float
        Largest magnitude, times weight over weight cap in sum-key, that
        travelled unclipped, by tensor.
    metrics : dict of str to float
        Means of the metrics that clients gave, to 2⁻²⁴, with the weights as used.
    seconds : dict of str to float
        agree (on ranges, a small round of its own), encrypt, upload, wait,
        download, decrypt. Encryption and upload overlap: upload is the time
        that encryption waited for the network.
    bytes_up, bytes_down : int
        Bytes of all messages of the round, without HTTP/2's and TLS's own.
    stated_bound : float
        Largest difference between a mean value and that of real numbers with the
        clients' num_examples as weights, before rounding to float32, for values
        within the largest range: what encoding costs and, in shared-key with a
        weight_cap above 255, what rounding of weights costs.
    bounds : dict of str to float
        The same, by tensor. That of a precise tensor includes rounding to float32.
    result_digest, spec_digest : str
        Hexadecimal digests of the published result and the round.
    checkpoint : str
        The key service's signed audit checkpoint, verified.
    attempts : int
        Rounds tried; all but the last were aborted.
    coarse : tuple of str
        Tensors of which the smaller values, the tenth percentile of the model's
        magnitudes after the round, are below their bound: create the task with
        more bits, or with ``precise=[...]``. A session that holds the model says
        so; empty otherwise.
    noise : float
        Standard deviation of the noise that differential privacy added to every
        value of the mean; 0 without privacy. `stated_bound` does not cover it.
    epsilon, delta : float or None
        What all published updates together have spent of every client's
        privacy, this one included, whoever took part in them: the task's first
        round counts, also when another process was this client then. None
        without privacy; infinity above 27, where it promises nothing.
    """

    task: str
    round: int
    service_round: int
    mode: str
    preset: str
    bits: int
    cohort: int
    clients: tuple[str, ...]
    weight: int
    weight_sum: int
    values: int
    clipped: dict[str, int]
    clipped_all: dict[str, int]
    clipped_total: int
    effective_bits: dict[str, float]
    ranges: dict[str, float]
    metrics: dict[str, float]
    seconds: dict[str, float]
    bytes_up: int
    bytes_down: int
    stated_bound: float
    bounds: dict[str, float]
    result_digest: str
    spec_digest: str
    checkpoint: str
    attempts: int = 1
    coarse: tuple[str, ...] = ()
    noise: float = 0.0
    epsilon: float | None = None
    delta: float | None = None

    def __str__(self) -> str:
        """Return one line for people."""
        parts = [f"{name} {s:.2f} s" for name, s in self.seconds.items() if s]
        clipped = f", {sum(self.clipped.values())} clipped" if self.clipped else ""
        means = "".join(f", {name} {v:.4g}" for name, v in self.metrics.items())
        if self.coarse:
            clipped += f", coarse: {listed(self.coarse)}"
        if self.epsilon is not None:
            means += f", ε = {self.epsilon:.3g} at δ = {self.delta:.1g}"
        return (
            f"round {self.round} of {self.task}: {self.cohort} clients, "
            f"weight {self.weight} of {self.weight_sum}, "
            f"up {_size(self.bytes_up)}, down {_size(self.bytes_down)} "
            f"(float32: {_size(4 * self.values)}), {', '.join(parts)}, "
            f"error ≤ {self.stated_bound:.1e}{clipped}{means}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        lists = {"clients": list(self.clients), "coarse": list(self.coarse)}
        return asdict(self) | lists

    def scalars(self) -> dict[str, float]:
        """Return what loggers and progress bars show, under `cohort_` names.

        The number of the round, clients, clipped values, bytes up, seconds, the
        bound on the mean's error, the cohort's mean of every metric, and epsilon in
        a private task.
        """
        out = {
            "cohort_round": float(self.round),
            "cohort_clients": float(self.cohort),
            "cohort_clipped": float(self.clipped_total),
            "cohort_bytes_up": float(self.bytes_up),
            "cohort_seconds": sum(self.seconds.values()),
            "cohort_error": self.stated_bound,
        }
        if self.epsilon is not None:
            out["cohort_epsilon"] = self.epsilon
        return out | {f"cohort_{name}": v for name, v in self.metrics.items()}

    def _repr_html_(self) -> str:
        """Return a small table for notebooks."""
        rows = [
            ("round", f"{self.round} of {escape(self.task)}"),
            ("cohort", f"{self.cohort} clients, weight {self.weight_sum}"),
            (
                "up",
                f"{_size(self.bytes_up)} ({self.bytes_up / self.values:.2f} B/value)",
            ),
            ("down", f"{_size(self.bytes_down)}"),
            *((name, f"{s:.2f} s") for name, s in self.seconds.items() if s),
            ("error", f"≤ {self.stated_bound:.1e}"),
            (
                "clipped",
                f"{sum(self.clipped.values())} of {self.values}, "
                f"{self.clipped_total} in the cohort",
            ),
            *((escape(name), f"{v:.4g}") for name, v in self.metrics.items()),
        ]
        if self.coarse:
            rows.append(("coarse", escape(listed(self.coarse))))
        if self.epsilon is not None:
            rows.append(("epsilon", f"{self.epsilon:.3g} (δ = {self.delta:.1g})"))
            rows.append(("noise", f"± {self.noise:.1e} a value"))
        cells = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in rows)
        return f"<table>{cells}</table>"


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


def _report(
    answer: Mapping[str, Any], privacy: Mapping[str, Any] | None
) -> RoundReport:
    known = {f.name for f in fields(RoundReport)}
    values = {k: v for k, v in answer.items() if k in known}
    values["clients"] = tuple(values["clients"])
    values["seconds"] = {p: values["seconds"].get(p, 0.0) for p in PHASES}
    if privacy is not None:
        # The signed specification counts what was released before, sums that
        # did not open included: nothing that this process remembers.
        released = answer["spent"]
        values["delta"] = privacy["delta"]
        values["epsilon"] = epsilon(
            privacy["noise_multiplier"], privacy["delta"], released
        )
    return RoundReport(**values)


#: Seconds without an answer before there is a warning, and between warnings.
_PATIENT, _AGAIN = 5.0, 60.0


class _Outage:
    """Warnings while a service does not answer, instead of silence."""

    def __init__(self) -> None:
        self._tries, self._next = 0, 0.0

    def note(self, tries: int, error: str, seconds: float, limit: float) -> None:
        """Take in what Go says of the last thing that it tried again."""
        if tries == self._tries:
            return
        self._tries, now = tries, time.monotonic()
        if seconds >= _PATIENT and now >= self._next:
            self._next = now + _AGAIN
            _log.warning(
                "no answer for %.0f s: %s; it is tried again until nothing has moved "
                "for %.0f minutes",
                seconds,
                error,
                limit / 60,
            )


class Operation:
    """Work in Go's background that Python polls, so that Ctrl-C is answered."""

    def __init__(self, kind: str, array: Any = None, **request: Any) -> None:
        if "profile" in request:
            names = [n for n in os.environ if n.startswith("CRYPTFLOW_")]
            request["environment"] = {n: os.environ[n] for n in names}
        text = json.dumps(request)
        if array is None:
            self._handle = Handle(call("Start", kind, text))
        else:
            self._handle = Handle(send("StartWith", kind, text, array=array))

    def run(self, observe: Observer | None = None) -> Any:
        """Wait for the end; return the operation's value."""
        outage = _Outage()
        try:
            while True:
                answer = json.loads(call("OpPoll", self._handle.number, _POLL))
                if "waiting" in answer:
                    outage.note(**answer["waiting"])
                if observe is not None:
                    for phase, (done, total) in answer["progress"].items():
                        observe(phase, done, total)
                if answer["done"]:
                    return answer.get("value")
        except BaseException:
            self.close()
            raise

    def take(self) -> Flat:
        """Return the operation's array."""
        array = receive("OpTake", self._handle.number)[1]
        values: Flat = array.to_numpy(zero_copy_only=True)
        return values

    def close(self) -> None:
        """End the operation if it runs, and drop it."""
        self._handle.close()


def run(kind: str, array: Any = None, **request: Any) -> Any:
    """Run an operation that gives no array and return its value."""
    operation = Operation(kind, array, **request)
    try:
        return operation.run()
    finally:
        operation.close()


_GOES_ON = "going on with the interrupted contribution to round %d"


class Contribution:
    """An update that the aggregator has, waiting for its round."""

    def __init__(self, number: int, round_number: int) -> None:
        self._handle = Handle(number)
        self.round = round_number

    def __repr__(self) -> str:
        return f"Contribution(round={self.round})"


class Client:
    """A connected member of a task; `connect` makes it.

    A context manager. One round at a time: it may be used from one thread.
    """

    def __init__(
        self,
        profile: str,
        task: str | None,
        progress: bool | None,
        on_phase: Observer | None,
    ) -> None:
        answer = run("connect", profile=profile, task=task or "", threads=threads())
        self._handle = Handle(answer["client"])
        self.info: dict[str, Any] = answer["task"]
        if "privacy" in self.info:
            try:
                require()
            except BaseException:
                self._handle.close()
                raise
        self._layout = [
            Tensor(t["name"], tuple(t["shape"]), t["precise"], t["nonnegative"])
            for t in self.info["layout"]
        ]
        self._progress, self._on_phase = progress, on_phase
        self._waiting: Contribution | None = None

    def __repr__(self) -> str:
        i = self.info
        return (
            f"Client({i['client']} in {i['task']}: {i['mode']}, {i['preset']}, "
            f"{i['bits']} bits, {i['values']} values, {i['members']} clients)"
        )

    @property
    def _number(self) -> int:
        """The connected client's number in Go."""
        if self._handle.closed:
            raise from_code(
                "CF_BAD_HANDLE",
                "this client is closed: train inside its with block, or connect again",
            )
        return self._handle.number

    @property
    def name(self) -> str:
        """Name in this client's certificate."""
        return str(self.info["client"])

    @property
    def layout(self) -> Layout:
        """The task's tensors, in the order in which values travel."""
        return self._layout

    @property
    def weight_cap(self) -> int | None:
        """The largest num_examples; None in a private task, which uses none."""
        return None if "privacy" in self.info else int(self.info["weight_cap"])

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Scalars that this task's clients may report with an update."""
        return tuple(self.info["metrics"])

    @property
    def privacy(self) -> Privacy | None:
        """What the task promises every client; None without privacy."""
        p = self.info.get("privacy")
        if p is None:
            return None
        names = ("clip_norm", "noise_multiplier", "delta", "colluding")
        return Privacy(**{name: p[name] for name in names})

    @property
    def position(self) -> dict[str, Any]:
        """How far this client came in its task: plain values, no secret.

        Kept beside the model that `collect` made, it lets another process
        go on; see `resume`.
        """
        answer: dict[str, Any] = run("position", client=self._number)
        return answer

    def resume(self, position: Mapping[str, Any]) -> None:
        """Go on from a `position` that a client of this name had.

        A contribution of this object that was not collected is let go.

        Raises
        ------
        cryptflow.errors.RoundError
            It is one of another task (CF_MODEL_MISMATCH).
        cryptflow.errors.InputError
            It is not a position.
        cryptflow.errors.CorruptError
            Its checkpoint is not signed by the key service.
        """
        run("resume", client=self._number, position=dict(position))
        self._waiting = None

    def ready(self) -> None:
        """Say before training whether this client can take part in the next round.

        Raises
        ------
        cryptflow.errors.RoundError
            The cohort has another model: this client came late, or started again
            without its state (CF_MODEL_MISMATCH); or the task has ended
            (CF_TASK_ENDED).
        """
        run("ready", client=self._number)

    def initial_model(self) -> Flat | None:
        """Return the task's first model, verified against the signed task.

        Returns
        -------
        numpy.ndarray or None
            float32, shape (values,); None when the aggregator keeps none, because
            every client brings it (``create_task(initial_model="clients")``).
            This client contributes nothing then before `check_initial_model` has
            seen the weights that it starts from.
        """
        operation = Operation("model", client=self._number)
        try:
            return operation.take() if operation.run() else None
        finally:
            operation.close()

    def check_initial_model(self, weights: Flat) -> None:
        """Compare weights with the digest of the first model, which the admin signed.

        Parameters
        ----------
        weights : numpy.ndarray
            float32, shape (values,), in layout order: what this client starts from.

        Raises
        ------
        cryptflow.errors.RoundError
            They are not the task's first model, bit for bit (CF_MODEL_MISMATCH).
        """
        from cryptflow.hazmat import _float32

        run("holds", _float32(weights, self.info["values"]), client=self._number)

    def contribute(
        self,
        update: Flat,
        num_examples: int,
        metrics: Mapping[str, float] | None = None,
    ) -> Contribution:
        """Encrypt an update, upload it and deposit its key.

        Waits until the round that follows the last one is open and, in a task
        whose ranges are not fixed, agrees on them with the cohort. When this
        returns, the aggregator has signed that it holds the contribution.

        While an earlier contribution has not been collected, because something
        interrupted this method after its key was deposited, or `collect`, that
        contribution is returned in place of a new one: it may count already, so
        that the update must not be given twice. What the update has become since
        then is not in that round.

        Parameters
        ----------
        update : numpy.ndarray
            float32, shape (values,), in layout order: what local training
            changed. It must not change until `collect` has returned.
        num_examples : int
            Its weight in the mean, 1 to the task's cap. In a private task every
            client counts the same, and the number does not leave the client.
        metrics : mapping of str to float, optional
            Scalars that the task names, such as loss, between ±4194304: encrypted
            with the update; the report has the cohort's weighted mean.

        Raises
        ------
        cryptflow.errors.InputError
            NaN or infinity (the error names the tensor), wrong type, shape or
            weight, or a metric that the task does not name or that is too large:
            nothing was sent.
        cryptflow.errors.RoundError
            The round was sealed without this client, this client holds another
            model than the round's, or the task has ended.
        """
        from cryptflow.hazmat import _float32, _integer

        examples = _integer("num_examples", num_examples)
        array = _float32(update, self.info["values"])
        if self._waiting is not None:
            _log.warning(_GOES_ON, self._waiting.round)
            return self._waiting
        scalars = _scalars(metrics)
        with self._bars() as observe:
            operation = Operation(
                "contribute",
                array,
                client=self._number,
                examples=examples,
                metrics=scalars,
            )
            try:
                answer = operation.run(observe)
            finally:
                operation.close()
        given = Contribution(answer["contribution"], answer["round"])
        if answer["resumed"]:
            _log.warning(_GOES_ON, given.round)
        elif scalars:
            miss(self, scalars)
        self._waiting = given
        return given

    def collect(
        self, contribution: Contribution | None = None
    ) -> tuple[Flat, RoundReport]:
        """Wait for the round of a contribution and open its mean.

        Returns
        -------
        mean : numpy.ndarray
            float32, shape (values,): Σ wᵢ·xᵢ / Σ wᵢ over the cohort. Every
            client of the cohort gets the same bits.
        report : RoundReport

        Raises
        ------
        cryptflow.errors.RoundError
            The round was aborted (code CF_ROUND_ABORTED, verified against the
            key service's signature: the update may be contributed again), or
            was sealed without this client.
        cryptflow.errors.CorruptError
            A signature, proof, root or the decryption itself does not verify.
        """
        contribution = contribution or self._waiting
        if contribution is None:
            raise from_code("CF_STATE", "nothing was contributed")
        with self._bars() as observe:
            operation = Operation(
                "collect",
                client=self._number,
                contribution=contribution._handle.number,
            )
            try:
                report = _report(operation.run(observe), self.info.get("privacy"))
                mean = operation.take()
            except UnavailableError:
                raise  # its round goes on
            except CryptFlowError:
                self._waiting = None
                raise
            finally:
                operation.close()
        self._waiting = None
        contribution._handle.close()
        return mean, report

    def average(
        self,
        update: Flat,
        num_examples: int,
        metrics: Mapping[str, float] | None = None,
    ) -> tuple[Flat, RoundReport]:
        """Contribute and collect; see `contribute` and `collect`.

        When the key service aborted the round (too few clients at the
        deadline), the same update goes into the next one. After an interruption
        (Ctrl-C in a notebook) call it again: it takes up what was interrupted.
        """
        attempts = 1
        while True:
            try:
                given = self.contribute(update, num_examples, metrics)
                mean, report = self.collect(given)
                break
            except RoundError as error:
                if error.code != "CF_ROUND_ABORTED":
                    raise
                _log.warning("%s; trying the next round", error)
                attempts += 1
        values = {f.name: getattr(report, f.name) for f in fields(report)}
        return mean, RoundReport(**{**values, "attempts": attempts})

    def _bars(self) -> Bars:
        return Bars(self._progress, self._on_phase)

    def close(self) -> None:
        """End the connections."""
        self._handle.close()

    def __enter__(self) -> Client:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the connections."""
        self.close()


def _scalars(metrics: Mapping[str, float] | None) -> dict[str, float]:
    out: dict[str, float] = {}
    if metrics is not None and not isinstance(metrics, Mapping):
        raise InputError(
            f"metrics is a {type(metrics).__name__}; it is a mapping of names to "
            'numbers, such as {"loss": 0.5}'
        )
    for name, value in (metrics or {}).items():
        try:
            # A tensor that still has its graph is a number all the same.
            out[name] = float(value.detach() if hasattr(value, "detach") else value)
        except (TypeError, ValueError, RuntimeError):  # the last is torch's
            raise InputError(f"metric {name!r} is {value!r}, not a number") from None
        if not np.isfinite(out[name]):
            raise from_code("CF_NOT_FINITE", f"metric {name!r} is NaN or an infinity")
    return out


def connect(
    profile: Path | None = None,
    *,
    task: str | None = None,
    progress: bool | None = None,
    on_phase: Callable[[str, int, int], None] | None = None,
) -> Client:
    """Connect to a task as a profile says.

    Parameters
    ----------
    profile : path, optional
        Profile file, as ``cryptflow up`` writes them; when missing, the file
        that CRYPTFLOW_PROFILE names. CRYPTFLOW_AGGREGATOR, _KMS, _TASK,
        _CERTIFICATE, _KEY, _AUTHORITY and _ADMIN_KEY override what it says.
    task : str, optional
        Name of the task, when the profile names none or another.
    progress : bool, optional
        Show progress bars; when missing, if standard error is a terminal and
        tqdm is installed.
    on_phase : callable, optional
        Called often as ``on_phase(phase, done, total)`` while a round runs; what
        it raises ends the waiting, as Ctrl-C does.

    Raises
    ------
    cryptflow.errors.InputError
        The profile or the environment is wrong.
    cryptflow.errors.UnavailableError
        A service cannot be reached.
    cryptflow.errors.AccessError
        The certificate is not accepted, or not enrolled in the task.
    cryptflow.errors.CorruptError
        The task is not signed by the admin that the profile trusts.
    """
    path = "" if profile is None else fspath(profile)
    return Client(path, task, progress, on_phase)


Model = Weights | Mapping[str, Any] | tuple[Layout, Any] | Any


def layout_of(model: Model) -> tuple[list[Tensor], Flat]:
    """Return layout and flat values of a model in any accepted form."""
    if isinstance(model, tuple) and len(model) == 2:
        layout = [
            t if isinstance(t, Tensor) else Tensor(t[0], tuple(t[1])) for t in model[0]
        ]
        if not any(isinstance(t, Tensor) for t in model[0]):
            layout = in_company(layout)
        return layout, np.ascontiguousarray(model[1], np.float32).reshape(-1)
    if hasattr(model, "layout") and hasattr(model, "read"):
        weights: Any = model
        layout = list(weights.layout)
        values = np.empty(sum(t.count for t in layout), np.float32)
        weights.read(values)
        return layout, values
    if any(c.__module__.partition(".")[0] == "keras" for c in type(model).__mro__):
        from cryptflow.keras import ModelWeights

        return layout_of(ModelWeights(model))
    if hasattr(model, "state_dict"):
        from cryptflow.torch import ModuleWeights

        module: Any = model
        return layout_of(ModuleWeights(module))
    if isinstance(model, Mapping):
        arrays = {name: np.asarray(a, np.float32) for name, a in model.items()}
        layout = in_company(Tensor(name, tuple(a.shape)) for name, a in arrays.items())
        parts = [a.reshape(-1) for a in arrays.values()] or [np.empty(0, np.float32)]
        return layout, np.concatenate(parts)
    raise LayoutError(
        f"a {type(model).__name__} is not a model: pass a torch module, a Keras model, "
        "a mapping of names to arrays, Weights such as "
        "cryptflow.arrays.ArrayWeights(model, names), or (layout, values)"
    )


def _range(name: str, value_range: float | Mapping[str, float]) -> float:
    from cryptflow.hazmat import _range as checked

    if not isinstance(value_range, Mapping):
        return checked(name, value_range)
    for pattern, r in value_range.items():
        if fnmatchcase(name, pattern):
            return checked(name, r)
    return 1.0


def create_task(
    name: str,
    model: Model,
    *,
    clients: Sequence[str],
    profile: Path | None = None,
    rounds: int = 10,
    mode: str = "sum-key",
    bits: int = 16,
    preset: str | None = None,
    rounding: str | None = None,
    encoding: str = "lanes",
    weight_cap: int | None = None,
    ranges: str | None = None,
    value_range: float | Mapping[str, float] | None = None,
    precise: Sequence[str] | None = None,
    nonnegative: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    min_cohort: int | None = None,
    max_clients: int | None = None,
    fraction: float = 0.8,
    per_organisation: int = 0,
    trim: int = 0,
    deadline: int = 600,
    privacy: Privacy | None = None,
    initial_model: str = "stored",
) -> dict[str, Any]:
    """Create a task, as an admin.

    No client can start before this has returned. When it is interrupted, or
    fails because a disk is full or a service away, the same call with the same
    model goes on from there.

    Parameters
    ----------
    name : str
        a-z, 0-9, dot, dash, underscore.
    model : torch module, Keras model, mapping, Weights or (layout, values)
        The first model: names, shapes and values of what travels.
    clients : sequence of str
        Enrolled names, each "NAME" or "NAME@ORGANISATION".
    profile : path, optional
        Profile of an admin; CRYPTFLOW_PROFILE when missing.
    rounds : int
        Rounds to publish.
    mode : {"sum-key", "shared-key"}
        Key mode; see THREAT_MODEL.md before choosing the second.
    bits : int
        Bits of a value, 4 to 24.
    preset : str, optional
        Parameters; when missing, those with the fewest bytes.
    rounding : {"stochastic", "nearest"}, optional
        Rounding to `bits` bits; stochastic when missing.
    encoding : {"lanes", "slots", "slots-ci"}
        lanes: several integers a coefficient, the fewest bytes. slots and
        slots-ci: classic CKKS packing, for comparison.
    weight_cap : int, optional
        Largest num_examples of one client, 1000 when missing. With fixed
        ranges, choose it near the largest client's number: weights are precise
        to 1/weight_cap. In shared-key, weights are public and at most 255: a
        larger cap scales and rounds them, and the reports' bounds cover that.
    ranges : {"negotiated", "adaptive", "fixed"}, optional
        How rounds come by the range of each tensor, the largest magnitude that
        travels unclipped. negotiated (the default): the cohort agrees before
        every update, in a small encrypted round that reveals how many clients
        have which power of two; nothing is ever clipped. adaptive: agreed once,
        then following the global update. fixed (when `value_range` is given).
    value_range : float or mapping, optional
        Fixed ranges; a mapping gives one by glob pattern of tensor names (1.0
        otherwise).
    precise : sequence of str, optional
        Glob patterns of tensors whose values span magnitudes: they travel in
        several digits (three for 16 bits), so that small values keep their bits
        beside large ones. Buffers of torch modules, weights of Keras layers that
        are not trained, and moments in mappings are precise by themselves, except
        with slots or privacy, where none can be. A pattern that begins with !
        takes away.
    nonnegative : sequence of str, optional
        Patterns of tensors that no mean may take below zero. Variances of
        normalising layers are by themselves.
    metrics : sequence of str, optional
        Scalars that clients may report with an update, under the names that the
        framework logs, such as val/loss: printable ASCII without spaces, at most
        128 characters. loss when missing.
    min_cohort, max_clients : int, optional
        Sizes of a cohort; half of the clients (at least the key service's floor)
        and all of them when missing.
    fraction : float
        Least fraction of the clients that announced themselves for a round; one
        may always be missing, unless it is 1.
    per_organisation : int
        Most clients of one organisation in a cohort; 0 for no cap.
    trim : int
        Of ranges that the cohort agrees on: so many of the largest claims on each
        are ignored. One client that claims a huge range then costs the others no
        precision; those whose claims were ignored clip, and their reports say so.
    deadline : int
        Seconds from a round's first commit.
    privacy : Privacy, optional
        Differential privacy for every client. Then every client counts the same
        (weight_cap is 1), there are no metrics, ranges follow from the clip
        norm, the mode is sum-key and the encoding lanes: leave them out. Models
        with many values need more bits; `plan` says what rounding costs.
    initial_model : {"stored", "clients"}
        Who keeps the first model. stored: the aggregator, which gives it to every
        client. clients: every client brings it, and the aggregator never sees it.
        The admin signs its digest either way, and a client whose weights have
        another one does not start.

    Returns
    -------
    dict
        task, digest, preset, mode and bits as accepted.

    Raises
    ------
    cryptflow.errors.InputError
        Something is out of its limits; the text says what.
    cryptflow.errors.RoundError
        A task has the name already (CF_TASK_EXISTS).
    """
    from cryptflow.hazmat import _words

    layout, values = layout_of(model)
    able = encoding == "lanes" and privacy is None
    layout = chosen(layout, precise, nonnegative, able)
    for what, number in (
        ("rounds", rounds),
        ("bits", bits),
        ("weight_cap", weight_cap),
        ("deadline", deadline),
        ("min_cohort", min_cohort),
        ("max_clients", max_clients),
    ):
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if number is not None and not (whole and 0 < number < 1 << 32):
            raise InputError(f"{what} is {number!r}; it is a positive integer")
    _words(
        mode=mode,
        preset=preset,
        rounding=rounding,
        encoding=encoding,
        ranges=ranges,
        initial_model=initial_model,
    )
    for what, several in (("metrics", metrics), ("clients", clients)):
        if isinstance(several, str):
            raise InputError(f"{what} is a string: pass a list, [{several!r}]")
    if values.size == 0:
        raise LayoutError("the model has no values that travel: is every layer frozen?")
    members = [c.partition("@") for c in clients]
    if ranges is None:
        fixed_ranges = value_range is not None or privacy is not None
        ranges = "fixed" if fixed_ranges else "negotiated"
    if privacy is not None and value_range is not None:
        raise InputError("with privacy ranges follow from the clip norm")
    if ranges != "fixed" and value_range is not None:
        raise InputError(f"{ranges} ranges are agreed on; leave value_range out")
    fixed = 1.0 if value_range is None else value_range
    if metrics is None and privacy is None:
        metrics = ("loss",)
    request = {
        "name": name,
        "mode": mode,
        "preset": preset or "",
        "bits": int(bits),
        "rounding": rounding or "",
        "encoding": encoding,
        "ranges": ranges,
        "metrics": list(metrics or ()),
        "layout": [
            {
                "name": t.name,
                "shape": t.shape,
                "range": 0 if privacy else _range(t.name, fixed),
                "precise": t.precise,
                "nonnegative": t.nonnegative,
            }
            for t in layout
        ],
        "weight_cap": int(weight_cap or 0),
        "privacy": None if privacy is None else privacy.to_dict(),
        "members": [{"name": n, "organisation": o} for n, _, o in members],
        "max_clients": int(max_clients or 0),
        "min_cohort": int(min_cohort or 0),
        "fraction": fraction,
        "per_organisation": per_organisation,
        "trim": trim,
        "deadline": int(deadline),
        "rounds": int(rounds),
        "initial_model": initial_model,
    }
    import pyarrow as pa

    path = "" if profile is None else fspath(profile)
    answer: dict[str, Any] = run(
        "create", pa.array(values), profile=path, create=request
    )
    if privacy is None:
        steps = 2 ** (int(bits) - 1) - 1
        named = {t.name: _range(t.name, fixed) for t in layout}
        coarse = first_coarse(layout, values, steps, named if ranges == "fixed" else {})
        warn_once(coarse, answer["digest"], "")
    return answer


def plan(
    values: int,
    *,
    clients: int,
    bits: int = 16,
    mode: str = "sum-key",
    rounding: str = "stochastic",
    encoding: str = "lanes",
    weight_cap: int = 1000,
    privacy: Privacy | None = None,
    min_cohort: int | None = None,
    calibrate: bool = True,
) -> list[dict[str, Any]]:
    """Choose parameters for a task.

    Parameters
    ----------
    values : int
        Values of an update.
    clients : int
        Largest cohort.
    bits : int
        Bits of a value, 4 to 30.
    mode, rounding, encoding, weight_cap
        As `create_task` takes them.
    privacy : Privacy, optional
        Plan for a private task.
    min_cohort : int, optional
        Its smallest cohort; 3, or all clients when they are fewer.
    calibrate : bool
        Measure encryption and decryption on this machine, in seconds.

    Returns
    -------
    list of dict
        The presets that can do it, the fewest bytes up first: among others
        preset, lanes, delta_bits, wire_bytes_per_value_up and _down,
        security_bits, failure_probability_log2, encrypt_seconds; privacy, with
        clip_norm_steps, range_over_clip_norm, noise_of_mean_over_clip_norm, and
        inflation: how much more noise rounding costs, 1 being none.

    Raises
    ------
    cryptflow.errors.InputError
        No preset can do it; the text says what would have to change.
    """
    from cryptflow.hazmat import _integer, _words

    _words(mode=mode, rounding=rounding, encoding=encoding)
    if not isinstance(privacy, Privacy | None):
        raise InputError(f"privacy must be a Privacy, not {type(privacy).__name__}")
    request = {
        "values": _integer("values", values),
        "clients": _integer("clients", clients),
        "bits": _integer("bits", bits),
        "mode": mode,
        "rounding": rounding,
        "encoding": encoding,
        "weight_cap": _integer("weight_cap", weight_cap),
        "privacy": None if privacy is None else privacy.to_dict(),
        "min_cohort": _integer("min_cohort", min_cohort or min(3, clients)),
        "calibrate": bool(calibrate),
    }
    answer: list[dict[str, Any]] = run("plan", plan=request, threads=threads())
    return answer
