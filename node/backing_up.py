"""Backups: a copy of the store, taken while it is in use, that is verified before it is called one.

Keys are not part of it: they are kept apart, offline. A store that is put back is older than what
peers hold; `docs/operate.md` says what to do before publishing from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node import checking
from node.clock import Clock
from node.errors import DamageError, StoreError, UsageError
from node.store import registry
from node.store.connection import Store
from node.store.sqlite import sqlite3

_PAGES_A_STEP: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A verified copy of a store.

    Attributes:
        path: the file.
        size_bytes: its size.
        version: the store version that it is of.
        positions: the size of each list's log in it, by origin.
    """

    path: Path
    size_bytes: int
    version: int
    positions: dict[str, int]


def backup(
    store: Store,
    path: Path,
    *,
    clock: Clock,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Backup:
    """Copy the store to a file, check every signed byte of the copy, then give it its name.

    Args:
        store: the store; other processes may go on writing.
        path: the file to make. It must not exist.
        clock: for opening the copy.
        on_progress: told (pages copied, pages).

    Raises:
        UsageError: there is something at that path.
        StoreError: the file could not be written.
        DamageError: the copy does not hold what was signed; it is removed.
    """
    if path.exists():
        raise UsageError(f"{path} exists already", hint="name a file that does not exist")
    unnamed = path.with_name(f".{path.name}.unverified")
    unnamed.unlink(missing_ok=True)
    try:
        _copy(store, unnamed, on_progress)
        copy = Store.open_reader(unnamed, clock)
        try:
            damages = list(checking.fsck(copy))
            if damages:
                raise DamageError(
                    f"the copy is damaged: {damages[0].message}",
                    hint="run 'hashfed fsck': the store itself may be",
                )
            result = Backup(
                path=path,
                size_bytes=unnamed.stat().st_size,
                version=copy.version,
                positions={
                    str(record.origin): record.log.size
                    for record in registry.iter_lists(copy.connection)
                },
            )
        finally:
            copy.close()
        unnamed.rename(path)
        _sync(path.absolute().parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    finally:
        for leftover in (unnamed, *(Path(f"{unnamed}{end}") for end in ("-wal", "-shm"))):
            leftover.unlink(missing_ok=True)
    return result


def _copy(store: Store, path: Path, on_progress: Callable[[int, int], None]) -> None:
    def report(_status: int, remaining: int, total: int) -> None:
        on_progress(total - remaining, total)

    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.close(descriptor)
    try:
        target = sqlite3.connect(path, isolation_level=None)
        try:
            # From a read transaction, so that a writer cannot make the copy start over for ever.
            with store.snapshot() as connection:
                connection.execute("SELECT 1 FROM version LIMIT 1").fetchone()
                connection.backup(target, pages=_PAGES_A_STEP, progress=report)
            # One file, complete in itself.
            target.execute("PRAGMA journal_mode = DELETE")
        finally:
            target.close()
    except sqlite3.Error as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
