"""Wakes the node's server after a commit of another process, so that streams need no polling.

A wake-up only says that the store has something new. It may be lost, so the listener also looks at
the store from time to time. Sending one never fails and never waits.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from node.errors import ConfigError
from node.home import Home

_ADDRESS_BYTES: Final = 107 if sys.platform == "linux" else 103
"""The longest path that fits a socket address with its final NUL byte."""

_WAKE: Final = b"\x01"


def notify(home: Home) -> None:
    """Wake the server of this home, if one listens. It never raises and never waits."""
    # There may be no server, only a dead one's socket, or a full queue, which means that wake-ups
    # are waiting already. None of this concerns the process that has committed.
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        _address(home) as (address, _),
    ):
        sender.settimeout(0)
        sender.sendto(_WAKE, address)


def open_listener(home: Home) -> socket.socket:
    """Open the socket for `notify`: non-blocking, and readable after a wake-up.

    The caller holds the serve lock, so an existing socket belongs to a server that has ended, and
    is replaced. The caller must read the store once after this, as earlier wake-ups are lost.

    Raises:
        ConfigError: the socket cannot be made, or there is another file in its place.
    """
    path = home.wake_socket
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.settimeout(0)
        with _address(home) as (address, folder):
            _remove_stale(home, folder)
            listener.bind(address)
            os.chmod(path.name, 0o600, dir_fd=folder)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{path} cannot be made: {error.strerror or error}",
            hint="keep the home folder on a local file system, below a shorter path if need be",
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def drain(listener: socket.socket) -> None:
    """Take all waiting wake-ups: all of them together mean one look at the store."""
    # Bounded, so that a flood of wake-ups cannot keep the caller busy.
    with suppress(BlockingIOError):
        for _ in range(1024):
            listener.recv(len(_WAKE))


@contextmanager
def _address(home: Home) -> Iterator[tuple[str, int]]:
    """Yield the address of the socket, and a descriptor of its folder."""
    path = home.wake_socket
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if len(os.fsencode(path)) <= _ADDRESS_BYTES:
            yield str(path), folder
        else:
            # A short name of the same file. Systems without /proc refuse it with an OSError.
            yield f"/proc/self/fd/{folder}/{path.name}", folder
    finally:
        os.close(folder)


def _remove_stale(home: Home, folder: int) -> None:
    path = home.wake_socket
    try:
        mode = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"{path} is not a socket, and would be overwritten",
            hint="move it out of the home folder",
        )
    os.unlink(path.name, dir_fd=folder)
