"""The content of a list at a position, and the changes between two positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from federation.body import PackedOp, unpack
from federation.bucket import LiveEntry
from federation.entry import EntryId, Operation, OpKind
from node.errors import DamageError
from node.store import index, log, runs, snapshots, spans
from node.store.contents import Contents
from node.store.index import Version
from node.store.spans import Span
from node.store.sqlite import select, sqlite3


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one entry between two positions.

    Attributes:
        before: the assertion that was in force, or None.
        after: the assertion that is in force now, or None.
        by: the operation that made the change; None if its delta is not here because a snapshot
            skipped it.
        position: that operation's position, or the snapshot's if the delta is not here.
    """

    before: Operation | None
    after: Operation | None
    by: Operation | None
    position: int

    @property
    def entry(self) -> EntryId:
        """The entry that the change is of."""
        operation = self.by or self.after or self.before
        assert operation is not None  # noqa: S101  # a change has a side that says something
        return operation.entry


def iter_live_packed(
    connection: sqlite3.Connection, list_number: int, size: int
) -> Iterator[LiveEntry]:
    """Yield every entry live after the first `size` deltas of a list, packed, with its place.

    Entries that came with a snapshot come first, by name; then all others, by place. One body or
    bucket is in memory at a time.

    Raises:
        DamageError: the span of that size is not here, or a part of it is missing.
    """
    span = spans.at(connection, list_number, size)
    if span is None:
        raise DamageError(f"size {size} of a list is not covered by what is here")
    if span.snapshot is not None:
        yield from _iter_base(connection, span, span.snapshot, size)
    for at in range(span.start, size):
        body = log.load_body(connection, list_number, at)
        gone = _superseded_rows(connection, span.span, at, size)
        if len(gone) == body.count:
            continue
        for group in body.groups:
            if group.shape.kind is not OpKind.ASSERT:
                continue
            for row, (record, code) in enumerate(
                zip(group.records(), group.codes, strict=True), group.first_row
            ):
                if row not in gone:
                    packed = PackedOp(group.shape, record, body.annotations[code])
                    yield LiveEntry(packed, at, row)


def _iter_base(
    connection: sqlite3.Connection, span: Span, snapshot: int, size: int
) -> Iterator[LiveEntry]:
    """Yield the entries of the snapshot that a span begins with which are live at a size."""
    gone: dict[int, set[int]] = {}
    for number in range(len(snapshots.held_numbers(connection, snapshot))):
        bucket = snapshots.load_bucket(connection, snapshot, number)
        for position in bucket.positions:
            if position not in gone:
                gone[position] = _superseded_rows(connection, span.span, position, size)
        for entry in bucket.entries():
            if entry.row not in gone[entry.position]:
                yield entry


def _superseded_rows(
    connection: sqlite3.Connection, span: int, position: int, before: int
) -> set[int]:
    """Return the rows of a position that deltas before another position have replaced."""
    return {
        row
        for (row,) in connection.execute(
            "SELECT row FROM superseded WHERE span = ? AND position = ? AND by_position < ?",
            (span, position, before),
        )
    }


def iter_live(
    connection: sqlite3.Connection, list_number: int, size: int
) -> Iterator[tuple[int, int, Operation]]:
    """Yield (position, row, assertion) of every entry live after the first `size` deltas.

    In the order of `iter_live_packed`.

    Raises:
        DamageError: as `iter_live_packed`.
    """
    for packed, position, row in iter_live_packed(connection, list_number, size):
        yield position, row, unpack(packed)


def load_versions(
    connection: sqlite3.Connection, list_number: int, entry: EntryId
) -> list[Version]:
    """Return every operation on an entry that is known here of a list, oldest first.

    An assertion that is also in a snapshot is returned once, as it came first. An operation that
    a snapshot no longer has ended in the part of the log that the snapshot skipped, at its
    position at the latest.
    """
    known: list[Version] = []
    for span in spans.iter_applied(connection, list_number):
        found = index.load_versions(connection, span.span, entry)
        if known and known[-1].until is None and (found or known[-1].kind is OpKind.ASSERT):
            last = known.pop()
            same = bool(found) and _at(found[0]) == _at(last)
            known.append(replace(last, until=found[0].until if same else span.start - 1))
            del found[:same]
        known += found
    return known


def _at(version: Version) -> tuple[int, int]:
    return version.place.position, version.place.row


def iter_changes(
    connection: sqlite3.Connection, span: Span, start: int, stop: int
) -> Iterator[Change]:
    """Yield the change of each entry that the deltas from `start` to before `stop` name.

    An entry that changed and changed back is left out.

    Args:
        connection: where to read.
        span: a span of the list that covers both sizes.
        start: a size of the log.
        stop: a later one.
    """
    earlier = Contents(connection)
    for position in range(start, stop):
        gone = _superseded_rows(connection, span.span, position, stop)
        for row, operation in log.load_body(connection, span.list, position).operations():
            if row in gone:
                continue
            before = _assertion_before(connection, earlier, span.span, operation.entry, start)
            after = operation if operation.kind is OpKind.ASSERT else None
            if before != after:
                yield Change(before, after, operation, position)


def _assertion_before(
    connection: sqlite3.Connection, contents: Contents, span: int, entry: EntryId, size: int
) -> Operation | None:
    """Return the assertion that was in force on an entry at a size, or None."""
    before = [
        version
        for version in index.load_versions(connection, span, entry)
        if version.place.position < size
    ]
    if not before or before[-1].kind is not OpKind.ASSERT:
        return None
    return contents.operation(before[-1].place)


# --- checking ---------------------------------------------------------------------------------

_INTERVALS: Final = """WITH stated AS (
        SELECT digest, kind, span, position, row, op FROM posting
        WHERE run = :main AND kind % 2 = 1
        UNION ALL
        SELECT digest, kind, span, position, row, op FROM posting
        WHERE run < :main AND kind % 2 = 1
    )
    SELECT p.span, p.position, p.row, s.op IS NOT NULL AS recorded,
        s.op IS CASE WHEN p.by_position IS NULL THEN NULL ELSE p.op END
            AND s.by_position IS p.by_position AND s.by_row IS p.by_row AS holds
    FROM (
        SELECT span, position, row, op,
            lead(position) OVER entry AS by_position, lead(row) OVER entry AS by_row
        FROM stated
        WINDOW entry AS (PARTITION BY digest, kind, span ORDER BY position)
    ) AS p LEFT JOIN superseded AS s USING (span, position, row)
    WHERE p.by_position IS NOT NULL OR s.by_position IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Interval:
    """The end of an operation's validity, as recorded and as the index has it.

    Attributes:
        span: the span's number.
        position: the operation's position.
        row: its row.
        recorded: whether an end is recorded.
        holds: whether the record agrees with the operations on the same entry.
    """

    span: int
    position: int
    row: int
    recorded: bool
    holds: bool


def iter_intervals(connection: sqlite3.Connection) -> Iterator[Interval]:
    """Yield every operation of all spans that is no longer in force, or should not be."""
    # In the order of the index, so that only the rows outside the main run must be sorted.
    for row in select(connection, _INTERVALS, {"main": runs.MAIN}):
        yield Interval(
            span=row["span"],
            position=row["position"],
            row=row["row"],
            recorded=bool(row["recorded"]),
            holds=bool(row["holds"]),
        )
