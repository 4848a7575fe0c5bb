"""What is checked after the demo's rounds: the means, and the disk."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAGIC = b"CFF1"
WINDOW = 64


def mean_error(
    updates: Sequence[np.ndarray],
    weights: Sequence[int],
    mean: np.ndarray,
    limit: float = np.inf,
) -> tuple[float, float]:
    """Compare a decrypted mean with float64 arithmetic.

    Values beyond `limit` are clipped before encryption, and here too.

    Returns
    -------
    error : float
        Largest difference.
    rounding : float
        What rounding the mean to float32 may add: half of its last place.
    """
    total = np.zeros(mean.shape, np.float64)
    for update, weight in zip(updates, weights, strict=True):
        total += np.clip(update.astype(np.float64), -limit, limit) * weight
    want = total / sum(weights)
    rounding = float(np.spacing(np.abs(mean)).max()) / 2
    return float(np.abs(mean.astype(np.float64) - want).max()), rounding


def windows(update: np.ndarray, count: int = 64) -> list[bytes]:
    """Return pieces of an update's bytes, spread over it, none all zero."""
    raw = np.ascontiguousarray(update).tobytes()
    starts = np.linspace(0, len(raw) - WINDOW, count).astype(int) // 4 * 4
    found = {raw[s : s + WINDOW] for s in starts.tolist()}
    return [w for w in found if any(w)]


def holds(folder: Path, pieces: Sequence[bytes]) -> list[Path]:
    """Return the files of a folder in which any of the pieces occurs."""
    hits = []
    paths = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    for path in sorted(paths):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # dropped meanwhile
            continue
        if any(piece in content for piece in pieces):
            hits.append(path)
    return hits


class Disk:
    """Keeps copies of the contributions that an aggregator stored.

    The aggregator drops them when a round's keys are destroyed; a curious
    operator would not.
    """

    def __init__(self, source: Path, copies: Path) -> None:
        self.source = source / "data" / "segments" / "blobs" / "contributions"
        self.folder = copies
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        copies.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.look()

    def look(self) -> None:
        """Copy what is new."""
        # Unlike rglob, walk passes over folders that vanish meanwhile.
        for folder, _, names in os.walk(self.source):
            for path in (Path(folder, name) for name in names):
                copy = self.folder / "-".join(path.relative_to(self.source).parts)
                try:
                    if not copy.exists():
                        shutil.copyfile(path, copy)
                except FileNotFoundError:
                    copy.unlink(missing_ok=True)

    def stop(self) -> dict[str, int]:
        """Stop; return the number of files, their bytes and frames."""
        self._stop.set()
        self._thread.join()
        self.look()
        contents = [p.read_bytes() for p in self.folder.iterdir()]
        return {
            "files": len(contents),
            "bytes": sum(map(len, contents)),
            "frames": sum(c.count(MAGIC) for c in contents),
        }
