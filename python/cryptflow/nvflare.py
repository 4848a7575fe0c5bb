"""Encrypted federated averaging in NVIDIA FLARE jobs.

.. code-block:: python

    recipe = FedAvgRecipe(..., aggregator=ReceiptAggregator())
    encrypted(recipe, "digits", profile="/etc/cryptflow/{site}.toml")

Two filters at each client keep weights from leaving through FLARE: what a
script trained goes, encrypted, to CryptFlow's aggregator; the cohort's model is
put into the next task, and kept in the site's folder of the job. To FLARE's
server go receipts, which is all that its aggregator accepts. Everything fails
closed: what a filter does not recognise is an error at the client, and no data
leaves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants

from cryptflow._backup import write_arrays
from cryptflow.arrays import ArrayWeights
from cryptflow.client import Client, connect
from cryptflow.errors import InputError, LayoutError, RoundError, from_code
from cryptflow.session import Session, named_metrics

__all__ = [
    "EncryptResult",
    "FirstModelOnly",
    "OpenTask",
    "ReceiptAggregator",
    "encrypted",
]

#: Where a reply has its receipt, and a site its state, which stays private.
RECEIPT = "cryptflow"
#: In the folder of a job's run at every site: the cohort's model, arrays by name.
MODEL_FILE = "cryptflow-model.npz"
_SITE = "cryptflow.site"
_WEIGHTS = (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF)
#: Tasks of FLARE's own workflows whose results have weights or metrics. Filters
#: are found by a task's name; there is none for all.
_TASKS = (
    AppConstants.TASK_TRAIN,
    AppConstants.TASK_VALIDATION,
    AppConstants.TASK_SUBMIT_MODEL,
    AppConstants.TASK_GET_WEIGHTS,
)
_HEADERS = (AppConstants.CURRENT_ROUND, AppConstants.NUM_ROUNDS)


def encrypted(
    recipe: Any,
    task: str | None = None,
    *,
    profile: str | os.PathLike[str] | None = None,
    train_task: str = "train",
    send_initial: bool = True,
) -> Any:
    """Add the filters to a recipe made with ``aggregator=ReceiptAggregator()``.

    It is the recipe's last call before ``execute``: `EncryptResult` comes after
    all other result filters, or refuses to send.

    Parameters
    ----------
    recipe : nvflare.recipe.spec.Recipe
        Such as FedAvgRecipe.
    task : str, optional
        The CryptFlow task; the profile's when missing.
    profile : path, optional
        Profile of a site's client, in which ``{site}`` stands for the site's
        name; CRYPTFLOW_PROFILE of the site when missing.
    train_task : str
        The FLARE task whose results are averaged. Results of FLARE's other tasks
        are refused; those of tasks with names of a workflow's own are filtered by
        a site's privacy policy only.
    send_initial : bool
        Whether FLARE's server sends its model in the first round: models with
        arrays that the CryptFlow task does not name need it.

    Returns
    -------
    Recipe
        The one given.

    Raises
    ------
    cryptflow.errors.InputError
        The recipe has another aggregator, or FLARE's own (CF_ARGUMENT): the job
        would end well, and nobody would have looked at the receipts.
    """
    if not isinstance(getattr(recipe, "aggregator", None), ReceiptAggregator):
        raise InputError(
            "the recipe has no receipt aggregator: make it with "
            "aggregator=ReceiptAggregator()",
        )
    path = None if profile is None else os.fspath(profile)
    # A chain a task: FLARE refuses filters for one of the tasks of a shared chain.
    for name in sorted({train_task, *_TASKS}):
        recipe.add_client_input_filter(OpenTask(task, path, train_task), tasks=[name])
        recipe.add_client_output_filter(EncryptResult(train_task), tasks=[name])
    recipe.add_server_output_filter(FirstModelOnly(send_initial), tasks=[train_task])
    return recipe


class _Site:
    """A site's client and its model, kept while a job runs."""

    def __init__(self, client: Client, arrays: dict[str, Any]) -> None:
        self.client, self.arrays = client, arrays
        #: Of the last round: what its reply says.
        self.receipt: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        lacking = [t.name for t in client.layout if t.name not in arrays]
        if lacking and client.initial_model() is None:
            raise LayoutError(
                "neither the CryptFlow task nor FLARE's server has a first "
                f"{lacking[0]!r}: create the task with a model, or let no filter "
                "before OpenTask take arrays out of the server's",
            )
        for tensor in client.layout:
            # The layout is checked by the session; names have to be there.
            arrays.setdefault(tensor.name, np.zeros(tensor.shape, np.float32))
        self._names = {t.name for t in client.layout}
        self._weights = ArrayWeights(arrays, [t.name for t in client.layout])
        self._state = Session(self._weights, client, 1).state_dict()
        self._state["position"] = None  # one client, one process: it is there

    def average(self, found: Mapping[str, Any], difference: bool, meta: Any) -> None:
        """Contribute what was trained, and hold the cohort's model."""
        if not difference:  # what the task does not name is each site's own
            own = (found.keys() & self.arrays.keys()) - self._names
            self.arrays |= {name: _array(name, found[name]).copy() for name in own}
        for tensor in self.client.layout:
            if tensor.name not in found:
                raise LayoutError(
                    f"the result has no {tensor.name!r}, which the task names: is it "
                    "of another model, or did a filter before EncryptResult, such as "
                    "ExcludeVars, take it out?",
                )
            array = _array(tensor.name, found[tensor.name])
            if array.shape != tensor.shape:
                raise LayoutError(
                    f"array {tensor.name!r}: the task has shape {tensor.shape}, "
                    f"the result {array.shape}",
                )
            held = self.arrays[tensor.name]
            held[...] = held + array if difference else array
        steps = meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND)
        if steps is None:
            raise from_code(
                "CF_WEIGHT",
                "the result has no NUM_STEPS_CURRENT_ROUND: this client's weight",
            )
        metrics = named_metrics(self.client, meta.get(MetaKey.INITIAL_METRICS) or {})
        session = Session(self._weights, self.client, int(steps), state=self._state)
        try:
            report = session.average(metrics or None)
        except BaseException:
            self._weights.write(self._state["start"])
            raise
        self._state = session.state_dict() | {"position": None}
        self.receipt = {
            "task": report.task,
            "round": report.round,
            "client": self.client.name,
            "cohort": report.cohort,
            "bytes": report.bytes_up,
            "result": report.result_digest,
        }
        self.metrics = report.scalars() | report.metrics

    def save(self, folder: Path) -> None:
        """Write the cohort's model, whole or not at all."""
        write_arrays(folder / MODEL_FILE, self.arrays)


class OpenTask(Filter):
    """Client, task data: what is trained from is the cohort's model.

    Parameters
    ----------
    task, profile, train_task
        As `encrypted` takes them.
    """

    def __init__(
        self,
        task: str | None = None,
        profile: str | None = None,
        train_task: str = "train",
    ) -> None:
        super().__init__()
        self.task, self.profile, self.train_task = task, profile, train_task

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Put the cohort's model in the place of the server's.

        Raises
        ------
        cryptflow.errors.CryptFlowError
            The services or the task are not there, or the layout differs.
        """
        name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        site = fl_ctx.get_prop(_SITE)
        if site is None and name != self.train_task:
            return shareable
        dxo = from_shareable(shareable)
        if dxo.data_kind not in _WEIGHTS:
            return shareable
        if site is None:
            arrays = {k: _array(k, v).copy() for k, v in dxo.data.items()}
            site = _Site(self._connect(fl_ctx), arrays)
            fl_ctx.set_prop(_SITE, site, private=True, sticky=True)
        dxo.data_kind = DataKind.WEIGHTS
        dxo.data = {k: v.copy() for k, v in site.arrays.items()}
        return dxo.update_shareable(shareable)

    def _connect(self, fl_ctx: FLContext) -> Client:
        found = self.profile or os.environ.get("CRYPTFLOW_PROFILE")
        if found is None:
            raise from_code(
                "CF_CONFIG",
                "no profile: pass one to encrypted(...) or set CRYPTFLOW_PROFILE",
            )
        path = found.replace("{site}", str(fl_ctx.get_identity_name()))
        ended = fl_ctx.get_run_abort_signal()

        def watch(*_: object) -> None:
            # An incomplete cohort is waited for, but not by a job that ended: its
            # update would go into the next job's round.
            if ended is not None and ended.triggered:
                raise from_code("CF_CANCELLED", "the job ended before its round")

        return connect(path, task=self.task, progress=False, on_phase=watch)


class EncryptResult(Filter):
    """Client, task result: nothing but a receipt leaves.

    The cohort's model is written to ``cryptflow-model.npz`` in the site's folder
    of the run: after the last round that is where it is.

    FLARE's own filters pass on what they do not recognise; this one raises, and
    the server gets an error instead of data. Filters before it see and change
    what was trained; one after it is refused before anything is contributed. A
    second one, as where a site's policy and its job both name it, passes on the
    receipt of the first.

    Parameters
    ----------
    train_task : str
        The FLARE task whose results are averaged.
    """

    def __init__(self, train_task: str = "train") -> None:
        super().__init__()
        self.train_task = train_task

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Average under encryption; return a receipt and the cohort's metrics.

        Raises
        ------
        cryptflow.errors.RoundError
            The result is not weights of the train task, or no model went through
            `OpenTask` before (CF_PLAINTEXT).
        cryptflow.errors.LayoutError
            The result lacks an array that the task names, or has other shapes.
        cryptflow.errors.InputError
            Another filter comes after this one (CF_CONFIG).
        cryptflow.errors.CryptFlowError
            As `cryptflow.Client.average`.
        """
        code = shareable.get_return_code()
        if code != ReturnCode.OK:
            return make_reply(code)
        name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        site = fl_ctx.get_prop(_SITE)
        self._refuse_followers(name, fl_ctx)
        dxo = from_shareable(shareable)
        if name != self.train_task or dxo.data_kind not in _WEIGHTS:
            raise from_code(
                "CF_PLAINTEXT",
                f"a result of task {name!r} with {dxo.data_kind} would leave in the "
                f"clear; only weights of {self.train_task!r} are averaged",
            )
        if site is None:
            raise from_code(
                "CF_PLAINTEXT",
                f"a result of task {name!r} would leave in the clear: no model went "
                "through OpenTask before; it is a data filter of the same task, and "
                "encrypted(recipe, ...) adds both",
            )
        if not (site.receipt and _is_receipt(dxo.data, site.receipt)):
            difference = dxo.data_kind == DataKind.WEIGHT_DIFF
            site.average(dxo.data, difference, dxo.meta)
            workspace = fl_ctx.get_engine().get_workspace()
            site.save(Path(workspace.get_run_dir(fl_ctx.get_job_id())))
        # Every client says the same of the cohort.
        meta = {
            MetaKey.INITIAL_METRICS: dict(site.metrics),
            MetaKey.NUM_STEPS_CURRENT_ROUND: 1,
        }
        receipt = {RECEIPT: dict(site.receipt)}
        out = DXO(DataKind.WEIGHT_DIFF, data=receipt, meta=meta).to_shareable()
        for header in _HEADERS:
            if (value := shareable.get_header(header)) is not None:
                out.set_header(header, int(value))
        return out

    def _refuse_followers(self, task: str, fl_ctx: FLContext) -> None:
        """Refuse a filter after this one: it could add to what leaves."""
        runner = fl_ctx.get_prop(FLContextKey.RUNNER)
        chain: list[Filter] = []
        if (scope := fl_ctx.get_prop(FLContextKey.SCOPE_OBJECT)) is not None:
            chain += scope.task_result_filters.get(FilterKey.OUT) or []
        table = getattr(runner, "task_result_filters", None) or {}
        chain += table.get(f"{task}{FilterKey.DELIMITER}{FilterKey.OUT}") or []
        here = next((i for i, f in enumerate(chain) if f is self), len(chain))
        for other in chain[here + 1 :]:
            if not isinstance(other, EncryptResult):
                raise from_code(
                    "CF_CONFIG",
                    f"the filter {type(other).__name__} comes after EncryptResult and "
                    "would find a receipt, no weights: add it to the recipe before "
                    "encrypted(recipe, ...) is called, or to the site's privacy.json "
                    "before EncryptResult",
                )


class FirstModelOnly(Filter):
    """Server, task data: its model goes out in the first round, or never.

    What it holds stays its first model, and sites do not read it later.
    """

    def __init__(self, send_initial: bool = True) -> None:
        super().__init__()
        self.send_initial = send_initial

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Take the model out of all tasks but those of the first round."""
        first = shareable.get_header(AppConstants.START_ROUND, 0)
        now = shareable.get_header(AppConstants.CURRENT_ROUND, first)
        if self.send_initial and now == first:
            return shareable
        dxo = from_shareable(shareable)
        dxo.data = {}
        return dxo.update_shareable(shareable)


class ReceiptAggregator(ModelAggregator):
    """Server: holds receipts, and leaves the server's model as it is.

    The workflow fails when a result has anything else, when clients opened
    different sums, or when not the whole cohort reports.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Receipts of every round: lists of dicts with task, round, client, …
        self.receipts: list[list[dict[str, Any]]] = []
        self.reset_stats()

    def reset_stats(self) -> None:
        """Begin a round."""
        self._found: list[dict[str, Any]] = []
        self._metrics: dict[str, float] = {}
        self._refused = ""

    def accept_model(self, model: FLModel) -> None:
        """Take a receipt; remember that there was something else."""
        try:
            self._found.append(_receipt(model.params))
            self._metrics = dict(model.metrics or {})
        except RoundError as error:
            self._refused = str(error)
            self.error(self._refused)

    def aggregate_model(self) -> FLModel:
        """Check the round's receipts; return the cohort's metrics, no weights.

        Raises
        ------
        cryptflow.errors.RoundError
            The round is not what it should be (CF_PLAINTEXT).
        """
        found, names = self._found, {r["client"] for r in self._found}
        if self._refused:
            raise from_code("CF_PLAINTEXT", self._refused)
        opened = {(r["task"], r["round"], r["result"], r["cohort"]) for r in found}
        if (
            len(opened) != 1
            or len(names) != len(found)
            or len(found) != found[0]["cohort"]
        ):
            raise from_code(
                "CF_PLAINTEXT",
                f"{len(found)} receipts of {len(names)} clients for {len(opened)} "
                "results: do all sites run the same job and task?",
            )
        self.receipts.append(found)
        self.info(
            f"round {found[0]['round']} of {found[0]['task']}: {len(found)} clients"
        )
        return FLModel(
            params_type=ParamsType.DIFF, params={}, metrics=self._metrics or None
        )


#: What a receipt has, and nothing else.
_FIELDS = {
    "task": str,
    "round": int,
    "client": str,
    "cohort": int,
    "bytes": int,
    "result": str,
}


def _is_receipt(params: Any, receipt: dict[str, Any]) -> bool:
    """Whether a result is this receipt, and has nothing beside it."""
    try:
        return _receipt(params) == receipt
    except RoundError:
        return False


def _receipt(params: Any) -> dict[str, Any]:
    """Return the receipt that a result has, and refuse anything beside it."""
    receipt = params.get(RECEIPT) if isinstance(params, dict) else None
    if (
        not isinstance(receipt, dict)
        or len(params) != 1
        or receipt.keys() != _FIELDS.keys()
        or any(type(receipt[k]) is not kind for k, kind in _FIELDS.items())
    ):
        raise from_code(
            "CF_PLAINTEXT",
            "a site sent something else than a receipt; its job needs the filter "
            "EncryptResult as the last of the result filters",
        )
    return receipt


def _array(name: str, value: Any) -> Any:
    """Return a floating-point or other array of what a framework exchanges."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise LayoutError(
            f"{name!r} is {type(value).__name__}, not an array",
        )
    return value
