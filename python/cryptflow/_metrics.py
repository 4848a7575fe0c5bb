"""Which of the scalars that a framework has travel, and what is said of others.

A metric that the task names and that does not travel is missed only when the
run is over. So each is named once, in a warning; training goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

__all__ = ["LIMIT", "miss", "named_metrics"]

_log = logging.getLogger(__name__)

#: The largest magnitude of a metric; a client refuses larger ones.
LIMIT = 2.0**22

#: By client: the metrics that arrived, or that a warning named.
_settled: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
#: The same for clients that connect anew for every round, by task and name.
_settled_in: dict[tuple[str, str], set[str]] = {}


def named_metrics(client: Any, values: Mapping[str, Any]) -> dict[str, float]:
    """Choose those of a framework's scalars that the client's task names.

    What cannot travel is left out, and a warning names it, once: a metric that
    the framework does not have, NaN or an infinity, or a value that is too large.
    """
    out = {}
    for name in getattr(client, "metric_names", ()):
        try:
            value = float(values[name])
        except (KeyError, TypeError, ValueError):
            continue
        if not np.isfinite(value):
            _warn(client, name, f"it is {value:g}")
        elif abs(value) > LIMIT:
            _warn(
                client,
                name,
                f"it is {value:g}, and metrics travel between ±{LIMIT:.0f}: scale it",
            )
        else:
            out[name] = value
    miss(client, out, values)
    return out


def miss(client: Any, arrived: Mapping[str, float], values: Any) -> None:
    """Warn, once for each, of metrics that the task names and that did not arrive."""
    known = sorted(map(str, values))[:20] if isinstance(values, Mapping) else []
    for name in getattr(client, "metric_names", ()):
        if name in arrived:
            _known(client).add(name)
        else:
            there = ", ".join(known) or "none"
            _warn(client, name, f"the metrics that were given are: {there}")


def _warn(client: Any, name: str, why: str) -> None:
    settled = _known(client)
    if name not in settled:
        settled.add(name)
        _log.warning(
            "the task names the metric %r, which does not travel with this round: %s",
            name,
            why,
        )


def _known(client: Any) -> set[str]:
    info = getattr(client, "info", None)
    if isinstance(info, Mapping):
        key = (str(info.get("digest")), str(info.get("client")))
        return _settled_in.setdefault(key, set())
    try:
        return _settled.setdefault(client, set())
    except TypeError:  # it cannot be referred to weakly
        return set()
