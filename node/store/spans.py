"""Spans: unbroken parts of a list's log that were applied here, one delta after the other.

A span begins empty or with a snapshot. The index refers to spans, not lists, so the entries of an
arriving snapshot stay invisible until the list switches to its span, in one step. An earlier span
stays as it was and answers for the positions that it covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from node.store.sqlite import sqlite3


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a list's log.

    Attributes:
        span: its number in this store.
        list: the list's number.
        start: the size of the log at which it begins.
        stop: the size at which it ended; None if it is in force or still being filled.
        snapshot: the number of the snapshot with which it begins; None if it begins empty.
    """

    span: int
    list: int
    start: int
    stop: int | None
    snapshot: int | None

    @property
    def first(self) -> int:
        """The position of its first leaf; that of its snapshot if it begins with one."""
        return self.start if self.snapshot is None else self.start - 1


_SPAN = "SELECT span, list, start, stop, snapshot FROM span"


_APPLIED = (
    "WHERE list = ?1 AND (stop IS NOT NULL OR span = (SELECT span FROM list WHERE list = ?1)) "
    "ORDER BY start"
)


def _span(row: tuple[int, int, int, int | None, int | None]) -> Span:
    number, list_number, start, stop, snapshot = row
    return Span(span=number, list=list_number, start=start, stop=stop, snapshot=snapshot)


def add(
    connection: sqlite3.Connection, list_number: int, *, start: int, snapshot: int | None
) -> int:
    """Add a span of a list that is not in force yet; return its number."""
    cursor = connection.execute(
        "INSERT INTO span (list, start, stop, snapshot) VALUES (?, ?, NULL, ?)",
        (list_number, start, snapshot),
    )
    return int(cursor.lastrowid or 0)


def switch(connection: sqlite3.Connection, list_number: int, span: int, *, stop: int) -> None:
    """Put another span of a list in force; the former one ended at size `stop`."""
    connection.execute(
        "UPDATE span SET stop = ? WHERE span = (SELECT span FROM list WHERE list = ?)",
        (stop, list_number),
    )
    connection.execute("UPDATE list SET span = ? WHERE list = ?", (span, list_number))


def remove(connection: sqlite3.Connection, span: int) -> None:
    """Remove a span that was never in force and has nothing in the index."""
    connection.execute("DELETE FROM span WHERE span = ?", (span,))


def load(connection: sqlite3.Connection, span: int) -> Span:
    """Return a span, which must exist."""
    return _span(connection.execute(f"{_SPAN} WHERE span = ?", (span,)).fetchone())


def of_snapshot(connection: sqlite3.Connection, snapshot: int) -> Span | None:
    """Return the span that begins with a snapshot, or None."""
    row = connection.execute(f"{_SPAN} WHERE snapshot = ?", (snapshot,)).fetchone()
    return None if row is None else _span(row)


def iter_applied(connection: sqlite3.Connection, list_number: int) -> Iterator[Span]:
    """Yield the spans of a list that are or were in force, oldest first."""
    for row in connection.execute(
        f"{_SPAN} {_APPLIED}",
        (list_number,),
    ):
        yield _span(row)


def at(connection: sqlite3.Connection, list_number: int, size: int) -> Span | None:
    """Return the span that covers the log at a size, or None if a snapshot skipped it."""
    for span in iter_applied(connection, list_number):
        if span.start <= size and (span.stop is None or size <= span.stop):
            return span
    return None
