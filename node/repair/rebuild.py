"""One list made anew from its signed bytes: as they are stored, or as peers give them.

The log is followed as when it was accepted: each leaf is verified at its place, merged, and
indexed. A leaf that is damaged is asked for from one peer after the other, and is taken only if it
is the very one that stood there, which the leaves and checkpoints around it sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from federation import merkle, wire
from federation.bucket import Bucket, Extent
from federation.diagnosis import signed_previous
from federation.errors import FederationError
from federation.follow import Cursor
from federation.header import Header, leaf_hash
from federation.merkle import CompactRange
from federation.names import OrgName, Origin
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.snapshot import Snapshot, SnapshotOffer
from federation.trust.charter import verify_charter
from federation.trust.orgroot import PinnedRoot
from node.errors import NodeError
from node.repair.bitflips import mend
from node.repair.salvage import Wreck, as_bytes, as_int
from node.store import index, lists, log, snapshots
from node.store.connection import Store, Transaction
from node.store.schema import POSITION_BITS
from node.store.snapshots import SnapshotState
from node.store.sqlite import sqlite3
from node.telemetry.logs import get_logger

_BATCH_LEAVES: Final = 64
_BATCH_BUCKETS: Final = 16
"""What one transaction holds."""

_FETCHED_LEAVES: Final = 256
"""Leaves that are asked for at once where none is stored."""

_MOST: Final = (1 << POSITION_BITS) - 1

_log = get_logger()


class UnrepairableError(NodeError):
    """Signed bytes are damaged here, and nobody who could be asked has them."""


class RepairSource(Protocol):
    """Where signed bytes come from that are damaged here: peers, one after the other."""

    def deltas(
        self, origin: Origin, cursor: Cursor, count: int
    ) -> Iterator[tuple[OrgName, Sequence[SignedDelta]]]:
        """Yield, for each peer that has them, up to `count` deltas after a cursor, not verified."""

    def buckets(
        self, origin: Origin, position: int, numbers: Sequence[int]
    ) -> Iterator[tuple[OrgName, Sequence[tuple[int, bytes]]]]:
        """Yield, for each peer that has them, buckets of the snapshot at a position."""

    def charters(self, origin: Origin) -> Iterator[tuple[OrgName, bytes]]:
        """Yield, for each peer that has one, the envelope of a list's charter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gained:
    """Signed bytes that came from a peer.

    Attributes:
        origin: the list, as text.
        position: the leaf's position; None for a charter.
        what: what came.
        peer: from whom.
    """

    origin: str
    position: int | None
    what: str
    peer: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A span as it is to be: what it begins with, and the size at which it ended."""

    number: int
    snapshot: int | None
    stop: int | None


@dataclass(slots=True)
class _Stored:
    """A leaf as it is stored, and how it came."""

    leaf: SignedDelta
    version: int
    received_ms: int
    via: object


@dataclass(slots=True)
class ListRebuild:
    """Makes one list anew.

    Attributes:
        wreck: the damaged store.
        store: the new one. It has the list's organization, and nothing of the list.
        number: of the list, in both.
        origin: the list.
        own: whether it is ours.
        root: its owner's keys.
        source: asks peers.
        now_ms: when what comes now came.
        on_leaf: told (leaves done, of how many).
        gained: what came from peers.
        refused: peers that sent something else.
    """

    wreck: Wreck
    store: Store
    number: int
    origin: Origin
    own: bool
    root: PinnedRoot
    source: RepairSource
    now_ms: int
    on_leaf: Callable[[int, int], None]
    gained: list[Gained] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _spare: dict[int, tuple[SignedDelta, OrgName]] = field(default_factory=dict)
    _state: LogState = field(default_factory=LogState.empty)
    _versions: tuple[int, int] = (1, 1)

    def run(self) -> None:
        """Make the list anew.

        Raises:
            UnrepairableError: something of it is damaged, and no peer has it.
            StoreError: the new store could not be written.
        """
        (newest,) = self.store.connection.execute(
            "SELECT coalesce(max(version), 1) FROM version"
        ).fetchone()
        self._versions = (1, newest)
        parts = self._plan()
        for at, part in enumerate(parts):
            self._build(part, None if at + 1 == len(parts) else parts[at + 1])
        self._finish()

    def _row(self, columns: str) -> tuple[object, ...]:
        found = self.wreck.row(
            f"SELECT {columns} FROM list WHERE list = ?",  # noqa: S608
            self.number,
        )
        return (None,) * len(columns.split(",")) if found is None else found

    # --- spans --------------------------------------------------------------------------------

    def _plan(self) -> list[_Part]:
        """Return the spans that are or were in force, oldest first."""
        (in_force,) = self._row("span")
        found = []
        for number, start, stop, snapshot in self.wreck.rows(
            "span", ("span", "start", "stop", "snapshot"), "list = ?", self.number
        ):
            if stop is not None or number == in_force:
                base = as_int(snapshot) or None
                found.append((as_int(start), _Part(as_int(number), base, as_int(stop))))
        found.sort(key=lambda item: item[0])
        parts = [part for _, part in found]
        if not parts:
            held = self.wreck.row(
                "SELECT snapshot FROM snapshot WHERE list = ? AND state = 'held' "
                "ORDER BY position LIMIT 1",
                self.number,
            )
            first = self.wreck.row("SELECT 1 FROM delta WHERE id = ?", log.delta_id(self.number, 0))
            base = None if held is None or first is not None else as_int(held[0])
            parts = [_Part(as_int(in_force, self.number), base, None)]
        return parts

    def _build(self, part: _Part, following: _Part | None) -> None:
        """Make one span anew."""
        base = None if part.snapshot is None else self._open_snapshot(part.snapshot)
        start = 0 if base is None else base.position + 1
        with self.store.update_status() as connection:
            self._begin(connection, part, start, base)
        if base is None:
            self._state = LogState.empty()
        else:
            self._put_base(part, base)
        stop = None if following is None else self._stop(part, start, following)
        self._follow(part, start, stop)
        if following is not None:
            with self.store.update_status() as connection:
                connection.execute(
                    "UPDATE span SET stop = ? WHERE span = ?", (self._state.size, part.number)
                )

    def _begin(
        self, connection: sqlite3.Connection, part: _Part, start: int, base: Snapshot | None
    ) -> None:
        # List and span name each other: the constraint between them is checked at the commit.
        connection.execute("PRAGMA defer_foreign_keys = ON")
        if base is not None:
            connection.execute(
                """INSERT INTO snapshot (snapshot, list, position, state, header, checkpoint,
                    frontier, bucket_hashes, size_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)""",
                (part.snapshot, self.number, base.position, SnapshotState.HELD, *base.offer[:4]),
            )
        connection.execute(
            "INSERT INTO span (span, list, start, stop, snapshot) VALUES (?, ?, ?, NULL, ?)",
            (part.number, self.number, start, part.snapshot),
        )
        connection.execute("UPDATE list SET span = ? WHERE list = ?", (part.number, self.number))

    def _stop(self, part: _Part, start: int, following: _Part) -> int:
        """Return the size at which a span ended that another one took the place of."""
        assert following.snapshot is not None  # noqa: S101  # only a snapshot takes the place
        row = self.wreck.row("SELECT header FROM snapshot WHERE snapshot = ?", following.snapshot)
        limit = _MOST
        with suppress(FederationError):
            limit = Header.parse(as_bytes(None if row is None else row[0])).position
        recorded = as_int(part.stop, -1)
        if start <= recorded <= limit:
            return recorded
        size = start
        while size < limit and self._stored(size) is not None:
            size += 1
        return size

    # --- leaves -------------------------------------------------------------------------------

    def _stored(self, position: int) -> _Stored | None:
        at = log.delta_id(self.number, position)
        row = self.wreck.row(
            "SELECT header, checkpoint, version, received_ms, via FROM delta WHERE id = ?", at
        )
        body = self.wreck.row("SELECT bytes FROM body WHERE id = ?", at)
        if row is None and body is None:
            return None
        header, checkpoint, version, received_ms, via = row or (b"", b"", None, None, None)
        data = as_bytes(None if body is None else body[0])
        return _Stored(
            SignedDelta(as_bytes(header), data, as_bytes(checkpoint)),
            as_int(version),
            as_int(received_ms),
            via,
        )

    def _size(self) -> tuple[int, bool]:
        """Return how many leaves are recorded, and whether that can be believed."""
        size, frontier, last_leaf = self._row("size, frontier, last_leaf")
        recorded = as_int(size, most=_MOST)
        try:
            CompactRange.decode(recorded, as_bytes(frontier))
        except FederationError:
            return recorded, False
        return recorded, bool(as_bytes(last_leaf))

    def _newest_stored(self) -> int:
        """Return the newest position of which a leaf is stored; -1 for none."""
        row = self.wreck.row(
            "SELECT max(id) FROM delta WHERE id >= ? AND id < ?",
            log.delta_id(self.number, 0),
            log.delta_id(self.number + 1, 0),
        )
        at = None if row is None else row[0]
        return as_int(at) - log.delta_id(self.number, 0) if isinstance(at, int) else -1

    def _follow(self, part: _Part, start: int, stop: int | None) -> None:
        """Follow the log through one span, to `stop` or to its end."""
        replica = Replica(self.origin, self.root, self._state)
        recorded, believed = self._size()
        newest = self._newest_stored()
        position = start
        while not self._is_end(replica, position, stop, recorded, newest, believed=believed):
            with self.store.update_status() as connection:
                for _ in range(_BATCH_LEAVES):
                    self._take(connection, part, replica, position)
                    position += 1
                    self.on_leaf(position, max(recorded, position))
                    if self._is_end(replica, position, stop, recorded, newest, believed=believed):
                        break
        self._state = replica.state

    def _is_end(
        self,
        replica: Replica,
        position: int,
        stop: int | None,
        recorded: int,
        newest: int,
        *,
        believed: bool,
    ) -> bool:
        if stop is not None:
            return position >= stop
        if not believed:
            return position > newest
        if position < recorded:
            # Of a size that is not the right one, the leaf that was the last tells.
            (last_leaf,) = self._row("last_leaf")
            return position > newest and replica.state.last_leaf == as_bytes(last_leaf)
        stored = self._stored(position)
        # What is well signed and follows is kept, whatever is recorded.
        return stored is None or self._try(replica, stored.leaf) is None

    def _take(
        self, connection: sqlite3.Connection, part: _Part, replica: Replica, position: int
    ) -> None:
        """Take one leaf as it is stored, or from a peer; merge it and put it in the index."""
        stored = self._stored(position)
        candidate = None if stored is None else self._try(replica, stored.leaf)
        peer: OrgName | None = None
        if candidate is None:
            candidate, peer = self._fetch(replica, position, stored)
        prior = index.load_prior(connection, part.number, candidate.body)
        try:
            replica.conclude(candidate, prior)
        except FederationError as error:
            raise UnrepairableError(f"position {position}: {error}") from error
        transaction = self._transaction(connection, stored)
        log.append(
            transaction,
            self.number,
            position,
            candidate.signed,
            via=None if self.own else peer,
            received_ms=transaction.now_ms,
        )
        self._keep_via(connection, position, stored)
        index.index_body(transaction, part.number, position, candidate.body, prior)

    def _transaction(self, connection: sqlite3.Connection, stored: _Stored | None) -> Transaction:
        """Return the version and the time that a leaf came with, as far as they can be."""
        least, most = self._versions
        version = least if stored is None else min(max(stored.version, least), most)
        self._versions = (version, most)
        received_ms = 0 if stored is None else stored.received_ms
        return Transaction(connection, version, received_ms or self.now_ms)

    def _keep_via(
        self, connection: sqlite3.Connection, position: int, stored: _Stored | None
    ) -> None:
        """Note by whom a leaf had come, if that is known and is an organization that is known."""
        if stored is not None and not self.own:
            connection.execute(
                "UPDATE delta SET via = coalesce((SELECT org FROM org WHERE org = ?), via) "
                "WHERE id = ?",
                (as_int(stored.via), log.delta_id(self.number, position)),
            )

    @staticmethod
    def _try(replica: Replica, leaf: SignedDelta) -> Candidate | None:
        try:
            # The time of arrival is not known any more: no time is in the future of itself.
            return replica.receive(leaf, now_ms=Header.parse(leaf.header).time_ms)
        except FederationError:
            return None

    def _fetch(
        self, replica: Replica, position: int, stored: _Stored | None
    ) -> tuple[Candidate, OrgName]:
        """Return the leaf that stood at a position, from the first peer that has it.

        Raises:
            UnrepairableError: none has.
        """
        expected = self._expected(replica, position, stored)
        spare = self._spare.pop(position, None)
        if spare is not None:
            candidate = self._try(replica, spare[0])
            if candidate is not None and expected in (None, leaf_hash(spare[0].header)):
                return self._gain(position, candidate, spare[1])
        size = replica.state.size
        cursor = Cursor(
            origin=str(self.origin),
            size=size,
            root_hash=replica.state.frontier.root() if size else b"",
            charter_version=0,
            deltas_only=True,
        )
        for peer, deltas in self.source.deltas(self.origin, cursor, self._gap(position)):
            candidate = self._try(replica, deltas[0]) if deltas else None
            if candidate is None or expected not in (None, leaf_hash(deltas[0].header)):
                self._refuse(peer, f"position {position}")
                continue
            self._spare = {
                position + at: (delta, peer) for at, delta in enumerate(deltas[1:], start=1)
            }
            return self._gain(position, candidate, peer)
        raise UnrepairableError(f"position {position} is damaged, and no peer has it")

    def _gain(
        self, position: int, candidate: Candidate, peer: OrgName
    ) -> tuple[Candidate, OrgName]:
        self.gained.append(
            Gained(origin=str(self.origin), position=position, what="leaf", peer=peer)
        )
        return candidate, peer

    def _refuse(self, peer: OrgName, what: str) -> None:
        self.refused.append(f"{peer}: what it sent of {what} of {self.origin} does not verify")
        _log.warning("repair_refused", origin=str(self.origin), peer=peer, what=what)

    def _expected(self, replica: Replica, position: int, stored: _Stored | None) -> bytes | None:
        """Return the hash of the leaf that stood at a position, as far as what is signed tells."""
        if stored is not None:
            with suppress(FederationError):
                header = replica.read_leaf(stored.leaf.header)
                if (header.position, header.previous) == (position, replica.state.last_leaf):
                    return leaf_hash(stored.leaf.header)
        following = self._stored(position + 1)
        return signed_previous(
            replica, position + 1, None if following is None else following.leaf.header
        )

    def _gap(self, position: int) -> int:
        """Return how many leaves from a position on are not stored; at least one."""
        count = 1
        while count < _FETCHED_LEAVES and self._stored(position + count) is None:
            count += 1
        return count

    # --- snapshots ----------------------------------------------------------------------------

    def _open_snapshot(self, number: int) -> Snapshot:
        """Return a snapshot as it is stored, its damaged parts taken from where they are twice.

        Raises:
            UnrepairableError: its parts cannot be told.
        """
        row = self.wreck.row(
            "SELECT header, checkpoint, frontier, bucket_hashes, position FROM snapshot "
            "WHERE snapshot = ?",
            number,
        )
        if row is None:
            raise UnrepairableError(f"snapshot {number}, which the list begins with, is lost")
        header, checkpoint, frontier, hashes = map(as_bytes, row[:4])
        leaf = self._stored(as_int(row[4]))
        headers = [header] if leaf is None else [header, leaf.leaf.header]
        checkpoints = [checkpoint] if leaf is None else [checkpoint, leaf.leaf.checkpoint]
        offers = [
            SnapshotOffer(record, note, frontier, some)
            for record in headers
            for note in checkpoints
            for some in (hashes, self._bucket_hashes(number))
        ]
        for offer in offers:
            opened = self._receive(offer)
            if opened is not None:
                return opened
        for offer in offers:
            mended = mend(
                frontier,
                lambda tried, offer=offer: (
                    self._receive(offer._replace(frontier=tried)) is not None
                ),  # type: ignore[misc]
            )
            if mended is not None:
                opened = self._receive(offer._replace(frontier=mended))
                assert opened is not None  # noqa: S101  # as `mend` says
                return opened
        raise UnrepairableError(f"what was signed of the snapshot at {row[4]} is damaged")

    def _receive(self, offer: SnapshotOffer) -> Snapshot | None:
        try:
            time_ms = Header.parse(offer.header).time_ms
            replica = Replica(self.origin, self.root, LogState.empty())
            return replica.receive_snapshot(offer, now_ms=time_ms)
        except FederationError:
            return None

    def _bucket_hashes(self, number: int) -> bytes:
        hashes: list[bytes] = []
        while True:
            row = self.wreck.row(
                "SELECT bytes FROM bucket WHERE id = ?", snapshots.bucket_id(number, len(hashes))
            )
            if row is None:
                return b"".join(hashes)
            hashes.append(merkle.leaf_hash(as_bytes(row[0])))

    def _put_base(self, part: _Part, base: Snapshot) -> None:
        """Keep the buckets of the snapshot that a span begins with, and its leaf."""
        assert part.snapshot is not None  # noqa: S101  # by who calls
        extents: list[Extent] = []
        total = len(base.bucket_hashes)
        while len(extents) < total:
            with self.store.update_status() as connection:
                transaction = Transaction(connection, self._versions[0], self.now_ms)
                for number in range(len(extents), min(total, len(extents) + _BATCH_BUCKETS)):
                    data, bucket = self._bucket(base, part.snapshot, number)
                    extents.append(bucket.extent())
                    snapshots.store_bucket(connection, part.snapshot, number, data, bucket.extent())
                    index.index_bucket(transaction, part.number, number, bucket)
                    self.on_leaf(number + 1, total)
        replica = Replica(self.origin, self.root, LogState.empty())
        try:
            self._state = replica.adopt(base, extents)
        except FederationError as error:
            raise UnrepairableError(f"snapshot at position {base.position}: {error}") from error
        stored = self._stored(base.position)
        with self.store.update_status() as connection:
            transaction = self._transaction(connection, stored)
            log.append(
                transaction,
                self.number,
                base.position,
                SignedDelta(base.offer.header, b"", base.offer.checkpoint),
                via=None,
                received_ms=transaction.now_ms,
            )
            self._keep_via(connection, base.position, stored)

    def _bucket(self, opened: Snapshot, snapshot: int, number: int) -> tuple[bytes, Bucket]:
        """Return one bucket as it is stored, or from the first peer that has it.

        Raises:
            UnrepairableError: none has.
        """
        row = self.wreck.row(
            "SELECT bytes FROM bucket WHERE id = ?", snapshots.bucket_id(snapshot, number)
        )
        data = as_bytes(None if row is None else row[0])
        with suppress(FederationError):
            return data, opened.open_bucket(number, data)
        for peer, buckets in self.source.buckets(self.origin, opened.position, [number]):
            for at, sent in buckets:
                try:
                    bucket = opened.open_bucket(number, sent)
                except FederationError:
                    self._refuse(peer, f"bucket {at}")
                    continue
                self.gained.append(
                    Gained(
                        origin=str(self.origin),
                        position=opened.position,
                        what=f"bucket {number}",
                        peer=peer,
                    )
                )
                return sent, bucket
        raise UnrepairableError(
            f"bucket {number} of the snapshot at position {opened.position} is damaged, and no "
            "peer has it"
        )

    # --- the list itself ----------------------------------------------------------------------

    def _finish(self) -> None:
        """Record where the list stands, put its charter in force, and keep its other snapshots."""
        checked, deltas_only, since = self._row("checked, deltas_only, since_snapshot")
        envelope, version = self._charter()
        size = self._state.size
        with self.store.update_status() as connection:
            transaction = Transaction(connection, self._versions[1], self.now_ms)
            lists.store_log_state(transaction, self.number, self._state)
            connection.execute(
                "UPDATE list SET charter = ?, charter_version = ?, checked = ?, deltas_only = ?, "
                "since_snapshot = ? WHERE list = ?",
                (
                    envelope,
                    version,
                    min(as_int(checked), size),
                    as_int(deltas_only) & 1,
                    as_int(since),
                    self.number,
                ),
            )
            if self.own:
                row = self.wreck.row("SELECT size FROM released WHERE list = ?", self.number)
                if row is not None:
                    connection.execute(
                        "INSERT INTO released (list, size) VALUES (?, ?)",
                        (self.number, min(as_int(row[0]), size)),
                    )
        for number, state in list(
            self.wreck.rows("snapshot", ("snapshot", "state"), "list = ?", self.number)
        ):
            held = snapshots.load(self.store.connection, as_int(number))
            if held is None and state == SnapshotState.HELD:
                self._keep_snapshot(as_int(number))

    def _charter(self) -> tuple[bytes | None, int]:
        """Return the charter in force and its version, from a peer if it is damaged here.

        Raises:
            UnrepairableError: none has it.
        """
        data, recorded = self._row("charter, charter_version")
        if data is None and not as_int(recorded):
            return None, 0
        version = self._verify_charter(as_bytes(data), 0)
        if version is not None:
            return as_bytes(data), version
        for peer, envelope in self.source.charters(self.origin):
            # An older one could allow more than the one that is in force.
            version = self._verify_charter(envelope, as_int(recorded))
            if version is None:
                self._refuse(peer, "the charter")
                continue
            self.gained.append(
                Gained(origin=str(self.origin), position=None, what="charter", peer=peer)
            )
            return envelope, version
        raise UnrepairableError("the charter is damaged, and no peer has it")

    def _verify_charter(self, data: bytes, newest: int) -> int | None:
        try:
            envelope = wire.decode_envelope(data)
            charter = verify_charter(
                wire.decode_charter(envelope.payload),
                envelope,
                origin=self.origin,
                root=self.root.document,
                newest=newest,
            )
        except FederationError:
            return None
        return charter.version

    def _keep_snapshot(self, number: int) -> None:
        """Keep a snapshot that is served beside the deltas, if all of it is sound.

        It can be made anew from the deltas at any time; so nobody is asked for it.
        """
        try:
            opened = self._open_snapshot(number)
            if opened.position >= self._state.size:
                return
            with self.store.update_status() as connection:
                kept = snapshots.add(
                    connection, self.number, opened.position, SnapshotState.HELD, opened.offer
                )
                for at in range(len(opened.bucket_hashes)):
                    row = self.wreck.row(
                        "SELECT bytes FROM bucket WHERE id = ?", snapshots.bucket_id(number, at)
                    )
                    data = as_bytes(None if row is None else row[0])
                    bucket = opened.open_bucket(at, data)
                    snapshots.store_bucket(connection, kept, at, data, bucket.extent())
        except (UnrepairableError, FederationError):
            return
