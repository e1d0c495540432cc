"""What a peer may read here. Reads only; `federation.follow` decides the answer to a cursor.

The owner and every relay serve a list to those whom its charter allows. A list that is not here and
one that the caller may not have get the same answer. This node sends nothing of its own lists that
is not released (`node.store.release`). The owner of a list may always have it, because it recovers
from its peers' copies. To everybody else, a list that is no longer followed is not served: nothing
says any more whom its charter allows now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from federation import follow
from federation.errors import FederationError, UsageError
from federation.follow import Cursor, Outcome, ServedList, SnapshotReason, SnapshotSize
from federation.names import Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from node.errors import DamageError
from node.ingest.checks import check_whole_leaf
from node.store import damage, lists, log, orgs, snapshots, trees
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.release import released_size
from node.store.snapshots import SnapshotRecord, SnapshotState
from node.store.trees import root_at


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorAnswer:
    """What this node answers to one cursor.

    Attributes:
        outcome: what follows.
        head: how many deltas are here; 0 when unavailable.
        checkpoint: the newest signed note here, or empty.
        charter: the envelope of the charter in force, if the caller's is older; else empty.
        charter_version: its version; 0 when none is sent.
        retained_from: every leaf from this size on is here.
        snapshot: the position of the snapshot to go on from; only with SNAPSHOT.
        reason: why a snapshot follows; only with SNAPSHOT.
    """

    outcome: Outcome
    head: int = 0
    checkpoint: bytes = b""
    charter: bytes = b""
    charter_version: int = 0
    retained_from: int = 0
    snapshot: int | None = None
    reason: SnapshotReason | None = None


_UNAVAILABLE = CursorAnswer(outcome=Outcome.UNAVAILABLE)


def iter_available(store: Store, caller: str) -> Iterator[ListRecord]:
    """Yield the lists that a caller may have, by origin."""
    for record in lists.iter_lists(store.connection):
        if _allows(store, record, caller):
            yield record


def answer(store: Store, caller: str, cursor: Cursor) -> CursorAnswer:
    """Return what this node answers to a caller's cursor."""
    record = find_available(store, caller, cursor.origin)
    if record is None:
        return _UNAVAILABLE
    size = released_size(store.connection, record)
    newest = log.load_record(store.connection, record.list, size - 1) if size else None
    held = snapshots.newest_held(store.connection, record.list, within=size)
    reply = follow.answer(
        ServedList(
            size=size,
            start=record.log.start,
            charter_version=record.charter_version,
            snapshot=None if held is None else SnapshotSize(held.position, held.size_bytes),
            root_at=partial(root_at, store, record),
            measure=partial(log.measure, store.connection, record.list),
        ),
        cursor,
    )
    return CursorAnswer(
        outcome=reply.outcome,
        head=size,
        checkpoint=b"" if newest is None else newest.checkpoint,
        charter=record.charter or b"" if reply.charter else b"",
        charter_version=record.charter_version if reply.charter else 0,
        retained_from=record.log.start,
        snapshot=reply.snapshot,
        reason=reply.reason,
    )


def offer_snapshot(
    store: Store, caller: str, cursor: Cursor, position: int
) -> SnapshotOffer | None:
    """Return the snapshot at a position with the proof from a cursor; None when it is not here.

    This hashes every leaf of the log that is here, unless the cursor is at the beginning.
    """
    record = find_available(store, caller, cursor.origin)
    held = None if record is None else _held(store, record, position)
    if record is None or held is None:
        return None
    if not cursor.size:
        return held.offer
    try:
        proof = trees.load_tail(store.connection, record).prove_consistency(
            cursor.size, position + 1
        )
    except UsageError:
        return None
    return held.offer._replace(consistency=tuple(proof))


def read_bucket(store: Store, caller: str, origin: str, position: int, number: int) -> bytes | None:
    """Return one bucket of the snapshot at a position.

    None when it is not here, or the caller may not have the list; that is checked for every bucket.
    An undamaged bucket of a damaged list is still served, so that peers can repair their copies.
    """
    record = _find_in_parts(store, caller, origin)
    held = None if record is None else _held(store, record, position)
    if held is None or number >= held.buckets:
        return None
    data = snapshots.load_bucket_bytes(store.connection, held.snapshot, number)
    return data if data is not None and held.offer.has_bucket(number, data) else None


def _held(store: Store, record: ListRecord, position: int) -> SnapshotRecord | None:
    if position >= released_size(store.connection, record):
        return None
    for held in snapshots.iter_of_list(store.connection, record.list, SnapshotState.HELD):
        if held.position == position:
            return held
    return None


def read_leaf(
    store: Store, caller: str, origin: str, position: int, size: int
) -> tuple[SignedDelta, list[bytes]] | None:
    """Return one leaf of a list's log and the proof that it is in the log of a size.

    None when it is not here, or the caller may not have the list. This hashes every leaf of the log
    that is here.
    """
    record = find_available(store, caller, origin)
    if record is None or not record.log.start <= position < size:
        return None
    if size > released_size(store.connection, record):
        return None
    leaf = log.load_signed(store.connection, record.list, position)
    return leaf, trees.load_tail(store.connection, record).prove_inclusion(position, size)


def read_lone_leaf(store: Store, caller: str, origin: str, position: int) -> SignedDelta | None:
    """Return one leaf of a list's log, verified here, for a peer that repairs its own copy.

    An undamaged leaf of a damaged list is served too: so two nodes with damage at different places
    can repair each other. None when the leaf is not here or is not what was signed, or the caller
    may not have the list.
    """
    record = _find_in_parts(store, caller, origin)
    root = None if record is None else orgs.load_root(store.connection, record.origin.org)
    if record is None or root is None or position < record.log.start:
        return None
    if position >= released_size(store.connection, record):
        return None
    try:
        check_whole_leaf(store.connection, record, root, position)
        return log.load_signed(store.connection, record.list, position)
    except DamageError:
        return None


def find_available(store: Store, caller: str, origin: str) -> ListRecord | None:
    """Return a list that a caller may have now; None when there is no such list for it."""
    record = _find(store, origin)
    return record if record is not None and _allows(store, record, caller) else None


def _find_in_parts(store: Store, caller: str, origin: str) -> ListRecord | None:
    """Return a list like `find_available`, and also one with parts that are known to be damaged.

    Only verified parts of it may be sent.
    """
    record = _find(store, origin)
    if record is None:
        return None
    known = damage.load(store.path)
    may_have = known.concern_parts_alone(str(record.origin)) and _is_for(record, caller)
    return record if may_have else None


def _find(store: Store, origin: str) -> ListRecord | None:
    try:
        parsed = Origin.parse(origin)
    except FederationError:
        return None
    return lists.load_list(store.connection, parsed)


def _allows(store: Store, record: ListRecord, caller: str) -> bool:
    if damage.load(store.path).of(str(record.origin)) is not None:
        # Act as if it were not here, so that a peer that lacks something tries another source.
        return False
    return _is_for(record, caller)


def _is_for(record: ListRecord, caller: str) -> bool:
    if not record.own and record.via is None and caller != record.origin.org:
        return False
    charter = record.open_charter()
    return charter is not None and charter.allows(caller)
