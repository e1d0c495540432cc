"""Leads from an entry that came with a snapshot back to the delta that asserted it.

The delta is fetched alone, with the proof that it is in the log that is held here. It must say the
same as the snapshot: the list's owner signed both.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.entry import Operation
from federation.errors import ProofError, Reason
from federation.names import OrgName
from federation.replica import Replica, SignedDelta
from node.clock import Clock
from node.errors import CommandError
from node.store import fetched, orgs
from node.store.connection import Store
from node.store.fetched import FetchedDelta
from node.store.lists import ListRecord


def keep_delta(
    store: Store,
    record: ListRecord,
    position: int,
    delta: SignedDelta,
    inclusion: Sequence[bytes],
    *,
    expected: Sequence[tuple[int, Operation]],
    via: OrgName,
    clock: Clock,
) -> None:
    """Verify a delta that a snapshot has replaced here, and keep it.

    Args:
        store: the store.
        record: the list, as it was when the proof was asked for.
        position: the delta's position.
        delta: its exact bytes, as a peer sent them.
        inclusion: the proof that it is in the log of `record.log.size`.
        expected: rows of the delta, each with its operation according to the snapshot.
        via: the peer.
        clock: tells when it came.

    Raises:
        PeerError: it does not verify, or does not say the same as the snapshot
            (SNAPSHOT_MISMATCH); nothing is kept.
        CommandError: the owner's root is not pinned here.
    """
    root = orgs.load_root(store.connection, record.origin.org)
    if root is None:
        raise CommandError(f"no root of {record.origin.org} is pinned here")
    candidate = Replica(record.origin, root, record.log).receive_past(delta, inclusion)
    if candidate.header.position != position:
        raise ProofError(f"got position {candidate.header.position}, asked for {position}")
    for row, operation in expected:
        if row >= candidate.body.count or candidate.body.operation(row) != operation:
            raise ProofError(
                f"row {row} of position {position} of {record.origin} is not what the snapshot "
                "says: its owner signed both, so keep this store as evidence",
                reason=Reason.SNAPSHOT_MISMATCH,
            )
    item = FetchedDelta(
        position=position,
        delta=delta,
        inclusion=tuple(inclusion),
        size=record.log.size,
        received_ms=clock.now_ms(),
        via=via,
    )
    with store.write("trace", f"{record.origin} position {position} via {via}") as transaction:
        fetched.store(transaction, record.list, item)
