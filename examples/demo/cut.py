"""A line that can be cut: kills this process in the middle of an upload."""

from __future__ import annotations

import os
import signal
import socket
import threading


class Line:
    """Forwards connections to one address and counts what goes out."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = host, int(port)
        self._left: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def kill_after(self, sent: int) -> None:
        """Kill this process, without warning, once that many bytes went out."""
        self._left = sent

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            there = socket.create_connection(self._target)
            for ends in ((here, there, True), (there, here, False)):
                threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, out: bool) -> None:
        while block := source.recv(16384):
            sink.sendall(block)
            if out and self._left is not None:
                self._left -= len(block)
                if self._left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sink.close()


def cut_off(target: str) -> Line:
    """Return a line to an address."""
    return Line(target)
