"""Rebuilds one list in the new store from its signed bytes, stored here or at peers.

First the charter is found, then the spans. Each span is rebuilt from its snapshot, if any, and from
its leaves. At the end the state of the log is recorded and the charter is put in force.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from federation import limits
from federation.errors import FederationError
from federation.header import Header
from federation.replica import LogState
from federation.snapshot import Snapshot
from federation.trust.charter import Charter
from node.repair import salvage, snapshots
from node.repair.leaves import LogRebuild
from node.repair.peers import UnrepairableError
from node.repair.salvage import as_int, as_number
from node.repair.verify import open_charter
from node.repair.work import ListWork
from node.store import lists, rebuild
from node.store.connection import Transaction
from node.store.rebuild import ReleasedRow, SnapshotRow, SpanRow
from node.store.snapshots import SnapshotState


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """A span to rebuild.

    Attributes:
        number: its number, in both stores.
        snapshot: the number of the snapshot with which it begins; None if it begins empty.
        stop: the recorded size at which it ended; 0 if it is not recorded.
    """

    number: int
    snapshot: int | None
    stop: int


def rebuild_list(work: ListWork) -> None:
    """Rebuild one list.

    Raises:
        UnrepairableError: a part of it is damaged, and no peer has it.
        StoreError: the new store could not be written.
    """
    newest_version = rebuild.newest_version(work.store.connection)
    # First: it says which peers may be asked for the rest.
    envelope, charter = _find_charter(work)
    if charter is not None:
        work.peers.restrict_to(charter)
    log = LogRebuild(work, newest_version)
    spans = _find_spans(work)
    state = LogState.empty()
    for span, following in zip(spans, [*spans[1:], None], strict=True):
        state = _rebuild_span(work, log, span, following)
    _put_in_force(work, state, newest_version, envelope, 0 if charter is None else charter.version)
    snapshots.keep_others(work, state.size)


# --- spans --------------------------------------------------------------------------------------


def _find_spans(work: ListWork) -> list[_Span]:
    """Return the spans that are or were in force, oldest first; at least one."""
    in_force = salvage.span_in_force(work.wreck, work.number)
    applied = [
        row
        for row in salvage.spans(work.wreck, work.number)
        if row.stop is not None or row.span == in_force
    ]
    applied.sort(key=lambda row: as_int(row.start))
    if applied:
        return [
            _Span(
                number=as_int(row.span),
                snapshot=as_number(row.snapshot) or None,
                stop=as_int(row.stop),
            )
            for row in applied
        ]
    # No span can be read. If its first leaf is not stored, the log began with a snapshot.
    snapshot = None
    if not salvage.has_leaf(work.wreck, work.number, 0):
        snapshot = salvage.oldest_held_snapshot(work.wreck, work.number)
    return [_Span(number=as_int(in_force, work.number), snapshot=snapshot, stop=0)]


def _rebuild_span(
    work: ListWork, log: LogRebuild, span: _Span, following: _Span | None
) -> LogState:
    """Rebuild one span, and return the log at its end.

    Raises:
        UnrepairableError: a part of it is damaged, and no peer has it.
    """
    if span.snapshot is None:
        start, state = 0, LogState.empty()
        _begin_span(work, span, start, None)
    else:
        base = snapshots.load_signed(work, span.snapshot)
        start = base.position + 1
        _begin_span(work, span, start, base)
        state = snapshots.put_buckets(work, span.number, span.snapshot, base, log.version)
        log.put_snapshot_leaf(base)
    if following is None:
        return log.follow(span.number, state, None)
    state = log.follow(span.number, state, _find_stop(work, span, start, following))
    with work.store.update_status() as connection:
        rebuild.end_span(connection, span.number, state.size)
    return state


def _begin_span(work: ListWork, span: _Span, start: int, base: Snapshot | None) -> None:
    """Record a span and its snapshot, still without buckets."""
    snapshot = None
    if base is not None:
        snapshot = SnapshotRow(
            snapshot=span.snapshot,
            list=work.number,
            position=base.position,
            state=SnapshotState.HELD,
            header=base.offer.header,
            checkpoint=base.offer.checkpoint,
            frontier=base.offer.frontier,
            bucket_hashes=base.offer.bucket_hashes,
            size_bytes=0,
        )
    row = SpanRow(
        span=span.number, list=work.number, start=start, stop=None, snapshot=span.snapshot
    )
    with work.store.update_status() as connection:
        rebuild.begin_span(connection, row, snapshot)


def _find_stop(work: ListWork, span: _Span, start: int, following: _Span) -> int:
    """Return the size at which a span ended because the snapshot of the next one replaced it.

    Raises:
        UnrepairableError: that snapshot is not recorded.
    """
    if following.snapshot is None:
        raise UnrepairableError(
            f"the snapshot that replaced the deltas from position {start} on is lost"
        )
    limit = limits.MAX_TREE_SIZE
    with suppress(FederationError):
        limit = Header.parse(salvage.snapshot_header(work.wreck, following.snapshot)).position
    if start <= span.stop <= limit:
        return span.stop
    size = start
    while size < limit and salvage.leaf(work.wreck, work.number, size) is not None:
        size += 1
    return size


# --- the list itself ----------------------------------------------------------------------------


def _put_in_force(
    work: ListWork, state: LogState, version: int, charter: bytes | None, charter_version: int
) -> None:
    """Record the state of the list, and put its charter in force."""
    facts = salvage.list_facts(work.wreck, work.number)
    released = salvage.released(work.wreck, work.number) if work.own else None
    with work.store.update_status() as connection:
        transaction = Transaction(connection, version, work.now_ms)
        lists.store_log_state(transaction, work.number, state)
        rebuild.store_list_facts(
            connection,
            work.number,
            charter=charter,
            charter_version=charter_version,
            checked=min(facts.checked, state.size),
            deltas_only=facts.deltas_only,
            since_snapshot=facts.since_snapshot,
        )
        if released is not None:
            size = min(as_int(released.size), state.size)
            rebuild.add(connection, ReleasedRow(list=work.number, size=size))


def _find_charter(work: ListWork) -> tuple[bytes | None, Charter | None]:
    """Return the bytes of the charter in force and the charter, from a peer if it is damaged here.

    Raises:
        UnrepairableError: no peer has it.
    """
    envelope, recorded = salvage.charter(work.wreck, work.number)
    if envelope is None and not recorded:
        return None, None
    stored = envelope or b""
    charter = open_charter(work.origin, work.root, stored, least_version=0)
    if charter is not None:
        return stored, charter
    # An older charter could allow more than the one in force.
    return work.peers.fetch_charter(least_version=recorded)
