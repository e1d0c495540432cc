"""Checks the snapshots of a list: the signed parts of each, its buckets, and their index rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation import merkle
from federation import state as states
from federation.bucket import Extent
from federation.errors import FederationError
from federation.header import Header
from federation.replica import LogState, Replica
from federation.snapshot import Snapshot, build_buckets
from federation.trust.orgroot import PinnedRoot
from node.errors import DamageError
from node.fsck.journal import SnapshotCursor
from node.fsck.scope import Scope, Steps
from node.store import history, index, log, snapshots, spans
from node.store.by_name import iter_by_name
from node.store.damage import DamageKind
from node.store.lists import ListRecord
from node.store.snapshots import SnapshotRecord, SnapshotState
from node.store.spans import Span


class SnapshotCheck:
    """Checks the snapshots of one list.

    Attributes:
        bases: the completely checked snapshots, with which spans can begin, by number.
    """

    def __init__(self, scope: Scope, record: ListRecord, root: PinnedRoot) -> None:
        self.bases: dict[int, Snapshot] = {}
        self._scope = scope
        self._record = record
        self._root = root

    def run(self, held: SnapshotRecord, applied: Sequence[Span]) -> Steps:
        """Check one stored snapshot, given the spans in force."""
        yield from self._check_state(held, applied)
        yield from self._check_buckets(held)

    def _check_state(self, held: SnapshotRecord, applied: Sequence[Span]) -> Steps:
        in_force = held.snapshot in {span.snapshot for span in applied}
        if in_force and held.state is not SnapshotState.HELD:
            yield self._scope.damage(
                DamageKind.RECORD,
                held.position,
                f"snapshot: in force, but recorded as {held.state}",
            )

    def _check_buckets(self, held: SnapshotRecord) -> Steps:
        """Check the signed parts of a snapshot, and its stored buckets."""
        replica = Replica(self._record.origin, self._root, LogState.empty())
        try:
            time_ms = Header.parse(held.offer.header).time_ms
            opened = replica.receive_snapshot(held.offer, now_ms=time_ms)
        except FederationError as error:
            yield self._scope.damage(
                DamageKind.SNAPSHOT, held.position, f"snapshot: {error} ({error.reason})"
            )
            return
        if opened.position != held.position:
            yield self._scope.damage(
                DamageKind.RECORD,
                held.position,
                f"snapshot: recorded at position {held.position}, signed at {opened.position}",
            )
        whole = held.state is SnapshotState.HELD
        stored = {
            bucket.number: bucket.extent
            for bucket in snapshots.iter_buckets(self._scope.connection, held.snapshot)
        }
        cursor = self._scope.journal.snapshots.setdefault(
            held.snapshot,
            SnapshotCursor(header=held.offer.header, bucket=0, digest=states.EMPTY),
        )
        span = spans.of_snapshot(self._scope.connection, held.snapshot)
        for number in range(cursor.bucket, held.buckets):
            cursor.bucket = number + 1
            if number in stored or whole:
                yield from self._bucket(opened, held, number, stored, cursor, span)
            self._scope.done += 1
            yield None
        if any(number >= held.buckets for number in stored):
            yield self._scope.damage(
                DamageKind.RECORD, held.position, "there are more buckets than the snapshot has"
            )
        if not whole:
            return
        self.bases[held.snapshot] = opened
        if cursor.rows is None:
            return
        try:
            opened.check_extents([stored[number] for number in sorted(stored)])
        except FederationError as error:
            yield self._scope.damage(DamageKind.RECORD, held.position, str(error))
        if cursor.digest != opened.header.state_digest:
            yield self._scope.damage(
                DamageKind.CLAIM,
                held.position,
                "its buckets together are not the live set that was signed",
            )

    def _bucket(
        self,
        opened: Snapshot,
        held: SnapshotRecord,
        number: int,
        stored: Mapping[int, Extent],
        cursor: SnapshotCursor,
        span: Span | None,
    ) -> Steps:
        data = snapshots.load_bucket_bytes(self._scope.connection, held.snapshot, number)
        try:
            bucket = opened.open_bucket(number, data or b"")
        except FederationError as error:
            cursor.rows = None
            what = "the signed bytes are missing" if data is None else str(error)
            yield self._scope.damage(DamageKind.BUCKET, held.position, f"bucket {number}: {what}")
            return
        cursor.digest = states.add_bucket(cursor.digest, bucket)
        if stored[number] != bucket.extent():
            yield self._scope.damage(
                DamageKind.RECORD,
                held.position,
                f"bucket {number}: its record does not fit its content",
            )
        if span is not None:
            expected, missing = index.check_bucket_index(
                self._scope.connection, span.span, number, bucket
            )
            yield from self._scope.name_rows(
                held.position, expected, missing, f" of bucket {number}"
            )
            if cursor.rows is not None:
                cursor.rows += expected

    def rebuild_newest(self) -> Steps:
        """Make the newest snapshot of the log again from the deltas, and compare."""
        newest: int | None = None
        for span in spans.iter_applied(self._scope.connection, self._scope.number):
            cursor = self._scope.journal.spans.get(span.span)
            if cursor is not None and cursor.snapshot is not None:
                newest = cursor.snapshot
        if (
            newest is None
            or newest == self._scope.cursor.rebuilt
            or self._record.log.size <= newest
        ):
            return
        self._scope.cursor.rebuilt = newest
        try:
            live = history.iter_live_packed(self._scope.connection, self._scope.number, newest)
            buckets = build_buckets(iter_by_name(live, self._scope.directory))
            root = merkle.root_hash([merkle.leaf_hash(data) for _, data in buckets])
            leaf = log.load_signed(self._scope.connection, self._scope.number, newest)
            wanted = Header.parse(leaf.header).ops_root
        except (DamageError, FederationError):
            # A body or bucket from which it is made is damaged, which is reported separately.
            return
        if root != wanted:
            yield self._scope.damage(
                DamageKind.INTERVAL,
                newest,
                "the live set is not the one that the snapshot signs",
            )
        yield None
