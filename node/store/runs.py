"""The tiers of the index: a main run, and small ones that wait to be merged into it.

A run is a part of the table `posting` that is sorted by itself. A row costs the page that it falls
on, and rows at random places of a large run each fall on a page of their own. So they go into a
small run first, and many at once are merged into the main one, in its order and behind acceptance.
Looking something up looks into every run. Which rows there are is for `node.store.entries` to say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from node.store.connection import Store, Transaction
from node.store.sqlite import sqlite3

MAIN: Final = 1
"""The main run. Others have smaller numbers, newer ones the smallest: so the main run stands at the
end of the table, where a list that is loaded in the order of its keys is appended."""

_OPEN_ROWS: Final = 16_384
"""Rows after which a run takes no more: a thousand more fall on some 250 pages at most."""

_GROUP_ROWS: Final = 262_144
"""The same within one transaction, which writes a page once however often it changes it."""

_MOST_RUNS: Final = 16
_LEAST_ROWS: Final = 131_072
_SHARE: Final = 8
"""Runs wait until they are so many, or hold so many rows and one for `_SHARE` of the main run: the
more rows there are for each page of the main run, the less each of them costs."""

_SLICE_ROWS: Final = 4_096
"""Rows that one transaction merges: a tenth of a second at worst, as others wait to write."""

_PAST_ALL: Final = b"\xff" * 66
"""Greater than every digest of the index."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits to be merged.

    Attributes:
        runs: runs beside the main one.
        rows: rows in them.
        merging: whether a merge has begun.
        limit: rows that may wait.
    """

    runs: int
    rows: int
    merging: bool
    limit: int

    @property
    def is_due(self) -> bool:
        """Whether to merge when there is time."""
        return self.merging or self.runs > _MOST_RUNS or self.rows > self.limit

    @property
    def is_overdue(self) -> bool:
        """Whether who adds to it has to merge, too."""
        return self.runs > 2 * _MOST_RUNS or self.rows > 2 * self.limit


def load_backlog(connection: sqlite3.Connection) -> Backlog:
    """Return what waits to be merged."""
    main, runs, rows, merging = connection.execute(
        """SELECT sum(rows) FILTER (WHERE run = ?1), count(*) FILTER (WHERE run <> ?1),
        coalesce(sum(rows) FILTER (WHERE run <> ?1), 0), max(merging) FROM run""",
        (MAIN,),
    ).fetchone()
    return Backlog(runs, rows, bool(merging), max(_LEAST_ROWS, main // _SHARE))


def count_main(connection: sqlite3.Connection) -> int:
    """Return how many rows the main run has."""
    (rows,) = connection.execute("SELECT rows FROM run WHERE run = ?", (MAIN,)).fetchone()
    return int(rows)


def open_run(transaction: Transaction) -> int:
    """Return the run that takes rows at random places."""
    connection = transaction.connection
    run, rows, version, merging = connection.execute(
        "SELECT run, rows, version, merging FROM run ORDER BY run LIMIT 1"
    ).fetchone()
    most = _GROUP_ROWS if version == transaction.version else _OPEN_ROWS
    if run == MAIN or merging or rows >= most:
        run -= 1
        connection.execute(
            "INSERT INTO run (run, rows, version, merging) VALUES (?, 0, ?, 0)",
            (run, transaction.version),
        )
    return int(run)


def count_rows(connection: sqlite3.Connection, run: int, rows: int) -> None:
    """Note that rows were added to a run."""
    connection.execute("UPDATE run SET rows = rows + ? WHERE run = ?", (rows, run))


def merge_overdue(transaction: Transaction, added: int) -> None:
    """Merge more rows than were added, if too many wait already: nothing waits without bound."""
    if load_backlog(transaction.connection).is_overdue:
        _merge(transaction.connection, 2 * added)


def merge_behind(store: Store, budget_seconds: float) -> int:
    """Merge what waits in short transactions, if enough waits, for a while.

    Args:
        store: the store, open for writing.
        budget_seconds: stop after about this long.

    Returns:
        How many rows were merged; 0 when nothing was due.
    """
    deadline = time.monotonic() + budget_seconds
    moved = 0
    while load_backlog(store.connection).is_due:
        with store.note() as connection:
            moved += _merge(connection, _SLICE_ROWS)
        if time.monotonic() >= deadline:
            break
    return moved


def _merge(connection: sqlite3.Connection, rows: int) -> int:
    """Move about so many rows into the main run: those with the lowest digests."""
    columns = "digest, kind, span, position, row, op, bucket"
    # All runs that are there when a merge begins: what is merged together touches each page of the
    # main run once. They take no more rows, so what is left of them is what was not moved yet.
    waiting = "SELECT run, rows FROM run WHERE merging ORDER BY rows DESC"
    merging = connection.execute(waiting).fetchall()
    if not merging:
        connection.execute("UPDATE run SET merging = 1 WHERE run <> ?", (MAIN,))
        merging = connection.execute(waiting).fetchall()
    if not merging:
        return 0
    largest, size = merging[0]
    # The largest run tells how far such a part of all of them reaches.
    found = connection.execute(
        "SELECT digest FROM posting WHERE run = ? ORDER BY digest LIMIT 1 OFFSET ?",
        (largest, rows * size // max(1, sum(rows for _, rows in merging))),
    ).fetchone()
    last = _PAST_ALL if found is None else found[0]
    moved = connection.execute(
        f"""INSERT INTO posting (run, {columns})
        SELECT ?, {columns} FROM run CROSS JOIN posting USING (run)
        WHERE merging AND digest <= ? ORDER BY digest, kind, span, position, row""",  # noqa: S608
        (MAIN, last),
    ).rowcount
    for run, _ in merging:
        gone = connection.execute(
            "DELETE FROM posting WHERE run = ? AND digest <= ?", (run, last)
        ).rowcount
        count_rows(connection, run, -gone)
    count_rows(connection, MAIN, moved)
    connection.execute("DELETE FROM run WHERE merging AND rows = 0")
    return int(moved)


def iter_miscounted(connection: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
    """Yield (run, its rows as recorded, its rows) where these differ; recorded is -1 for no run."""
    yield from connection.execute(
        """SELECT run, coalesce(run.rows, -1) AS recorded, coalesce(there.rows, 0) AS found
        FROM run FULL JOIN (SELECT run, count(*) AS rows FROM posting GROUP BY run) AS there
        USING (run) WHERE recorded <> found"""
    )
