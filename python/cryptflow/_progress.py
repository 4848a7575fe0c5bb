"""Progress bars while a round runs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

Observer = Callable[[str, int, int], None]

#: Phases that have a length of their own; waiting counts clients.
_UNITS = {"agree": "client", "wait": "client"}

#: Seconds that others are waited for before there is a warning; the next comes
#: after twice as long.
_PATIENT = 30.0

_log = logging.getLogger("cryptflow")


class Bars:
    """One tqdm bar for each phase of a round, when there is a terminal.

    Without bars, a cohort that stays incomplete is a warning now and then: a
    process whose output goes to a file would wait in silence.

    Parameters
    ----------
    wanted : bool or None
        None: if standard error is a terminal and tqdm is installed.
    observer : callable or None
        Told at every look as well: by raising it ends the operation.
    """

    def __init__(self, wanted: bool | None, observer: Observer | None) -> None:
        self._observer = observer
        self._bars: dict[str, Any] = {}
        self._last: dict[str, tuple[int, int]] = {}
        self._since: dict[str, float] = {}
        self._patience = _PATIENT
        self._tqdm: Any = None
        if wanted or (wanted is None and sys.stderr.isatty()):
            try:
                from tqdm import tqdm
            except ImportError:
                if wanted:
                    raise
            else:
                self._tqdm = tqdm

    def __enter__(self) -> Observer:
        """Return the function that takes progress."""
        return self._update

    def __exit__(self, *_: object) -> None:
        """Remove the bars."""
        for bar in self._bars.values():
            bar.close()

    def _update(self, phase: str, done: int, total: int) -> None:
        if self._observer is not None:
            self._observer(phase, done, total)
        if self._tqdm is None and phase in _UNITS:
            self._note(phase, done, total)
        if self._last.get(phase) == (done, total):
            return
        self._last[phase] = done, total
        if self._tqdm is None:
            return
        bar = self._bars.get(phase)
        if bar is None:
            bar = self._tqdm(
                total=total,
                desc=f"{phase:<8}",
                unit=" " + _UNITS.get(phase, "chunk"),
                leave=False,
                position=len(self._bars),
            )
            self._bars[phase] = bar
        bar.total = total
        bar.n = done
        bar.refresh()

    def _note(self, phase: str, done: int, total: int) -> None:
        """Warn when a phase has lacked clients for long, over all its attempts."""
        if done >= total:
            self._since.pop(phase, None)
            return
        now = time.monotonic()
        waited = now - self._since.setdefault(phase, now)
        if waited < self._patience:
            return
        self._patience *= 2
        _log.warning(
            "waiting for other clients for %.0f s, %d of %d are here; a round that is "
            "incomplete at the task's deadline goes on without who is missing, or is "
            "tried again where too few came: see whether the others still train or "
            "have failed",
            waited,
            done,
            total,
        )
