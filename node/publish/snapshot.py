"""Snapshots of a list: its live set in buckets, signed by its owner or rebuilt to be served.

The buckets are made first, in short transactions, and mean nothing until the leaf that commits to
them is in the log. A node that replayed the deltas makes the same buckets (`rebuild`). That lets a
relay serve a snapshot, and lets anybody check that it is the live set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from federation import merkle
from federation.body import PackedOp
from federation.bucket import Extent, name_of
from federation.checkpoint import read_checkpoint
from federation.errors import PeerError, ProofError, Reason, SequenceError
from federation.header import LeafKind
from federation.names import Origin
from federation.replica import Replica
from federation.snapshot import SnapshotOffer, build_buckets
from node.clock import Clock
from node.errors import CommandError, DamageError, NodeError
from node.publish.permit import Permit
from node.publish.sign import PublishingKeys, load_author
from node.store import history, lists, log, snapshots, spans, trees
from node.store.by_name import iter_by_name
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.snapshots import SnapshotState
from node.store.sqlite import sqlite3

_TRANSACTION_BUCKETS: Final = 16
_NOTHING_YET: Final = SnapshotOffer(b"", b"", b"", b"")

ProgressCallback = Callable[[int, int], None]
"""Is told (entries done, entries)."""


class Making(Enum):
    """How a snapshot came to be served here."""

    SIGNED = "signed"
    """Its leaf was signed now."""
    REBUILT = "rebuilt"
    """Its leaf was in the log already, but its buckets were made now."""
    HERE = "here"
    """It was here already, and nothing was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSnapshot:
    """A snapshot that this node serves from now on.

    Attributes:
        origin: the list.
        position: the position of its leaf.
        buckets: how many buckets it has.
        entries: live entries in them.
        size_bytes: the size of the buckets.
        root_hash: the root over them, which the leaf signs.
        making: how it came to be served.
    """

    origin: Origin
    position: int
    buckets: int
    entries: int
    size_bytes: int
    root_hash: bytes
    making: Making


def is_due(record: ListRecord, every_ops: int) -> bool:
    """Return whether one of our lists is due for a new snapshot.

    It is due when at least `every_ops` operations were published since the last one, and more than
    one and a half times as many as there are live entries. So snapshots never cost more than a
    constant for each operation, and a new subscriber never fetches much more than two and a half
    times the live set. Right after the import of a new list, its deltas are as good as a snapshot.

    Args:
        record: the list.
        every_ops: the rule of the configuration; 0 for never.
    """
    since = record.since_snapshot
    return 0 < every_ops <= since and 2 * since > 3 * record.log.live_count


def publish_snapshot(
    store: Store,
    origin: Origin,
    keys: PublishingKeys,
    permit: Permit,
    *,
    clock: Clock,
    on_progress: ProgressCallback = lambda _done, _total: None,
) -> MadeSnapshot:
    """Sign a snapshot of one of our lists as it is now, unless its newest leaf is a snapshot.

    In that case, that snapshot is served. It is rebuilt if it is not here, as after a recovery.

    The caller holds the lock on publishing, so that the list does not change meanwhile. The leaf
    takes a position as a delta does, with the same order of durability (`node.publish.sign`).

    Raises:
        CommandError: the list is not ours, or nothing of it is published yet.
        ConfigError: a key is not one that our org root names.
        NodeError: the clock is behind.
        MarkMovedError: the store or the mark is not as the permit says: nothing was released.
        DiskError: the disk failed: the process has to end.
        StoreError: the store cannot be written; nothing was signed.
    """
    record, root, author = load_author(store, origin, keys)
    if not record.log.size:
        raise CommandError(f"{origin} has nothing to make a snapshot of: nothing is published yet")
    if _kind_at(store.connection, record, record.log.size - 1) is LeafKind.SNAPSHOT:
        return rebuild(store, record, on_progress=on_progress)
    number = _build(store, record, record.log.size, on_progress)
    hashes = _hashes(store.connection, number)
    with permit.step(store) as step, store.write("snapshot", str(origin)) as transaction:
        state = record.log
        now_ms = clock.now_ms()
        try:
            leaf = author.sign_snapshot(hashes, state, now_ms=now_ms)
        except SequenceError as error:
            raise NodeError(str(error), hint="nothing was signed", reason=error.reason) from error
        # As with deltas: a publisher is the first subscriber of its own list.
        replica = Replica(origin, root, state)
        replica.conclude(replica.receive(leaf, now_ms=now_ms), {})
        log.append(transaction, record.list, state.size, leaf, via=None, received_ms=now_ms)
        lists.store_log_state(transaction, record.list, replica.state)
        lists.store_since_snapshot(transaction, record.list, 0)
        offer = SnapshotOffer(
            leaf.header, leaf.checkpoint, state.frontier.encode(), b"".join(hashes)
        )
        snapshots.hold(transaction.connection, number, offer)
        step.stage(state, replica.state)
    _drop_older(store, record, number)
    return _made(store, record, number, making=Making.SIGNED)


def rebuild(
    store: Store,
    record: ListRecord,
    *,
    on_progress: ProgressCallback = lambda _done, _total: None,
) -> MadeSnapshot:
    """Rebuild the buckets of a list's newest snapshot from the deltas here, and serve it.

    If it is served already, this does nothing.

    Raises:
        CommandError: there is no snapshot in the part of the log that is here.
        ProofError: SNAPSHOT_MISMATCH, the live set here is not the one that its owner signed.
        DamageError: a header here is not the one that its owner signed.
        StoreError: the store cannot be written.
    """
    position = _newest_leaf(store.connection, record)
    if position is None:
        raise CommandError(
            f"{record.origin} has no snapshot in the deltas that are here",
            hint="only its owner can make one, with 'hashfed snapshot'",
        )
    held = snapshots.newest_held(store.connection, record.list)
    if held is not None and held.position >= position:
        return _made(store, record, held.snapshot, making=Making.HERE)
    number = _build(store, record, position, on_progress)
    leaf = log.load_signed(store.connection, record.list, position)
    header = log.read_header(leaf.header)
    hashes = _hashes(store.connection, number)
    if len(hashes) != header.op_count or merkle.root_hash(hashes) != header.ops_root:
        with store.update_status() as connection:
            snapshots.remove(connection, number)
        raise ProofError(
            f"the live set of {record.origin} at position {position} here is not the one that its "
            "owner signed as a snapshot",
            reason=Reason.SNAPSHOT_MISMATCH,
        )
    before = trees.load_frontier(store.connection, record, position)
    offer = SnapshotOffer(leaf.header, leaf.checkpoint, before.encode(), b"".join(hashes))
    # The buckets show what the deltas before it said; this shows their exact headers.
    if before.append(merkle.leaf_hash(leaf.header)).root() != _signed_root(offer):
        with store.update_status() as connection:
            snapshots.remove(connection, number)
        raise DamageError(
            f"the deltas of {record.origin} up to position {position} do not hash to the root that "
            "was signed: nobody could join with such a snapshot",
            hint="run 'hashfed fsck'",
        )
    with store.update_status() as connection:
        snapshots.hold(connection, number, offer)
    _drop_older(store, record, number)
    return _made(store, record, number, making=Making.REBUILT)


def _signed_root(offer: SnapshotOffer) -> bytes | None:
    """Return the root that a checkpoint says; None when it cannot be read."""
    try:
        return read_checkpoint(offer.checkpoint).root_hash
    except PeerError:
        return None


def _made(store: Store, record: ListRecord, number: int, *, making: Making) -> MadeSnapshot:
    held = snapshots.load(store.connection, number)
    assert held is not None  # noqa: S101  # the caller has just seen it
    header = log.read_header(held.offer.header)
    return MadeSnapshot(
        origin=record.origin,
        position=held.position,
        buckets=held.buckets,
        entries=header.live_count,
        size_bytes=held.size_bytes,
        root_hash=header.ops_root,
        making=making,
    )


def _kind_at(connection: sqlite3.Connection, record: ListRecord, position: int) -> LeafKind:
    return log.read_header(log.load_signed(connection, record.list, position).header).kind


def _newest_leaf(connection: sqlite3.Connection, record: ListRecord) -> int | None:
    """Return the position of the newest snapshot leaf whose live set can be computed here."""
    for delta in log.iter_records(
        connection, record.list, record.log.start, record.log.size, newest=True
    ):
        if log.read_header(delta.header).kind is LeafKind.SNAPSHOT:
            return delta.position
    return None


def _drop_older(store: Store, record: ListRecord, number: int) -> None:
    """Delete snapshots that a newer one replaces, except those that a span begins with."""
    bases = {span.snapshot for span in spans.iter_applied(store.connection, record.list)}
    with store.update_status() as connection:
        for held in snapshots.iter_of_list(connection, record.list, SnapshotState.HELD):
            if held.snapshot != number and held.snapshot not in bases:
                snapshots.remove(connection, held.snapshot)


# --- making buckets ---------------------------------------------------------------------------


def _build(store: Store, record: ListRecord, position: int, on_progress: ProgressCallback) -> int:
    """Make the buckets of the live set before a position; return the snapshot's number."""
    with store.update_status() as connection:
        # Remove what a killed process has left behind.
        for left in snapshots.iter_of_list(connection, record.list, SnapshotState.BUILDING):
            snapshots.remove(connection, left.snapshot)
        number = snapshots.add(
            connection, record.list, position, SnapshotState.BUILDING, _NOTHING_YET
        )
    total = record.log.live_count
    done = 0
    batch: list[tuple[int, bytes, Extent]] = []

    def store_batch() -> None:
        with store.update_status() as connection:
            for at, data, extent in batch:
                snapshots.store_bucket(connection, number, at, data, extent)
        batch.clear()

    # Read everything before the first bucket is written.
    live = history.iter_live_packed(store.connection, record.list, position)
    for at, (some, data) in enumerate(build_buckets(iter_by_name(live, store.path.parent))):
        extent = Extent(len(some), _name(some[0].packed), _name(some[-1].packed))
        batch.append((at, data, extent))
        done += len(some)
        if len(batch) == _TRANSACTION_BUCKETS:
            store_batch()
            on_progress(done, total)
    store_batch()
    on_progress(done, total)
    return number


def _name(packed: PackedOp) -> bytes:
    return name_of(packed.shape, packed.record[: packed.shape.key_width])


def _hashes(connection: sqlite3.Connection, number: int) -> tuple[bytes, ...]:
    """Return the leaf hashes of a snapshot's buckets, from their bytes as they are stored."""
    return tuple(
        merkle.leaf_hash(snapshots.load_bucket_bytes(connection, number, at) or b"")
        for at in range(len(snapshots.held_numbers(connection, number)))
    )
