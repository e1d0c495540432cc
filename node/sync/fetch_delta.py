"""Fetches single deltas that a snapshot has replaced, from any peer that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.entry import Operation
from federation.errors import PeerError
from node.clock import Clock
from node.errors import LockedError, NodeError, ProtocolError, StoreError, UnreachableError
from node.ingest import single_delta
from node.store import orgs
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.orgs import Peer
from node.sync.client import TlsIdentity, fetch_leaf, open_channel


async def fetch_deltas(
    store: Store,
    record: ListRecord,
    wanted: Mapping[int, Sequence[tuple[int, Operation]]],
    identity: TlsIdentity,
    *,
    clock: Clock,
) -> None:
    """Fetch deltas of a list and keep them, each proved to be in the log that is held here.

    Args:
        store: the store, open for writing.
        record: the list.
        wanted: for each position, the rows in question and their known operations.
        identity: what this node shows to peers.
        clock: tells when they came.

    Raises:
        UnreachableError: no peer that can be reached has one of them.
        ProtocolError: a peer sent something that does not verify, and no other peer had it.
        StoreError: the store cannot be written.
        LockedError: another process holds it.
    """
    peers = list(orgs.iter_peers(store.connection))
    # First the peer that the list is followed from, then its owner.
    peers.sort(key=lambda peer: (peer.org != record.via, peer.org != record.origin.org))
    missing = dict(wanted)
    failed: NodeError | None = None
    for peer in peers:
        try:
            await _fetch_from(store, record, missing, peer, identity, clock)
        except (StoreError, LockedError):
            raise
        except PeerError as error:
            failed = ProtocolError(f"{peer.org}: {error}", reason=error.reason)
        except NodeError as error:
            failed = failed or error
        if not missing:
            return
    raise failed or UnreachableError("this node knows no peer that could have it")


async def _fetch_from(
    store: Store,
    record: ListRecord,
    missing: dict[int, Sequence[tuple[int, Operation]]],
    peer: Peer,
    identity: TlsIdentity,
    clock: Clock,
) -> None:
    """Fetch those of the missing deltas that a peer has; remove them from `missing`."""
    channel = open_channel(peer, identity)
    try:
        for position in sorted(missing):
            delta, inclusion = await fetch_leaf(
                channel, peer.org, record.origin, position, record.log.size
            )
            single_delta.keep_delta(
                store,
                record,
                position,
                delta,
                inclusion,
                expected=missing[position],
                via=peer.org,
                clock=clock,
            )
            del missing[position]
    finally:
        await channel.close()
