"""Replaces the store of an older hashfed by a migrated copy, and keeps the old store.

The store is copied, and the copy gets the steps that its schema lacks. Everything in the copy is
checked: signed data against its signatures, other data against the store. Only then does the copy
take the store's name, in one step, and the store gets another name. If the process ends before
that, the store is unchanged, and the next migration removes the incomplete copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node.clock import Clock
from node.errors import DamageError, StoreFullError
from node.fsck import check
from node.home import Home
from node.maintenance.backup import copy_store
from node.store.connection import Store
from node.store.copies import name_copy
from node.store.migrations import read_unsigned
from node.store.schema import MIGRATIONS, Schema
from node.store.sqlite import fold_log, make_single_file, sqlite_errors
from node.system import durable


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What was done.

    Attributes:
        path: the store.
        steps: the names of the steps that were taken.
        kept: the old store, under its new name.
    """

    path: Path
    steps: tuple[str, ...]
    kept: Path


def migrate(
    home: Home,
    *,
    clock: Clock,
    schema: Schema = MIGRATIONS,
    on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Migrated | None:
    """Replace the store by a migrated copy, if its schema lacks a step.

    The caller holds both locks of the node.

    Args:
        home: the node's folder.
        clock: for opening the copy.
        schema: the schema that the store is to have.
        on_progress: told (what, done, of how much).

    Returns:
        What was done; None if there was nothing to do.

    After each of these errors, the store is unchanged.

    Raises:
        LockedError: another process has the store open.
        DamageError: a step would change what was signed or decided, or the store is damaged.
        StoreFullError: there is no room for the copy.
        StoreError: the store is from a newer hashfed, or a file cannot be written.
    """
    path = home.store.resolve()
    _sweep(path)
    store = Store.open_alone(path, clock, schema=schema)
    try:
        missing = store.missing_steps()
        if not missing:
            return None
        try:
            with name_copy(path, "migrating") as copy:
                kept = _replace(store, copy, missing[0], clock, schema, on_progress)
        except StoreFullError as error:
            raise StoreFullError(
                f"there is no room for the migrated copy of {path}: the store is unchanged",
                hint=f"free {path.stat().st_size >> 20} MiB or more on that disk, and run it again",
            ) from error
    finally:
        # Only after the store was replaced: until then nobody else may write to it.
        store.close()
    return Migrated(path=path, steps=tuple(missing), kept=kept)


def upgrade(path: Path, clock: Clock, *, schema: Schema = MIGRATIONS) -> None:
    """Take the steps that the schema of a copy lacks. Nobody else has it open.

    Raises:
        DamageError: it is not a store, or a step changes what no step may change.
        StoreError: it is from a newer hashfed, or cannot be written.
    """
    copy = Store.open_alone(path, clock, schema=schema)
    try:
        if not copy.missing_steps():
            return
        with sqlite_errors(path):
            before = read_unsigned(copy.connection)
            copy.migrate()
            after = read_unsigned(copy.connection)
    finally:
        copy.close()
    for what, rows in before.items():
        if after[what] != rows:
            raise DamageError(
                f"migrating would change {what}",
                hint="the store is unchanged; go on with the hashfed that wrote it, and report "
                "this",
            )


def _replace(
    store: Store,
    copy: Path,
    first: str,
    clock: Clock,
    schema: Schema,
    on_progress: Callable[[str, int, int], None],
) -> Path:
    """Make and check the migrated copy, and replace the store; return the old one's new name."""
    with durable.disk_errors(copy):
        copy_store(store, copy, lambda done, total: on_progress("copying", done, total))
        upgrade(copy, clock, schema=schema)
        _check(copy, clock, schema, on_progress)
        durable.sync(copy)
    # Fold the write-ahead log back into the store: then no log lies beside the copy that takes the
    # store's name, and the old store is a single self-contained file.
    with sqlite_errors(store.path):
        make_single_file(store.connection)
    with durable.disk_errors(store.path):
        # The journal of a committed change: SQLite keeps the file while it holds the lock.
        Path(f"{store.path}-journal").unlink(missing_ok=True)
        kept = _keep(store.path, first)
        durable.rename(copy, store.path)
    return kept


def _check(
    copy: Path, clock: Clock, schema: Schema, on_progress: Callable[[str, int, int], None]
) -> None:
    """Derive everything in the migrated copy again from what was signed."""
    migrated = Store.open(copy, clock, schema=schema)
    try:
        for damage in check.fsck(migrated, on_progress=on_progress):
            raise DamageError(
                f"the migrated copy is not what was signed: {damage.message}",
                hint="the store is unchanged; run 'fsck' of the hashfed that wrote it: it may be "
                "damaged itself",
            )
        # A single self-contained file, so that it can be renamed.
        with sqlite_errors(copy):
            fold_log(migrated.connection)
    finally:
        migrated.close()


def _keep(path: Path, first: str) -> Path:
    """Give the store a second name that tells its schema, and return that name.

    It keeps its first name, so that there is a whole store under it at each moment.
    """
    name = kept = path.with_name(f"{path.name}.before-{first}")
    number = 1
    while True:
        try:
            os.link(path, kept)
        except FileExistsError:
            number += 1
            kept = name.with_name(f"{name.name}-{number}")
        else:
            durable.sync(path.parent)
            return kept


def _sweep(path: Path) -> None:
    """Remove second names of the store that killed migrations have left behind."""
    for kept in path.parent.glob(f"{path.name}.before-*"):
        with suppress(OSError):
            if kept.samefile(path):
                kept.unlink()
