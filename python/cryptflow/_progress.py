"""Progress bars while a round runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Observer = Callable[[str, int, int], None]

#: Phases that have a length of their own; waiting counts clients.
_UNITS = {"agree": "client", "wait": "client"}


class Bars:
    """One tqdm bar for each phase of a round, when there is a terminal.

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
