"""Rebuilds the snapshots of one list.

A span that begins with a snapshot needs it, so its damaged parts are taken from their second place
in the store, or from peers. A snapshot that is only served beside the deltas is kept if it is
sound.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Final

from federation import merkle
from federation.bucket import Bucket, Extent
from federation.errors import FederationError
from federation.replica import LogState, Replica
from federation.snapshot import Snapshot, SnapshotOffer
from node.repair import salvage
from node.repair.bitflips import correct_bit
from node.repair.peers import UnrepairableError
from node.repair.verify import open_snapshot
from node.repair.work import ListWork
from node.store import index, snapshots
from node.store.connection import Transaction
from node.store.snapshots import SnapshotState

_BATCH_BUCKETS: Final = 16
"""Buckets in one transaction."""


# --- the snapshot that a span begins with -----------------------------------------------------


def load_signed(work: ListWork, number: int) -> Snapshot:
    """Return a snapshot without its buckets.

    Raises:
        UnrepairableError: its signed parts are damaged.
    """
    stored = salvage.snapshot(work.wreck, number)
    if stored is None:
        raise UnrepairableError(f"snapshot {number}, with which the list begins, is lost")
    offers = _combine(work, number, stored)
    for offer in offers:
        opened = open_snapshot(work.origin, work.root, offer)
        if opened is not None:
            return opened
    for offer in offers:
        opened = _correct_frontier(work, offer)
        if opened is not None:
            return opened
    raise UnrepairableError(
        f"the signed parts of the snapshot at position {stored.position} are damaged"
    )


def _combine(work: ListWork, number: int, stored: salvage.SalvagedSnapshot) -> list[SnapshotOffer]:
    """Return the possible contents of a snapshot, as most of its parts are stored in two places.

    The header and the checkpoint are in its leaf too, and the hashes follow from the buckets.
    """
    headers, checkpoints = [stored.offer.header], [stored.offer.checkpoint]
    leaf = salvage.leaf(work.wreck, work.number, stored.position)
    if leaf is not None:
        headers.append(leaf.signed.header)
        checkpoints.append(leaf.signed.checkpoint)
    both_hashes = (stored.offer.bucket_hashes, _hash_buckets(work, number))
    return [
        SnapshotOffer(header, checkpoint, stored.offer.frontier, hashes)
        for header in headers
        for checkpoint in checkpoints
        for hashes in both_hashes
    ]


def _hash_buckets(work: ListWork, snapshot: int) -> bytes:
    """Return the hashes of the stored buckets, up to the first missing one."""
    hashes: list[bytes] = []
    for number in count():
        data = salvage.bucket(work.wreck, snapshot, number)
        if data is None:
            break
        hashes.append(merkle.leaf_hash(data))
    return b"".join(hashes)


def _correct_frontier(work: ListWork, offer: SnapshotOffer) -> Snapshot | None:
    """Return a snapshot with a flipped bit of its frontier corrected: no copy of that exists."""

    def opens(frontier: bytes) -> Snapshot | None:
        return open_snapshot(work.origin, work.root, offer._replace(frontier=frontier))

    frontier = correct_bit(offer.frontier, lambda tried: opens(tried) is not None)
    return None if frontier is None else opens(frontier)


def put_buckets(work: ListWork, span: int, snapshot: int, base: Snapshot, version: int) -> LogState:
    """Store the buckets of the snapshot with which a span begins, and add them to the index.

    Args:
        work: the list.
        span: the number of the span.
        snapshot: the number of the snapshot, which is recorded in the new store.
        base: the snapshot.
        version: the store version for the index.

    Returns:
        The log right after the snapshot's leaf.

    Raises:
        UnrepairableError: a bucket is damaged, and no peer has it.
    """
    extents: list[Extent] = []
    total = len(base.bucket_hashes)
    while len(extents) < total:
        with work.store.update_status() as connection:
            transaction = Transaction(connection, version, work.now_ms)
            for number in range(len(extents), min(total, len(extents) + _BATCH_BUCKETS)):
                data, bucket = _find_bucket(work, base, snapshot, number)
                extents.append(bucket.extent())
                snapshots.store_bucket(connection, snapshot, number, data, bucket.extent())
                index.index_bucket(transaction, span, number, bucket)
                work.on_progress(number + 1, total)
    replica = Replica(work.origin, work.root, LogState.empty())
    try:
        return replica.adopt(base, extents)
    except FederationError as error:
        raise UnrepairableError(f"snapshot at position {base.position}: {error}") from error


def _find_bucket(
    work: ListWork, opened: Snapshot, snapshot: int, number: int
) -> tuple[bytes, Bucket]:
    """Return one stored bucket, or the bucket from the first peer that has it.

    Raises:
        UnrepairableError: it is damaged, and no peer has it.
    """
    data = salvage.bucket(work.wreck, snapshot, number) or b""
    with suppress(FederationError):
        return data, opened.open_bucket(number, data)
    return work.peers.fetch_bucket(opened, number)


# --- snapshots that are served beside the deltas ----------------------------------------------


def keep_others(work: ListWork, size: int) -> None:
    """Keep each other stored snapshot if all of it is sound.

    A snapshot can be built from the deltas at any time, so no peer is asked for it.

    Args:
        work: the list.
        size: the size of the log.
    """
    for number in salvage.held_snapshot_numbers(work.wreck, work.number):
        if snapshots.load(work.store.connection, number) is None:
            with suppress(UnrepairableError, FederationError):
                _keep(work, number, size)


def _keep(work: ListWork, number: int, size: int) -> None:
    """Keep one snapshot.

    Raises:
        UnrepairableError: its signed parts are damaged.
        FederationError: a bucket is damaged.
    """
    opened = load_signed(work, number)
    if opened.position >= size:
        return
    with work.store.update_status() as connection:
        kept = snapshots.add(
            connection, work.number, opened.position, SnapshotState.HELD, opened.offer
        )
        for at in range(len(opened.bucket_hashes)):
            data = salvage.bucket(work.wreck, number, at) or b""
            extent = opened.open_bucket(at, data).extent()
            snapshots.store_bucket(connection, kept, at, data, extent)
