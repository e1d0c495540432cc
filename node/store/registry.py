"""Organizations, peers and lists that this node knows, and how following goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

from federation import wire
from federation.charter import Charter
from federation.errors import FederationError, MalformedError
from federation.merkle import CompactRange
from federation.names import OrgName, Origin
from federation.orgroot import PinnedRoot
from federation.replica import LogState
from node.errors import DamageError, StoreError, UsageError
from node.findings import Damage
from node.store import spans
from node.store.connection import Store, Transaction
from node.store.sqlite import sqlite3

ORG_KEY: Final = "org"
"""Under which the table `node` says whose store it is."""


class FollowState(StrEnum):
    """How following a list goes, as an operator sees it."""

    OWN = "own"
    """Ours: nothing to follow."""
    RECOVERING = "recovering"
    """Ours, and not signed for now: something newer of it may have been released."""
    CATCHING_UP = "catching-up"
    """Deltas are known to be missing, or the peer has not been asked yet."""
    CURRENT = "current"
    """All that the peer has is here."""
    STALE = "stale"
    """The peer cannot be reached, or does not have the list for us; what is here still counts."""
    QUARANTINED = "quarantined"
    """The peer sent what does not verify; nothing of it was kept."""
    DESYNCHRONISED = "desynchronised"
    """The peer has less of the list than we do."""
    STOPPED = "stopped"
    """Not followed any more; what is here still counts."""
    FORKED = "forked"
    """The list has two signed histories; it stays where it is until a person decides."""
    DAMAGED = "damaged"
    """What is stored of it is known not to be what was signed: nothing is answered from it. It is
    never recorded in the store, which is what is damaged."""


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Say of what was verified before it was stored that it is damaged now."""
    try:
        yield
    except FederationError as error:
        raise DamageError(f"{what} is damaged: {error}", hint="run 'hashfed fsck'") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node that may call here and that can be called.

    Attributes:
        org: its organization.
        address: `host:port`.
        certificate: its TLS certificate, PEM.
        certificate_sha256: SHA-256 of that certificate's DER form.
        added_ms: when it was added.
    """

    org: OrgName
    address: str
    certificate: str
    certificate_sha256: bytes
    added_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRecord:
    """A list that this node owns or follows.

    Attributes:
        list: its number in this store.
        origin: its name.
        own: whether this node publishes it.
        via: the peer that it is fetched from; None for our own and for one not followed any more.
        charter: the signed envelope of the charter in force; None until one arrived.
        charter_version: its version; 0 for none.
        log: where the log stands here.
        checked: how many deltas had their ops tree and state digest checked.
        span: the span of its log that is in force here (`node.store.spans`).
        start: the size of the log at which that span begins.
        base: the number of the snapshot that the span begins with; None when with nothing.
        deltas_only: whether no snapshot is wanted in the place of deltas.
        since_snapshot: for a list of our own, what was published since its newest snapshot, in
            operations or their like (`node.snapshotting`).
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
            DamageError: it cannot be decoded any more.
        """
        if self.charter is None:
            return None
        with _damage(f"the charter of {self.origin}"):
            return wire.decode_charter(wire.decode_envelope(self.charter).payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStatus:
    """How following a list goes.

    Attributes:
        state: in one word.
        reason: the stable word of what went wrong, or empty.
        detail: the same in a sentence.
        since_ms: since when it is in this state.
        contact_ms: when the peer last answered for it; 0 for never.
        head: the largest size that the peer said it has.
    """

    state: FollowState
    reason: str
    detail: str
    since_ms: int
    contact_ms: int
    head: int


# --- the node itself --------------------------------------------------------------------------


def load_node(connection: sqlite3.Connection, key: str) -> str | None:
    """Return one fact about this node, or None."""
    row = connection.execute("SELECT value FROM node WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def store_node(transaction: Transaction, key: str, value: str) -> None:
    """Record one fact about this node. It never changes afterwards."""
    transaction.connection.execute("INSERT INTO node (key, value) VALUES (?, ?)", (key, value))


# --- organizations and peers ------------------------------------------------------------------


def require_org(store: Store, org: OrgName) -> None:
    """Check that a store is the one of the organization that the configuration names.

    Raises:
        StoreError: FOREIGN, it is another organization's.
    """
    theirs = load_node(store.connection, ORG_KEY)
    if theirs not in {None, org}:
        raise StoreError(
            f"{store.path} is the store of {theirs}, this node is {org}'s",
            hint="nothing was changed; put the right store.db and config.toml together",
            reason="FOREIGN",
        )


def pin_org(transaction: Transaction, root: PinnedRoot) -> None:
    """Pin the root of an organization.

    Raises:
        UsageError: another root is pinned for that organization.
    """
    held = load_root(transaction.connection, root.document.org)
    if held is not None:
        if held.hash != root.hash:
            raise UsageError(
                f"another root is pinned for {root.document.org}: {held.short_fingerprint}",
                hint="ask them which one is theirs; never replace it on the word of a file",
            )
        return
    transaction.connection.execute(
        "INSERT INTO org (name, root, pinned_ms) VALUES (?, ?, ?)",
        (root.document.org, wire.encode_envelope(root.envelope), transaction.now_ms),
    )


def load_root(connection: sqlite3.Connection, org: str) -> PinnedRoot | None:
    """Return the pinned root of an organization, or None; what is stored now is verified.

    Raises:
        DamageError: it does not verify any more.
    """
    row = connection.execute("SELECT root FROM org WHERE name = ?", (org,)).fetchone()
    if row is None:
        return None
    with _damage(f"the org root of {org}"):
        root = _open_root(row[0])
        if root.document.org != org:
            raise MalformedError(f"it is that of {root.document.org}")
        return root


@lru_cache(maxsize=64)
def _open_root(data: bytes) -> PinnedRoot:
    """Verify a root, once as long as its bytes are the same: this is asked for all the time."""
    return wire.open_org_root(data)


def store_peer(
    transaction: Transaction,
    org: OrgName,
    *,
    address: str,
    certificate: str,
    certificate_sha256: bytes,
) -> None:
    """Add a peer whose organization is pinned, or give it another address or certificate."""
    transaction.connection.execute(
        """INSERT INTO peer (org, address, certificate, certificate_sha256, added_ms)
        SELECT org, ?, ?, ?, ? FROM org WHERE name = ?
        ON CONFLICT (org) DO UPDATE SET address = excluded.address,
            certificate = excluded.certificate, certificate_sha256 = excluded.certificate_sha256""",
        (address, certificate, certificate_sha256, transaction.now_ms, org),
    )


def remove_peer(transaction: Transaction, org: str) -> None:
    """Forget a peer's address and certificate. Its organization's root stays pinned."""
    transaction.connection.execute(
        "DELETE FROM peer WHERE org = (SELECT org FROM org WHERE name = ?)", (org,)
    )


_PEER = (
    "SELECT org.name, peer.address, peer.certificate, peer.certificate_sha256, peer.added_ms "
    "FROM peer JOIN org USING (org)"
)


def iter_peers(connection: sqlite3.Connection) -> Iterator[Peer]:
    """Yield every peer, by name."""
    for row in connection.execute(f"{_PEER} ORDER BY org.name"):
        yield _peer(row)


def load_peer(connection: sqlite3.Connection, org: str) -> Peer | None:
    """Return one peer, or None."""
    row = connection.execute(f"{_PEER} WHERE org.name = ?", (org,)).fetchone()
    return None if row is None else _peer(row)


def _peer(row: tuple[str, str, str, bytes, int]) -> Peer:
    org, address, certificate, certificate_sha256, added_ms = row
    return Peer(
        org=OrgName(org),
        address=address,
        certificate=certificate,
        certificate_sha256=certificate_sha256,
        added_ms=added_ms,
    )


# --- lists ------------------------------------------------------------------------------------

_LIST = (
    "SELECT l.list, o.name, l.name, l.own, v.name, l.charter, l.charter_version, l.frontier, "
    "l.size, l.last_leaf, l.last_time_ms, l.live_count, l.state_digest, l.checked, l.span, "
    "s.start, s.snapshot, l.deltas_only, l.since_snapshot "
    "FROM list AS l JOIN org AS o ON o.org = l.org JOIN span AS s ON s.span = l.span "
    "LEFT JOIN org AS v ON v.org = l.via"
)


def add_list(transaction: Transaction, origin: Origin, *, via: OrgName | None) -> None:
    """Add a list: our own when `via` is None, else one to be fetched from that peer.

    Raises:
        UsageError: the list is here already.
    """
    connection = transaction.connection
    if load_list(connection, origin) is not None:
        raise UsageError(f"{origin} is here already")
    empty = LogState.empty()
    (number,) = connection.execute("SELECT coalesce(max(list), 0) + 1 FROM list").fetchone()
    # List and span name each other: the constraint between them is checked at the commit.
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
    """Fetch a list from another peer from now on, or from none."""
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
    for row in connection.execute(f"{_LIST} ORDER BY o.name, l.name"):
        yield _list(row)


def iter_origins(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Yield number and name of every list, by origin, whatever else is recorded of it."""
    yield from connection.execute(
        "SELECT l.list, o.name || '/' || l.name FROM list AS l JOIN org AS o ON o.org = l.org "
        "ORDER BY o.name, l.name"
    )


def load_newest_time(connection: sqlite3.Connection) -> int:
    """Return the newest time that was signed of any list, in ms since 1970; 0 if there is none."""
    (newest,) = connection.execute("SELECT max(last_time_ms) FROM list").fetchone()
    return int(newest or 0)


def load_origin(connection: sqlite3.Connection, number: int) -> Origin:
    """Return the name of the list of that number, which must exist.

    Raises:
        DamageError: it does not, or its name cannot be one.
    """
    row = connection.execute(
        "SELECT o.name || '/' || l.name FROM list AS l JOIN org AS o ON o.org = l.org "
        "WHERE l.list = ?",
        (number,),
    ).fetchone()
    if row is None:
        raise DamageError(f"list {number} is missing", hint="run 'hashfed fsck'")
    with _damage("the name of a list"):
        return Origin.parse(row[0])


def load_list(connection: sqlite3.Connection, origin: Origin) -> ListRecord | None:
    """Return one list, or None.

    Raises:
        DamageError: what is recorded of it cannot be.
    """
    row = connection.execute(
        f"{_LIST} WHERE o.name = ? AND l.name = ?", (origin.org, origin.name)
    ).fetchone()
    return None if row is None else _list(row)


def load_list_by_number(connection: sqlite3.Connection, number: int) -> ListRecord:
    """Return the list of that number, which must exist.

    Raises:
        DamageError: what is recorded of it cannot be, or is not there.
    """
    row = connection.execute(f"{_LIST} WHERE l.list = ?", (number,)).fetchone()
    if row is None:
        raise DamageError(f"list {number}, or its span, is missing", hint="run 'hashfed fsck'")
    return _list(row)


def _list(
    row: tuple[
        int,
        str,
        str,
        int,
        str | None,
        bytes | None,
        int,
        bytes,
        int,
        bytes,
        int,
        int,
        bytes,
        int,
        int,
        int,
        int | None,
        int,
        int,
    ],
) -> ListRecord:
    (
        number, org, name, own, via, charter, charter_version, frontier, size, last_leaf,
        last_time_ms, live_count, state_digest, checked, span, start, snapshot, deltas_only,
        since_snapshot,
    ) = row  # fmt: skip
    origin = Origin(OrgName(org), name)
    with _damage(f"the recorded state of {origin}"):
        tree = CompactRange.decode(size, frontier)
    return ListRecord(
        list=number,
        origin=origin,
        own=bool(own),
        via=None if via is None else OrgName(via),
        charter=charter,
        charter_version=charter_version,
        log=LogState(
            frontier=tree,
            last_leaf=last_leaf,
            last_time_ms=last_time_ms,
            live_count=live_count,
            state_digest=state_digest,
            # A span that begins with a snapshot begins right after its leaf.
            start=0 if snapshot is None else start - 1,
        ),
        checked=checked,
        span=span,
        start=start,
        base=snapshot,
        deltas_only=bool(deltas_only),
        since_snapshot=since_snapshot,
    )


def store_deltas_only(transaction: Transaction, record: ListRecord, *, wanted: bool) -> None:
    """Say whether every delta of a list is wanted, and no snapshot in their place."""
    transaction.connection.execute(
        "UPDATE list SET deltas_only = ? WHERE list = ?", (wanted, record.list)
    )


def store_since_snapshot(transaction: Transaction, list_number: int, operations: int) -> None:
    """Record how much was published of one of our lists since its newest snapshot."""
    transaction.connection.execute(
        "UPDATE list SET since_snapshot = ? WHERE list = ?", (operations, list_number)
    )


def store_log_state(transaction: Transaction, list_number: int, state: LogState) -> None:
    """Record where a list's log stands."""
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


# --- how following goes -----------------------------------------------------------------------


def load_follow_status(connection: sqlite3.Connection, list_number: int) -> FollowStatus:
    """Return how following a list goes."""
    state, reason, detail, since_ms, contact_ms, head = connection.execute(
        "SELECT state, reason, detail, since_ms, contact_ms, head FROM follow_state WHERE list = ?",
        (list_number,),
    ).fetchone()
    return FollowStatus(
        state=FollowState(state),
        reason=reason,
        detail=detail,
        since_ms=since_ms,
        contact_ms=contact_ms,
        head=head,
    )


def with_damage(status: FollowStatus, damage: Damage | None) -> FollowStatus:
    """Return how a list stands, given what is known to be damaged of it (`node.findings`)."""
    if damage is None:
        return status
    at = "" if damage.position is None else f" at position {damage.position}"
    return replace(
        status,
        state=FollowState.DAMAGED,
        reason=DamageError.reason,
        detail=f"{damage.kind}{at}: {damage.message}",
    )


def store_follow_state(
    connection: sqlite3.Connection,
    list_number: int,
    state: FollowState,
    *,
    now_ms: int,
    reason: str = "",
    detail: str = "",
) -> None:
    """Record how following a list goes."""
    connection.execute(
        "UPDATE follow_state SET since_ms = CASE WHEN state = ? THEN since_ms ELSE ? END, "
        "state = ?, reason = ?, detail = ? WHERE list = ?",
        (state, now_ms, state, reason, detail, list_number),
    )


def store_contact(
    connection: sqlite3.Connection, list_number: int, *, now_ms: int, head: int | None = None
) -> None:
    """Record that the peer answered for a list, and the size it said it has."""
    connection.execute(
        "UPDATE follow_state SET contact_ms = ?, head = max(head, coalesce(?, head)) "
        "WHERE list = ?",
        (now_ms, head, list_number),
    )


def store_checked(connection: sqlite3.Connection, list_number: int, checked: int) -> None:
    """Record how many deltas had their ops tree and state digest checked."""
    # Another process may have checked more meanwhile.
    connection.execute(
        "UPDATE list SET checked = max(checked, ?) WHERE list = ?", (checked, list_number)
    )
