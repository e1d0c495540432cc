"""Names beside a store: of copies that are to replace it, and of stores that were replaced.

The process that makes a copy holds both locks of the node. So a file of such a name was left by a
process that was killed. It is as large as a store: it is removed before another one is made.
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
    """Provide a name beside a store that nothing has; what has it at the end is removed.

    Args:
        store: the store, by its own path: not by one that leads to it.
        purpose: a word for what the copy is made for, with which its name ends.
    """
    remove_copies(store, purpose)
    token = secrets.token_hex(8)
    try:
        yield store.with_name(f".{store.name}.{token}.{purpose}")
    finally:
        _remove(store, f"{token}.{purpose}*")


def remove_copies(store: Path, *purposes: str) -> None:
    """Remove what processes that were killed have left of copies for some purposes."""
    for purpose in purposes:
        _remove(store, f"*.{purpose}*")


def _remove(store: Path, pattern: str) -> None:
    """Remove copies, and what SQLite keeps beside each."""
    for path in store.parent.glob(f".{store.name}.{pattern}"):
        with suppress(OSError):
            path.unlink()


def name_replaced(store: Path, now_ms: int) -> Path:
    """Return the name that a store is kept by once another one has its place."""
    return store.with_name(f"{store.name}.replaced-{now_ms}")


def list_replaced(store: Path) -> list[Path]:
    """Return the stores that are kept by such names, the newest last."""
    found = store.parent.glob(f"{store.name}.replaced-*")
    times = {path: path.name.rpartition("-")[2] for path in found}
    # What belongs to one of them ends with a word.
    return sorted(
        (path for path, time in times.items() if time.isdigit()), key=lambda p: int(times[p])
    )


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
