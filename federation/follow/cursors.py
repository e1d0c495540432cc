"""What a server answers to a cursor, and where one of its streams stands in a list.

Knows nothing of who may have a list: the caller of this module has found that out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

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


class Outcome(Enum):
    """How a server stands to a caller's cursor."""

    UP_TO_DATE = "up-to-date"
    """The caller has all that is here."""
    DELTAS = "deltas"
    """Deltas from the cursor on follow."""
    UNAVAILABLE = "unavailable"
    """There is no such list here, or the caller may not have it. One answer for both."""
    CURSOR_AHEAD = "cursor-ahead"
    """The cursor is beyond what is here."""
    DIVERGED = "diverged"
    """The log here has another root at the cursor's size."""
    SNAPSHOT = "snapshot"
    """A snapshot takes the place of deltas."""
    CURSOR_TOO_OLD = "cursor-too-old"
    """What follows the cursor is not all here, and there is no snapshot to go on from."""


FOLLOWABLE: Final = frozenset({Outcome.UP_TO_DATE, Outcome.DELTAS})
"""Answers after which deltas come, at once or later."""

CLAIMS: Final = frozenset({Outcome.CURSOR_AHEAD, Outcome.DIVERGED})
"""Answers to a caller that says it has what is not here. The owner of the list has reason to ask
its peers: something of it may be missing here."""

_SETTLED: Final = frozenset({Outcome.UP_TO_DATE, Outcome.UNAVAILABLE, Outcome.SNAPSHOT})
"""Answers that stay what they are until the list moves."""


class SnapshotReason(Enum):
    """Why a snapshot is offered in the place of deltas."""

    NOT_RETAINED = "not-retained"
    """Deltas that the caller lacks are not here."""
    CHEAPER = "cheaper"
    """They are here, and cost the caller more than the snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a caller stands in one list's log.

    Attributes:
        origin: the list, as the caller wrote it; it may be no name at all.
        size: how many deltas the caller holds.
        root_hash: the root of its log at that size; empty at 0.
        charter_version: the charter that it holds; 0 for none.
        deltas_only: whether it wants every delta, and no snapshot in their place.
    """

    origin: str
    size: int
    root_hash: bytes
    charter_version: int
    deltas_only: bool = False


class SnapshotSize(NamedTuple):
    """A snapshot that can be offered: the position of its leaf, and the bytes of its buckets."""

    position: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedList:
    """What a server has of a list that the caller may have.

    Attributes:
        size: how many deltas of its log may leave.
        start: the size from which on every leaf is here.
        charter_version: the charter in force here; 0 for none.
        snapshot: the newest that is here and may leave; None when there is none.
        root_at: the root of the log at a size, from `start` (or 1) up to `size`.
        measure: how many deltas there are from one position to before another, and the bytes of
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
    """What a cursor is answered.

    Attributes:
        outcome: what follows.
        snapshot: the position of the snapshot to go on from, with SNAPSHOT.
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
        held: what is here of the list; None when it is not here, or not for the caller.
        cursor: where the caller stands.
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
    """Return what follows a cursor when a snapshot that was chosen cannot be offered.

    It has gone since, or cannot be proved to follow from the cursor.
    """
    match reason:
        case SnapshotReason.CHEAPER:
            return Outcome.DELTAS
        case SnapshotReason.NOT_RETAINED:
            return Outcome.CURSOR_TOO_OLD


def _outcome(held: ServedList, cursor: Cursor) -> Outcome:
    """Return what follows a cursor, snapshots left aside."""
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
    """Return why a caller is to go on from a snapshot; None when it is not."""
    if outcome not in {Outcome.DELTAS, Outcome.CURSOR_TOO_OLD}:
        return None
    snapshot = held.snapshot
    if snapshot is None or cursor.deltas_only or snapshot.position < cursor.size:
        return None
    if outcome is Outcome.CURSOR_TOO_OLD:
        # That an old log is the beginning of this one can be shown by who has all of it between.
        return None if cursor.size else SnapshotReason.NOT_RETAINED
    deltas, body_bytes = held.measure(cursor.size, snapshot.position + 1)
    cost = body_bytes + deltas * (_LEAF_BYTES + _LEAF_COST)
    factor = _REPLACING if cursor.size else _STARTING
    other_cost = snapshot.size_bytes + _LEAF_BYTES + _LEAF_COST
    return SnapshotReason.CHEAPER if cost > factor * other_cost else None


@dataclass(slots=True, kw_only=True)
class StreamCursor:
    """Where a server's stream stands in one list.

    Attributes:
        cursor: what the caller has now: moves with every frame that was sent.
        outcome: the last answer; None before the first.
        behind: whether there may be more to send.
        head: how many deltas there were at that answer.
        known: where the list stood before that answer; None when it was not here.
    """

    cursor: Cursor
    outcome: Outcome | None = None
    behind: bool = False
    head: int = 0
    known: tuple[int, int] | None = None

    def look(self, now: tuple[int, int] | None) -> bool:
        """Take note of where the list stands; say whether the cursor has to be answered again.

        Args:
            now: size and charter version of the list; None when it is not here.
        """
        # A caller may follow a thousand lists, of which one has moved.
        if self.outcome in _SETTLED and self.known == now:
            return False
        self.known = now
        return True

    def tell(self, outcome: Outcome, *, head: int, charter_version: int) -> bool:
        """Take note of an answer; say whether the caller has to be told.

        Between UP_TO_DATE and DELTAS the frames alone say how a list goes on.

        Args:
            outcome: the answer.
            head: how many deltas of the list may leave.
            charter_version: that of the charter that goes with it; 0 when none does.
        """
        was = self.outcome
        self._stand(outcome, head)
        if charter_version:
            self.cursor = replace(self.cursor, charter_version=charter_version)
            return True
        return was is not outcome and not (was in FOLLOWABLE and outcome in FOLLOWABLE)

    def withdraw(self, outcome: Outcome) -> None:
        """Take note that another answer has taken the place of the last one."""
        self._stand(outcome, self.head)

    def advance(self, size: int, root_hash: bytes) -> None:
        """Take note that deltas up to a size were sent."""
        self.cursor = replace(self.cursor, size=size, root_hash=root_hash)
        # What came after the answer has a wake-up of its own.
        self.behind = size < self.head

    def _stand(self, outcome: Outcome, head: int) -> None:
        self.outcome, self.head = outcome, head
        self.behind = outcome is Outcome.DELTAS
