"""Backups: copies of the store, taken while it is in use and verified before they get their name.

They do not contain keys, which are kept apart, offline. A restored store is older than what peers
hold; `docs/operate.md` says what to do before publishing from it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.clock import Clock
from node.errors import CommandError, DamageError, StoreError
from node.fsck.check import fsck
from node.store import consistency, lists
from node.store.connection import Store
from node.store.damage import DamageKind
from node.store.sqlite import make_single_file, sqlite3, sqlite_errors

_PAGES_A_STEP: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A verified copy of a store.

    Attributes:
        path: the file.
        size_bytes: its size.
        version: the version of the store that it holds.
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
        CommandError: there is something at that path.
        StoreError: the file could not be written.
        DamageError: the copy does not hold what was signed; it is removed.
    """
    if path.exists():
        raise _exists(path)
    # A new name each time: another backup to the same file must not write into this one.
    unnamed = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unverified")
    try:
        copy_store(store, unnamed, on_progress)
        copy = Store.open_reader(unnamed, clock)
        try:
            for damage in fsck(copy):
                if damage.kind is DamageKind.CLAIM:
                    # The bytes are those that were signed, so the copy keeps them.
                    continue
                raise DamageError(
                    f"the copy is damaged: {damage.message}",
                    hint="run 'hashfed fsck': the store itself may be damaged too",
                )
            result = Backup(
                path=path,
                size_bytes=unnamed.stat().st_size,
                version=copy.version,
                positions={
                    str(record.origin): record.log.size
                    for record in lists.iter_lists(copy.connection)
                },
            )
        finally:
            copy.close()
        _name(unnamed, path)
        _sync(path.absolute().parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    finally:
        for leftover in (
            unnamed,
            *(Path(f"{unnamed}{end}") for end in ("-wal", "-shm", "-journal")),
        ):
            with suppress(OSError):
                leftover.unlink()
    return result


def _name(unnamed: Path, path: Path) -> None:
    """Give the file its name, unless something has that name by now."""
    try:
        # Unlike a rename, a link fails when the name is taken.
        os.link(unnamed, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:
        # A file system without links, such as that of a memory stick.
        unnamed.rename(path)


def _exists(path: Path) -> CommandError:
    return CommandError(f"{path} exists already", hint="name a file that does not exist")


def copy_store(store: Store, path: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy one version of a store to a new file, self-contained and safely on the disk.

    Args:
        store: the store; other processes may go on writing.
        path: the file.
        on_progress: told (pages copied, pages).

    Raises:
        OSError: the file cannot be made.
        StoreError: it cannot be written.
    """

    def report(_status: int, remaining: int, total: int) -> None:
        on_progress(total - remaining, total)

    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.close(descriptor)
    with sqlite_errors(path):
        target = sqlite3.connect(path, isolation_level=None)
        try:
            # Copy within a read transaction: otherwise each write would make the copy start over.
            with store.snapshot() as connection:
                consistency.newest_version(connection)
                # If a disk is full, it is that of the copy: the store is only read.
                with sqlite_errors(path):
                    connection.backup(target, pages=_PAGES_A_STEP, progress=report)
            # Make it a single self-contained file.
            make_single_file(target)
        finally:
            target.close()
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
