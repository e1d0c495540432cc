"""The SQLite library in use: that of the `pysqlite3` wheel, which sqlite-utils uses too.

The standard library's is not used: SQLite before 3.51.3 can lose committed data in WAL mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from node.errors import DamageError, LockedError, StoreError, StoreFullError

if TYPE_CHECKING:
    import sqlite3
else:
    import pysqlite3 as sqlite3

__all__ = ["Blob", "is_disk_failure", "open_blob", "select", "sqlite3", "sqlite_errors"]


def is_disk_failure(error: BaseException) -> bool:
    """Return whether the disk failed under SQLite, so that nobody knows what it holds now."""
    # The low byte of an extended code is its kind.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, sqlite3.Error) and code & 0xFF == sqlite3.SQLITE_IOERR


class Blob(Protocol):
    """A value that is read in parts."""

    def __len__(self) -> int:
        """Return its bytes."""

    def seek(self, offset: int, /) -> None:
        """Go to an offset."""

    def read(self, length: int, /) -> bytes:
        """Return the bytes that follow."""

    def close(self) -> None:
        """Close it."""


def open_blob(connection: sqlite3.Connection, table: str, column: str, row: int) -> Blob:
    """Open a value for reading.

    Raises:
        sqlite3.OperationalError: there is no such value.
    """
    # The standard library calls this `blobopen`, since Python 3.11.
    blob: Blob = connection.open_blob(table, column, row, True)  # type: ignore[attr-defined]  # noqa: FBT003
    return blob


def select(
    connection: sqlite3.Connection, query: str, values: Sequence[Any] | Mapping[str, Any] = ()
) -> sqlite3.Cursor:
    """Run a query and return a cursor whose rows are read by the names of their columns."""
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    return cursor.execute(query, values)


@contextmanager
def sqlite_errors(path: Path, if_damaged: str = "run 'hashfed fsck'") -> Iterator[None]:
    """Turn SQLite's errors about a file into ours, with what to do about them.

    Args:
        path: the file.
        if_damaged: what to do when it is damaged.

    Raises:
        LockedError: another process is writing and does not come to an end.
        StoreFullError: no room left.
        DamageError: the file is not what it should be.
        StoreError: something else makes the file unusable.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        # SQLITE_PROTOCOL, "locking protocol": SQLite tried to get a lock too many times.
        if any(word in text for word in ("locked", "busy", "locking protocol")):
            raise LockedError(
                f"{path} is being written by another process", hint="try again when it is done"
            ) from error
        if "full" in text:
            raise StoreFullError(
                f"no room left for {path}: nothing of this change was kept",
                hint="make room on that disk and run the command again",
            ) from error
        raise StoreError(
            f"{path}: {text}", hint="check the disk and who may write there"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DamageError(f"{path}: {error}", hint=if_damaged) from error
    except UnicodeDecodeError as error:
        # In a value, or in an error's own text that quotes one.
        raise DamageError(f"{path}: it has text that cannot be decoded", hint=if_damaged) from error


def make_single_file(connection: sqlite3.Connection) -> None:
    """Make a database one complete file, so that it can be renamed or copied."""
    connection.execute("PRAGMA journal_mode = DELETE")


def fold_log(connection: sqlite3.Connection) -> None:
    """Write everything in the write-ahead log into the database file."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
