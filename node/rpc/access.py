"""What a peer may read here, and in which order it is answered. Reads only.

A list is served to whom its charter allows, by its owner and by every relay alike. A list that is
not here and one that the caller may not have get the same answer. Of a list of this node's own,
nothing leaves that is not released (`node.store.release`). The owner of a list may always have it:
its peers' copies are what it recovers from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from federation.errors import FederationError, UsageError
from federation.follow import Cursor, Outcome, SnapshotReason
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

_LEAF_BYTES: Final = 540
"""Bytes of a delta's header and checkpoint."""

_LEAF_COST: Final = 2_000
"""What a delta costs its reader beside its bytes, in bytes: mostly two signatures, some 150 us,
while a body is fetched, verified and indexed at some 30 bytes a us."""

_REPLACING: Final = 2.0
"""How many times as much the deltas must cost as the snapshot, before it takes the place of entries
that the caller has: it fetches all of the live set, and its history here gets a gap."""

_STARTING: Final = 1.25
"""The same for a caller that has nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorAnswer:
    """How this node stands to one cursor.

    Attributes:
        outcome: what follows.
        head: how many deltas there are here; 0 when unavailable.
        checkpoint: the newest signed note here, or empty.
        charter: the envelope of the charter in force, if the caller's is older; else empty.
        retained_from: the size from which on every leaf is here.
        snapshot: the position of the snapshot to go on from, with SNAPSHOT.
        reason: why, with SNAPSHOT.
    """

    outcome: Outcome
    head: int = 0
    checkpoint: bytes = b""
    charter: bytes = b""
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
    """Say how this node stands to a caller's cursor."""
    record = find_available(store, caller, cursor.origin)
    if record is None:
        return _UNAVAILABLE
    size = released_size(store.connection, record)
    charter = record.charter or b""
    newest = log.load_record(store.connection, record.list, size - 1) if size else None
    held = snapshots.newest_held(store.connection, record.list, within=size)
    outcome = _outcome(store, record, cursor, size)
    reason = None
    if outcome in (Outcome.DELTAS, Outcome.CURSOR_TOO_OLD) and held is not None:
        reason = _snapshot_reason(store, record, cursor, held, outcome)
        if reason is not None:
            outcome = Outcome.SNAPSHOT
    return CursorAnswer(
        outcome=outcome,
        head=size,
        checkpoint=b"" if newest is None else newest.checkpoint,
        charter=charter if record.charter_version > cursor.charter_version else b"",
        retained_from=record.log.start,
        snapshot=held.position if held is not None and reason is not None else None,
        reason=reason,
    )


def _outcome(store: Store, record: ListRecord, cursor: Cursor, size: int) -> Outcome:
    """Return what follows a cursor, snapshots left aside, when `size` deltas may leave."""
    if cursor.size > size:
        return Outcome.CURSOR_AHEAD
    if 0 < cursor.size < record.log.start:
        return Outcome.CURSOR_TOO_OLD
    if cursor.size and cursor.root_hash != root_at(store, record, cursor.size):
        return Outcome.DIVERGED
    if cursor.size == size:
        return Outcome.UP_TO_DATE
    return Outcome.DELTAS if cursor.size >= record.log.start else Outcome.CURSOR_TOO_OLD


def _snapshot_reason(
    store: Store, record: ListRecord, cursor: Cursor, held: SnapshotRecord, outcome: Outcome
) -> SnapshotReason | None:
    """Return why a caller is to go on from a snapshot, or None if it is not."""
    if cursor.deltas_only or held.position < cursor.size:
        return None
    if outcome is Outcome.CURSOR_TOO_OLD:
        # That an old log is the beginning of this one can be shown by who has all of it between.
        return None if cursor.size else SnapshotReason.NOT_RETAINED
    deltas, body_bytes = log.measure(store.connection, record.list, cursor.size, held.position + 1)
    cost = body_bytes + deltas * (_LEAF_BYTES + _LEAF_COST)
    factor = _REPLACING if cursor.size else _STARTING
    other_cost = held.size_bytes + _LEAF_BYTES + _LEAF_COST
    return SnapshotReason.CHEAPER if cost > factor * other_cost else None


def offer_snapshot(
    store: Store, caller: str, cursor: Cursor, position: int
) -> SnapshotOffer | None:
    """Return the snapshot at a position with the proof from a cursor; None when it is not here.

    It hashes every leaf of the log that is here, if the cursor is not at the beginning.
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

    None when there is none, or the caller may not have the list: this is asked for every bucket. Of
    a list that is damaged, a bucket that is not is served to whoever repairs its own copy.
    """
    record = _find_in_parts(store, caller, origin)
    held = None if record is None else _held(store, record, position)
    if held is None:
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

    None when it is not here, or the caller may not have the list. It hashes every leaf of the log
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
    """Return one leaf of a list's log for whoever repairs its own copy, verified here.

    It is served also where the list is damaged, as long as the leaf is not: two nodes that are
    damaged at different places mend each other. None when it is not here, or is not what was
    signed, or the caller may not have the list.
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
    """Return a list that a caller may have now; None when there is none of that name for it."""
    record = _find(store, origin)
    return record if record is not None and _allows(store, record, caller) else None


def _find_in_parts(store: Store, caller: str, origin: str) -> ListRecord | None:
    """Return a list as `find_available`, and also one of which some parts are known to be damaged.

    Nothing but a part that was verified may leave of it.
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
        # As if it were not here: a peer that has less than it should finds another source.
        return False
    return _is_for(record, caller)


def _is_for(record: ListRecord, caller: str) -> bool:
    charter = record.open_charter()
    return charter is not None and charter.allows(caller)
