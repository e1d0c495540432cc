"""Checks of what is stored against what was signed.

Two kinds: what acceptance leaves for later (the ops tree and the state digest of each delta, which
bind nothing that the body's digest does not bind already), and all of it (`fsck`): every signature,
leaf, root, body, operation and index row, from the signed bytes alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from federation import state as states
from federation import wire
from federation.charter import verify_charter
from federation.checkpoint import open_checkpoint
from federation.errors import FederationError, ProofError, Reason
from federation.header import NO_LEAF, Header, leaf_hash, verify_header
from federation.orgroot import PinnedRoot
from federation.replica import LogState, Replica, SignedDelta
from node.clock import Clock
from node.errors import DamageError
from node.store import entries, history, log, registry
from node.store.connection import Store
from node.store.registry import FollowState, ListRecord
from node.store.sqlite import sqlite3


def check_behind(store: Store, budget_seconds: float, *, clock: Clock) -> int:
    """Check ops trees and state digests of deltas that were accepted without, for a while.

    A header whose two commitments disagree is signed evidence against its publisher: the list is
    quarantined, and nothing is taken back.

    Args:
        store: the store, open for writing.
        budget_seconds: stop after about this long.
        clock: tells the time of a change of state.

    Returns:
        How many deltas were checked; 0 when none were left.
    """
    deadline = time.monotonic() + budget_seconds
    checked = 0
    for record in list(registry.iter_lists(store.connection)):
        at = record.checked
        fault: ProofError | None = None
        while fault is None and at < record.log.size and time.monotonic() < deadline:
            try:
                check_commitments(store, record, at)
            except ProofError as error:
                fault = error
            at += 1
        if at > record.checked:
            checked += at - record.checked
            with store.note() as connection:
                # What fails counts as checked too: it is noted once, and a person who follows the
                # list all the same is not stopped by it again.
                registry.store_checked(connection, record.list, at)
                if fault is not None:
                    _quarantine(connection, record, fault, clock.now_ms())
    return checked


def _quarantine(
    connection: sqlite3.Connection, record: ListRecord, fault: ProofError, now_ms: int
) -> None:
    held = registry.load_follow_status(connection, record.list)
    if held.state is not FollowState.FORKED:
        registry.store_follow_state(
            connection,
            record.list,
            FollowState.QUARANTINED,
            now_ms=now_ms,
            reason=fault.reason,
            detail=str(fault),
        )


def check_commitments(store: Store, record: ListRecord, position: int) -> None:
    """Check the ops tree and the state digest of one accepted delta.

    Raises:
        ProofError: OPS_ROOT_MISMATCH or STATE_DIGEST_MISMATCH.
        DamageError: the delta is not there.
    """
    before = states.EMPTY
    if position:
        before = _header(store, record, position - 1).state_digest
    header = _header(store, record, position)
    body = log.load_body(store.connection, record.list, position)
    prior = entries.load_superseded_by(store.connection, record.list, position)
    if body.ops_root() != header.ops_root:
        raise ProofError(
            f"position {position} of {record.origin}: its operations do not hash to the root "
            "that was signed",
            reason=Reason.OPS_ROOT_MISMATCH,
        )
    if states.advance(before, body, position, prior) != header.state_digest:
        raise ProofError(
            f"position {position} of {record.origin}: the live set is not the one that was signed",
            reason=Reason.STATE_DIGEST_MISMATCH,
        )


def check_tail(store: Store, record: ListRecord, root: PinnedRoot, deltas: int) -> None:
    """Check that a list's newest deltas and its recorded state are what was signed.

    Bounded, unlike `fsck`: what a failing disk loses or changes is what was written last.

    Args:
        store: the store.
        record: the list.
        root: its owner's org root.
        deltas: how many of the newest to look at.

    Raises:
        DamageError: they are not; nothing may be signed upon them.
    """
    size = record.log.size
    start = max(0, size - deltas)
    held = list(log.iter_records(store.connection, record.list, start, size))
    try:
        before = log.load_record(store.connection, record.list, start - 1) if start else None
        previous = NO_LEAF if before is None else leaf_hash(before.header)
        if [record.position for record in held] != list(range(start, size)):
            raise ProofError("a position is missing")
        for at in held:
            header = Header.parse(at.header)
            verify_header(at.header, root.document.publisher_key(header.key_id))
            data = log.load_body_bytes(store.connection, record.list, at.position) or b""
            if (header.position, header.previous) != (at.position, previous):
                raise ProofError(f"position {at.position} does not follow the one before")
            if sha256(data).digest() != header.body_digest:
                raise ProofError(f"the body of position {at.position} is not the one signed")
            previous = leaf_hash(at.header)
        if held:
            verifiers = root.document.log_verifiers(record.origin)
            newest = open_checkpoint(held[-1].checkpoint, str(record.origin), verifiers)
            if (newest.size, newest.root_hash) != (size, record.log.frontier.root()):
                raise ProofError("the recorded state has another root than was signed")
        if record.log.last_leaf != previous:
            raise ProofError("the recorded state ends with another delta than the newest")
    except FederationError as error:
        raise DamageError(
            f"the newest deltas of {record.origin} are damaged: {error}",
            hint="nothing was signed; run 'hashfed fsck', keep the file, restore a backup",
        ) from error


def _header(store: Store, record: ListRecord, position: int) -> Header:
    held = log.load_record(store.connection, record.list, position)
    if held is None:
        raise DamageError(f"position {position} of {record.origin} is missing")
    return Header.parse(held.header)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something stored that is not what was signed.

    Attributes:
        origin: the list, as text.
        position: the delta's position; None when it concerns the list or the file.
        message: what is wrong.
    """

    origin: str
    position: int | None
    message: str


def fsck(
    store: Store, *, on_progress: Callable[[str, int, int], None] = lambda _o, _d, _n: None
) -> Iterator[Damage]:
    """Derive everything anew from the signed bytes, and yield what differs.

    One delta is in memory at a time. What the index says is compared delta by delta, and as a
    whole by the number of its rows.

    Args:
        store: the store.
        on_progress: told (origin, deltas done, deltas) after each delta.
    """
    # One version of the store: what others commit meanwhile would look like damage.
    with store.snapshot() as connection:
        yield from _guarded("", _check_file(connection))
        origins: dict[int, str] = {}
        expected: Counter[str] = Counter()
        lost = False
        for number, origin in list(registry.iter_origins(connection)):
            origins[number] = origin
            check = _ListCheck(connection, number, origin)
            yield from _guarded(origin, check.run(on_progress))
            expected += check.rows
            lost = lost or check.lost
        yield from _guarded("", _check_intervals(connection, origins, expected))
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
                origin=origins.get(interval.list, ""),
                position=interval.position,
                message=f"index: until when row {interval.row} was in force is not what follows "
                "from the operations on its entry",
            )


def _check_rows(connection: sqlite3.Connection, expected: Counter[str]) -> Iterator[Damage]:
    for table in ("delta", "body", "posting", "superseded"):
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if rows != expected[table]:
            yield Damage(
                origin="",
                position=None,
                message=f"got {rows} rows in {table}, {expected[table]} from the signed bytes",
            )


class _ListCheck:
    """Follows one list's log from its first delta, as a subscriber would.

    Attributes:
        rows: how many rows of each table the list must have.
        lost: whether the log could not be followed to its end.
    """

    def __init__(self, connection: sqlite3.Connection, number: int, origin: str) -> None:
        self.rows: Counter[str] = Counter()
        self.lost = True
        self._connection = connection
        self._number = number
        self._origin = origin
        self._digest = states.EMPTY

    def _damage(self, position: int | None, message: str) -> Damage:
        return Damage(origin=self._origin, position=position, message=message)

    def run(self, on_progress: Callable[[str, int, int], None]) -> Iterator[Damage]:
        """Check the list; what cannot even be read is raised."""
        record = registry.load_list_by_number(self._connection, self._number)
        root = registry.load_root(self._connection, record.origin.org)
        if root is None:
            yield self._damage(None, "no pinned root")
            return
        yield from self._charter(record, root)
        replica = Replica(record.origin, root, LogState.empty())
        size = record.log.size
        for position in range(size):
            fault = yield from self._delta(replica, position)
            on_progress(self._origin, position + 1, size)
            if fault:
                return
        self.lost = False
        if replica.state != record.log or record.checked > size:
            yield self._damage(None, "the log's recorded state is not what its deltas make")

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

    def _delta(self, replica: Replica, position: int) -> Generator[Damage, None, bool]:
        """Check one delta and the index rows that it made; return whether to go no further."""
        held = log.load_record(self._connection, self._number, position)
        data = log.load_body_bytes(self._connection, self._number, position)
        if held is None or data is None:
            yield self._damage(position, "the signed bytes are missing")
            return True
        delta = SignedDelta(held.header, data, held.checkpoint)
        prior = entries.load_superseded_by(self._connection, self._number, position)
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
        if body.ops_root() != candidate.header.ops_root:
            yield self._damage(position, "its operations do not hash to the root that was signed")
        if self._digest != candidate.header.state_digest:
            yield self._damage(position, "the live set is not the one that was signed")
        if held.body_size != len(data):
            yield self._damage(
                position, f"got a body of {len(data)} bytes, recorded {held.body_size}"
            )
        expected, found = entries.check_index(self._connection, self._number, position, body)
        if found != expected:
            yield self._damage(
                position, f"index: {found} of {expected} fingerprints and names are found"
            )
        self.rows.update(delta=1, body=1, posting=expected)
        return False
