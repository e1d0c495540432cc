"""The lists that this node owns or follows, and the state of their logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from federation import wire
from federation.follow import FollowState
from federation.merkle import CompactRange
from federation.names import OrgName, Origin
from federation.replica import LogState
from federation.trust.charter import Charter
from node.errors import CommandError, DamageError, as_damage
from node.store import spans
from node.store.connection import Transaction
from node.store.follow_state import store_follow_state
from node.store.sqlite import select, sqlite3


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRecord:
    """A list that this node owns or follows.

    Attributes:
        list: its number in this store.
        origin: its name.
        own: whether this node publishes it.
        via: the peer from which it is fetched; None for our own and for one no longer followed.
        charter: the signed envelope of the charter in force; None until one arrived.
        charter_version: its version; 0 for none.
        log: the state of the log here.
        checked: for how many deltas the ops tree and the state digest were checked.
        span: the span of its log that is in force here (`node.store.spans`).
        start: the size of the log at which that span begins.
        base: the number of the snapshot with which the span begins; None if it begins empty.
        deltas_only: whether every delta is wanted, and no snapshot instead.
        since_snapshot: for one of our own lists, how much was published since its newest snapshot,
            measured in operations (`node.publish.snapshot`).
    """

    list: int
    origin: Origin
    own: bool
    via: OrgName | None
    charter: bytes | None
    charter_version: int
    log: LogState
    checked: int
    span: int
    start: int
    base: int | None
    deltas_only: bool
    since_snapshot: int

    def open_charter(self) -> Charter | None:
        """Return the charter in force, which was verified when it was stored.

        Raises:
            DamageError: the stored charter can no longer be decoded.
        """
        if self.charter is None:
            return None
        with as_damage(f"the charter of {self.origin}"):
            return wire.decode_charter(wire.decode_envelope(self.charter).payload)


_LIST = """SELECT l.list, o.name AS org, l.name, l.own, v.name AS via, l.charter, l.charter_version,
    l.frontier, l.size, l.last_leaf, l.last_time_ms, l.live_count, l.state_digest, l.checked,
    l.span, s.start, s.snapshot, l.deltas_only, l.since_snapshot
    FROM list AS l JOIN org AS o ON o.org = l.org JOIN span AS s ON s.span = l.span
    LEFT JOIN org AS v ON v.org = l.via"""


def add_list(transaction: Transaction, origin: Origin, *, via: OrgName | None) -> None:
    """Add a list: our own when `via` is None, else one to be fetched from that peer.

    Raises:
        CommandError: this node already has the list.
    """
    connection = transaction.connection
    if load_list(connection, origin) is not None:
        raise CommandError(f"this node already has the list {origin}")
    empty = LogState.empty()
    (number,) = connection.execute("SELECT coalesce(max(list), 0) + 1 FROM list").fetchone()
    # List and span refer to each other, so the constraint is checked at the commit.
    connection.execute("PRAGMA defer_foreign_keys = ON")
    span = spans.add(connection, number, start=0, snapshot=None)
    connection.execute(
        """INSERT INTO list (list, org, name, own, via, charter_version, frontier, size, last_leaf,
            last_time_ms, live_count, state_digest, checked, span, deltas_only, since_snapshot)
        SELECT ?, o.org, ?, ?, (SELECT org FROM org WHERE name = ?), 0, ?, 0, ?, 0, 0, ?, 0, ?, 0, 0
        FROM org AS o WHERE o.name = ?""",
        (
            number,
            origin.name,
            via is None,
            via,
            empty.frontier.encode(),
            empty.last_leaf,
            empty.state_digest,
            span,
            origin.org,
        ),
    )
    state = FollowState.OWN if via is None else FollowState.CATCHING_UP
    connection.execute(
        "INSERT INTO follow_state (list, state, reason, detail, since_ms, contact_ms, head) "
        "VALUES (?, ?, '', '', ?, 0, 0)",
        (number, state, transaction.now_ms),
    )


def set_via(transaction: Transaction, record: ListRecord, via: OrgName | None) -> None:
    """Set the peer from which a list is fetched; None to stop fetching it."""
    connection = transaction.connection
    connection.execute(
        "UPDATE list SET via = (SELECT org FROM org WHERE name = ?) WHERE list = ?",
        (via, record.list),
    )
    state = FollowState.STOPPED if via is None else FollowState.CATCHING_UP
    store_follow_state(connection, record.list, state, now_ms=transaction.now_ms)


def store_charter(
    transaction: Transaction, record: ListRecord, envelope: bytes, version: int
) -> None:
    """Put a verified charter in force."""
    transaction.connection.execute(
        "UPDATE list SET charter = ?, charter_version = ? WHERE list = ? AND charter_version < ?",
        (envelope, version, record.list, version),
    )


def iter_lists(connection: sqlite3.Connection) -> Iterator[ListRecord]:
    """Yield every list, by origin.

    Raises:
        DamageError: what is recorded of one cannot be.
    """
    for row in select(connection, f"{_LIST} ORDER BY o.name, l.name"):
        yield _list(row)


def iter_origins(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Yield number and name of every list, by origin, even if the rest of its record is damaged."""
    yield from connection.execute(
        "SELECT l.list, o.name || '/' || l.name FROM list AS l JOIN org AS o ON o.org = l.org "
        "ORDER BY o.name, l.name"
    )


def load_newest_time(connection: sqlite3.Connection) -> int:
    """Return the newest signed time in any list, in ms since 1970; 0 if there is none."""
    (newest,) = connection.execute("SELECT max(last_time_ms) FROM list").fetchone()
    return int(newest or 0)


def load_origin(connection: sqlite3.Connection, number: int) -> Origin:
    """Return the name of the list of that number, which must exist.

    Raises:
        DamageError: it does not exist, or its name is not a valid one.
    """
    row = connection.execute(
        "SELECT o.name || '/' || l.name FROM list AS l JOIN org AS o ON o.org = l.org "
        "WHERE l.list = ?",
        (number,),
    ).fetchone()
    if row is None:
        raise DamageError(f"list {number} is missing", hint="run 'hashfed fsck'")
    with as_damage("the name of a list"):
        return Origin.parse(row[0])


def load_list(connection: sqlite3.Connection, origin: Origin) -> ListRecord | None:
    """Return one list, or None.

    Raises:
        DamageError: what is recorded of it cannot be.
    """
    row = select(
        connection, f"{_LIST} WHERE o.name = ? AND l.name = ?", (origin.org, origin.name)
    ).fetchone()
    return None if row is None else _list(row)


def load_list_by_number(connection: sqlite3.Connection, number: int) -> ListRecord:
    """Return the list of that number, which must exist.

    Raises:
        DamageError: its record is missing or invalid.
    """
    row = select(connection, f"{_LIST} WHERE l.list = ?", (number,)).fetchone()
    if row is None:
        raise DamageError(f"list {number}, or its span, is missing", hint="run 'hashfed fsck'")
    return _list(row)


def _list(row: sqlite3.Row) -> ListRecord:
    origin = Origin(OrgName(row["org"]), row["name"])
    with as_damage(f"the recorded state of {origin}"):
        tree = CompactRange.decode(row["size"], row["frontier"])
    return ListRecord(
        list=row["list"],
        origin=origin,
        own=bool(row["own"]),
        via=None if row["via"] is None else OrgName(row["via"]),
        charter=row["charter"],
        charter_version=row["charter_version"],
        log=LogState(
            frontier=tree,
            last_leaf=row["last_leaf"],
            last_time_ms=row["last_time_ms"],
            live_count=row["live_count"],
            state_digest=row["state_digest"],
            # A span that begins with a snapshot begins right after its leaf.
            start=0 if row["snapshot"] is None else row["start"] - 1,
        ),
        checked=row["checked"],
        span=row["span"],
        start=row["start"],
        base=row["snapshot"],
        deltas_only=bool(row["deltas_only"]),
        since_snapshot=row["since_snapshot"],
    )


def store_deltas_only(transaction: Transaction, record: ListRecord, *, wanted: bool) -> None:
    """Record whether every delta of a list is wanted, and no snapshot instead."""
    transaction.connection.execute(
        "UPDATE list SET deltas_only = ? WHERE list = ?", (wanted, record.list)
    )


def store_since_snapshot(transaction: Transaction, list_number: int, operations: int) -> None:
    """Record how much of one of our lists was published since its newest snapshot."""
    transaction.connection.execute(
        "UPDATE list SET since_snapshot = ? WHERE list = ?", (operations, list_number)
    )


def store_log_state(transaction: Transaction, list_number: int, state: LogState) -> None:
    """Record the state of a list's log."""
    transaction.connection.execute(
        "UPDATE list SET frontier = ?, size = ?, last_leaf = ?, last_time_ms = ?, live_count = ?, "
        "state_digest = ? WHERE list = ?",
        (
            state.frontier.encode(),
            state.size,
            state.last_leaf,
            state.last_time_ms,
            state.live_count,
            state.state_digest,
            list_number,
        ),
    )


def store_checked(connection: sqlite3.Connection, list_number: int, checked: int) -> None:
    """Record for how many deltas the ops tree and the state digest were checked."""
    # Another process may have checked more meanwhile.
    connection.execute(
        "UPDATE list SET checked = max(checked, ?) WHERE list = ?", (checked, list_number)
    )
