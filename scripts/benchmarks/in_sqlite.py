"""Measures floors: tasks with SQLite alone."""

from __future__ import annotations

import os
import sqlite3 as standard
import time
from pathlib import Path
from typing import Final

from node.store.sqlite import sqlite3
from scripts.benchmarks.tasks import perform

_ROWS_PER_TRANSACTION: Final = 100_000


def append_floor(path: str, rows: int, width: int) -> dict[str, float]:
    """Append ready rows of a hash and three small numbers to a table with an integer key.

    This is the least that keeping a list can cost here: there is no key to find and nothing to
    check.

    Args:
        path: the database to make.
        rows: how many rows to append.
        width: the size of a hash in bytes.

    Returns:
        The seconds that it took, and the size of the database in bytes.
    """
    data = os.urandom(width * rows)
    ready = [
        (data[at * width : (at + 1) * width], at % 12, at % 40, at % 1000) for at in range(rows)
    ]
    # The yardstick is the standard library's SQLite, whatever the node uses.
    connection = standard.connect(path, isolation_level=None)
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
    return {"seconds": seconds, "bytes": Path(path).stat().st_size}


def commit_floor(path: str, commits: int) -> list[float]:
    """Commit one small row durably, again and again.

    This is the least that acknowledging a change can cost a node. Returns the seconds of each.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entry (n INTEGER PRIMARY KEY, hash BLOB)")
    seconds = []
    for _ in range(commits):
        row = os.urandom(32)
        start = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entry (hash) VALUES (?)", (row,))
        connection.execute("COMMIT")
        seconds.append(time.perf_counter() - start)
    connection.close()
    return seconds


def sqlite_versions() -> dict[str, str]:
    """Return the versions of SQLite that the node and the append floor use."""
    return {
        "SQLite of the node": str(sqlite3.sqlite_version),
        "SQLite of the append floor": standard.sqlite_version,
    }


if __name__ == "__main__":
    perform((append_floor, commit_floor, sqlite_versions))
