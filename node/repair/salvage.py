"""Reads the readable parts of a store that may be damaged anywhere.

The file itself is never written. If SQLite cannot even open it, a copy with another first page is
opened (`node.repair.first_page`).

A value of a damaged row may be of any type. `as_int`, `as_number`, `as_bytes` and `as_text` convert
it; a field of type `object` has the value as it was read. Some values of a row may be readable and
others not, so no function reads a large value that it does not need.

All reads of a damaged file are here, which makes the module long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from federation import limits
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from node.clock import Clock
from node.repair import first_page
from node.store.copies import name_copy
from node.store.log import delta_id
from node.store.rebuild import (
    BodyRow,
    BucketRow,
    DeltaRow,
    FetchedRow,
    FollowStateRow,
    ListStateRow,
    OrgRow,
    PeerRow,
    ReleasedRow,
    SignedExtentRow,
    SnapshotRow,
    SpanRow,
    VersionRow,
)
from node.store.schema import MAX_NUMBER
from node.store.snapshots import bucket_id
from node.store.sqlite import sqlite3
from node.system import durable

_IDS: Final = "id >= ? AND id < ?"
_HELD: Final = "list = ? AND state = 'held'"


class Wreck:
    """A store with rows that may be unreadable."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def row(self, statement: str, *values: object) -> tuple[object, ...] | None:
        """Return the first row of a query, or None if there is no row or it cannot be read."""
        try:
            found: tuple[object, ...] | None = self._connection.execute(
                statement, values
            ).fetchone()
        except (sqlite3.Error, OverflowError):
            return None
        return found

    def of_list(self, table: str, columns: Sequence[str], number: int) -> tuple[object, ...] | None:
        """Return the row of a list in a table that has one row for each list, or None."""
        return self.row(f"SELECT {', '.join(columns)} FROM {table} WHERE list = ?", number)  # noqa: S608

    def rows(
        self, table: str, columns: Sequence[str], where: str = "1", *values: object
    ) -> Iterator[tuple[object, ...]]:
        """Yield the readable rows of a table, each once.

        If a row in the middle cannot be read, the table is also read from its other end.
        """
        chosen = ", ".join(columns)
        last, stopped = -(1 << 63), False
        forward = f"SELECT rowid, {chosen} FROM {table} WHERE {where} ORDER BY rowid"  # noqa: S608
        try:
            for rowid, *row in self._connection.execute(forward, values):
                last = rowid
                yield tuple(row)
        except sqlite3.Error:
            stopped = True
        if not stopped:
            return
        later: list[int] = []
        try:
            for (rowid,) in self._connection.execute(
                f"SELECT rowid FROM {table} WHERE ({where}) AND rowid > ? "  # noqa: S608
                "ORDER BY rowid DESC",
                (*values, last),
            ):
                later.append(rowid)
        except sqlite3.Error:
            pass
        for rowid in reversed(later):
            row = self.row(f"SELECT {chosen} FROM {table} WHERE rowid = ?", rowid)  # noqa: S608
            if row is not None:
                yield row


def as_bytes(value: object) -> bytes:
    """Return stored bytes; empty bytes for anything else."""
    return value if isinstance(value, bytes) else b""


def as_int(value: object, default: int = 0, *, most: int = (1 << 63) - 1) -> int:
    """Return a stored number from 0 to `most`; `default` for anything else."""
    return value if isinstance(value, int) and 0 <= value <= most else default


def as_number(value: object) -> int:
    """Return the stored number of a list or a snapshot; 0, which none has, for anything else."""
    # The rows of a number end where those of the next one begin, so the next one must be valid too.
    return as_int(value, most=MAX_NUMBER - 1)


def as_text(value: object) -> str:
    """Return a stored text; an empty text for anything else."""
    return value if isinstance(value, str) else ""


# --- the node, organizations, versions ----------------------------------------------------------


class ListName(NamedTuple):
    """The name of a list, and the peer from which it is fetched.

    Attributes:
        list: its number.
        org: the number of its organization.
        name: its name without the organization.
        via: the number of the peer from which it is fetched; 0 for none.
    """

    list: int
    org: object
    name: str
    via: int


def node_facts(wreck: Wreck) -> Iterator[tuple[str, str]]:
    """Yield each fact about the node: its key and its value."""
    for key, value in wreck.rows("node", ("key", "value")):
        yield as_text(key), as_text(value)


def orgs(wreck: Wreck) -> Iterator[OrgRow]:
    """Yield the organizations."""
    for row in map(OrgRow._make, wreck.rows("org", OrgRow._fields)):
        yield OrgRow(
            org=row.org,
            name=as_text(row.name),
            root=as_bytes(row.root),
            pinned_ms=as_int(row.pinned_ms),
        )


def peers(wreck: Wreck) -> Iterator[PeerRow]:
    """Yield the peers."""
    for row in map(PeerRow._make, wreck.rows("peer", PeerRow._fields)):
        yield PeerRow(
            org=row.org,
            address=as_text(row.address),
            certificate=as_text(row.certificate),
            certificate_sha256=as_bytes(row.certificate_sha256),
            added_ms=as_int(row.added_ms),
        )


def versions(wreck: Wreck) -> Iterator[VersionRow]:
    """Yield the versions of the store, oldest first."""
    for row in map(VersionRow._make, wreck.rows("version", VersionRow._fields)):
        yield VersionRow(
            version=as_int(row.version),
            committed_ms=as_int(row.committed_ms),
            kind=as_text(row.kind),
            detail=as_text(row.detail),
        )


# --- lists --------------------------------------------------------------------------------------


def list_names(wreck: Wreck) -> Iterator[ListName]:
    """Yield the name of each list."""
    for row in map(ListName._make, wreck.rows("list", ListName._fields)):
        yield ListName(
            list=as_number(row.list), org=row.org, name=as_text(row.name), via=as_int(row.via)
        )


def list_state(wreck: Wreck, number: int) -> ListStateRow | None:
    """Return the state of a list, or None if a part of it cannot be read."""
    row = wreck.of_list("list", ListStateRow._fields, number)
    return None if row is None else ListStateRow._make(row)


def span_in_force(wreck: Wreck, number: int) -> object:
    """Return the number of the span in force of a list; None if it cannot be read."""
    row = wreck.of_list("list", ("span",), number)
    return None if row is None else row[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """The recorded end of the log of a list.

    Attributes:
        size: how many leaves it has.
        frontier: its tree, encoded.
        last_leaf: the hash of its newest leaf.
    """

    size: int
    frontier: bytes
    last_leaf: bytes


def log_end(wreck: Wreck, number: int) -> LogEnd:
    """Return the recorded end of the log of a list; with size 0 if it cannot be read."""
    row = wreck.of_list("list", ("size", "frontier", "last_leaf"), number)
    size, frontier, last_leaf = (None, None, None) if row is None else row
    return LogEnd(
        size=as_int(size, most=limits.MAX_TREE_SIZE),
        frontier=as_bytes(frontier),
        last_leaf=as_bytes(last_leaf),
    )


def charter(wreck: Wreck, number: int) -> tuple[bytes | None, int]:
    """Return the charter of a list and its version; None and 0 if they are not recorded."""
    row = wreck.of_list("list", ("charter", "charter_version"), number)
    envelope, version = (None, None) if row is None else row
    return None if envelope is None else as_bytes(envelope), as_int(version)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFacts:
    """The unsigned facts about a list.

    Attributes:
        checked: for how many deltas the ops tree and the state digest were checked.
        deltas_only: 1 if every delta is wanted and no snapshot instead, else 0.
        since_snapshot: how much was published since the newest snapshot.
    """

    checked: int
    deltas_only: int
    since_snapshot: int


def list_facts(wreck: Wreck, number: int) -> ListFacts:
    """Return the unsigned facts about a list; zeros if they cannot be read."""
    row = wreck.of_list("list", ("checked", "deltas_only", "since_snapshot"), number)
    checked, deltas_only, since_snapshot = (None, None, None) if row is None else row
    return ListFacts(
        checked=as_int(checked),
        deltas_only=as_int(deltas_only) & 1,
        since_snapshot=as_int(since_snapshot),
    )


def follow_state(wreck: Wreck, number: int) -> FollowStateRow:
    """Return the status of following a list; empty if it cannot be read."""
    read = wreck.of_list("follow_state", FollowStateRow._fields, number)
    if read is None:
        return FollowStateRow(number, "", "", "", 0, 0, 0)
    row = FollowStateRow._make(read)
    return FollowStateRow(
        list=number,
        state=as_text(row.state),
        reason=as_text(row.reason),
        detail=as_text(row.detail),
        since_ms=as_int(row.since_ms),
        contact_ms=as_int(row.contact_ms),
        head=as_int(row.head),
    )


def signed_extent(wreck: Wreck, number: int) -> SignedExtentRow | None:
    """Return the newest signed part of a list's staged changes, or None."""
    row = wreck.of_list("signed_extent", SignedExtentRow._fields, number)
    return None if row is None else SignedExtentRow._make(row)


def released(wreck: Wreck, number: int) -> ReleasedRow | None:
    """Return how much of one of our lists may leave this machine, or None."""
    row = wreck.of_list("released", ReleasedRow._fields, number)
    return None if row is None else ReleasedRow(list=number, size=row[1])


def spans(wreck: Wreck, number: int) -> Iterator[SpanRow]:
    """Yield the spans of a list."""
    yield from map(SpanRow._make, wreck.rows("span", SpanRow._fields, "list = ?", number))


def fetched(wreck: Wreck, number: int) -> Iterator[FetchedRow]:
    """Yield the deltas of a list that were fetched one by one."""
    yield from map(FetchedRow._make, wreck.rows("fetched", FetchedRow._fields, _IDS, *_ids(number)))


# --- leaves -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvagedLeaf:
    """A leaf as it is stored, and how it arrived.

    Attributes:
        signed: its bytes; a missing or unreadable part is empty.
        version: the store version with which it came; 0 if unreadable.
        received_ms: when it arrived; 0 if unreadable.
        via: the number of the peer that sent it; 0 for none.
    """

    signed: SignedDelta
    version: int
    received_ms: int
    via: int


def leaf(wreck: Wreck, number: int, position: int) -> SalvagedLeaf | None:
    """Return a leaf, or None if neither its header nor its body can be read."""
    at = delta_id(number, position)
    row = wreck.row("SELECT bytes FROM body WHERE id = ?", at)
    body = None if row is None else as_bytes(row[0])
    read = wreck.row(
        f"SELECT {', '.join(DeltaRow._fields)} FROM delta WHERE id = ?",  # noqa: S608
        at,
    )
    if read is None:
        if body is None:
            return None
        return SalvagedLeaf(signed=SignedDelta(b"", body, b""), version=0, received_ms=0, via=0)
    delta = DeltaRow._make(read)
    return SalvagedLeaf(
        signed=SignedDelta(as_bytes(delta.header), body or b"", as_bytes(delta.checkpoint)),
        version=as_int(delta.version),
        received_ms=as_int(delta.received_ms),
        via=as_int(delta.via),
    )


def leaf_header(wreck: Wreck, number: int, position: int) -> bytes | None:
    """Return the header of a leaf, or None."""
    row = wreck.row("SELECT header FROM delta WHERE id = ?", delta_id(number, position))
    return None if row is None else as_bytes(row[0])


def has_leaf(wreck: Wreck, number: int, position: int) -> bool:
    """Return whether a leaf is stored at a position, readable or not."""
    return wreck.row("SELECT 1 FROM delta WHERE id = ?", delta_id(number, position)) is not None


def newest_position(wreck: Wreck, number: int) -> int:
    """Return the newest position with a stored leaf; -1 if there is none."""
    row = wreck.row(f"SELECT max(id) FROM delta WHERE {_IDS}", *_ids(number))  # noqa: S608
    newest = None if row is None else row[0]
    return as_int(newest) - delta_id(number, 0) if isinstance(newest, int) else -1


def leaves(wreck: Wreck, number: int) -> Iterator[DeltaRow]:
    """Yield the leaves of a list without their bodies."""
    yield from map(DeltaRow._make, wreck.rows("delta", DeltaRow._fields, _IDS, *_ids(number)))


def bodies(wreck: Wreck, number: int) -> Iterator[BodyRow]:
    """Yield the bodies of a list's leaves."""
    yield from map(BodyRow._make, wreck.rows("body", BodyRow._fields, _IDS, *_ids(number)))


def _ids(number: int) -> tuple[int, int]:
    """Return the first row id of a list's deltas, and the first after them."""
    return delta_id(number, 0), delta_id(number + 1, 0)


# --- snapshots ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvagedSnapshot:
    """A snapshot without its buckets, as it is stored.

    Attributes:
        offer: its bytes; an unreadable part is empty.
        position: the position of its leaf.
    """

    offer: SnapshotOffer
    position: int


def snapshot(wreck: Wreck, number: int) -> SalvagedSnapshot | None:
    """Return a snapshot, or None."""
    read = wreck.row(
        f"SELECT {', '.join(SnapshotRow._fields)} FROM snapshot WHERE snapshot = ?",  # noqa: S608
        number,
    )
    if read is None:
        return None
    row = SnapshotRow._make(read)
    offer = SnapshotOffer(
        header=as_bytes(row.header),
        checkpoint=as_bytes(row.checkpoint),
        frontier=as_bytes(row.frontier),
        bucket_hashes=as_bytes(row.bucket_hashes),
    )
    return SalvagedSnapshot(offer=offer, position=as_int(row.position))


def snapshot_header(wreck: Wreck, number: int) -> bytes:
    """Return the header of a snapshot; empty if it cannot be read."""
    row = wreck.row("SELECT header FROM snapshot WHERE snapshot = ?", number)
    return as_bytes(None if row is None else row[0])


def oldest_held_snapshot(wreck: Wreck, number: int) -> int | None:
    """Return the number of the oldest complete snapshot of a list, or None."""
    row = wreck.row(
        "SELECT snapshot FROM snapshot WHERE list = ? AND state = 'held' ORDER BY position LIMIT 1",
        number,
    )
    return None if row is None else as_number(row[0])


def held_snapshot_numbers(wreck: Wreck, number: int) -> list[int]:
    """Return the numbers of the complete snapshots of a list."""
    return [as_number(held) for (held,) in wreck.rows("snapshot", ("snapshot",), _HELD, number)]


def held_snapshots(wreck: Wreck, number: int) -> Iterator[SnapshotRow]:
    """Yield the complete snapshots of a list."""
    yield from map(SnapshotRow._make, wreck.rows("snapshot", SnapshotRow._fields, _HELD, number))


def bucket(wreck: Wreck, snapshot: int, number: int) -> bytes | None:
    """Return one bucket of a snapshot, or None."""
    row = wreck.row("SELECT bytes FROM bucket WHERE id = ?", bucket_id(snapshot, number))
    return None if row is None else as_bytes(row[0])


def buckets(wreck: Wreck, snapshot: int) -> Iterator[BucketRow]:
    """Yield the buckets of a snapshot."""
    first, last = bucket_id(snapshot, 0), bucket_id(snapshot + 1, 0)
    yield from map(BucketRow._make, wreck.rows("bucket", BucketRow._fields, _IDS, first, last))


# --- the file -----------------------------------------------------------------------------------


@contextmanager
def open_wreck(path: Path, clock: Clock) -> Iterator[Wreck]:
    """Open a damaged store for reading.

    Raises:
        StoreError: a copy is needed and cannot be written.
    """
    connection = _connect(path)
    if connection is not None:
        try:
            yield Wreck(connection)
        finally:
            connection.close()
        return
    with name_copy(path, "wreck") as copy:
        with durable.disk_errors(copy):
            first_page.copy_with_new(path, copy, clock)
        connection = _connect(copy) or sqlite3.connect(":memory:")
        try:
            yield Wreck(connection)
        finally:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    """Return a connection that can read the schema, or None."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return None
    try:
        connection.text_factory = _decode
        # Lets SQLite go on reading if the file is shorter than its first page says.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA query_only = ON")
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        for table in ("org", "list", "delta", "body", "span", "version", "node"):
            if table not in names:
                raise sqlite3.DatabaseError(f"no table {table}")
            connection.execute(f"SELECT rowid FROM {table} LIMIT 0")  # noqa: S608
    except sqlite3.Error:
        connection.close()
        return None
    return connection


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")
