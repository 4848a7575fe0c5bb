"""The server's side: it starts rounds, and holds receipts instead of models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from cryptflow.errors import InputError, from_code

__all__ = ["EncryptedFedAvg"]

#: The record of a reply that says what was contributed and opened.
RECEIPT = "cryptflow"


class EncryptedFedAvg(FedAvg):
    """Flower's FedAvg, for clients with the mod ``cryptflow.flower.encrypted``.

    Takes what Flower's FedAvg takes. Every client takes part in every round:
    who misses one holds another model than the others. The first round carries
    the initial arrays, unless `send_initial` is False; later ones carry none,
    and no reply does.

    The result's arrays are empty: the trained model is with the clients.

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

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the configuration, and in the first round the initial arrays."""
        first = server_round == 1 and self.send_initial
        sent = arrays if first else ArrayRecord()
        return super().configure_train(server_round, sent, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the configuration alone: clients evaluate the model they hold."""
        return super().configure_evaluate(server_round, ArrayRecord(), config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check receipts; return the cohort's metrics.

        Raises
        ------
        cryptflow.errors.RoundError
            A reply carries arrays or no receipt, clients opened different
            results, or no client finished.
        """
        good, _ = self._check_and_log_replies(replies, is_train=True, validate=False)
        for message in good:
            refuse_arrays(message)
        receipts = [dict(m.content[RECEIPT]) for m in good if RECEIPT in m.content]
        if len(receipts) != len(good) or not good:
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
        self.receipts.append(receipts)
        metrics = self.train_metrics_aggr_fn(
            [m.content for m in good], self.weighted_by_key
        )
        return None, metrics

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
