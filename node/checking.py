"""Checks of what is stored against what was signed.

Two kinds: what acceptance leaves for later (the ops tree and the state digest of each delta, which
bind nothing that the body's digest does not bind already), and all of it (`fsck`): every signature,
leaf, root, body, operation and index row, from the signed bytes alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from federation import state as states
from federation.body import Body
from federation.errors import FederationError, ProofError, Reason
from federation.header import Header
from federation.replica import LogState, Replica, SignedDelta
from node.clock import Clock
from node.errors import DamageError
from node.store import entries, log, registry
from node.store.connection import Store
from node.store.registry import FollowState, ListRecord


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
        while at < record.log.size and time.monotonic() < deadline:
            try:
                check_commitments(store, record, at)
            except ProofError as error:
                with store.note() as connection:
                    registry.store_follow_state(
                        connection,
                        record.list,
                        FollowState.QUARANTINED,
                        now_ms=clock.now_ms(),
                        reason=error.reason,
                        detail=str(error),
                    )
                break
            at += 1
        if at > record.checked:
            checked += at - record.checked
            with store.note() as connection:
                registry.store_checked(connection, record.list, at)
    return checked


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
    for (line,) in store.connection.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield Damage(origin="", position=None, message=f"database file: {line}")
    postings = superseded = 0
    for record in registry.iter_lists(store.connection):
        root = registry.load_root(store.connection, record.origin.org)
        if root is None:
            yield Damage(origin=str(record.origin), position=None, message="no pinned root")
            continue
        check = _ListCheck(store, record, Replica(record.origin, root, LogState.empty()))
        for position in range(record.log.size):
            yield from check.delta(position)
            on_progress(str(record.origin), position + 1, record.log.size)
            if check.lost:
                break
        yield from check.finish()
        postings += check.postings
        superseded += check.superseded
    for table, expected in (("posting", postings), ("superseded", superseded)):
        (rows,) = store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if rows != expected:
            yield Damage(
                origin="",
                position=None,
                message=f"index: got {rows} rows in {table}, {expected} from the signed bytes",
            )


class _ListCheck:
    """Follows one list's log from its first delta, as a subscriber would."""

    def __init__(self, store: Store, record: ListRecord, replica: Replica) -> None:
        self._store = store
        self._record = record
        self._replica = replica
        self._digest = states.EMPTY
        self.postings = 0
        self.superseded = 0
        self.lost = False

    def _damage(self, position: int | None, message: str) -> Damage:
        return Damage(origin=str(self._record.origin), position=position, message=message)

    def delta(self, position: int) -> Iterator[Damage]:
        """Check one delta and the index rows that it made."""
        connection, number = self._store.connection, self._record.list
        held = log.load_record(connection, number, position)
        data = log.load_body_bytes(connection, number, position)
        if held is None or data is None:
            self.lost = True
            yield self._damage(position, "the signed bytes are missing")
            return
        delta = SignedDelta(held.header, data, held.checkpoint)
        prior = entries.load_superseded_by(connection, number, position)
        try:
            # The time of arrival is not known any more: a time cannot be in the future of itself.
            time_ms = Header.parse(held.header).time_ms
            candidate = self._replica.receive(delta, now_ms=time_ms)
            self._replica.conclude(candidate, prior)
        except FederationError as error:
            self.lost = True
            yield self._damage(position, f"{error} ({error.reason})")
            return
        body = candidate.body
        self._digest = states.advance(self._digest, body, position, prior)
        if body.ops_root() != candidate.header.ops_root:
            yield self._damage(position, "its operations do not hash to the root that was signed")
        if self._digest != candidate.header.state_digest:
            yield self._damage(position, "the live set is not the one that was signed")
        yield from self._index(position, body)
        self.superseded += len(prior)

    def _index(self, position: int, body: Body) -> Iterator[Damage]:
        expected, found = entries.check_index(
            self._store.connection, self._record.list, position, body
        )
        self.postings += expected
        if found != expected:
            yield self._damage(
                position, f"index: {found} of {expected} fingerprints and names are found"
            )

    def finish(self) -> Iterator[Damage]:
        """Compare where the log stands with what the store says."""
        if not self.lost and self._replica.state != self._record.log:
            yield self._damage(None, "the log's recorded state is not what its deltas make")
