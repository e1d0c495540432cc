"""Reads a store that may be damaged anywhere: whatever can be read of it, and nothing by force.

The file itself is never written. When SQLite cannot even open it, a copy is opened whose first page
is that of an empty store: it says where each table begins, which is the same in every store.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.clock import Clock
from node.store.connection import Store
from node.store.copies import name_copy
from node.store.sqlite import sqlite3
from node.system import durable

_PAGE_SIZE: Final = struct.Struct(">H")
_PAGE_SIZE_AT: Final = 16
_PAGE_COUNT: Final = struct.Struct(">I")
_PAGE_COUNT_AT: Final = 28
_CHANGES_AT: Final = 24
_VALID_FOR_AT: Final = 92
"""Where these stand in the first page (sqlite.org/fileformat.html, section 1.3)."""


class Wreck:
    """A store of which some rows cannot be read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def row(self, statement: str, *values: object) -> tuple[object, ...] | None:
        """Return the first row of a query; None when there is none, or it cannot be read."""
        try:
            found: tuple[object, ...] | None = self._connection.execute(
                statement, values
            ).fetchone()
        except (sqlite3.Error, OverflowError):
            return None
        return found

    def rows(
        self, table: str, columns: Sequence[str], where: str = "1", *values: object
    ) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a table that can be read, each once: from both of its ends."""
        chosen = ", ".join(columns)
        last, stopped = -(1 << 63), False
        forward = f"SELECT rowid, {chosen} FROM {table} WHERE {where} ORDER BY rowid"  # noqa: S608
        try:
            for rowid, *row in self._connection.execute(forward, values):
                last = rowid
                yield tuple(row)
        except sqlite3.Error:
            stopped = True
        if not stopped:
            return
        later: list[int] = []
        try:
            for (rowid,) in self._connection.execute(
                f"SELECT rowid FROM {table} WHERE ({where}) AND rowid > ? "  # noqa: S608
                "ORDER BY rowid DESC",
                (*values, last),
            ):
                later.append(rowid)
        except sqlite3.Error:
            pass
        for rowid in reversed(later):
            row = self.row(f"SELECT {chosen} FROM {table} WHERE rowid = ?", rowid)  # noqa: S608
            if row is not None:
                yield row


def as_bytes(value: object) -> bytes:
    """Return bytes as they were stored; none for what damage made something else of."""
    return value if isinstance(value, bytes) else b""


def as_int(value: object, default: int = 0, *, most: int = (1 << 63) - 1) -> int:
    """Return a number that was stored, if it is one from 0 to `most`."""
    return value if isinstance(value, int) and 0 <= value <= most else default


def as_text(value: object) -> str:
    """Return a text that was stored; an empty one for anything else."""
    return value if isinstance(value, str) else ""


@contextmanager
def open_wreck(path: Path, clock: Clock) -> Iterator[Wreck]:
    """Open a store for reading what can be read of it.

    Raises:
        StoreError: a copy that is needed for it cannot be written.
    """
    connection = _connect(path)
    if connection is not None:
        try:
            yield Wreck(connection)
        finally:
            connection.close()
        return
    with name_copy(path, "wreck") as copy:
        with durable.disk_errors(copy):
            _copy_mended(path, copy, clock)
        connection = _connect(copy) or sqlite3.connect(":memory:")
        try:
            yield Wreck(connection)
        finally:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    """Return a connection that can read the schema, or None."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return None
    try:
        connection.text_factory = _decode
        # Goes on although the file is shorter than it says.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA query_only = ON")
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        for table in ("org", "list", "delta", "body", "span", "version", "node"):
            if table not in names:
                raise sqlite3.DatabaseError(f"no table {table}")
            connection.execute(f"SELECT rowid FROM {table} LIMIT 0")  # noqa: S608
    except sqlite3.Error:
        connection.close()
        return None
    return connection


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _copy_mended(path: Path, copy: Path, clock: Clock) -> None:
    """Copy a store, with the first page of an empty one."""
    # Goes with the copy.
    model = copy.with_name(f"{copy.name}.model")
    store = Store.create(model, clock)
    store.connection.execute("PRAGMA journal_mode = DELETE")
    store.close()
    first = model.read_bytes()
    (size,) = _PAGE_SIZE.unpack_from(first, _PAGE_SIZE_AT)
    page = bytearray(first[:size])
    shutil.copyfile(path, copy)
    copy.chmod(0o600)
    wal = Path(f"{path}-wal")
    if wal.exists():
        shutil.copyfile(wal, Path(f"{copy}-wal"))
    with copy.open("r+b") as file:
        file.seek(0, 2)
        # The pages that are there, in a file that no writer has left unfinished.
        _PAGE_COUNT.pack_into(page, _PAGE_COUNT_AT, max(1, file.tell() // size))
        page[_VALID_FOR_AT : _VALID_FOR_AT + 4] = page[_CHANGES_AT : _CHANGES_AT + 4]
        if wal.exists():
            page[18:20] = b"\x02\x02"
        file.seek(0)
        file.write(page)
