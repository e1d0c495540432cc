"""Tasks with the node's SQLite alone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from tasks import perform

from node.store.sqlite import sqlite3

_ROWS_PER_TRANSACTION: Final = 100_000


def append_floor(path: str, rows: int) -> dict[str, float]:
    """Append ready rows of a hash and three small numbers to a table with an integer key.

    The least that keeping a list can cost here: no key to find, nothing to check.
    """
    data = os.urandom(32 * rows)
    ready = [(data[at * 32 : at * 32 + 32], at % 12, at % 40, at % 1000) for at in range(rows)]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute(
        "CREATE TABLE entry (n INTEGER PRIMARY KEY, hash BLOB, a INTEGER, b INTEGER, c INTEGER)"
    )
    start = time.perf_counter()
    for at in range(0, rows, _ROWS_PER_TRANSACTION):
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO entry (hash, a, b, c) VALUES (?, ?, ?, ?)",
            ready[at : at + _ROWS_PER_TRANSACTION],
        )
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    seconds = time.perf_counter() - start
    connection.close()
    return {"seconds": seconds}


def database_bytes(paths: list[str]) -> list[int]:
    """Return the bytes of databases, with nothing left in their write-ahead logs."""
    sizes = []
    for path in paths:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()
        sizes.append(Path(path).stat().st_size)
    return sizes


def sqlite_version() -> str:
    """Return the version of SQLite that the node uses."""
    return str(sqlite3.sqlite_version)


if __name__ == "__main__":
    perform((append_floor, database_bytes, sqlite_version))
