"""A real cluster on this machine, for notebooks and tests."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from cryptflow.client import Client, Model, connect, create_task, run
from cryptflow.errors import InputError, InternalError

__all__ = ["LocalCluster"]

_READY = "Stop with Ctrl-C."


class LocalCluster:
    """An aggregator and a key service on this machine, and their clients.

    Two processes with data folders of their own, mutual TLS and an authority
    made for them: nothing is simulated but the distance. A context manager.

    Parameters
    ----------
    clients : int
        Clients to make profiles for, named client-0, client-1, …
    min_cohort : int, optional
        Smallest cohort that the key service ever releases: 3, or the number of
        clients when that is smaller. 2 is the least.
    folder : path, optional
        Where data, certificates and profiles are kept; a temporary folder that
        is removed at the end when missing. A folder used before goes on.
    log : str
        debug, info, warn or error; the services log to ``services.log``.
    """

    def __init__(
        self,
        clients: int = 3,
        *,
        min_cohort: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        log: str = "info",
    ) -> None:
        if clients < 2:
            raise InputError(f"{clients} clients; a cohort has at least 2")
        self.size = clients
        self.floor = min_cohort or min(3, clients)
        self._log = log
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="cryptflow-")
            folder = self._temporary.name
        self.folder = Path(folder).resolve()
        self._process: subprocess.Popen[str] | None = None
        self._output: IO[str] | None = None

    @property
    def profiles(self) -> list[Path]:
        """Profile of each client."""
        return [self.folder / "profiles" / f"client-{i}.toml" for i in range(self.size)]

    @property
    def admin_profile(self) -> Path:
        """Profile of the admin, who creates tasks."""
        return self.folder / "profiles" / "admin.toml"

    @property
    def aggregator_folder(self) -> Path:
        """Everything that the aggregator keeps."""
        return self.folder / "aggregator"

    @property
    def kms_folder(self) -> Path:
        """Everything that the key service keeps, but its key-encryption key."""
        return self.folder / "kms"

    @property
    def log_file(self) -> Path:
        """What the services log."""
        return self.folder / "services.log"

    def start(self) -> LocalCluster:
        """Start both services and wait until they answer."""
        from cryptflow.__main__ import find

        self.folder.mkdir(parents=True, exist_ok=True)
        self._output = self.log_file.open("a")
        self._process = subprocess.Popen(
            [
                find(), "up", "--attached", "--port", "0",
                "--clients", str(self.size), "--floor", str(self.floor),
                "--data", str(self.folder), "--log", self._log,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        lines = self._process.stdout
        assert lines is not None
        for line in lines:
            if line.strip() == _READY:
                break
        else:
            self.stop()
            tail = self.log_file.read_text()[-2000:]
            raise InternalError(f"the services did not start:\n{tail}")
        threading.Thread(target=lines.read, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop both services; data stays unless the folder was temporary."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._output is not None:
            self._output.close()
            self._output = None

    def create_task(
        self,
        name: str,
        model: Model,
        **options: Any,
    ) -> dict[str, Any]:
        """Create a task that enrols every client of the cluster.

        Takes what `cryptflow.create_task` takes.
        """
        return create_task(
            name,
            model,
            clients=[p.stem for p in self.profiles],
            profile=self.admin_profile,
            **options,
        )

    def connect(self, number: int, task: str, **options: Any) -> Client:
        """Connect as client `number`, counted from 0. See `cryptflow.connect`.

        Raises
        ------
        cryptflow.errors.InputError
            The cluster has no such client.
        """
        if not 0 <= number < self.size:
            raise InputError(
                f"there is no client {number}: this cluster has {self.size}, "
                "counted from 0; start it with more, LocalCluster(clients=…)"
            )
        return connect(self.profiles[number], task=task, **options)

    def tasks(self) -> list[dict[str, Any]]:
        """Return how every task stands."""
        answer: list[dict[str, Any]] = run("list", profile=str(self.admin_profile))
        return answer

    def audit(self) -> dict[str, Any]:
        """Fetch the key service's audit log and verify all of it.

        Returns
        -------
        dict
            checkpoint (signed note), entries (their number), records (parsed),
            name and key of the key service, verified (True).

        Raises
        ------
        cryptflow.errors.CorruptError
            The log does not verify.
        """
        answer: dict[str, Any] = run("audit", profile=str(self.admin_profile))
        return {**answer, "verified": True}

    def __repr__(self) -> str:
        state = "running" if self._process else "stopped"
        folder = json.dumps(str(self.folder))
        return f"LocalCluster({self.size} clients, {state}, {folder})"

    def __enter__(self) -> LocalCluster:
        """Start the services."""
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        """Stop the services and remove a temporary folder."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
