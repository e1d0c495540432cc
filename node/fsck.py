"""All that is stored against what was signed.

Every signature, leaf, root, body, bucket, operation and index row is derived anew from the signed
bytes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from federation import merkle, wire
from federation import state as states
from federation.bucket import Extent
from federation.charter import verify_charter
from federation.errors import FederationError
from federation.header import Header, LeafKind
from federation.orgroot import PinnedRoot
from federation.replica import LogState, Replica, SignedDelta
from federation.snapshot import Snapshot, build_buckets
from node.byname import iter_by_name
from node.errors import DamageError
from node.store import entries, fetched, history, log, registry, runs, snapshots, spans, trees
from node.store.connection import Store
from node.store.registry import ListRecord
from node.store.snapshots import SnapshotRecord, SnapshotState
from node.store.spans import Span
from node.store.sqlite import sqlite3

ProgressCallback = Callable[[str, int, int], None]
"""Is told (origin, leaves and buckets done, all of them)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something stored that is not what was signed.

    Attributes:
        origin: the list, as text.
        position: the leaf's position; None when it concerns the list or the file.
        message: what is wrong.
    """

    origin: str
    position: int | None
    message: str


def fsck(
    store: Store, *, on_progress: ProgressCallback = lambda _o, _d, _n: None
) -> Iterator[Damage]:
    """Derive everything anew from the signed bytes, and yield what differs.

    One delta or bucket is in memory at a time. What the index says is compared delta by delta, and
    as a whole by the number of its rows. Of a list's snapshots, the newest is made anew.

    Args:
        store: the store.
        on_progress: told (origin, leaves and buckets done, all of them) after each.
    """
    # One version of the store: what others commit meanwhile would look like damage.
    with store.snapshot() as connection:
        yield from _guarded("", _check_file(connection))
        origins: dict[int, str] = {}
        expected: Counter[str] = Counter()
        lost = False
        for number, origin in list(registry.iter_origins(connection)):
            for (span,) in connection.execute("SELECT span FROM span WHERE list = ?", (number,)):
                origins[span] = origin
            check = _ListCheck(connection, number, origin, store.path.parent, on_progress)
            yield from _guarded(origin, check.run())
            expected += check.rows
            lost = lost or check.lost
        yield from _guarded("", _check_intervals(connection, origins, expected))
        yield from _guarded("", _check_runs(connection))
        if not lost:
            yield from _guarded("", _check_rows(connection, expected))


def _guarded(origin: str, damages: Iterator[Damage]) -> Iterator[Damage]:
    """Yield damages; what keeps the rest from being looked at is one too."""
    try:
        yield from damages
    except sqlite3.DatabaseError as error:
        yield Damage(origin=origin, position=None, message=f"database file: {error}")
    except (DamageError, FederationError) as error:
        yield Damage(origin=origin, position=None, message=str(error))


def _check_file(connection: sqlite3.Connection) -> Iterator[Damage]:
    for (line,) in connection.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield Damage(origin="", position=None, message=f"database file: {line}")


def _check_intervals(
    connection: sqlite3.Connection, origins: Mapping[int, str], expected: Counter[str]
) -> Iterator[Damage]:
    for interval in history.iter_intervals(connection):
        expected["superseded"] += interval.recorded
        if not interval.holds:
            yield Damage(
                origin=origins.get(interval.span, ""),
                position=interval.position,
                message=f"index: until when row {interval.row} was in force is not what follows "
                "from the operations on its entry",
            )


def _check_runs(connection: sqlite3.Connection) -> Iterator[Damage]:
    for run, recorded, found in runs.iter_miscounted(connection):
        yield Damage(
            origin="",
            position=None,
            message=f"index: got {found} rows in run {run}, recorded {recorded}",
        )


def _check_rows(connection: sqlite3.Connection, expected: Counter[str]) -> Iterator[Damage]:
    for table in ("delta", "body", "bucket", "posting", "superseded"):
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if rows != expected[table]:
            yield Damage(
                origin="",
                position=None,
                message=f"got {rows} rows in {table}, {expected[table]} from the signed bytes",
            )


class _ListCheck:
    """Follows one list's log through its spans, as a subscriber would.

    Attributes:
        rows: how many rows of each table the list must have.
        lost: whether the log could not be followed to its end.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        number: int,
        origin: str,
        directory: Path,
        on_progress: ProgressCallback,
    ) -> None:
        self.rows: Counter[str] = Counter()
        self.lost = True
        self._connection = connection
        self._number = number
        self._origin = origin
        self._directory = directory
        self._on_progress = on_progress
        self._digest = states.EMPTY
        self._newest_snapshot: int | None = None
        self._done = self._total = 0

    def _damage(self, position: int | None, message: str) -> Damage:
        return Damage(origin=self._origin, position=position, message=message)

    def _advance(self) -> None:
        self._done += 1
        self._on_progress(self._origin, self._done, self._total)

    def run(self) -> Iterator[Damage]:
        """Check the list; what cannot even be read is raised."""
        record = registry.load_list_by_number(self._connection, self._number)
        root = registry.load_root(self._connection, record.origin.org)
        if root is None:
            yield self._damage(None, "no pinned root")
            return
        yield from self._charter(record, root)
        here = [
            held
            for state in (SnapshotState.HELD, SnapshotState.ARRIVING, SnapshotState.ABANDONED)
            for held in snapshots.iter_of_list(self._connection, self._number, state)
        ]
        # What is being made, or was when its maker was killed, means nothing yet.
        for made in snapshots.iter_of_list(self._connection, self._number, SnapshotState.BUILDING):
            self.rows.update(bucket=len(snapshots.held_numbers(self._connection, made.snapshot)))
        applied = list(spans.iter_applied(self._connection, self._number))
        ends = [span.stop if span.stop is not None else record.log.size for span in applied]
        self._total = sum(held.buckets for held in here)
        self._total += sum(end - span.start for span, end in zip(applied, ends, strict=True))
        opened: dict[int, tuple[Snapshot, list[Extent]]] = {}
        applied_snapshots = {span.snapshot for span in applied}
        for held in here:
            if held.snapshot in applied_snapshots and held.state is not SnapshotState.HELD:
                yield self._damage(held.position, f"snapshot: in force, but noted as {held.state}")
            found = yield from self._snapshot(Replica(record.origin, root, LogState.empty()), held)
            if found is None:
                return
            opened[held.snapshot] = found
        for span, end in zip(applied, ends, strict=True):
            replica = Replica(record.origin, root, LogState.empty())
            if (yield from self._span(replica, span, end, opened)):
                return
            if span.span == record.span and replica.state != record.log:
                yield self._damage(None, "the log's recorded state is not what its deltas make")
        self.lost = False
        if record.checked > record.log.size:
            yield self._damage(None, "more leaves are recorded as checked than there are")
        yield from self._rebuild()
        yield from self._fetched(record, root)

    def _span(
        self,
        replica: Replica,
        span: Span,
        end: int,
        opened: Mapping[int, tuple[Snapshot, list[Extent]]],
    ) -> Generator[Damage, None, bool]:
        """Check one span from its beginning to `end`; return whether to go no further."""
        self._digest = states.EMPTY
        if span.snapshot is not None:
            found = opened.get(span.snapshot)
            if found is None:
                yield self._damage(None, "the snapshot that its deltas follow is missing")
                return True
            snapshot, extents = found
            replica.adopt(snapshot, extents)
            self._digest = snapshot.header.state_digest
            leaf = log.load_signed(self._connection, self._number, snapshot.position)
            if leaf.header != snapshot.offer.header or leaf.body:
                yield self._damage(
                    snapshot.position, "the leaf is not that of the snapshot that is here"
                )
            self.rows.update(delta=1, body=1)
        for position in range(span.start, end):
            if (yield from self._delta(replica, span, position)):
                return True
            self._advance()
        return False

    def _charter(self, record: ListRecord, root: PinnedRoot) -> Iterator[Damage]:
        if record.charter is None:
            return
        try:
            envelope = wire.decode_envelope(record.charter)
            charter = verify_charter(
                wire.decode_charter(envelope.payload),
                envelope,
                origin=record.origin,
                root=root.document,
                newest=record.charter_version,
            )
        except FederationError as error:
            yield self._damage(None, f"charter: {error} ({error.reason})")
            return
        if charter.version != record.charter_version:
            yield self._damage(
                None, f"charter: got version {charter.version}, recorded {record.charter_version}"
            )

    def _delta(self, replica: Replica, span: Span, position: int) -> Generator[Damage, None, bool]:
        """Check one leaf and the index rows that it made; return whether to go no further."""
        held = log.load_record(self._connection, self._number, position)
        data = log.load_body_bytes(self._connection, self._number, position)
        if held is None or data is None:
            yield self._damage(position, "the signed bytes are missing")
            return True
        delta = SignedDelta(held.header, data, held.checkpoint)
        prior = entries.load_superseded_by(self._connection, span.span, position)
        try:
            # The time of arrival is not known any more: a time cannot be in the future of itself.
            time_ms = Header.parse(held.header).time_ms
            candidate = replica.receive(delta, now_ms=time_ms)
            replica.conclude(candidate, prior)
        except FederationError as error:
            yield self._damage(position, f"{error} ({error.reason})")
            return True
        body = candidate.body
        self._digest = states.advance(self._digest, body, position, prior)
        if candidate.header.kind is LeafKind.SNAPSHOT:
            self._newest_snapshot = position
        elif body.ops_root() != candidate.header.ops_root:
            yield self._damage(position, "its operations do not hash to the root that was signed")
        if self._digest != candidate.header.state_digest:
            yield self._damage(position, "the live set is not the one that was signed")
        if held.body_size != len(data):
            yield self._damage(
                position, f"got a body of {len(data)} bytes, recorded {held.body_size}"
            )
        expected, found = entries.check_index(self._connection, span.span, position, body)
        if found != expected:
            yield self._damage(
                position, f"index: {found} of {expected} fingerprints and names are found"
            )
        self.rows.update(delta=1, body=1, posting=expected)
        return False

    # --- snapshots ----------------------------------------------------------------------------

    def _snapshot(
        self, replica: Replica, held: SnapshotRecord
    ) -> Generator[Damage, None, tuple[Snapshot, list[Extent]] | None]:
        """Check a snapshot and the buckets that are here; return it and what they hold."""
        try:
            time_ms = Header.parse(held.offer.header).time_ms
            opened = replica.receive_snapshot(held.offer, now_ms=time_ms)
        except FederationError as error:
            yield self._damage(held.position, f"snapshot: {error} ({error.reason})")
            return None
        span = spans.of_snapshot(self._connection, held.snapshot)
        digest, extents = states.EMPTY, []
        stored = list(snapshots.iter_buckets(self._connection, held.snapshot))
        for recorded in stored:
            data = snapshots.load_bucket_bytes(self._connection, held.snapshot, recorded.number)
            try:
                bucket = opened.open_bucket(recorded.number, data or b"")
            except FederationError as error:
                yield self._damage(held.position, f"bucket {recorded.number}: {error}")
                return None
            digest = states.add_bucket(digest, bucket)
            extents.append(bucket.extent())
            if recorded.extent != bucket.extent():
                yield self._damage(
                    held.position, f"bucket {recorded.number}: what is recorded of it is not in it"
                )
            self.rows.update(bucket=1)
            if span is not None:
                expected, found = entries.check_bucket_index(
                    self._connection, span.span, recorded.number, bucket
                )
                if found != expected:
                    yield self._damage(
                        held.position,
                        f"index: {found} of {expected} fingerprints and names of bucket "
                        f"{recorded.number} are found",
                    )
                self.rows.update(posting=expected)
            self._advance()
        if held.state is SnapshotState.HELD:
            if len(extents) != held.buckets:
                yield self._damage(
                    held.position, f"{len(extents)} of {held.buckets} buckets are here"
                )
                return None
            opened.check_extents(extents)
            if digest != opened.header.state_digest:
                yield self._damage(
                    held.position, "its buckets together are not the live set that was signed"
                )
        return opened, extents

    def _rebuild(self) -> Iterator[Damage]:
        """Make the newest snapshot of the log anew from the deltas, and compare."""
        position = self._newest_snapshot
        if position is None:
            return
        live = history.iter_live_packed(self._connection, self._number, position)
        buckets = build_buckets(iter_by_name(live, self._directory))
        root = merkle.root_hash([merkle.leaf_hash(data) for _, data in buckets])
        leaf = log.load_signed(self._connection, self._number, position)
        if root != Header.parse(leaf.header).ops_root:
            yield self._damage(position, "the live set is not the one that the snapshot signs")

    def _fetched(self, record: ListRecord, root: PinnedRoot) -> Iterator[Damage]:
        """Check the deltas that were fetched one by one."""
        for item in fetched.iterate(self._connection, self._number, 0, record.log.size):
            tree = trees.load_frontier(self._connection, record, item.size)
            replica = Replica(record.origin, root, replace(record.log, frontier=tree))
            try:
                position = replica.receive_past(item.delta, item.inclusion).header.position
            except FederationError as error:
                yield self._damage(item.position, f"fetched: {error} ({error.reason})")
                continue
            if position != item.position:
                yield self._damage(item.position, f"fetched: got the delta of position {position}")
