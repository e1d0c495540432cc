"""Fills a new store from the rows of a damaged one.

A row class has the columns of its table as its fields, in their order. A field of type `object` has
the value as it was read from the damaged store, which may be of any type.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from federation.names import OrgName, Origin
from federation.replica import LogState
from node.store.connection import Store
from node.store.log import delta_id
from node.store.sqlite import sqlite3


class OrgRow(NamedTuple):
    """An organization whose root is pinned."""

    org: object
    name: str
    root: bytes
    pinned_ms: int


class PeerRow(NamedTuple):
    """A node that may call here and that can be called."""

    org: object
    address: str
    certificate: str
    certificate_sha256: bytes
    added_ms: int


class VersionRow(NamedTuple):
    """A committed change of the store."""

    version: int
    committed_ms: int
    kind: str
    detail: str


class FollowStateRow(NamedTuple):
    """How following a list goes."""

    list: int
    state: str
    reason: str
    detail: str
    since_ms: int
    contact_ms: int
    head: int


class SignedExtentRow(NamedTuple):
    """The newest signed part of the changes staged for a list."""

    list: object
    staging: object
    first: object
    last: object
    edit: object


class ReleasedRow(NamedTuple):
    """How much of one of our own lists may leave this machine."""

    list: int
    size: object


class SpanRow(NamedTuple):
    """An unbroken part of a list's log."""

    span: object
    list: object
    start: object
    stop: object
    snapshot: object


class SnapshotRow(NamedTuple):
    """A snapshot without its buckets."""

    snapshot: object
    list: object
    position: object
    state: object
    header: object
    checkpoint: object
    frontier: object
    bucket_hashes: object
    size_bytes: object


class BucketRow(NamedTuple):
    """A bucket of a snapshot."""

    id: object
    entries: object
    first: object
    last: object
    bytes: object


class DeltaRow(NamedTuple):
    """A leaf of a log without its body."""

    id: object
    version: object
    received_ms: object
    via: object
    body_size: object
    header: object
    checkpoint: object


class BodyRow(NamedTuple):
    """The body of a leaf."""

    id: object
    bytes: object


class FetchedRow(NamedTuple):
    """A delta that was fetched alone."""

    id: object
    size: object
    received_ms: object
    via: object
    header: object
    checkpoint: object
    inclusion: object
    body: object


class ListStateRow(NamedTuple):
    """The state of a list: a row of `list` without the columns that identify it."""

    charter: object
    charter_version: object
    frontier: object
    size: object
    last_leaf: object
    last_time_ms: object
    live_count: object
    state_digest: object
    checked: object
    span: object
    deltas_only: object
    since_snapshot: object


Row = (
    OrgRow
    | PeerRow
    | VersionRow
    | FollowStateRow
    | SignedExtentRow
    | ReleasedRow
    | SpanRow
    | SnapshotRow
    | BucketRow
    | DeltaRow
    | BodyRow
    | FetchedRow
)

_TABLES: Final[Mapping[type[Row], str]] = MappingProxyType(
    {
        OrgRow: "org",
        PeerRow: "peer",
        VersionRow: "version",
        FollowStateRow: "follow_state",
        SignedExtentRow: "signed_extent",
        ReleasedRow: "released",
        SpanRow: "span",
        SnapshotRow: "snapshot",
        BucketRow: "bucket",
        DeltaRow: "delta",
        BodyRow: "body",
        FetchedRow: "fetched",
    }
)


# --- rows ---------------------------------------------------------------------------------------


def add(connection: sqlite3.Connection, row: Row) -> None:
    """Insert a row.

    Raises:
        sqlite3.IntegrityError: such a row is not allowed.
    """
    connection.execute(f"INSERT {_into(row)}", row)


def add_if_possible(connection: sqlite3.Connection, row: Row) -> None:
    """Insert a row as it was read, unless it exists already or is not allowed."""
    with suppress(sqlite3.IntegrityError):
        connection.execute(f"INSERT OR IGNORE {_into(row)}", row)


def _into(row: Row) -> str:
    columns = ", ".join(row._fields)
    marks = ", ".join("?" for _ in row)
    return f"INTO {_TABLES[type(row)]} ({columns}) VALUES ({marks})"


# --- the file -----------------------------------------------------------------------------------


def fill_unsynced(store: Store) -> None:
    """Let transactions end without a sync, since nobody uses the file before it is complete."""
    store.connection.execute("PRAGMA synchronous = OFF")


def complete(store: Store) -> None:
    """Move everything into the one file of the store, so that it can be renamed."""
    store.connection.execute("PRAGMA journal_mode = DELETE")


def defer_references(connection: sqlite3.Connection) -> None:
    """Check references at the commit, as list, span and snapshot refer to each other."""
    connection.execute("PRAGMA defer_foreign_keys = ON")


# --- the node, organizations, versions ----------------------------------------------------------


def store_node(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Record one fact about the node, replacing what the new store says."""
    connection.execute(
        "INSERT INTO node (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
        (key, value),
    )


def load_org(connection: sqlite3.Connection, number: object) -> tuple[OrgName, bytes] | None:
    """Return name and root of the organization of that number, or None."""
    row = connection.execute("SELECT name, root FROM org WHERE org = ?", (number,)).fetchone()
    return None if row is None else (OrgName(row[0]), row[1])


def store_committed(connection: sqlite3.Connection, version: int, committed_ms: int) -> None:
    """Correct the time of a version."""
    connection.execute(
        "UPDATE version SET committed_ms = ? WHERE version = ?", (committed_ms, version)
    )


def newest_version(connection: sqlite3.Connection) -> int:
    """Return the newest version; 1 for none."""
    (newest,) = connection.execute("SELECT coalesce(max(version), 1) FROM version").fetchone()
    return int(newest)


# --- one list -----------------------------------------------------------------------------------


def add_list(
    connection: sqlite3.Connection, number: int, origin: Origin, *, own: bool, via: int
) -> None:
    """Add a list under its old number, empty.

    Args:
        connection: the new store, with the list's organization.
        number: the number of the list.
        origin: its name.
        own: whether it is ours.
        via: the number of the peer from which it is fetched; 0 for none.
    """
    empty = LogState.empty()
    connection.execute(
        """INSERT INTO list (list, org, name, own, via, charter_version, frontier, size, last_leaf,
            last_time_ms, live_count, state_digest, checked, span, deltas_only, since_snapshot)
        SELECT :list, o.org, :name, :own, (SELECT org FROM org WHERE org = :via), 0, :frontier, 0,
            :last_leaf, 0, 0, :state_digest, 0, :span, 0, 0 FROM org AS o WHERE o.name = :org""",
        {
            "list": number,
            "org": origin.org,
            "name": origin.name,
            "own": own,
            "via": via,
            "frontier": empty.frontier.encode(),
            "last_leaf": empty.last_leaf,
            "state_digest": empty.state_digest,
            # Until its first span begins.
            "span": -number,
        },
    )


def begin_span(connection: sqlite3.Connection, row: SpanRow, base: SnapshotRow | None) -> None:
    """Add a span with the snapshot that it begins with, if any, and put it in force."""
    defer_references(connection)
    if base is not None:
        add(connection, base)
    add(connection, row)
    connection.execute("UPDATE list SET span = ? WHERE list = ?", (row.span, row.list))


def end_span(connection: sqlite3.Connection, span: int, stop: int) -> None:
    """Record the size of the log at which a span ended."""
    connection.execute("UPDATE span SET stop = ? WHERE span = ?", (stop, span))


def store_via(connection: sqlite3.Connection, list_number: int, position: int, via: int) -> None:
    """Record which peer sent a leaf, if that number belongs to an organization."""
    connection.execute(
        "UPDATE delta SET via = coalesce((SELECT org FROM org WHERE org = ?), via) WHERE id = ?",
        (via, delta_id(list_number, position)),
    )


def store_list_facts(
    connection: sqlite3.Connection,
    number: int,
    *,
    charter: bytes | None,
    charter_version: int,
    checked: int,
    deltas_only: int,
    since_snapshot: int,
) -> None:
    """Record what is known of a list besides its log, as in `node.store.lists.ListRecord`."""
    connection.execute(
        """UPDATE list SET charter = :charter, charter_version = :charter_version,
            checked = :checked, deltas_only = :deltas_only, since_snapshot = :since_snapshot
        WHERE list = :list""",
        {
            "list": number,
            "charter": charter,
            "charter_version": charter_version,
            "checked": checked,
            "deltas_only": deltas_only,
            "since_snapshot": since_snapshot,
        },
    )


def store_list_state(connection: sqlite3.Connection, number: int, row: ListStateRow) -> None:
    """Record the state of a list as it was read, unless such a row is not allowed."""
    columns = ", ".join(f"{name} = :{name}" for name in row._fields)
    with suppress(sqlite3.IntegrityError):
        connection.execute(
            f"UPDATE list SET {columns} WHERE list = :list",  # noqa: S608
            row._asdict() | {"list": number},
        )


def ensure_span(connection: sqlite3.Connection, number: int) -> None:
    """Add the span to which a list refers, unless it exists."""
    (span,) = connection.execute("SELECT span FROM list WHERE list = ?", (number,)).fetchone()
    add_if_possible(connection, SpanRow(span, number, 0, None, None))


def keep_fetched(
    connection: sqlite3.Connection, list_number: int, positions: Container[int]
) -> None:
    """Remove the deltas of a list that were fetched alone, except at some positions."""
    first = delta_id(list_number, 0)
    for (at,) in connection.execute(
        "SELECT id FROM fetched WHERE id >= ? AND id < ?", (first, delta_id(list_number + 1, 0))
    ).fetchall():
        if at - first not in positions:
            connection.execute("DELETE FROM fetched WHERE id = ?", (at,))
