"""What a list said at a position, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from federation.entry import Operation, OpKind
from node.store import log
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

    An entry that is as it was, having changed and changed back to nothing, is left out.
    """
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
            before = _in_force_before(connection, list_number, position, row, start)
            after = operation if operation.kind is OpKind.ASSERT else None
            if before is not None or after is not None:
                yield Change(before, after, operation, position)


def _in_force_before(
    connection: sqlite3.Connection, list_number: int, position: int, row: int, start: int
) -> Operation | None:
    """Follow an entry's operations back to the one that was in force before `start`."""
    while position >= start:
        found = connection.execute(
            "SELECT position, row FROM superseded "
            "WHERE list = ? AND by_position = ? AND by_row = ?",
            (list_number, position, row),
        ).fetchone()
        if found is None:
            return None
        position, row = found
    operation = log.load_body(connection, list_number, position).operation(row)
    return operation if operation.kind is OpKind.ASSERT else None
