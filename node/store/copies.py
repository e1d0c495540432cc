"""Names of files beside a store: copies that will replace it, and stores that were replaced.

The process that makes a copy holds both locks of the node. So a file with
such a name was left by a killed process. It is as large as a store, so it is removed before another
one is made.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from node.system import durable


@contextmanager
def name_copy(store: Path, purpose: str) -> Iterator[Path]:
    """Provide an unused name beside a store; a file that has it at the end is removed.

    Args:
        store: the path of the store itself, not of a link to it.
        purpose: a word for the purpose of the copy; its name ends with it.
    """
    remove_copies(store, purpose)
    token = secrets.token_hex(8)
    try:
        yield store.with_name(f".{store.name}.{token}.{purpose}")
    finally:
        _remove(store, f"{token}.{purpose}*")


def remove_copies(store: Path, *purposes: str) -> None:
    """Remove the copies for some purposes that killed processes have left."""
    for purpose in purposes:
        _remove(store, f"*.{purpose}*")


def _remove(store: Path, pattern: str) -> None:
    """Remove copies, and the files that SQLite keeps beside each."""
    for path in store.parent.glob(f".{store.name}.{pattern}"):
        with suppress(OSError):
            path.unlink()


def name_replaced(store: Path, now_ms: int) -> Path:
    """Return the name under which a store is kept after another one has replaced it."""
    return store.with_name(f"{store.name}.replaced-{now_ms}")


def list_replaced(store: Path) -> list[Path]:
    """Return the stores that are kept under such names, the newest last."""
    found = store.parent.glob(f"{store.name}.replaced-*")
    times = {path: path.name.rpartition("-")[2] for path in found}
    # The files that belong to one of them end with a word.
    return sorted(
        (path for path, time in times.items() if time.isdigit()), key=lambda p: int(times[p])
    )


def put_aside(store: Path, now_ms: int) -> Path | None:
    """Rename the store and its files; return the new name of the database itself."""
    aside = name_replaced(store, now_ms)
    moved = store.exists()
    _move(store, aside)
    return aside if moved else None


def put_back(store: Path) -> None:
    """Put the last renamed store back if its place is empty after an interrupted replacement."""
    if not store.exists() and (replaced := list_replaced(store)):
        _move(replaced[-1], store)


def _move(store: Path, target: Path) -> None:
    """Rename a database, if it exists, and the files that belong to it.

    Nobody ever finds the database without its log, which has the newest commits: the log has both
    names until the database has moved.
    """
    log, log_target = Path(f"{store}-wal"), Path(f"{target}-wal")
    if store.exists():
        if log.exists():
            # On a file system without links, the log has to follow the database.
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
