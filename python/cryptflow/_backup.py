"""A session's state in a file, from which another process goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cryptflow.errors import InputError, from_code

__all__ = ["Backup", "write_arrays"]


class Backup:
    """What `Session.state_dict` returns, in a file (.npz).

    Raises
    ------
    cryptflow.errors.InputError
        The file's folder does not exist, or the path is a folder.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.is_dir() or not self._path.parent.is_dir():
            raise InputError(
                f"backup is {str(path)!r}: pass a file in a folder that exists"
            )

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what the file has."""
        rest = json.dumps({k: state[k] for k in ("epochs", "position")})
        arrays = {k: state[k] for k in ("master", "start")}
        write_arrays(self._path, {**arrays, "rest": rest})

    def load(self) -> dict[str, Any] | None:
        """Return the state; None where there is no file.

        Raises
        ------
        cryptflow.errors.CorruptError
            The file is something else.
        """
        if not self._path.exists():
            return None
        try:
            with np.load(self._path) as file:
                rest = json.loads(str(file["rest"]))
                return {
                    "master": file["master"],
                    "start": file["start"],
                    "epochs": int(rest["epochs"]),
                    "position": rest["position"],
                }
        except (BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
            raise from_code(
                "CF_STORAGE_CORRUPT",
                f"{self._path} is not a backup of FedAvg; remove it",
            ) from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays into a file (.npz), whole or not at all."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
