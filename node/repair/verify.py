"""Verifies signed parts that are stored here or came from a peer.

Each function returns None if the part does not verify. The time of arrival is no longer known, so a
part is checked as if it arrived at its own time: no time counts as in the future.
"""

from __future__ import annotations

from federation import wire
from federation.errors import FederationError
from federation.header import Header
from federation.names import Origin
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.snapshot import Snapshot, SnapshotOffer
from federation.trust.charter import Charter, verify_charter
from federation.trust.orgroot import PinnedRoot


def open_leaf(replica: Replica, leaf: SignedDelta) -> Candidate | None:
    """Return a leaf that follows the replica's log."""
    try:
        return replica.receive(leaf, now_ms=Header.parse(leaf.header).time_ms)
    except FederationError:
        return None


def open_snapshot(origin: Origin, root: PinnedRoot, offer: SnapshotOffer) -> Snapshot | None:
    """Return a snapshot of a list."""
    try:
        replica = Replica(origin, root, LogState.empty())
        return replica.receive_snapshot(offer, now_ms=Header.parse(offer.header).time_ms)
    except FederationError:
        return None


def open_charter(
    origin: Origin, root: PinnedRoot, envelope: bytes, *, least_version: int
) -> Charter | None:
    """Return a list's charter, whose version must be at least `least_version`."""
    try:
        opened = wire.decode_envelope(envelope)
        return verify_charter(
            wire.decode_charter(opened.payload),
            opened,
            origin=origin,
            root=root.document,
            newest=least_version,
        )
    except FederationError:
        return None
