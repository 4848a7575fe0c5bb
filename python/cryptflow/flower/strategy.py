"""The server's side: it starts rounds, and holds receipts instead of models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from cryptflow.errors import InputError, from_code
from cryptflow.flower.elsewhere import AtTheClients

__all__ = ["EncryptedFedAvg"]

_log = logging.getLogger("cryptflow.flower")

#: The record of a reply that says what was contributed and opened.
RECEIPT = "cryptflow"


#: What Flower says of a message that expired before its reply.
_UNANSWERED = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)


class EncryptedFedAvg(FedAvg):
    """Flower's FedAvg, for clients with the mod ``cryptflow.flower.encrypted``.

    Takes what Flower's FedAvg takes. Every client takes part in every round:
    who misses one holds another model than the others. The first round carries
    the initial arrays, unless `send_initial` is False; later ones carry none,
    and no reply does.

    The trained model is with the clients, where ``encrypted(model_file=...)``
    writes it. What stands for it here, in the result and as the arrays of every
    round after the first, raises an error that says so when anything reads it: a
    subclass with a `start` of its own cannot save or evaluate the first model
    instead.

    Parameters
    ----------
    send_initial : bool
        Whether the initial arrays are sent in the first round: models with
        values that the CryptFlow task does not name, such as integers, need it.
    **options
        Those of Flower's FedAvg. `fraction_train` is 1, and `fraction_evaluate`
        is 0 when missing.

    Raises
    ------
    cryptflow.errors.InputError
        A fraction of the clients was asked for (CF_ARGUMENT).
    """

    def __init__(self, *, send_initial: bool = True, **options: Any) -> None:
        if options.get("fraction_train", 1.0) != 1.0:
            raise InputError(
                "fraction_train is 1 with encryption: a client that misses a round "
                "cannot open later ones"
            )
        super().__init__(**({"fraction_evaluate": 0.0} | options))
        self.send_initial = send_initial
        #: Receipts of every round: lists of dicts with task, round, client, …
        self.receipts: list[list[dict[str, Any]]] = []
        self._timeout: float | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run all rounds, as Flower's FedAvg, and leave the model where it is.

        Parameters
        ----------
        timeout : float
            Seconds that a round may take. Clients whose cohort stays incomplete
            try again until then, and no longer.
        evaluate_fn : None
            Nothing else: the server has no model that it could evaluate.

        Raises
        ------
        cryptflow.errors.InputError
            `evaluate_fn` was given (CF_ARGUMENT).
        """
        if evaluate_fn is not None:
            raise InputError(
                "evaluate_fn would evaluate the first model again and again: the "
                "server has no other; evaluate at the clients"
            )
        self._timeout = timeout
        return super().start(
            grid,
            initial_arrays,
            num_rounds=num_rounds,
            timeout=timeout,
            train_config=train_config,
            evaluate_config=evaluate_config,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the configuration, and in the first round the initial arrays."""
        if server_round == 1:  # here, for subclasses with a start of their own
            _log.warning(
                "the trained model stays with the clients: encrypted(model_file=...) "
                "writes it there"
            )
        first = server_round == 1 and self.send_initial
        sent = arrays if first else ArrayRecord()
        messages = list(super().configure_train(server_round, sent, config, grid))
        if self._timeout is not None:
            for message in messages:  # nobody reads a later reply
                message.metadata.ttl = self._timeout
        return messages

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the configuration alone: clients evaluate the model they hold."""
        return super().configure_evaluate(server_round, ArrayRecord(), config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check receipts; return what stands for the model, and the cohort's metrics.

        Raises
        ------
        cryptflow.errors.RoundError
            A reply carries arrays or no receipt, clients opened different
            results (CF_PLAINTEXT); no client finished (CF_ROUND_ABORTED); the
            mean has other contributions than those of this run's clients
            (CF_CONTRIBUTION_CONFLICT).
        """
        good, bad = self._check_and_log_replies(replies, is_train=True, validate=False)
        for message in good:
            refuse_arrays(message)
        why = ""
        if bad:
            error = bad[0].error
            why = f"; one of them: {error.reason}"
            if error.code in _UNANSWERED and self._timeout is not None:
                why = (
                    f"; one of them gave no answer within {self._timeout:g} seconds, "
                    "the timeout of strategy.start: does its node run, and is that "
                    "longer than the slowest client trains?"
                )
        if not good:
            raise from_code(
                "CF_ROUND_ABORTED",
                f"round {server_round}: no client finished, {len(bad)} failed{why}",
            )
        receipts: list[dict[str, Any]] = [
            dict(m.content[RECEIPT]) for m in good if RECEIPT in m.content
        ]
        if len(receipts) != len(good):
            raise from_code(
                "CF_PLAINTEXT",
                f"round {server_round}: {len(receipts)} receipts in {len(good)} "
                "replies; do all ClientApps have mods=[encrypted(...)]? Their logs "
                "say more",
            )
        opened = {(r["task"], r["round"], r["result"]) for r in receipts}
        if len(opened) > 1:
            raise from_code(
                "CF_PLAINTEXT",
                f"round {server_round}: the clients opened {len(opened)} different "
                "results; do they all run the same app and task?",
            )
        clients, cohort = {r["client"] for r in receipts}, receipts[0]["cohort"]
        if not len(clients) == len(receipts) == cohort:
            raise from_code(
                "CF_CONTRIBUTION_CONFLICT",
                f"round {server_round}: {len(clients)} clients of this run have a "
                f"mean of {cohort}: another run of the same task took part, or a "
                f"client ended before its reply; {len(bad)} failed{why}",
            )
        self.receipts.append(receipts)
        metrics = self.train_metrics_aggr_fn(
            [m.content for m in good], self.weighted_by_key
        )
        return AtTheClients(), metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate metrics of replies, none of which may carry arrays."""
        messages = list(replies)
        for message in messages:
            if not message.has_error():
                refuse_arrays(message)
        return super().aggregate_evaluate(server_round, messages)


def refuse_arrays(message: Message) -> None:
    """Refuse a reply with arrays.

    Raises
    ------
    cryptflow.errors.RoundError
        It has some; they are not looked at.
    """
    if message.content.array_records:
        raise from_code(
            "CF_PLAINTEXT",
            f"node {message.metadata.src_node_id} sent arrays in the clear; its "
            "ClientApp needs mods=[encrypted(...)] as the last mod of the list",
        )
