"""What a list said at a position, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from federation.entry import Operation, OpKind
from node.store import log, runs
from node.store.sqlite import sqlite3


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one entry between two positions.

    Attributes:
        before: the assertion that was in force, or None.
        after: the assertion that is, or None.
        by: the operation that made the difference.
        position: that operation's position.
    """

    before: Operation | None
    after: Operation | None
    by: Operation
    position: int


def iter_live(
    connection: sqlite3.Connection, list_number: int, position: int
) -> Iterator[tuple[int, int, Operation]]:
    """Yield (position, row, assertion) of every entry live after the first `position` deltas.

    In order of position and row, one body in memory at a time.
    """
    for at in range(position):
        gone = {
            row
            for (row,) in connection.execute(
                "SELECT row FROM superseded WHERE list = ? AND position = ? AND by_position < ?",
                (list_number, at, position),
            )
        }
        body = log.load_body(connection, list_number, at)
        if len(gone) == body.count:
            continue
        for row, operation in body.operations():
            if operation.kind is OpKind.ASSERT and row not in gone:
                yield at, row, operation


def iter_changes(
    connection: sqlite3.Connection, list_number: int, start: int, stop: int
) -> Iterator[Change]:
    """Yield what became of each entry that the deltas from `start` to before `stop` name.

    An entry that is as it was, having changed and changed back, is left out.
    """
    earlier = log.Bodies(connection)
    for position in range(start, stop):
        gone = {
            row
            for (row,) in connection.execute(
                "SELECT row FROM superseded WHERE list = ? AND position = ? AND by_position < ?",
                (list_number, position, stop),
            )
        }
        for row, operation in log.load_body(connection, list_number, position).operations():
            if row in gone:
                continue
            place = _in_force_before(connection, list_number, position, row, start)
            before = None if place is None else _assertion(earlier, list_number, *place)
            after = operation if operation.kind is OpKind.ASSERT else None
            if before != after:
                yield Change(before, after, operation, position)


def _in_force_before(
    connection: sqlite3.Connection, list_number: int, position: int, row: int, start: int
) -> tuple[int, int] | None:
    """Follow an entry's operations back to the place of the one in force before `start`."""
    while position >= start:
        found = connection.execute(
            "SELECT position, row FROM superseded "
            "WHERE list = ? AND by_position = ? AND by_row = ?",
            (list_number, position, row),
        ).fetchone()
        if found is None:
            return None
        position, row = found
    return position, row


def _assertion(bodies: log.Bodies, list_number: int, position: int, row: int) -> Operation | None:
    operation = bodies.load(list_number, position).operation(row)
    return operation if operation.kind is OpKind.ASSERT else None


# --- checking ---------------------------------------------------------------------------------

_INTERVALS: Final = """WITH stated AS (
        SELECT digest, kind, list, position, row, op FROM posting
        WHERE run = :main AND kind % 2 = 1
        UNION ALL
        SELECT digest, kind, list, position, row, op FROM posting
        WHERE run < :main AND kind % 2 = 1
    )
    SELECT p.list, p.position, p.row, p.op, p.by_position, p.by_row,
    s.op, s.by_position, s.by_row
    FROM (
        SELECT list, position, row, op,
            lead(position) OVER entry AS by_position, lead(row) OVER entry AS by_row
        FROM stated
        WINDOW entry AS (PARTITION BY digest, kind, list ORDER BY position)
    ) AS p LEFT JOIN superseded AS s USING (list, position, row)
    WHERE p.by_position IS NOT NULL OR s.by_position IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Interval:
    """The end of an operation's validity, as recorded and as the index has it.

    Attributes:
        list: the list's number.
        position: the operation's position.
        row: its row.
        recorded: whether an end is recorded.
        holds: whether that is what follows from the operations on the same entry.
    """

    list: int
    position: int
    row: int
    recorded: bool
    holds: bool


def iter_intervals(connection: sqlite3.Connection) -> Iterator[Interval]:
    """Yield, for all lists, every operation that is or should be no longer in force."""
    # In the order of the index, so that little is sorted: what is not in the main run.
    for number, position, row, op, by_position, by_row, *recorded in connection.execute(
        _INTERVALS, {"main": runs.MAIN}
    ):
        derived = [None] * 3 if by_position is None else [op, by_position, by_row]
        yield Interval(number, position, row, recorded[0] is not None, recorded == derived)
