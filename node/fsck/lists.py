"""Checks one list: its owner's root and its charter, then each snapshot and each span.

The records of the list are compared with what follows from its leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from federation import wire
from federation.diagnosis import UNKNOWN
from federation.errors import FederationError
from federation.header import leaf_hash
from federation.replica import Replica
from federation.trust.charter import verify_charter
from federation.trust.orgroot import PinnedRoot
from node.errors import DamageError
from node.fsck.journal import SpanCursor
from node.fsck.leaves import LeafCheck
from node.fsck.scope import Scope, Steps
from node.fsck.snapshots import SnapshotCheck
from node.store import fetched, lists, log, orgs, snapshots, spans, trees
from node.store.damage import DamageKind
from node.store.lists import ListRecord
from node.store.snapshots import SnapshotRecord, SnapshotState
from node.store.spans import Span

_STATES: Final = (SnapshotState.HELD, SnapshotState.ARRIVING, SnapshotState.ABANDONED)


class ListCheck:
    """Checks one list."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def run(self) -> Steps:
        """Check what is not checked yet; unreadable data raises an error."""
        record = lists.load_list_by_number(self._scope.connection, self._scope.number)
        try:
            root = orgs.load_root(self._scope.connection, record.origin.org)
        except DamageError as error:
            yield self._scope.damage(DamageKind.ROOT, None, str(error))
            root = None
        else:
            if root is None:
                yield self._scope.damage(DamageKind.ROOT, None, "no pinned root")
        if root is None:
            self._scope.cursor.lost = True
            return
        yield from self._charter(record, root)
        here = [
            held
            for state in _STATES
            for held in snapshots.iter_of_list(self._scope.connection, self._scope.number, state)
        ]
        applied = list(spans.iter_applied(self._scope.connection, self._scope.number))
        yield from self._measure(record, here, applied)
        snapshot_check = SnapshotCheck(self._scope, record, root)
        for held in here:
            yield from snapshot_check.run(held, applied)
        leaf_check = LeafCheck(self._scope, record, root, snapshot_check.bases)
        for span in applied:
            yield from leaf_check.run(span)
        yield from self._compare(record)
        yield from snapshot_check.rebuild_newest()
        yield from self._fetched(record, root)

    def _measure(
        self, record: ListRecord, here: Sequence[SnapshotRecord], applied: Sequence[Span]
    ) -> Steps:
        """Find out how much there is to check, and drop cursors that no longer fit."""
        self._scope.total = sum(held.buckets for held in here)
        for held in here:
            cursor = self._scope.journal.snapshots.get(held.snapshot)
            if cursor is not None and cursor.header != held.offer.header:
                del self._scope.journal.snapshots[held.snapshot]
            elif cursor is not None:
                self._scope.done += min(cursor.bucket, held.buckets)
        if not any(span.span == record.span for span in applied):
            yield self._scope.damage(
                DamageKind.RECORD, None, "the span in force does not belong to the list"
            )
        for span in applied:
            self._scope.total += max(0, self._scope.end_of(record, span) - span.start)
            found = self._scope.journal.spans.get(span.span)
            if found is not None and not self._fits(found):
                del self._scope.journal.spans[span.span]
            elif found is not None:
                self._scope.done += max(0, found.position - span.start)

    def _fits(self, cursor: SpanCursor) -> bool:
        if cursor.state is None or not cursor.position:
            return True
        held = log.load_record(self._scope.connection, self._scope.number, cursor.position - 1)
        if cursor.state.live_count == UNKNOWN:
            return True
        return held is not None and leaf_hash(held.header) == cursor.state.last_leaf

    def _charter(self, record: ListRecord, root: PinnedRoot) -> Steps:
        if record.charter is None:
            if record.charter_version:
                yield self._scope.damage(
                    DamageKind.CHARTER, None, "charter: the signed bytes are missing"
                )
            return
        try:
            envelope = wire.decode_envelope(record.charter)
            charter = verify_charter(
                wire.decode_charter(envelope.payload),
                envelope,
                origin=record.origin,
                root=root.document,
                newest=0,
            )
        except FederationError as error:
            yield self._scope.damage(DamageKind.CHARTER, None, f"charter: {error} ({error.reason})")
            return
        if charter.version != record.charter_version:
            yield self._scope.damage(
                DamageKind.RECORD,
                None,
                f"charter: got version {charter.version}, recorded {record.charter_version}",
            )

    def _compare(self, record: ListRecord) -> Steps:
        """Compare the records of the list with what follows from its leaves."""
        cursor = self._scope.journal.spans.get(record.span)
        state = None if cursor is None else cursor.state
        if state is not None and state.live_count != UNKNOWN and state != record.log:
            yield self._scope.damage(
                DamageKind.RECORD,
                None,
                "the recorded state of the log does not follow from its deltas",
            )
        if record.checked > record.log.size:
            yield self._scope.damage(
                DamageKind.RECORD, None, "more leaves are recorded as checked than there are"
            )

    def _fetched(self, record: ListRecord, root: PinnedRoot) -> Steps:
        """Check the deltas that were fetched one by one."""
        start = self._scope.cursor.fetched
        for item in fetched.iterate(
            self._scope.connection, self._scope.number, start, record.log.size
        ):
            self._scope.cursor.fetched = item.position + 1
            try:
                tree = trees.load_frontier(self._scope.connection, record, item.size)
                replica = Replica(record.origin, root, replace(record.log, frontier=tree))
                position = replica.receive_past(item.delta, item.inclusion).header.position
            except (DamageError, FederationError) as error:
                yield self._scope.damage(
                    DamageKind.FETCHED, item.position, f"fetched: {error} ({error.reason})"
                )
                continue
            if position != item.position:
                yield self._scope.damage(
                    DamageKind.FETCHED,
                    item.position,
                    f"fetched: got the delta of position {position}",
                )
            yield None
