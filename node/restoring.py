"""Restoring: a verified backup takes the place of the store, which is kept under another name.

The backup is copied, never moved, and checked before anything is touched. The copy gets a token of
its own, so that our lists are not signed for before they have caught up (`node.guarding`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.names import OrgName
from federation.recovery import Obstacle
from node import administering, durable, findings, fsck, fsckjournal, migrating
from node.clock import Clock
from node.copies import list_replaced, name_copy, name_replaced
from node.errors import DamageError, StoreError, UsageError
from node.findings import DamageKind
from node.home import Home
from node.store import registry
from node.store.connection import Store
from node.store.registry import FollowState
from node.store.release import rotate_incarnation
from node.store.sqlite import sqlite_errors

_COPY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What took the place of the store.

    Attributes:
        path: the store.
        version: the store version that it is of.
        positions: the size of each list's log in it, by origin.
        own: our lists, which have to catch up before they are signed for.
        aside: the store that was here, under its new name; None if there was none.
    """

    path: Path
    version: int
    positions: dict[str, int]
    own: tuple[str, ...]
    aside: Path | None


def restore(
    home: Home,
    org: OrgName,
    backup: Path,
    *,
    clock: Clock,
    on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Restored:
    """Put a backup in the place of the store. The caller holds both locks of the node.

    Args:
        home: the node's folder.
        org: whose node it is.
        backup: the file that `hashfed backup` has made.
        clock: for opening the copy.
        on_progress: told (what, done, of how much).

    Raises:
        UsageError: there is no such file, or it is the store itself.
        DamageError: it is no backup, or not what was signed. Nothing was changed.
        StoreError: it is another organization's, from a newer version, or cannot be written.
    """
    store = home.store.resolve()
    if not backup.is_file():
        raise UsageError(f"{backup} is not there", hint="name a file that 'hashfed backup' made")
    if backup.resolve() == store:
        raise UsageError(f"{backup} is the store of this node", hint="name a backup of it")
    if Path(f"{backup}-wal").exists():
        raise UsageError(
            f"{backup} is in use, or the copy of a database that was: {backup}-wal lies beside it",
            hint="only a file that 'hashfed backup' made is complete in itself",
        )
    with name_copy(store, "restoring") as copy:
        with durable.disk_errors(copy):
            _copy(backup, copy, on_progress)
        try:
            restored = _prepare(copy, org, store, clock, on_progress)
        except DamageError as error:
            # It is the backup that the operator knows.
            text = str(error).replace(str(copy), str(backup))
            raise DamageError(
                text, hint="nothing was changed; name another file that 'hashfed backup' made"
            ) from error
        with durable.disk_errors(store):
            durable.sync(copy)
            aside = put_aside(store, clock.now_ms())
            durable.rename(copy, store)
            # What was found in the store that was there is not so of this one.
            findings.path_of(store).unlink(missing_ok=True)
            for journal in (home.fsck_journal, home.scrub_journal):
                fsckjournal.forget(journal)
    return Restored(
        path=home.store,
        version=restored.version,
        positions=restored.positions,
        own=restored.own,
        aside=aside,
    )


def _copy(backup: Path, copy: Path, on_progress: Callable[[str, int, int], None]) -> None:
    total = backup.stat().st_size
    durable.write_new(copy, b"")
    with backup.open("rb") as source, copy.open("wb") as target:
        while data := source.read(_COPY_BYTES):
            target.write(data)
            on_progress("copying", target.tell(), total)


def _prepare(
    copy: Path,
    org: OrgName,
    store: Path,
    clock: Clock,
    on_progress: Callable[[str, int, int], None],
) -> Restored:
    """Check the copy, and make it a store that signs nothing yet."""
    migrating.upgrade(copy, clock)
    with _opened(copy, clock) as opened:
        try:
            theirs = administering.own_root(opened).document.org
        except UsageError as error:
            raise DamageError(f"{copy.name}: the backup says not whose it is") from error
        if theirs != org:
            raise StoreError(
                f"the backup is {theirs}'s, this node is {org}'s",
                hint="nothing was changed; name the right file, or the right --home",
                reason="FOREIGN",
            )
        for damage in fsck.fsck(opened, on_progress=on_progress):
            if damage.kind is DamageKind.CLAIM:
                continue
            raise DamageError(
                f"the backup is damaged: {damage.message}",
                hint="nothing was changed; try an older backup",
            )
        records = list(registry.iter_lists(opened.connection))
        own = [record for record in records if record.own]
        with opened.write("restore", f"version {opened.version}") as transaction:
            rotate_incarnation(transaction)
            for record in own:
                registry.store_follow_state(
                    transaction.connection,
                    record.list,
                    FollowState.RECOVERING,
                    now_ms=transaction.now_ms,
                    reason=Obstacle.RESTORED,
                    detail="the store was restored from a backup",
                )
        # One file, complete in itself, so that it can be renamed.
        opened.connection.execute("PRAGMA journal_mode = DELETE")
        return Restored(
            path=store,
            version=opened.version - 1,
            positions={str(record.origin): record.log.size for record in records},
            own=tuple(str(record.origin) for record in own),
            aside=None,
        )


@contextmanager
def _opened(path: Path, clock: Clock) -> Iterator[Store]:
    store = Store.open(path, clock)
    try:
        with sqlite_errors(path):
            yield store
    finally:
        store.close()


def put_aside(store: Path, now_ms: int) -> Path | None:
    """Give what is in the store's place another name; return that of the database itself."""
    aside = name_replaced(store, now_ms)
    moved = store.exists()
    _move(store, aside)
    return aside if moved else None


def put_back(store: Path) -> None:
    """Give what was put aside last its place again, if that is empty: a replacement was cut off."""
    if not store.exists() and (replaced := list_replaced(store)):
        _move(replaced[-1], store)


def _move(store: Path, target: Path) -> None:
    """Give a database another name, if it is there, and what belongs to it.

    Whatever happens meanwhile, nobody finds the database without its log, which has what was
    committed last: the log has both names until the database has moved.
    """
    log, log_target = Path(f"{store}-wal"), Path(f"{target}-wal")
    if store.exists():
        if log.exists():
            # On a file system without links it has to follow the database.
            with suppress(OSError):
                os.link(log, log_target)
                durable.sync(store.parent)
        durable.rename(store, target)
    if log_target.exists():
        log.unlink(missing_ok=True)
    elif log.exists():
        log.rename(log_target)
    Path(f"{store}-shm").unlink(missing_ok=True)
    durable.sync(store.parent)
