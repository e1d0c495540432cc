"""The tiers of the index: a main run, and smaller ones that wait to be merged into it.

A run is a part of the table `posting` that is sorted by itself. Writing a row means writing its
page, and rows at random places of a large run are all on different pages. So they go into a small
run first, and many at once are merged into the main one, in its order and after acceptance. A
lookup searches every run. `node.store.index` decides which rows there are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.store.connection import Store, Transaction
from node.store.sqlite import sqlite3

MAIN: Final = 1
"""The main run. Newer runs have smaller numbers, so the main run is at the end of the table, where
a list that is loaded in the order of its keys is appended."""

_OPEN_ROWS: Final = 16_384
"""A run with this many rows takes no more; a thousand rows are on some 250 pages at most."""

_GROUP_ROWS: Final = 262_144
"""The same within one transaction, which writes a page only once even if it changes often."""

_LEAST_ROWS: Final = 131_072
_SHARE: Final = 8
"""All runs are merged into the main one when together they have more than `_LEAST_ROWS` rows and
more than one row for `_SHARE` rows of it. The more rows a page gets, the less each row costs."""

_ALIKE: Final = 4
"""Before that, this many runs of similar size are merged into one, as a lookup searches each."""

_LATE: Final = 2
"""How many times as much may wait before writers must merge, too."""

_SLICE_ROWS: Final = 4_096
"""Rows that one transaction merges: a tenth of a second at worst, as other writers wait."""

_REPAID: Final = 4
"""Rows that are merged for each added row when merging is late; a row may move this often."""

_ROW: Final = "digest, kind, span, position, row, op, bucket"

_PAST_ALL: Final = b"\xff" * 66
"""Greater than every digest of the index."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        number: `MAIN`, or smaller.
        rows: how many rows it has.
        version: the store version that began it.
        target: the run into which it is being merged; None if it is not being merged.
    """

    number: int
    rows: int
    version: int
    target: int | None

    @property
    def size_class(self) -> int:
        """The class of its size: each class is four times as large as the one before."""
        return ((self.rows // (4 * _OPEN_ROWS)).bit_length() + 1) // 2


def load_runs(connection: sqlite3.Connection) -> list[Run]:
    """Return all runs, the newest first and the main one last."""
    return [
        Run(*row)
        for row in connection.execute("SELECT run, rows, version, target FROM run ORDER BY run")
    ]


def open_run(transaction: Transaction) -> int:
    """Return the run that takes rows at random places."""
    connection = transaction.connection
    newest = load_runs(connection)[0]
    most = _GROUP_ROWS if newest.version == transaction.version else _OPEN_ROWS
    if newest.number != MAIN and newest.target is None and newest.rows < most:
        return newest.number
    return _begin_run(connection, newest.number - 1, transaction.version)


def _begin_run(connection: sqlite3.Connection, number: int, version: int) -> int:
    connection.execute(
        "INSERT INTO run (run, rows, version, target) VALUES (?, 0, ?, NULL)", (number, version)
    )
    return number


def count_rows(connection: sqlite3.Connection, run: int, rows: int) -> None:
    """Record that rows were added to a run."""
    connection.execute("UPDATE run SET rows = rows + ? WHERE run = ?", (rows, run))


# --- merging ----------------------------------------------------------------------------------


def merge_overdue(transaction: Transaction, added: int) -> None:
    """Merge more rows than were added if too many are waiting, so that the number stays bounded."""
    if _choose(load_runs(transaction.connection), _LATE) is not None:
        _merge(transaction.connection, _REPAID * added)


def merge_behind(store: Store, budget_seconds: float) -> int:
    """Merge waiting rows in short transactions for a while, if enough are waiting.

    Args:
        store: the store, open for writing.
        budget_seconds: stop after about this long.

    Returns:
        How many rows were merged; 0 if no merge was due.
    """
    deadline = time.monotonic() + budget_seconds
    moved = 0
    while is_due(store.connection):
        with store.update_status() as connection:
            moved += _merge(connection, _SLICE_ROWS)
        if time.monotonic() >= deadline:
            break
    return moved


def is_due(connection: sqlite3.Connection) -> bool:
    """Return whether to merge when there is time."""
    runs = load_runs(connection)
    return any(run.target is not None for run in runs) or _choose(runs, 1) is not None


def _choose(runs: Sequence[Run], patience: int) -> tuple[Sequence[Run], bool] | None:
    """Return which runs to merge, and whether into the main one; None if no merge is due.

    Rows that are merged into the main run together write each of its pages once. So the merge
    is delayed as long as lookups can bear the waiting runs.
    """
    *waiting, main = runs
    if sum(run.rows for run in waiting) > patience * max(_LEAST_ROWS, main.rows // _SHARE):
        return waiting, True
    alike: dict[int, list[Run]] = {}
    for run in waiting[1:]:  # The newest may still take more.
        alike.setdefault(run.size_class, []).append(run)
    for _, some in sorted(alike.items()):
        if len(some) >= patience * _ALIKE:
            return some, False
    return None


def _merge(connection: sqlite3.Connection, rows: int) -> int:
    """Continue the merge that is under way, or begin one; move about this many rows.

    The rows with the lowest digests are moved. Their runs take no more rows, so the rows left in
    them are those not moved yet, even after a crash at any moment.
    """
    target, sources = _plan(connection)
    if not sources:  # Another process has merged them in the meantime.
        return 0
    last = _find_end(connection, sources, rows)
    moved = connection.execute(
        f"""INSERT INTO posting (run, {_ROW}) SELECT ?, {_ROW}
        FROM run CROSS JOIN posting USING (run) WHERE target IS NOT NULL AND digest <= ?
        ORDER BY {_ROW}""",  # noqa: S608  # column names
        (target, last),
    ).rowcount
    for run in sources:
        gone = connection.execute(
            "DELETE FROM posting WHERE run = ? AND digest <= ?", (run.number, last)
        ).rowcount
        count_rows(connection, run.number, -gone)
    count_rows(connection, target, moved)
    if last == _PAST_ALL:
        connection.execute("DELETE FROM run WHERE target IS NOT NULL")
    return int(moved)


def _plan(connection: sqlite3.Connection) -> tuple[int, Sequence[Run]]:
    """Return the target and the sources of the merge that is under way or begins now."""
    runs = load_runs(connection)
    for run in runs:
        if run.target is not None:
            return run.target, [source for source in runs if source.target is not None]
    sources, into_main = _choose(runs, 1) or (runs[:-1], True)
    target = MAIN if into_main else _begin_run(connection, runs[0].number - 1, 0)
    connection.executemany(
        "UPDATE run SET target = ? WHERE run = ?", [(target, run.number) for run in sources]
    )
    return target, sources


def _find_end(connection: sqlite3.Connection, sources: Sequence[Run], rows: int) -> bytes:
    """Return the digest up to which runs have about this many rows together."""
    largest = max(sources, key=lambda run: run.rows)
    # The end of such a part of the largest run.
    part = rows * largest.rows // max(1, sum(run.rows for run in sources))
    found = connection.execute(
        "SELECT digest FROM posting WHERE run = ? ORDER BY digest LIMIT 1 OFFSET ?",
        (largest.number, part),
    ).fetchone()
    return _PAST_ALL if found is None else bytes(found[0])


# --- checking ---------------------------------------------------------------------------------


def iter_miscounted(connection: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
    """Yield (run, recorded rows, rows) where these differ; recorded is -1 for no such run."""
    yield from connection.execute(
        """SELECT run, coalesce(run.rows, -1) AS recorded, coalesce(there.rows, 0) AS found
        FROM run FULL JOIN (SELECT run, count(*) AS rows FROM posting GROUP BY run) AS there
        USING (run) WHERE recorded <> found"""
    )
