"""How a server answers a cursor, and the progress of its stream in a list.

The caller has already found out who may have the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

_LEAF_BYTES: Final = 540
"""Bytes of a delta's header and checkpoint."""

_LEAF_COST: Final = 2_000
"""What a delta costs its reader besides its bytes, in bytes: mostly two signatures, some 150 us,
while a body is fetched, verified and indexed at some 30 bytes a us."""

_REPLACING: Final = 2.0
"""How many times as expensive as the snapshot the deltas must be if the caller has entries: it
would fetch the whole live set, and its history would get a gap."""

_STARTING: Final = 1.25
"""The same for a caller that has nothing yet."""


class Outcome(Enum):
    """A server's answer to a cursor."""

    UP_TO_DATE = "up-to-date"
    """The caller has everything that is here."""
    DELTAS = "deltas"
    """Deltas from the cursor on follow."""
    UNAVAILABLE = "unavailable"
    """There is no such list here, or the caller may not have it. Both get the same answer."""
    CURSOR_AHEAD = "cursor-ahead"
    """The cursor is beyond what is here."""
    DIVERGED = "diverged"
    """The log here has another root at the cursor's size."""
    SNAPSHOT = "snapshot"
    """A snapshot replaces deltas."""
    CURSOR_TOO_OLD = "cursor-too-old"
    """Some of the deltas after the cursor are not here, and there is no snapshot to start from."""


FOLLOWABLE: Final = frozenset({Outcome.UP_TO_DATE, Outcome.DELTAS})
"""Answers after which deltas follow, at once or later."""

CLAIMS: Final = frozenset({Outcome.CURSOR_AHEAD, Outcome.DIVERGED})
"""Answers to a caller that says it has something that is not here. If we own the list, a part of it
may be missing here, so we should ask our peers."""

_SETTLED: Final = frozenset({Outcome.UP_TO_DATE, Outcome.UNAVAILABLE, Outcome.SNAPSHOT})
"""Answers that stay the same until the list changes."""


class SnapshotReason(Enum):
    """Why a snapshot is offered instead of deltas."""

    NOT_RETAINED = "not-retained"
    """Some deltas that the caller lacks are not here."""
    CHEAPER = "cheaper"
    """The deltas are here, but cost the caller more than the snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A caller's position in one list's log.

    Attributes:
        origin: the list as the caller wrote it, which may not be a valid name.
        size: how many deltas the caller holds.
        root_hash: the root of its log at that size; empty at 0.
        charter_version: the charter that it holds; 0 for none.
        deltas_only: whether it wants every delta, and no snapshot instead.
    """

    origin: str
    size: int
    root_hash: bytes
    charter_version: int
    deltas_only: bool = False


class SnapshotSize(NamedTuple):
    """A snapshot that can be offered: the position of its leaf, and the size of its buckets."""

    position: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedList:
    """The state of a list at a server, for a caller that may have it.

    Attributes:
        size: how many deltas of its log may leave.
        start: the size from which on every leaf is here.
        charter_version: the charter in force here; 0 for none.
        snapshot: the newest snapshot that is here and may leave; None if there is none.
        root_at: returns the root of the log at a size, from `start` (or 1) to `size`.
        measure: returns the number of deltas from one position to before another, and the bytes of
            their bodies.
    """

    size: int
    start: int
    charter_version: int
    snapshot: SnapshotSize | None
    root_at: Callable[[int], bytes]
    measure: Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to a cursor.

    Attributes:
        outcome: what follows.
        snapshot: the position of the snapshot to start from, with SNAPSHOT.
        reason: why, with SNAPSHOT.
        charter: whether the caller's charter is older than the one here.
    """

    outcome: Outcome
    snapshot: int | None = None
    reason: SnapshotReason | None = None
    charter: bool = False


def answer(held: ServedList | None, cursor: Cursor) -> Reply:
    """Answer a cursor.

    Args:
        held: the list; None if it is not here, or not for the caller.
        cursor: the caller's position.
    """
    if held is None:
        return Reply(outcome=Outcome.UNAVAILABLE)
    outcome = _outcome(held, cursor)
    reason = _snapshot_reason(held, cursor, outcome)
    charter = held.charter_version > cursor.charter_version
    if reason is None or held.snapshot is None:
        return Reply(outcome=outcome, charter=charter)
    return Reply(
        outcome=Outcome.SNAPSHOT,
        snapshot=held.snapshot.position,
        reason=reason,
        charter=charter,
    )


def without_snapshot(reason: SnapshotReason) -> Outcome:
    """Return the answer to a cursor if the chosen snapshot cannot be offered.

    The snapshot is gone, or nobody can prove that it follows from the cursor.
    """
    match reason:
        case SnapshotReason.CHEAPER:
            return Outcome.DELTAS
        case SnapshotReason.NOT_RETAINED:
            return Outcome.CURSOR_TOO_OLD


def _outcome(held: ServedList, cursor: Cursor) -> Outcome:
    """Return the answer to a cursor without considering snapshots."""
    if cursor.size > held.size:
        return Outcome.CURSOR_AHEAD
    if 0 < cursor.size < held.start:
        return Outcome.CURSOR_TOO_OLD
    if cursor.size and cursor.root_hash != held.root_at(cursor.size):
        return Outcome.DIVERGED
    if cursor.size == held.size:
        return Outcome.UP_TO_DATE
    return Outcome.DELTAS if cursor.size >= held.start else Outcome.CURSOR_TOO_OLD


def _snapshot_reason(held: ServedList, cursor: Cursor, outcome: Outcome) -> SnapshotReason | None:
    """Return why a caller should start from a snapshot; None if it should not."""
    if outcome not in {Outcome.DELTAS, Outcome.CURSOR_TOO_OLD}:
        return None
    snapshot = held.snapshot
    if snapshot is None or cursor.deltas_only or snapshot.position < cursor.size:
        return None
    if outcome is Outcome.CURSOR_TOO_OLD:
        # Only with all leaves between can it be proved that an old log is the beginning of this
        # one.
        return None if cursor.size else SnapshotReason.NOT_RETAINED
    deltas, body_bytes = held.measure(cursor.size, snapshot.position + 1)
    cost = body_bytes + deltas * (_LEAF_BYTES + _LEAF_COST)
    factor = _REPLACING if cursor.size else _STARTING
    other_cost = snapshot.size_bytes + _LEAF_BYTES + _LEAF_COST
    return SnapshotReason.CHEAPER if cost > factor * other_cost else None


@dataclass(slots=True, kw_only=True)
class StreamCursor:
    """The progress of a server's stream in one list.

    Attributes:
        cursor: what the caller has now; it moves with every frame that is sent.
        outcome: the last answer; None before the first.
        behind: whether there may be more to send.
        head: how many deltas there were at that answer.
        known: the state of the list before that answer; None if it was not here.
    """

    cursor: Cursor
    outcome: Outcome | None = None
    behind: bool = False
    head: int = 0
    known: tuple[int, int] | None = None

    def look(self, now: tuple[int, int] | None) -> bool:
        """Take note of the state of the list; return whether to answer the cursor again.

        Args:
            now: size and charter version of the list; None if it is not here.
        """
        # A caller may follow a thousand lists, of which only one has changed.
        if self.outcome in _SETTLED and self.known == now:
            return False
        self.known = now
        return True

    def tell(self, outcome: Outcome, *, head: int, charter_version: int) -> bool:
        """Take note of an answer; return whether to tell the caller.

        A change between UP_TO_DATE and DELTAS is not told, as the frames say it.

        Args:
            outcome: the answer.
            head: how many deltas of the list may leave.
            charter_version: the version of the charter in the answer; 0 if it has none.
        """
        was = self.outcome
        self._stand(outcome, head)
        if charter_version:
            self.cursor = replace(self.cursor, charter_version=charter_version)
            return True
        return was is not outcome and not (was in FOLLOWABLE and outcome in FOLLOWABLE)

    def withdraw(self, outcome: Outcome) -> None:
        """Take note that another answer has replaced the last one."""
        self._stand(outcome, self.head)

    def advance(self, size: int, root_hash: bytes) -> None:
        """Take note that deltas up to a size were sent."""
        self.cursor = replace(self.cursor, size=size, root_hash=root_hash)
        # Anything that came after the answer has its own wake-up.
        self.behind = size < self.head

    def _stand(self, outcome: Outcome, head: int) -> None:
        self.outcome, self.head = outcome, head
        self.behind = outcome is Outcome.DELTAS
