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

#: By client: how often each metric has been missed; None once it arrived.
_Missed = dict[str, int | None]
_missed: WeakKeyDictionary[Any, _Missed] = WeakKeyDictionary()
#: The same for clients that connect anew for every round, by task and name.
_missed_in: dict[tuple[str, str], _Missed] = {}
#: A name that no metric has, for clients whose metrics an adapter chooses.
_BY_ADAPTER = ""


def named_metrics(
    client: Any, values: Mapping[str, Any], *, allowed: int = 0
) -> dict[str, float]:
    """Choose those of a framework's scalars that the client's task names.

    What cannot travel is left out, and a warning names it, once: a metric that
    the framework does not have, NaN or an infinity, or a value that is too large.
    `allowed` is how many rounds may pass before the framework has them all.
    """
    out, why = {}, {}
    for name in getattr(client, "metric_names", ()):
        try:
            value = float(values[name])
        except (KeyError, TypeError, ValueError):
            continue
        if not np.isfinite(value):
            why[name] = f"it is {value:g}"
        elif abs(value) > LIMIT:
            why[name] = (
                f"it is {value:g}, and metrics travel between ±{LIMIT:.0f}: scale it"
            )
        else:
            out[name] = value
    missed = _missed_by(client)
    missed[_BY_ADAPTER] = None
    _miss(client, missed, out, values, why, allowed)
    return out


def miss(client: Any, given: Mapping[str, float]) -> None:
    """Warn, once for each, of metrics that the task names and that were not given.

    What an adapter chose with `named_metrics` was looked at there.
    """
    missed = _missed_by(client)
    if _BY_ADAPTER not in missed:
        _miss(client, missed, given, given, {}, 0)


def _miss(
    client: Any,
    missed: _Missed,
    arrived: Mapping[str, float],
    values: Any,
    why: Mapping[str, str],
    allowed: int,
) -> None:
    for name in getattr(client, "metric_names", ()):
        if name in arrived:
            missed[name] = None
            continue
        before = missed.get(name, 0)
        if before is None:
            if name in why:  # it arrives no more: say so, once
                missed[name] = allowed + 1
                _warn(name, why[name])
            continue
        missed[name] = before + 1
        if before == allowed or (name in why and before < allowed):
            missed[name] = allowed + 1
            known = sorted(map(str, values))[:20] if isinstance(values, Mapping) else []
            given = ", ".join(known) or "none"
            _warn(name, why.get(name, f"the metrics that were given are: {given}"))


def _warn(name: str, why: str) -> None:
    _log.warning(
        "the task names the metric %r, which does not travel with this round: %s",
        name,
        why,
    )


def _missed_by(client: Any) -> _Missed:
    info = getattr(client, "info", None)
    if isinstance(info, Mapping):
        key = (str(info.get("digest")), str(info.get("client")))
        return _missed_in.setdefault(key, {})
    try:
        return _missed.setdefault(client, {})
    except TypeError:  # it cannot be referred to weakly
        return {}
