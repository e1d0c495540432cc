"""Locks between processes on one machine: at most one holds a file, and a dead one holds none.

Only the kernel's lock counts. The file itself means nothing and is never deleted, since then two
processes could hold two files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.errors import ConfigError, LockedError

_NOTE_BYTES: Final = 256
_POLL_SECONDS: Final = 0.02


class _Held:
    """A held lock, which a forked child releases at once.

    The lock belongs to the open file, which a fork shares. So a child that outlives its parent
    would keep the lock. The parent's lock stays, as the child only closes its descriptor.
    """

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        _held.add(self)

    def leave(self) -> int | None:
        descriptor, self.descriptor = self.descriptor, None
        _held.discard(self)
        return descriptor


_held: set[_Held] = set()


def _close_in_child() -> None:
    for held in tuple(_held):
        descriptor = held.leave()
        if descriptor is not None:
            os.close(descriptor)


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def hold(path: Path, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: the lock file, in an existing folder.
        what: what this process is doing, for the message of another process.
        wait_seconds: how long to wait for the lock.

    Raises:
        LockedError: another process, or another block of this one, holds it.
        ConfigError: the file cannot be opened or locked at all.
    """
    descriptor = _open(path)
    try:
        _take(descriptor, wait_seconds)
    except BlockingIOError:
        note = _read_note(descriptor)
        os.close(descriptor)
        raise _locked(path, what, note) from None
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(
            f"{path} cannot be locked: {error.strerror}",
            hint="keep the home folder on a local file system that has locks",
        ) from error
    held = _Held(descriptor)
    try:
        _write_note(descriptor, f"{os.getpid()} {what}\n")
        yield
    finally:
        _release(held)


def _take(descriptor: int, wait_seconds: float) -> None:
    """Take the lock.

    Raises:
        BlockingIOError: another process has held it all the time.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return


def _open(path: Path) -> int:
    # Programs that are started while the lock is held do not inherit it.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} does not exist", hint="create the node with 'hashfed init'"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}") from error


def _release(held: _Held) -> None:
    descriptor = held.leave()
    if descriptor is None:
        return
    try:
        _write_note(descriptor, "")
        # After closing alone, any other copy of the descriptor would still hold the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _write_note(descriptor: int, text: str) -> None:
    # A full disk must not prevent the lock: the note is only for a message.
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode()[:_NOTE_BYTES], 0)
    except OSError:
        return


def _read_note(descriptor: int) -> tuple[int | None, str]:
    """Return the pid and the activity of the holder, as far as it has written them."""
    try:
        text = os.pread(descriptor, _NOTE_BYTES, 0).decode(errors="replace")
    except OSError:
        return None, ""
    pid, _, what = text.partition(" ")
    if not (pid.isascii() and pid.isdigit()):
        return None, ""
    return int(pid), "".join(filter(str.isprintable, what))


def _locked(path: Path, what: str, note: tuple[int | None, str]) -> LockedError:
    pid, holder = note
    if pid is None:
        return LockedError(
            f"{what} cannot start: another process holds {path}",
            hint="wait until it is done, and try again",
        )
    return LockedError(
        f"{what} cannot start: {holder or 'another process'} is running here with pid {pid}",
        hint=f"wait until it is done, or stop it with 'kill {pid}', and try again",
    )
