"""Accepting deltas of a list that this node follows: verify, merge, commit.

A transaction holds whole deltas, as many as one call brings. What failed a check leaves nothing
behind; the deltas before it in the same call are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation import wire
from federation.errors import FederationError, ForkError, OperationError, PeerError, Reason
from federation.follow import FollowState
from federation.header import Header
from federation.names import OrgName, Origin
from federation.replica import Replica, SignedDelta
from federation.trust import charter as charters
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
        error: what was wrong with the one after them; None when nothing was.
    """

    size: int
    deltas: int
    ops: int
    error: PeerError | None


def accept(
    store: Store, origin: Origin, deltas: Sequence[SignedDelta], *, via: OrgName, clock: Clock
) -> Acceptance:
    """Verify deltas that a peer sent and merge them, durably.

    Deltas that are here already are passed over, so that arrival twice or by two ways is harmless.

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
        # The index of this list and its deltas do not fit each other, or a delta is not what was
        # signed: whether a fault of this program or damage, one list must not keep the node from
        # all others.
        acceptance = Acceptance(
            size=_followed(store, origin).log.size,
            deltas=0,
            ops=0,
            error=OperationError(
                f"deltas of {origin} do not fit what is here: run 'hashfed fsck' ({error})"
            ),
        )
    if acceptance.error is not None:
        park(store, origin, acceptance.error, clock=clock)
    return acceptance


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
        DamageError: what is here already is not what was signed.
    """
    connection = transaction.connection
    root = orgs.load_root(connection, record.origin.org)
    if root is None:
        raise CommandError(f"no root of {record.origin.org} is pinned here")
    replica = Replica(record.origin, root, record.log)
    accepted = ops = 0
    error: PeerError | None = None
    try:
        for delta in deltas:
            position = Header.parse(delta.header).position
            if position < replica.state.size:
                held = log.load_record(connection, record.list, position)
                if held is None and position < record.start:
                    # A snapshot went past it: there is nothing here to compare it with.
                    continue
                if held is None:
                    raise DamageError(
                        f"position {position} of {record.origin} is missing here",
                        hint="run 'hashfed fsck'",
                    )
                try:
                    replica.receive_again(delta, held.header)
                except ForkError:
                    # Damage is no history: a fork is for good, and only what is signed shows one.
                    checks.check_leaf(connection, record, root, position)
                    raise
                continue
            candidate = replica.receive(delta, now_ms=clock.now_ms())
            prior = index.load_prior(connection, record.span, candidate.body)
            replica.conclude(candidate, prior)
            log.append(
                transaction, record.list, position, delta, via=via, received_ms=transaction.now_ms
            )
            index.index_body(transaction, record.span, position, candidate.body, prior)
            accepted += 1
            ops += candidate.body.count
    except PeerError as caught:
        error = caught
    if accepted:
        lists.store_log_state(transaction, record.list, replica.state)
    return Acceptance(size=replica.state.size, deltas=accepted, ops=ops, error=error)


def accept_charter(store: Store, origin: Origin, envelope: bytes) -> None:
    """Verify a charter that a peer sent and put it in force.

    Raises:
        PeerError: it is not one of this list, not signed by its owner, or older than the one here.
        CommandError: the list is not followed here.
    """
    record = _followed(store, origin)
    root = orgs.load_root(store.connection, origin.org)
    if root is None:
        raise CommandError(f"no root of {origin.org} is pinned here")
    opened = wire.decode_envelope(envelope)
    charter = charters.verify_charter(
        wire.decode_charter(opened.payload),
        opened,
        origin=origin,
        root=root.document,
        newest=record.charter_version,
    )
    if charter.version > record.charter_version:
        with store.write("charter", f"{origin} version {charter.version}") as transaction:
            lists.store_charter(transaction, record, envelope, charter.version)


def park(store: Store, origin: Origin, error: FederationError, *, clock: Clock) -> FollowState:
    """Record that a list's peer broke the protocol; what is here stays as it is.

    Returns:
        The state that the list is in now.
    """
    if isinstance(error, ForkError):
        state = FollowState.FORKED
    elif error.reason is Reason.TIME_IN_FUTURE:
        state = FollowState.STALE
    else:
        state = FollowState.QUARANTINED
    record_follow_state(store, origin, state, clock=clock, reason=error.reason, detail=str(error))
    return state


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
    """Record how following a list goes, and the size that its peer said it has.

    `head` is given when the peer answered; a fork is left only by a person's decision.
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
