"""Accepts deltas of a list that this node follows: verifies, merges and commits them.

A transaction holds whole deltas, as many as one call brings. A delta that fails a check leaves
nothing behind; the deltas before it in the same call are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from federation.body import Body
from federation.errors import FederationError, OperationError, PeerError
from federation.follow import (
    Action,
    FollowState,
    News,
    decide,
    news_of,
    open_charter,
    take_deltas,
)
from federation.merge import Prior
from federation.names import OrgName, Origin
from federation.replica import Candidate, Replica, SignedDelta
from federation.trust.orgroot import PinnedRoot
from node.clock import Clock
from node.errors import CommandError, DamageError
from node.ingest import checks
from node.store import follow_state, index, lists, log, orgs
from node.store.connection import Store, Transaction
from node.store.lists import ListRecord
from node.store.sqlite import sqlite3


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What became of a batch of deltas.

    Attributes:
        size: how many deltas of the list are here now.
        deltas: how many of the batch were new and accepted.
        ops: how many operations they had.
        error: what was wrong with the next delta; None if nothing was.
        action: what to do next with the list.
    """

    size: int
    deltas: int
    ops: int
    error: PeerError | None
    action: Action = Action.GO_ON


def accept(
    store: Store, origin: Origin, deltas: Sequence[SignedDelta], *, via: OrgName, clock: Clock
) -> Acceptance:
    """Verify deltas that a peer sent and merge them, durably.

    Deltas that are here already are skipped, so it is harmless if one arrives twice or by two ways.

    Raises:
        CommandError: the list is not followed here.
        StoreError: the store could not be written; nothing of the batch is kept.
    """
    try:
        with store.write("sync", f"{origin} via {via}") as transaction:
            acceptance = merge_deltas(transaction, _followed(store, origin), deltas, via, clock)
            if not acceptance.deltas:
                transaction.abandon()
    except DamageError as error:
        if not isinstance(error.__cause__, sqlite3.IntegrityError | FederationError):
            raise
        # The index of this list and its deltas disagree, or a delta is not what was signed. Whether
        # this is a mistake in the program or damage, one list must not stop all others.
        acceptance = Acceptance(
            size=_followed(store, origin).log.size,
            deltas=0,
            ops=0,
            error=OperationError(
                f"deltas of {origin} do not fit what is stored here: run 'hashfed fsck' ({error})"
            ),
        )
    if acceptance.error is None:
        return acceptance
    return replace(acceptance, action=park(store, origin, acceptance.error, clock=clock))


def _followed(store: Store, origin: Origin) -> ListRecord:
    record = lists.load_list(store.connection, origin)
    if record is None or record.own:
        raise CommandError(f"{origin} is not followed here", hint=f"run 'hashfed follow {origin}'")
    return record


def merge_deltas(
    transaction: Transaction,
    record: ListRecord,
    deltas: Sequence[SignedDelta],
    via: OrgName,
    clock: Clock,
) -> Acceptance:
    """Verify deltas and merge them within a transaction, up to the first that does not verify.

    Raises:
        DamageError: what is stored already is not what was signed.
    """
    connection = transaction.connection
    root = orgs.load_root(connection, record.origin.org)
    if root is None:
        raise CommandError(f"no root of {record.origin.org} is pinned here")
    replica = Replica(record.origin, root, record.log)
    taken = take_deltas(
        replica, deltas, _StoredCopy(transaction, record, root, via), now_ms=clock.now_ms()
    )
    if taken.deltas:
        lists.store_log_state(transaction, record.list, replica.state)
    return Acceptance(
        size=replica.state.size, deltas=taken.deltas, ops=taken.ops, error=taken.error
    )


class _StoredCopy:
    """What the store has of a list, within a transaction: a `federation.follow.Copy`."""

    def __init__(
        self, transaction: Transaction, record: ListRecord, root: PinnedRoot, via: OrgName
    ) -> None:
        self.start = record.start
        self._transaction = transaction
        self._record = record
        self._root = root
        self._via = via

    def load_header(self, position: int) -> bytes | None:
        held = log.load_record(self._transaction.connection, self._record.list, position)
        return None if held is None else held.header

    def require_sound(self, position: int) -> None:
        checks.check_leaf(self._transaction.connection, self._record, self._root, position)

    def load_prior(self, body: Body) -> Mapping[int, Prior]:
        return index.load_prior(self._transaction.connection, self._record.span, body)

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        position = candidate.header.position
        log.append(
            self._transaction,
            self._record.list,
            position,
            candidate.signed,
            via=self._via,
            received_ms=self._transaction.now_ms,
        )
        index.index_body(self._transaction, self._record.span, position, candidate.body, prior)


def accept_charter(store: Store, origin: Origin, envelope: bytes) -> None:
    """Verify a charter that a peer sent and put it in force.

    Raises:
        PeerError: it is not of this list, not signed by its owner, or older than the one here.
        CommandError: the list is not followed here.
    """
    record = _followed(store, origin)
    root = orgs.load_root(store.connection, origin.org)
    if root is None:
        raise CommandError(f"no root of {origin.org} is pinned here")
    charter = open_charter(envelope, origin, root, newest=record.charter_version)
    if charter.version > record.charter_version:
        with store.write("charter", f"{origin} version {charter.version}") as transaction:
            lists.store_charter(transaction, record, envelope, charter.version)


def park(store: Store, origin: Origin, error: FederationError, *, clock: Clock) -> Action:
    """Record that something of a list was refused; what is here stays as it is.

    Returns:
        What to do next with the list.
    """
    return learn(store, origin, news_of(error), clock=clock, reason=error.reason, detail=str(error))


def learn(
    store: Store, origin: Origin, news: News, *, clock: Clock, reason: str = "", detail: str = ""
) -> Action:
    """Record how a piece of news changes a list, and return what to do next with it.

    Args:
        store: the store.
        origin: the list, which is followed here.
        news: what was learnt.
        clock: tells the time of a change of state.
        reason: the stable word for the error, if the news is an error.
        detail: the same as a sentence.
    """
    record = _followed(store, origin)
    held = follow_state.load_follow_status(store.connection, record.list)
    step = decide(held.state, held.reason, news)
    if step.state is not None:
        record_follow_state(
            store, origin, step.state, clock=clock, reason=step.reason or reason, detail=detail
        )
    return step.action


def record_follow_state(
    store: Store,
    origin: Origin,
    state: FollowState,
    *,
    clock: Clock,
    reason: str = "",
    detail: str = "",
    head: int | None = None,
) -> None:
    """Record how following a list goes, and the log size that its peer reported.

    `head` is given when the peer answered. Only a person's decision ends the state of a fork.
    """
    record = _followed(store, origin)
    now_ms = clock.now_ms()
    with store.update_status() as connection:
        held = follow_state.load_follow_status(connection, record.list)
        if held.state is not FollowState.FORKED:
            follow_state.store_follow_state(
                connection, record.list, state, now_ms=now_ms, reason=reason, detail=detail
            )
        if head is not None:
            follow_state.store_contact(connection, record.list, now_ms=now_ms, head=head)
