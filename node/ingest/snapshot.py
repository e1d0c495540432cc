"""Joins a list by a snapshot, which replaces what was in force in one step.

Its buckets are verified and indexed as they arrive, out of sight. Everything that arrived stays,
whatever happens: a node that was killed fetches only what is missing. The deltas that were here
stay too, and answer for the positions that they cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.errors import OperationError, Reason
from federation.names import OrgName, Origin
from federation.replica import Replica, SignedDelta
from federation.snapshot import Snapshot, SnapshotOffer
from node.clock import Clock
from node.errors import CommandError, DamageError
from node.store import index, lists, log, orgs, snapshots, spans
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.snapshots import SnapshotState
from node.store.sqlite import sqlite3


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A snapshot on its way here.

    Attributes:
        origin: the list.
        snapshot: its number in this store.
        span: the number of the span that begins with it.
        opened: what its owner signed, verified.
        size: the size of the log here when the snapshot was offered.
        missing: numbers of the buckets that are not here yet, ascending.
    """

    origin: Origin
    snapshot: int
    span: int
    opened: Snapshot
    size: int
    missing: tuple[int, ...]


def begin(store: Store, origin: Origin, offer: SnapshotOffer, *, clock: Clock) -> Arrival:
    """Verify an offer, and continue with the part of that snapshot that is here already.

    Raises:
        PeerError: the offer does not verify; nothing is changed.
        CommandError: the list is not followed here.
        StoreError: the store could not be written.
    """
    record = _followed(store.connection, origin)
    opened = _replica(store.connection, record).receive_snapshot(offer, now_ms=clock.now_ms())
    with store.update_status() as connection:
        number = _take_up(connection, record.list, offer)
        if number is None:
            number = snapshots.add(
                connection, record.list, opened.position, SnapshotState.ARRIVING, offer
            )
            span = spans.add(connection, record.list, start=opened.position + 1, snapshot=number)
        else:
            found = spans.of_snapshot(connection, number)
            assert found is not None  # noqa: S101  # both are written in one transaction
            span = found.span
        here = snapshots.held_numbers(connection, number)
    missing = tuple(at for at in range(len(opened.bucket_hashes)) if at not in here)
    return Arrival(
        origin=origin,
        snapshot=number,
        span=span,
        opened=opened,
        size=record.log.size,
        missing=missing,
    )


def _take_up(connection: sqlite3.Connection, list_number: int, offer: SnapshotOffer) -> int | None:
    """Await this snapshot of a list and no other; return its number if some of it is here."""
    number = None
    for state in (SnapshotState.ARRIVING, SnapshotState.ABANDONED):
        for held in snapshots.iter_of_list(connection, list_number, state):
            if held.offer.header == offer.header:
                number = held.snapshot
                snapshots.set_state(connection, number, SnapshotState.ARRIVING)
            elif state is SnapshotState.ARRIVING:
                snapshots.set_state(connection, held.snapshot, SnapshotState.ABANDONED)
    return number


def take(store: Store, arrival: Arrival, buckets: Sequence[tuple[int, bytes]]) -> int | None:
    """Verify buckets and keep them with their index, durably and out of sight.

    Returns:
        How many entries they have. None when the snapshot is not awaited any more, because another
        one is or because the list has moved on: the caller has to ask for a snapshot again.

    Raises:
        PeerError: one is not what was signed, or does not fit others; none of them is kept.
        StoreError: the store could not be written.
    """
    try:
        return _take(store, arrival, buckets)
    except DamageError as error:
        if not isinstance(error.__cause__, sqlite3.IntegrityError):
            raise
        # Two buckets have the same entry, which no live set has; or there is damage here. In both
        # cases one list must not stop all others.
        raise OperationError(
            f"buckets of the snapshot at position {arrival.opened.position} of {arrival.origin} do "
            f"not fit each other here ({error}): if 'hashfed fsck' finds no damage, they were "
            "signed like this",
            reason=Reason.OP_ORDER,
        ) from error


def _take(store: Store, arrival: Arrival, buckets: Sequence[tuple[int, bytes]]) -> int | None:
    opened = [(number, data, arrival.opened.open_bucket(number, data)) for number, data in buckets]
    added = 0
    with store.write("sync", f"{arrival.origin}, buckets of a snapshot") as transaction:
        connection = transaction.connection
        if not _is_awaited(connection, arrival):
            transaction.abandon()
            return None
        here = snapshots.held_numbers(connection, arrival.snapshot)
        for number, data, bucket in opened:
            if number in here:
                continue
            snapshots.store_bucket(
                connection,
                arrival.snapshot,
                number,
                data,
                bucket.extent(),
            )
            index.index_bucket(transaction, arrival.span, number, bucket)
            added += bucket.count
    return added


def _is_awaited(connection: sqlite3.Connection, arrival: Arrival) -> bool:
    held = snapshots.load(connection, arrival.snapshot)
    return (
        held is not None
        and held.state is SnapshotState.ARRIVING
        and held.offer.header == arrival.opened.offer.header
    )


def finish(store: Store, arrival: Arrival, *, via: OrgName) -> ListRecord | None:
    """Put a snapshot whose buckets are all here in force, in one transaction.

    Returns:
        The list as it is now. None when it has moved on since the offer, or for the reasons of
        `take`: the caller has to ask for a snapshot again.

    Raises:
        PeerError: the buckets together are not a live set that fits what was signed.
        StoreError: the store could not be written.
    """
    opened = arrival.opened
    with store.write(
        "sync", f"{arrival.origin} via {via}, snapshot at position {opened.position}"
    ) as transaction:
        connection = transaction.connection
        record = _followed(connection, arrival.origin)
        stored = list(snapshots.iter_buckets(connection, arrival.snapshot))
        complete = len(stored) == len(opened.bucket_hashes)
        if not complete or record.log.size != arrival.size or not _is_awaited(connection, arrival):
            transaction.abandon()
            return None
        replica = _replica(connection, record)
        state = replica.adopt(opened, [bucket.extent for bucket in stored])
        leaf = SignedDelta(opened.offer.header, b"", opened.offer.checkpoint)
        log.append(
            transaction,
            record.list,
            opened.position,
            leaf,
            via=via,
            received_ms=transaction.now_ms,
        )
        spans.switch(connection, record.list, arrival.span, stop=record.log.size)
        lists.store_log_state(transaction, record.list, state)
        # There is nothing to check before the snapshot's leaf, and that leaf has no operations.
        lists.store_checked(connection, record.list, state.size)
        snapshots.hold(connection, arrival.snapshot, opened.offer)
    return lists.load_list_by_number(store.connection, record.list)


def sweep(store: Store) -> bool:
    """Delete a little of the snapshots that will not arrive; say whether there was any of them.

    A snapshot can still become complete if it was offered last and is ahead of the log.
    """
    for record in list(lists.iter_lists(store.connection)):
        passed = [
            held.snapshot
            for held in snapshots.iter_of_list(
                store.connection, record.list, SnapshotState.ARRIVING
            )
            if held.position < record.log.size
        ]
        abandoned = snapshots.iter_of_list(store.connection, record.list, SnapshotState.ABANDONED)
        for number in (*passed, *(held.snapshot for held in abandoned)):
            _sweep_one(store, record.list, number)
            return True
    return False


def _sweep_one(store: Store, list_number: int, snapshot: int) -> None:
    """Delete one bucket of a snapshot and its index, or the snapshot when no bucket is left."""
    with store.update_status() as connection:
        held = snapshots.load(connection, snapshot)
        size = lists.load_list_by_number(connection, list_number).log.size
        if held is None or (held.state is not SnapshotState.ABANDONED and held.position >= size):
            # It has just been offered again and is awaited.
            return
        snapshots.set_state(connection, snapshot, SnapshotState.ABANDONED)
        span = spans.of_snapshot(connection, snapshot)
        number = next(iter(snapshots.held_numbers(connection, snapshot)), None)
        if number is not None and span is not None:
            bucket = snapshots.load_bucket(connection, snapshot, number)
            index.unindex_bucket(connection, span.span, number, bucket)
            snapshots.remove_bucket(connection, snapshot, number)
            return
        if span is not None:
            spans.remove(connection, span.span)
        snapshots.remove(connection, snapshot)


def _followed(connection: sqlite3.Connection, origin: Origin) -> ListRecord:
    record = lists.load_list(connection, origin)
    if record is None or record.own:
        raise CommandError(f"{origin} is not followed here", hint=f"run 'hashfed follow {origin}'")
    return record


def _replica(connection: sqlite3.Connection, record: ListRecord) -> Replica:
    root = orgs.load_root(connection, record.origin.org)
    if root is None:
        raise CommandError(f"no root of {record.origin.org} is pinned here")
    return Replica(record.origin, root, record.log)
