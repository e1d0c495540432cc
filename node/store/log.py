"""The signed bytes of every accepted delta, verbatim, and how they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from federation import limits, wire
from federation.body import NO_OPERATIONS, Body, PackedOp
from federation.errors import FederationError, MalformedError, UsageError
from federation.header import Header
from federation.names import OrgName
from federation.replica import SignedDelta
from federation.rows import RowReader
from node.errors import DamageError
from node.store.connection import Transaction
from node.store.schema import pack
from node.store.sqlite import open_blob, select, sqlite3

_FEW_ROWS: Final = 3
"""Up to this many rows of one body are read by slices instead of reading all of its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRecord:
    """An accepted delta without its body.

    Attributes:
        position: its position in the log.
        version: the store version with which it came.
        received_ms: when it arrived.
        via: the peer that sent it; None for our own.
        body_size: bytes of the body.
        header: the signed record.
        checkpoint: the signed note of the log right after it.
    """

    position: int
    version: int
    received_ms: int
    via: OrgName | None
    body_size: int
    header: bytes
    checkpoint: bytes


def delta_id(list_number: int, position: int) -> int:
    """Return the row id of a delta.

    Raises:
        DamageError: as for `pack`.
    """
    return pack(list_number, position)


def append(
    transaction: Transaction,
    list_number: int,
    position: int,
    delta: SignedDelta,
    *,
    via: OrgName | None,
    received_ms: int,
) -> None:
    """Keep the signed bytes of an accepted delta."""
    connection = transaction.connection
    at = delta_id(list_number, position)
    connection.execute("INSERT INTO body (id, bytes) VALUES (?, ?)", (at, delta.body))
    connection.execute(
        """INSERT INTO delta (id, version, received_ms, via, body_size, header, checkpoint)
        VALUES (?, ?, ?, (SELECT org FROM org WHERE name = ?), ?, ?, ?)""",
        (
            at,
            transaction.version,
            received_ms,
            via,
            len(delta.body),
            delta.header,
            delta.checkpoint,
        ),
    )


def read_frame(
    connection: sqlite3.Connection,
    list_number: int,
    start: int,
    stop: int,
    max_bytes: int = limits.FRAME_TARGET_BYTES,
) -> list[SignedDelta]:
    """Return deltas from `start` to before `stop`: as many as fit, but at least one.

    A frame ends with the delta that makes it reach `max_bytes`.
    """
    frame: list[SignedDelta] = []
    size = 0
    for header, checkpoint, body in connection.execute(
        """SELECT delta.header, delta.checkpoint, body.bytes FROM delta JOIN body USING (id)
        WHERE delta.id >= ? AND delta.id < ? ORDER BY delta.id LIMIT ?""",
        (delta_id(list_number, start), delta_id(list_number, stop), limits.MAX_FRAME_DELTAS),
    ):
        frame.append(SignedDelta(header, body, checkpoint))
        size += len(header) + len(checkpoint) + len(body)
        if size >= max_bytes:
            break
    return frame


def measure(
    connection: sqlite3.Connection, list_number: int, start: int, stop: int
) -> tuple[int, int]:
    """Return the number of deltas from `start` to before `stop`, and the bytes of their bodies."""
    deltas, body_bytes = connection.execute(
        "SELECT count(*), coalesce(sum(body_size), 0) FROM delta WHERE id >= ? AND id < ?",
        (delta_id(list_number, start), delta_id(list_number, stop)),
    ).fetchone()
    return int(deltas), int(body_bytes)


def load_signed(connection: sqlite3.Connection, list_number: int, position: int) -> SignedDelta:
    """Return the signed bytes of one delta.

    Raises:
        DamageError: it is not there.
    """
    for delta in read_frame(connection, list_number, position, position + 1):
        return delta
    raise DamageError(f"position {position} is missing", hint="run 'hashfed fsck'")


def read_header(record: bytes, what: str = "a leaf") -> Header:
    """Return the parsed header of a stored leaf; it was verified when it came.

    Raises:
        DamageError: it can no longer be read.
    """
    try:
        return Header.parse(record)
    except FederationError as error:
        raise DamageError(
            f"the header of {what} is damaged: {error}", hint="run 'hashfed fsck'"
        ) from error


def load_record(
    connection: sqlite3.Connection, list_number: int, position: int
) -> DeltaRecord | None:
    """Return one delta without its body, or None."""
    for record in iter_records(connection, list_number, position, position + 1):
        return record
    return None


_RECORDS: Final = """SELECT d.id, d.version, d.received_ms, o.name AS via, d.body_size, d.header,
    d.checkpoint FROM delta AS d LEFT JOIN org AS o ON o.org = d.via
    WHERE d.id >= ? AND d.id < ? ORDER BY d.id"""
_RECORDS_NEWEST_FIRST: Final = f"{_RECORDS} DESC"


def iter_records(
    connection: sqlite3.Connection, list_number: int, start: int, stop: int, *, newest: bool = False
) -> Iterator[DeltaRecord]:
    """Yield deltas without their bodies from `start` to before `stop`; newest first if asked."""
    statement = _RECORDS_NEWEST_FIRST if newest else _RECORDS
    places = (delta_id(list_number, start), delta_id(list_number, stop))
    for row in select(connection, statement, places):
        yield DeltaRecord(
            position=row["id"] - delta_id(list_number, 0),
            version=row["version"],
            received_ms=row["received_ms"],
            via=None if row["via"] is None else OrgName(row["via"]),
            body_size=row["body_size"],
            header=row["header"],
            checkpoint=row["checkpoint"],
        )


def load_body_bytes(
    connection: sqlite3.Connection, list_number: int, position: int
) -> bytes | None:
    """Return the exact bytes of one body, or None."""
    row = connection.execute(
        "SELECT bytes FROM body WHERE id = ?", (delta_id(list_number, position),)
    ).fetchone()
    # A damaged page can give a column a value of another type.
    return row[0] if row is not None and isinstance(row[0], bytes) else None


def load_body(connection: sqlite3.Connection, list_number: int, position: int) -> Body:
    """Return one body, decoded; it was verified when it was accepted. A snapshot's leaf has none.

    Raises:
        DamageError: it is not there, or cannot be decoded any more.
    """
    data = load_body_bytes(connection, list_number, position)
    if data is None:
        raise DamageError(f"the body of position {position} is missing", hint="run 'hashfed fsck'")
    if not data:
        return NO_OPERATIONS
    try:
        body = wire.decode_body(data)
        # Code that looks up an annotation relies on this, as the body was verified.
        if not body.has_all_annotations:
            raise MalformedError("it refers to an annotation that it does not have")
    except FederationError as error:
        raise DamageError(
            f"the body of position {position} is damaged: {error}", hint="run 'hashfed fsck'"
        ) from error
    return body


def iter_packed(
    connection: sqlite3.Connection, places: Iterable[tuple[int, int, int]]
) -> Iterator[PackedOp]:
    """Yield operations as they were packed; each body is read once for places that follow.

    Args:
        connection: where to look.
        places: (list number, position, row) of each.

    Raises:
        DamageError: as `load_body`, or a body has no such row.
    """
    for (list_number, position), some in groupby(places, key=itemgetter(0, 1)):
        rows = [row for _, _, row in some]
        try:
            yield from _read_rows(connection, delta_id(list_number, position), rows)
            continue
        except MalformedError:
            # Our encoder does not write this layout, but it is allowed: decode the whole body.
            body = load_body(connection, list_number, position)
        except UsageError as error:
            raise DamageError(f"position {position}: {error}", hint="run 'hashfed fsck'") from error
        yield from [body.packed(row) for row in rows]


def _read_rows(connection: sqlite3.Connection, at: int, rows: Sequence[int]) -> list[PackedOp]:
    try:
        blob = open_blob(connection, "body", "bytes", at)
    except sqlite3.OperationalError as error:
        raise MalformedError("no such body") from error
    with closing(blob):
        size = len(blob)
        if len(rows) > _FEW_ROWS:
            # Through the blob: a value that a statement returns is copied twice and costs several
            # times as much.
            data = blob.read(size)
            reader = RowReader(lambda offset, count: data[offset : offset + count], size)
            return list(reader.iter_packed(rows))

        def read(offset: int, count: int) -> bytes:
            blob.seek(offset)
            return blob.read(count)

        reader = RowReader(read, size)
        return list(reader.iter_packed(rows))


def position_at_version(connection: sqlite3.Connection, list_number: int, version: int) -> int:
    """Return how many deltas of a list were here at a store version."""
    row = connection.execute(
        "SELECT id FROM delta WHERE id >= ? AND id < ? AND version <= ? ORDER BY id DESC LIMIT 1",
        (delta_id(list_number, 0), delta_id(list_number + 1, 0), version),
    ).fetchone()
    return 0 if row is None else int(row[0]) - delta_id(list_number, 0) + 1


def version_at_time(connection: sqlite3.Connection, time_ms: int) -> int:
    """Return the store version that was in force at a time; 0 before the first."""
    row = connection.execute(
        "SELECT version FROM version WHERE committed_ms <= ? ORDER BY version DESC LIMIT 1",
        (time_ms,),
    ).fetchone()
    return 0 if row is None else int(row[0])
