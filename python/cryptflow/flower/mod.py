"""The client's side: a mod that keeps arrays from leaving through Flower."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from cryptflow._backup import write_arrays
from cryptflow.client import Client, connect
from cryptflow.errors import LayoutError, from_code
from cryptflow.flower.optimizers import Optimizer
from cryptflow.flower.strategy import RECEIPT
from cryptflow.session import (
    Flat,
    Layout,
    Session,
    compare_first,
    named_metrics,
    pieces,
)

__all__ = ["encrypted"]

Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]

_log = logging.getLogger("cryptflow.flower")

# Records of the node's own state, which stays with its SuperNode.
_ARRAYS, _MODEL, _POSITION = "cryptflow.arrays", "cryptflow.model", "cryptflow.position"


def encrypted(
    task: str | None = None,
    *,
    profile: str | os.PathLike[str] | None = None,
    optimizer: Optimizer | None = None,
    evaluate_metrics: bool = False,
    examples: str = "num-examples",
    model_file: str | os.PathLike[str] | None = None,
) -> Mod:
    """Return a mod that averages under encryption. It is the last of the list.

    The handler below finds the cohort's model in the message's arrays and
    returns trained arrays and metrics, as without encryption. What it returns
    stays here; the reply has a receipt and the cohort's numbers.

    Parameters
    ----------
    task : str, optional
        The CryptFlow task; the profile's when missing.
    profile : path, optional
        Profile of this node's client; when missing ``cryptflow-profile`` of the
        node's configuration, then CRYPTFLOW_PROFILE. ``{partition-id}`` is
        replaced by the node's partition.
    optimizer : Optimizer, optional
        What makes a step of the cohort's mean, such as
        `cryptflow.flower.FedAdam`. All clients use the same.
    evaluate_metrics : bool
        Whether metrics of evaluation may leave this node, in the clear.
    examples : str
        Which metric of the train handler is the client's weight.
    model_file : path, optional
        Where this node writes the cohort's model after every round, whole or not
        at all: arrays by name, for `numpy.load`. ``{partition-id}`` as in
        `profile`. A node's state belongs to one run; this file stays.

    Notes
    -----
    A node's clients run at the same time: a round ends when the cohort is
    complete. In simulations, give clients fractions of a core. Exceptions of the
    handler reach the server as their type alone. When a cohort stays incomplete,
    the same update goes into the task's next round, for as long as the message
    lives: the ServerApp's ``timeout``.
    """

    def mod(message: Message, context: Context, call_next: Handler) -> Message:
        kind = message.metadata.message_type.partition(".")[0]
        if kind == MessageType.TRAIN:
            file = None if model_file is None else Path(_path(context, model_file))
            if file is not None and not file.parent.is_dir():
                raise from_code("CF_CONFIG", f"model_file: no folder {file.parent}")
            until = message.metadata.created_at + message.metadata.ttl
            with _connected(context, task, profile, until) as client:
                return _train(client, message, context, call_next, file)
        if kind == MessageType.EVALUATE and _MODEL in context.state:
            message.content[_key(message, "arrays")] = _held(context)
        reply = _called(call_next, message, context)
        if reply.has_error():
            return reply
        return _without_arrays(reply, kind == MessageType.EVALUATE)

    def _train(
        client: Client,
        message: Message,
        context: Context,
        call_next: Handler,
        file: Path | None,
    ) -> Message:
        key = _key(message, "arrays")
        model = _Model(client.layout, _template(message, context, key))
        state = _state(client, model, context)
        model.write(state["master"])
        message.content[key] = model.record()
        reply = _called(call_next, message, context)
        if reply.has_error():
            return reply
        model.take(_only_arrays(reply))
        metrics: dict[str, Any] = {}
        for record in reply.content.metric_records.values():
            metrics |= dict(record)
        if examples not in metrics:
            raise from_code("CF_WEIGHT", f"the reply has no {examples!r}")
        stepping = _Stepping(client, optimizer, context, state["epochs"])
        session = Session(model, stepping, int(metrics[examples]), state=state)
        report = session.average(named_metrics(client, metrics) or None)
        _keep(context, model, session.state_dict(), state["epochs"] + 1)
        if file is not None:
            model.save(file)
        receipt = {
            "task": report.task,
            "round": report.round,
            "client": client.name,
            "cohort": report.cohort,
            "bytes": report.bytes_up,
            "result": report.result_digest,
        }
        # Every client says the same of the cohort: any weighting gives that.
        record = MetricRecord(report.scalars() | {examples: 1})
        content = RecordDict({RECEIPT: ConfigRecord(receipt), "metrics": record})
        return Message(content, reply_to=message)

    def _without_arrays(reply: Message, evaluation: bool) -> Message:
        if reply.content.array_records:
            raise from_code("CF_PLAINTEXT", "the reply has arrays; they stay")
        if evaluation and reply.content.metric_records and not evaluate_metrics:
            raise from_code(
                "CF_PLAINTEXT",
                "metrics of evaluation would leave in the clear; allow them with "
                "encrypted(evaluate_metrics=True)",
            )
        return reply

    return mod


def _connected(
    context: Context,
    task: str | None,
    profile: str | os.PathLike[str] | None,
    until: float,
) -> Client:
    found = profile or context.node_config.get("cryptflow-profile")
    found = found or os.environ.get("CRYPTFLOW_PROFILE")
    if found is None:
        raise from_code(
            "CF_CONFIG",
            "no profile: set cryptflow-profile in the SuperNode's --node-config",
        )

    def watch(*_: object) -> None:
        # A run that ended must not leave its updates to the next one.
        if time.time() > until:
            raise from_code(
                "CF_TIMEOUT",
                "the cohort was incomplete for as long as the ServerApp waits; did "
                "another client fail?",
            )

    path = _path(context, found)
    return connect(path, task=task, progress=False, on_phase=watch)


def _path(context: Context, found: Any) -> str:
    """Return a path with this node's partition in it."""
    path = str(os.fspath(found))
    partition = context.node_config.get("partition-id")
    if "{partition-id}" in path and partition is None:
        raise from_code(
            "CF_CONFIG",
            f"{path}: this SuperNode's --node-config has no partition-id",
        )
    return path.replace("{partition-id}", str(partition))


def _called(call_next: Handler, message: Message, context: Context) -> Message:
    """Call the handler; what an exception says stays on this machine."""
    try:
        return call_next(message, context)
    except Exception as error:
        _log.exception("the handler of this ClientApp failed")
        name = type(error).__name__
        raise RuntimeError(f"{name} in the handler; this node's log has it") from None


def _key(message: Message, default: str) -> str:
    names = list(message.content.array_records)
    return names[0] if len(names) == 1 else default


def _template(message: Message, context: Context, key: str) -> ArrayRecord:
    """Return all arrays that the handler expects, with this node's own values."""
    if _ARRAYS in context.state:
        return context.state.array_records[_ARRAYS]
    record = message.content.array_records.get(key)
    return ArrayRecord() if record is None else record


def _state(client: Client, model: _Model, context: Context) -> dict[str, Any]:
    if _POSITION in context.state:
        kept = context.state.config_records[_POSITION]
        master = context.state.array_records[_MODEL]["master"].numpy()
        position = json.loads(str(kept["position"]))
        epochs = int(str(kept["rounds"]))
    else:
        first = client.initial_model()
        if first is None and not model.complete:
            raise LayoutError(
                "neither the task nor the server has a first model: send initial "
                "arrays, or create the task with a model",
            )
        master = model.flat() if first is None else first
        if first is None:
            compare_first(client, master)
        position, epochs = client.position, 0
    start = np.empty_like(master)
    model.write(master)
    model.read(start)
    return {"master": master, "start": start, "epochs": epochs, "position": position}


def _keep(context: Context, model: _Model, state: dict[str, Any], rounds: int) -> None:
    context.state[_ARRAYS] = model.record()
    known = {}
    if _MODEL in context.state:
        known = dict(context.state.array_records[_MODEL].items())
    context.state[_MODEL] = ArrayRecord(known | {"master": Array(state["master"])})
    position = json.dumps(state["position"])
    context.state[_POSITION] = ConfigRecord({"position": position, "rounds": rounds})


def _held(context: Context) -> ArrayRecord:
    return context.state.array_records[_ARRAYS]


def _only_arrays(reply: Message) -> ArrayRecord:
    records = list(reply.content.array_records.values())
    if len(records) != 1:
        raise LayoutError(
            f"the handler returned {len(records)} records of arrays; one is the model",
        )
    return records[0]


class _Stepping:
    """A client whose means go through an optimizer."""

    def __init__(
        self, client: Client, optimizer: Optimizer | None, context: Context, rounds: int
    ) -> None:
        self._client, self._optimizer = client, optimizer
        self._context, self._rounds = context, rounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def average(
        self, update: Flat, num_examples: int, metrics: Any = None
    ) -> tuple[Flat, Any]:
        mean, report = self._client.average(update, num_examples, metrics)
        if self._optimizer is None:
            return mean, report
        kept = self._context.state
        arrays = dict(kept.array_records[_MODEL].items()) if _MODEL in kept else {}
        state = {k: a.numpy() for k, a in arrays.items() if k != "master"}
        step = self._optimizer.step(mean, state, self._rounds + 1)
        kept[_MODEL] = ArrayRecord({k: Array(a) for k, a in state.items()})
        return step, report


class _Model:
    """Arrays of a record, of which those in a layout travel."""

    def __init__(self, layout: Layout, template: ArrayRecord) -> None:
        self.layout = layout
        self._arrays: dict[str, Any] = {
            name: a.numpy().copy() for name, a in template.items()
        }
        self.complete = all(tensor.name in self._arrays for tensor in layout)
        for tensor in layout:
            if tensor.name not in self._arrays:
                self._arrays[tensor.name] = np.zeros(tensor.shape, np.float32)
        self._check(self._arrays)

    def _check(self, arrays: dict[str, Any]) -> None:
        for tensor in self.layout:
            found = arrays.get(tensor.name)
            if found is None or found.shape != tensor.shape or found.dtype.kind != "f":
                had = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise LayoutError(
                    f"tensor {tensor.name!r}: the task has shape {tensor.shape}, "
                    f"the app's arrays {had}",
                )

    def read(self, out: Flat) -> None:
        for part, tensor in zip(pieces(self.layout, out), self.layout, strict=True):
            part[...] = self._arrays[tensor.name]

    def write(self, values: Flat) -> None:
        for part, tensor in zip(pieces(self.layout, values), self.layout, strict=True):
            self._arrays[tensor.name][...] = part

    def flat(self) -> Flat:
        out = np.empty(sum(t.count for t in self.layout), np.float32)
        self.read(out)
        return out

    def take(self, record: ArrayRecord) -> None:
        """Hold what the handler has trained."""
        arrays = {name: a.numpy().copy() for name, a in record.items()}
        self._check(arrays)
        self._arrays = arrays

    def save(self, file: Path) -> None:
        """Write all arrays, whole or not at all."""
        write_arrays(file, self._arrays)

    def record(self) -> ArrayRecord:
        return ArrayRecord({name: Array(a) for name, a in self._arrays.items()})
