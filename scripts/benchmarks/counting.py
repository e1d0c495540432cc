"""Counts the bytes that two nodes exchange, as a proxy between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_WR, create_connection, create_server, socket
from typing import Final

_FORWARD_BYTES: Final = 64 * 1024


class Counter:
    """Forwards one port of the loopback interface to another and counts the bytes both ways.

    It counts the content of the TCP streams: whole TLS records, without the headers of TCP and IP,
    which depend on the network.

    Attributes:
        port: where it listens.
    """

    def __init__(self, listener: socket, to: int) -> None:
        self.port = int(listener.getsockname()[1])
        self._to = to
        self._listener = listener
        self._lock = threading.Lock()
        self._bytes = 0  # Guarded by _lock.

    def take(self) -> int:
        """Return the bytes since the last call."""
        with self._lock:
            taken, self._bytes = self._bytes, 0
            return taken

    def accept(self) -> None:
        """Forward connections until the listener is closed."""
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                called = create_connection(("127.0.0.1", self._to))
            except OSError:
                caller.close()
                continue
            for source, target in ((caller, called), (called, caller)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket, target: socket) -> None:
        with suppress(OSError):
            while data := source.recv(_FORWARD_BYTES):
                with self._lock:
                    self._bytes += len(data)
                target.sendall(data)
            target.shutdown(SHUT_WR)


@contextmanager
def counting(to: int) -> Iterator[Counter]:
    """Count the bytes of connections to a port while the block runs."""
    with create_server(("127.0.0.1", 0)) as listener:
        counter = Counter(listener, to)
        threading.Thread(target=counter.accept, daemon=True).start()
        yield counter
