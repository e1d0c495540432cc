"""Snapshots that are here in whole or in part: their signed bytes and buckets, verbatim.

A snapshot is here to be served, or because a span of a list begins with it. This module does not
know how buckets are made, fetched and verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from federation.bucket import Bucket, Extent, decode_bucket
from federation.errors import FederationError, MalformedError
from federation.merkle import HASH_BYTES
from federation.snapshot import SnapshotOffer
from node.errors import DamageError
from node.store.schema import pack
from node.store.sqlite import select, sqlite3


class SnapshotState(StrEnum):
    """How much of a snapshot is here."""

    BUILDING = "building"
    """Its buckets are being made from the live set here."""
    ARRIVING = "arriving"
    """Its buckets are being fetched."""
    ABANDONED = "abandoned"
    """It will not become complete, and is removed bit by bit."""
    HELD = "held"
    """All of it is here and verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """A snapshot that is here, in whole or in part.

    Attributes:
        snapshot: its number in this store.
        list: the list's number.
        position: the position of its leaf in the log.
        state: how much of it is here.
        offer: its signed bytes; while it is being built, only the bucket hashes known so far.
        size_bytes: bytes of the buckets that are here.
    """

    snapshot: int
    list: int
    position: int
    state: SnapshotState
    offer: SnapshotOffer
    size_bytes: int

    @property
    def buckets(self) -> int:
        """How many buckets it has."""
        return len(self.offer.bucket_hashes) // HASH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBucket:
    """The record of one bucket.

    Attributes:
        number: its number.
        extent: how many entries it has, and their first and last name.
    """

    number: int
    extent: Extent


def bucket_id(snapshot: int, number: int) -> int:
    """Return the row id of a bucket.

    Raises:
        DamageError: as for `pack`.
    """
    return pack(snapshot, number)


_SNAPSHOT: Final = (
    "SELECT snapshot, list, position, state, header, checkpoint, frontier, bucket_hashes, "
    "size_bytes FROM snapshot"
)


def _record(row: sqlite3.Row) -> SnapshotRecord:
    return SnapshotRecord(
        snapshot=row["snapshot"],
        list=row["list"],
        position=row["position"],
        state=SnapshotState(row["state"]),
        offer=SnapshotOffer(
            row["header"], row["checkpoint"], row["frontier"], row["bucket_hashes"]
        ),
        size_bytes=row["size_bytes"],
    )


def add(
    connection: sqlite3.Connection,
    list_number: int,
    position: int,
    state: SnapshotState,
    offer: SnapshotOffer,
) -> int:
    """Record a snapshot of which no bucket is here yet; return its number."""
    cursor = connection.execute(
        """INSERT INTO snapshot (list, position, state, header, checkpoint, frontier,
            bucket_hashes, size_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, 0)""",
        (
            list_number,
            position,
            state,
            offer.header,
            offer.checkpoint,
            offer.frontier,
            offer.bucket_hashes,
        ),
    )
    return int(cursor.lastrowid or 0)


def hold(connection: sqlite3.Connection, snapshot: int, offer: SnapshotOffer) -> None:
    """Record that all of a snapshot is here."""
    connection.execute(
        """UPDATE snapshot SET state = ?, header = ?, checkpoint = ?, frontier = ?,
            bucket_hashes = ? WHERE snapshot = ?""",
        (
            SnapshotState.HELD,
            offer.header,
            offer.checkpoint,
            offer.frontier,
            offer.bucket_hashes,
            snapshot,
        ),
    )


def set_state(connection: sqlite3.Connection, snapshot: int, state: SnapshotState) -> None:
    """Record how much of a snapshot is here."""
    connection.execute("UPDATE snapshot SET state = ? WHERE snapshot = ?", (state, snapshot))


def load(connection: sqlite3.Connection, snapshot: int) -> SnapshotRecord | None:
    """Return one snapshot, or None."""
    row = select(connection, f"{_SNAPSHOT} WHERE snapshot = ?", (snapshot,)).fetchone()
    return None if row is None else _record(row)


def iter_of_list(
    connection: sqlite3.Connection, list_number: int, state: SnapshotState
) -> Iterator[SnapshotRecord]:
    """Yield the snapshots of a list that are in a state, newest first."""
    for row in select(
        connection,
        f"{_SNAPSHOT} WHERE list = ? AND state = ? ORDER BY position DESC, snapshot DESC",
        (list_number, state),
    ).fetchall():
        yield _record(row)


def newest_held(
    connection: sqlite3.Connection, list_number: int, *, within: int | None = None
) -> SnapshotRecord | None:
    """Return the newest complete snapshot of a list, or None.

    Args:
        connection: the store.
        list_number: the list.
        within: its leaf must be before this position; None for any.
    """
    for held in iter_of_list(connection, list_number, SnapshotState.HELD):
        if within is None or held.position < within:
            return held
    return None


def remove(connection: sqlite3.Connection, snapshot: int) -> None:
    """Remove a snapshot and its buckets."""
    connection.execute(
        "DELETE FROM bucket WHERE id >= ? AND id < ?",
        (bucket_id(snapshot, 0), bucket_id(snapshot + 1, 0)),
    )
    connection.execute("DELETE FROM snapshot WHERE snapshot = ?", (snapshot,))


@dataclass(frozen=True, slots=True)
class CheckedBuckets:
    """How far the state digest of a snapshot's entries was computed after acceptance.

    Attributes:
        buckets: how many buckets it covers.
        digest: the digest of their entries.
    """

    buckets: int
    digest: bytes


def load_checked(connection: sqlite3.Connection, snapshot: int) -> CheckedBuckets:
    """Return how far a snapshot was checked."""
    return CheckedBuckets(
        *connection.execute(
            "SELECT checked, checked_digest FROM snapshot WHERE snapshot = ?", (snapshot,)
        ).fetchone()
    )


def store_checked(
    connection: sqlite3.Connection, snapshot: int, buckets: int, digest: bytes
) -> None:
    """Record how far a snapshot was checked."""
    # Another process may have checked more meanwhile.
    connection.execute(
        "UPDATE snapshot SET checked = ?1, checked_digest = ?2 "
        "WHERE snapshot = ?3 AND checked < ?1",
        (buckets, digest, snapshot),
    )


# --- buckets ----------------------------------------------------------------------------------


def store_bucket(
    connection: sqlite3.Connection,
    snapshot: int,
    number: int,
    data: bytes,
    extent: Extent,
) -> None:
    """Keep the exact bytes of a verified bucket."""
    connection.execute(
        "INSERT INTO bucket (id, entries, first, last, bytes) VALUES (?, ?, ?, ?, ?)",
        (bucket_id(snapshot, number), *extent, data),
    )
    connection.execute(
        "UPDATE snapshot SET size_bytes = size_bytes + ? WHERE snapshot = ?",
        (len(data), snapshot),
    )


def remove_bucket(connection: sqlite3.Connection, snapshot: int, number: int) -> None:
    """Remove one bucket."""
    connection.execute("DELETE FROM bucket WHERE id = ?", (bucket_id(snapshot, number),))


def iter_buckets(connection: sqlite3.Connection, snapshot: int) -> Iterator[StoredBucket]:
    """Yield the record of each bucket that is here, in order."""
    for at, entries, first, last in connection.execute(
        "SELECT id, entries, first, last FROM bucket WHERE id >= ? AND id < ? ORDER BY id",
        (bucket_id(snapshot, 0), bucket_id(snapshot + 1, 0)),
    ):
        yield StoredBucket(number=at - bucket_id(snapshot, 0), extent=Extent(entries, first, last))


def held_numbers(connection: sqlite3.Connection, snapshot: int) -> set[int]:
    """Return the numbers of the buckets that are here."""
    start = bucket_id(snapshot, 0)
    return {
        at - start
        for (at,) in connection.execute(
            "SELECT id FROM bucket WHERE id >= ? AND id < ?", (start, bucket_id(snapshot + 1, 0))
        )
    }


def load_bucket_bytes(connection: sqlite3.Connection, snapshot: int, number: int) -> bytes | None:
    """Return the exact bytes of one bucket, or None."""
    row = connection.execute(
        "SELECT bytes FROM bucket WHERE id = ?", (bucket_id(snapshot, number),)
    ).fetchone()
    # A damaged page can give a column a value of another type.
    return row[0] if row is not None and isinstance(row[0], bytes) else None


def load_bucket(connection: sqlite3.Connection, snapshot: int, number: int) -> Bucket:
    """Return one bucket, decoded; it was verified when it came.

    Raises:
        DamageError: it is not there, or cannot be decoded any more.
    """
    data = load_bucket_bytes(connection, snapshot, number)
    if data is None:
        raise DamageError(f"bucket {number} of a snapshot is missing", hint="run 'hashfed fsck'")
    try:
        bucket = decode_bucket(data)
        # Readers of its entries rely on these facts, as the bucket was verified.
        for group in bucket.body.groups:
            group.shape.check()
        if not bucket.body.has_all_annotations:
            raise MalformedError("it refers to an annotation that it does not have")
        if max(bucket.codes, default=-1) >= len(bucket.positions):
            raise MalformedError("it refers to a position that it does not have")
    except FederationError as error:
        raise DamageError(
            f"bucket {number} of a snapshot is damaged: {error}", hint="run 'hashfed fsck'"
        ) from error
    return bucket
