"""One list against what its owner signed: every part of every leaf, bucket and index row.

Follows the log through its spans as a subscriber would. Where a subscriber refuses a leaf as a
whole, every part that is damaged is named, and the log is followed on as far as the leaves after it
tell what stood there. The module is long because one pass carries its state from leaf to leaf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from federation import merkle, wire
from federation import state as states
from federation.body import Body
from federation.bucket import Extent
from federation.diagnosis import UNKNOWN, Diagnosis, Part, diagnose
from federation.errors import FederationError, OperationError
from federation.header import Header, LeafKind, leaf_hash
from federation.merge import Prior, merge
from federation.replica import LogState, Replica, SignedDelta
from federation.snapshot import Snapshot, build_buckets
from federation.trust.charter import verify_charter
from federation.trust.orgroot import PinnedRoot
from node.errors import DamageError
from node.fsck.journal import Journal, SnapshotCursor, SpanCursor
from node.store import (
    consistency,
    fetched,
    history,
    index,
    lists,
    log,
    orgs,
    snapshots,
    spans,
    trees,
)
from node.store.by_name import iter_by_name
from node.store.damage import Damage, DamageKind
from node.store.lists import ListRecord
from node.store.schema import POSITION_BITS
from node.store.snapshots import SnapshotRecord, SnapshotState
from node.store.spans import Span
from node.store.sqlite import sqlite3

Steps = Iterator[Damage | None]
"""Damages as they are found, and None where the check can be interrupted."""

_KINDS: Final = {
    Part.HEADER: DamageKind.HEADER,
    Part.CHECKPOINT: DamageKind.CHECKPOINT,
    Part.BODY: DamageKind.BODY,
}
_NAMED_ROWS: Final = 10
"""Operations of one leaf that are named, at most, when the index does not have them."""

_STATES: Final = (SnapshotState.HELD, SnapshotState.ARRIVING, SnapshotState.ABANDONED)


class ListCheck:
    """Checks one list.

    Attributes:
        done: leaves and buckets that were checked, in this pass.
        total: all of them.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        number: int,
        origin: str,
        directory: Path,
        journal: Journal,
    ) -> None:
        self.done = self.total = 0
        self._connection = connection
        self._number = number
        self._origin = origin
        self._directory = directory
        self._journal = journal
        self._cursor = journal.of_list(number)

    def _damage(
        self, kind: DamageKind, position: int | None, message: str, row: int | None = None
    ) -> Damage:
        return Damage(kind=kind, origin=self._origin, position=position, row=row, message=message)

    def run(self) -> Steps:
        """Check what was not checked yet; what cannot even be read is raised."""
        record = lists.load_list_by_number(self._connection, self._number)
        try:
            root = orgs.load_root(self._connection, record.origin.org)
        except DamageError as error:
            yield self._damage(DamageKind.ROOT, None, str(error))
            root = None
        else:
            if root is None:
                yield self._damage(DamageKind.ROOT, None, "no pinned root")
        if root is None:
            self._cursor.lost = True
            return
        yield from self._charter(record, root)
        here = [
            held
            for state in _STATES
            for held in snapshots.iter_of_list(self._connection, self._number, state)
        ]
        applied = list(spans.iter_applied(self._connection, self._number))
        yield from self._measure(record, here, applied)
        bases: dict[int, Snapshot] = {}
        for held in here:
            yield from self._check_state(held, applied)
            yield from self._snapshot(Replica(record.origin, root, LogState.empty()), held, bases)
        for span in applied:
            yield from self._span(record, root, span, bases)
        yield from self._compare(record)
        yield from self._rebuild(record)
        yield from self._fetched(record, root)

    def _measure(
        self, record: ListRecord, here: Sequence[SnapshotRecord], applied: Sequence[Span]
    ) -> Steps:
        """Find out how much there is to check, and drop cursors that fit no more."""
        self.total = sum(held.buckets for held in here)
        for held in here:
            cursor = self._journal.snapshots.get(held.snapshot)
            if cursor is not None and cursor.header != held.offer.header:
                del self._journal.snapshots[held.snapshot]
            elif cursor is not None:
                self.done += min(cursor.bucket, held.buckets)
        if not any(span.span == record.span for span in applied):
            yield self._damage(DamageKind.RECORD, None, "the span in force is not one of the list")
        for span in applied:
            self.total += max(0, self._end(record, span) - span.start)
            found = self._journal.spans.get(span.span)
            if found is not None and not self._fits(found):
                del self._journal.spans[span.span]
            elif found is not None:
                self.done += max(0, found.position - span.start)

    def _fits(self, cursor: SpanCursor) -> bool:
        if cursor.state is None or not cursor.position:
            return True
        held = log.load_record(self._connection, self._number, cursor.position - 1)
        if cursor.state.live_count == UNKNOWN:
            return True
        return held is not None and leaf_hash(held.header) == cursor.state.last_leaf

    def _end(self, record: ListRecord, span: Span) -> int:
        """Return the size at which a span ends here, whatever is recorded."""
        recorded = record.log.size if span.stop is None else span.stop
        most = min(recorded, (1 << POSITION_BITS) - 1)
        newest = next(log.iter_records(self._connection, self._number, 0, most, newest=True), None)
        return 0 if newest is None else newest.position + 1

    def _check_state(self, held: SnapshotRecord, applied: Sequence[Span]) -> Steps:
        in_force = held.snapshot in {span.snapshot for span in applied}
        if in_force and held.state is not SnapshotState.HELD:
            yield self._damage(
                DamageKind.RECORD, held.position, f"snapshot: in force, but noted as {held.state}"
            )

    def _charter(self, record: ListRecord, root: PinnedRoot) -> Steps:
        if record.charter is None:
            if record.charter_version:
                yield self._damage(DamageKind.CHARTER, None, "charter: the signed bytes are gone")
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
            yield self._damage(DamageKind.CHARTER, None, f"charter: {error} ({error.reason})")
            return
        if charter.version != record.charter_version:
            yield self._damage(
                DamageKind.RECORD,
                None,
                f"charter: got version {charter.version}, recorded {record.charter_version}",
            )

    # --- leaves -------------------------------------------------------------------------------

    def _span(
        self, record: ListRecord, root: PinnedRoot, span: Span, bases: Mapping[int, Snapshot]
    ) -> Steps:
        """Check one span from where its cursor is."""
        base = None if span.snapshot is None else bases.get(span.snapshot)
        start = span.start
        if span.snapshot is None:
            start = 0
        elif base is not None:
            start = base.position + 1
        if span.start != start:
            yield self._damage(
                DamageKind.RECORD,
                None,
                f"a span is recorded to begin at size {span.start}, it begins at {start}",
            )
        if span.snapshot is not None and base is None:
            yield self._damage(
                DamageKind.SNAPSHOT, None, "the snapshot that its deltas follow cannot be told"
            )
        replica = Replica(record.origin, root, LogState.empty())
        cursor = self._journal.spans.get(span.span)
        if cursor is None:
            cursor = SpanCursor(position=start, state=LogState.empty() if not start else None)
            self._journal.spans[span.span] = cursor
            if span.snapshot is not None:
                yield from self._begin(replica, span, base, cursor)
        recorded = record.log.size if span.stop is None else span.stop
        end = self._end(record, span)
        while cursor.position < end:
            yield from self._leaf(replica, span, cursor)
            self.done += 1
            yield None
        if end < recorded:
            cursor.state = None
            yield self._damage(
                DamageKind.HEADER,
                max(end, start),
                f"the signed bytes are missing from here on: {recorded} leaves are recorded",
            )
        yield from self._check_later(span, recorded)

    def _begin(
        self, replica: Replica, span: Span, base: Snapshot | None, cursor: SpanCursor
    ) -> Steps:
        """Check the leaf of the snapshot that a span begins with, and go on from it."""
        assert span.snapshot is not None  # noqa: S101  # by who calls
        known = self._journal.snapshots.get(span.snapshot)
        cursor.rows = None if known is None else known.rows
        if base is None:
            return
        before = LogState(
            frontier=base.before,
            last_leaf=b"",
            last_time_ms=0,
            live_count=UNKNOWN,
            state_digest=b"",
            start=base.position,
        )
        leaf = self._load(base.position)
        if leaf.header != base.offer.header:
            yield self._damage(
                DamageKind.HEADER,
                base.position,
                "the leaf is not that of the snapshot that is here",
            )
        found = diagnose(
            replica, before, base.position, leaf._replace(header=base.offer.header), None
        )
        for part, error in found.errors.items():
            yield self._damage(_KINDS[part], base.position, f"{error} ({error.reason})")
        cursor.state = before.after(base.header, base.offer.header)

    def _load(self, position: int) -> SignedDelta:
        held = log.load_record(self._connection, self._number, position)
        data = log.load_body_bytes(self._connection, self._number, position)
        return SignedDelta(
            b"" if held is None else _octets(held.header),
            b"" if data is None else data,
            b"" if held is None else _octets(held.checkpoint),
        )

    def _leaf(self, replica: Replica, span: Span, cursor: SpanCursor) -> Steps:
        """Check one leaf and the index rows that it made."""
        position = cursor.position
        held = log.load_record(self._connection, self._number, position)
        leaf = self._load(position)
        before = cursor.state
        cursor.position += 1
        found = self._receive(replica, before, leaf)
        if found is None:
            found = self._diagnose(replica, before, position, leaf)
            if held is None:
                del found.errors[Part.HEADER], found.errors[Part.CHECKPOINT]
                yield self._damage(DamageKind.HEADER, position, "the signed bytes are missing")
            elif not found.errors and before is not None and before.live_count != UNKNOWN:
                # Well signed, each by itself, and not what may follow here.
                yield self._damage(DamageKind.HEADER, position, "it does not fit the leaf before")
            for part, error in found.errors.items():
                yield self._damage(_KINDS[part], position, _say(part, leaf, error))
        cursor.state = found.state
        if held is not None and held.body_size != len(leaf.body):
            yield self._damage(
                DamageKind.RECORD,
                position,
                f"got a body of {len(leaf.body)} bytes, recorded {held.body_size}",
            )
        if found.header is None or found.body is None:
            cursor.rows = None
            return
        if found.header.kind is LeafKind.SNAPSHOT:
            cursor.snapshot = position
        if before is not None and before.live_count != UNKNOWN:
            yield from self._judge(span, before, found.header, found.body)
        expected, missing = index.check_index(self._connection, span.span, position, found.body)
        yield from self._name_rows(position, expected, missing, "")
        if cursor.rows is not None:
            cursor.rows += expected

    @staticmethod
    def _receive(replica: Replica, before: LogState | None, leaf: SignedDelta) -> Diagnosis | None:
        """Check a leaf as a subscriber does; None when that cannot be done or it does not pass."""
        if before is None or before.live_count == UNKNOWN:
            return None
        replica.state = before
        try:
            # The time of arrival is not known any more: no time is in the future of itself.
            candidate = replica.receive(leaf, now_ms=Header.parse(leaf.header).time_ms)
        except FederationError:
            return None
        return Diagnosis(header=candidate.header, body=candidate.body, state=candidate.state)

    def _diagnose(
        self, replica: Replica, before: LogState | None, position: int, leaf: SignedDelta
    ) -> Diagnosis:
        following = log.load_record(self._connection, self._number, position + 1)
        return diagnose(
            replica, before, position, leaf, None if following is None else following.header
        )

    def _judge(
        self,
        span: Span,
        before: LogState,
        header: Header,
        body: Body,
    ) -> Steps:
        """Check what a leaf signs of its operations and of the live set after it."""
        position = header.position
        prior = index.load_superseded_by(self._connection, span.span, position)
        if header.kind is LeafKind.DELTA and body.ops_root() != header.ops_root:
            yield self._damage(
                DamageKind.CLAIM,
                position,
                "its operations do not hash to the root that was signed",
            )
        if any(row >= body.count for row in prior):
            yield self._damage(
                DamageKind.INTERVAL, position, "operations that it has not are said to end others"
            )
        if _is_merged(before, header, body, prior):
            return
        derived = index.load_prior(self._connection, span.span, body, before=position)
        counted = _is_counted(before, header, body, derived)
        if derived == dict(prior) and counted:
            # What was superseded follows from the index: then it is what was signed that is wrong.
            yield self._damage(
                DamageKind.CLAIM, position, "the live set is not the one that was signed"
            )
            return
        wrong = [row for row in {*derived, *prior} if derived.get(row) != prior.get(row)]
        yield self._damage(
            DamageKind.INTERVAL if wrong else DamageKind.INDEX,
            position,
            "the live set is not the one that was signed: what its operations took the place of "
            "is recorded otherwise",
            row=min(wrong, default=None),
        )

    def _name_rows(self, position: int, expected: int, missing: Sequence[int], where: str) -> Steps:
        for row in sorted(set(missing))[:_NAMED_ROWS]:
            yield self._damage(
                DamageKind.INDEX,
                position,
                f"index: {len(missing)} of {expected} fingerprints and names{where} are not found",
                row=row,
            )

    def _check_later(self, span: Span, end: int) -> Steps:
        later = consistency.count_ended_later(self._connection, span.span, end)
        if later:
            yield self._damage(
                DamageKind.INTERVAL,
                None,
                f"{later} operations are said to be ended by leaves that are not here",
            )

    def _compare(self, record: ListRecord) -> Steps:
        """Compare what is recorded of the list with what its leaves make."""
        cursor = self._journal.spans.get(record.span)
        state = None if cursor is None else cursor.state
        if state is not None and state.live_count != UNKNOWN and state != record.log:
            yield self._damage(
                DamageKind.RECORD, None, "the log's recorded state is not what its deltas make"
            )
        if record.checked > record.log.size:
            yield self._damage(
                DamageKind.RECORD, None, "more leaves are recorded as checked than there are"
            )

    # --- snapshots ----------------------------------------------------------------------------

    def _snapshot(
        self, replica: Replica, held: SnapshotRecord, bases: dict[int, Snapshot]
    ) -> Steps:
        """Check a snapshot and the buckets that are here."""
        try:
            time_ms = Header.parse(held.offer.header).time_ms
            opened = replica.receive_snapshot(held.offer, now_ms=time_ms)
        except FederationError as error:
            yield self._damage(
                DamageKind.SNAPSHOT, held.position, f"snapshot: {error} ({error.reason})"
            )
            return
        if opened.position != held.position:
            yield self._damage(
                DamageKind.RECORD,
                held.position,
                f"snapshot: recorded at position {held.position}, signed at {opened.position}",
            )
        whole = held.state is SnapshotState.HELD
        stored = {
            bucket.number: bucket.extent
            for bucket in snapshots.iter_buckets(self._connection, held.snapshot)
        }
        cursor = self._journal.snapshots.setdefault(
            held.snapshot,
            SnapshotCursor(header=held.offer.header, bucket=0, digest=states.EMPTY),
        )
        span = spans.of_snapshot(self._connection, held.snapshot)
        for number in range(cursor.bucket, held.buckets):
            cursor.bucket = number + 1
            if number in stored or whole:
                yield from self._bucket(opened, held, number, stored, cursor, span)
            self.done += 1
            yield None
        if any(number >= held.buckets for number in stored):
            yield self._damage(
                DamageKind.RECORD, held.position, "more buckets are here than the snapshot has"
            )
        if not whole:
            return
        bases[held.snapshot] = opened
        if cursor.rows is None:
            return
        try:
            opened.check_extents([stored[number] for number in sorted(stored)])
        except FederationError as error:
            yield self._damage(DamageKind.RECORD, held.position, str(error))
        if cursor.digest != opened.header.state_digest:
            yield self._damage(
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
        data = snapshots.load_bucket_bytes(self._connection, held.snapshot, number)
        try:
            bucket = opened.open_bucket(number, data or b"")
        except FederationError as error:
            cursor.rows = None
            what = "the signed bytes are missing" if data is None else str(error)
            yield self._damage(DamageKind.BUCKET, held.position, f"bucket {number}: {what}")
            return
        cursor.digest = states.add_bucket(cursor.digest, bucket)
        if stored[number] != bucket.extent():
            yield self._damage(
                DamageKind.RECORD,
                held.position,
                f"bucket {number}: what is recorded of it is not in it",
            )
        if span is not None:
            expected, missing = index.check_bucket_index(
                self._connection, span.span, number, bucket
            )
            yield from self._name_rows(held.position, expected, missing, f" of bucket {number}")
            if cursor.rows is not None:
                cursor.rows += expected

    def _rebuild(self, record: ListRecord) -> Steps:
        """Make the newest snapshot of the log again from the deltas, and compare."""
        newest: int | None = None
        for span in spans.iter_applied(self._connection, self._number):
            cursor = self._journal.spans.get(span.span)
            if cursor is not None and cursor.snapshot is not None:
                newest = cursor.snapshot
        if newest is None or newest == self._cursor.rebuilt or record.log.size <= newest:
            return
        self._cursor.rebuilt = newest
        try:
            live = history.iter_live_packed(self._connection, self._number, newest)
            buckets = build_buckets(iter_by_name(live, self._directory))
            root = merkle.root_hash([merkle.leaf_hash(data) for _, data in buckets])
            leaf = log.load_signed(self._connection, self._number, newest)
            wanted = Header.parse(leaf.header).ops_root
        except (DamageError, FederationError):
            # A body or bucket that it is made of is damaged, and named by itself.
            return
        if root != wanted:
            yield self._damage(
                DamageKind.INTERVAL,
                newest,
                "the live set is not the one that the snapshot signs",
            )
        yield None

    def _fetched(self, record: ListRecord, root: PinnedRoot) -> Steps:
        """Check the deltas that were fetched one by one."""
        start = self._cursor.fetched
        for item in fetched.iterate(self._connection, self._number, start, record.log.size):
            self._cursor.fetched = item.position + 1
            try:
                tree = trees.load_frontier(self._connection, record, item.size)
                replica = Replica(record.origin, root, replace(record.log, frontier=tree))
                position = replica.receive_past(item.delta, item.inclusion).header.position
            except (DamageError, FederationError) as error:
                yield self._damage(
                    DamageKind.FETCHED, item.position, f"fetched: {error} ({error.reason})"
                )
                continue
            if position != item.position:
                yield self._damage(
                    DamageKind.FETCHED,
                    item.position,
                    f"fetched: got the delta of position {position}",
                )
            yield None


def _octets(value: object) -> bytes:
    """Return stored bytes; none for what damage has given another type."""
    return value if isinstance(value, bytes) else b""


def _say(part: Part, leaf: SignedDelta, error: FederationError) -> str:
    if part is Part.BODY and not leaf.body:
        return "the signed bytes are missing"
    return f"{error} ({error.reason})"


def _is_counted(before: LogState, header: Header, body: Body, prior: Mapping[int, Prior]) -> bool:
    """Say whether a delta can be merged, and leaves as many live entries as it signs."""
    try:
        live_count = merge(body, prior, before.live_count, complete=before.start == 0)
    except OperationError:
        return False
    return live_count == header.live_count


def _is_merged(before: LogState, header: Header, body: Body, prior: Mapping[int, Prior]) -> bool:
    """Say whether a delta leaves the live set that it signs, as far as that can be told."""
    if not _is_counted(before, header, body, prior):
        return False
    digest = states.advance(before.state_digest, body, header.position, prior)
    return digest == header.state_digest
