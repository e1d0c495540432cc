"""Decides whether a publisher may sign the next position of one of its lists, and if not, why.

A position is signed once. A publisher could sign it again if its store is older than what it has
released: restored from a backup, rolled back with its disk, or copied to a second machine. Three
witnesses say what was released: the store, the high-water mark outside of the store, and the peers.
This module compares what they say. It asks nobody, reads no file and has no clock.

A signed time cannot be taken back: after a delta from the year 2036, a list accepts none from 2026.
So the clock is also compared with the peers' clocks before anything is signed.

Rules:

1. Nothing is signed against knowledge. If the mark or a peer shows a newer position than the store
   has, or another history, nobody can override that. The missing deltas are fetched.
2. If knowledge is missing (no usable mark, no answers), nothing is signed either until every peer,
or
   as many as the operator requires, has answered, or until the operator takes the risk.
3. A peer can cause a delay by showing less than it has. It cannot invent anything, as we signed
what
   it shows.
4. Nothing is signed while the clock is ahead of most peers' clocks. Nobody signs what peers say
   about the time, so an operator who knows better can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from federation import limits
from federation.checkpoint import Checkpoint, open_checkpoint
from federation.follow import FollowState, open_charter
from federation.names import OrgName, Origin
from federation.trust.charter import Charter
from federation.trust.orgroot import PinnedRoot

MAX_PAUSE_MS: Final = 366 * 24 * 60 * 60 * 1000
"""How far the clock may be after all stored times while no peer tells the time, in milliseconds.

Nobody can tell a clock that jumped from a pause, and a list may be signed once a year. So a shorter
jump passes while all peers are silent; one of ten years does not.
"""


class Obstacle(StrEnum):
    """What prevents a publisher's next signature. Stable words."""

    MARK_MISSING = "MARK_MISSING"
    """The list has no high-water mark."""
    MARK_DAMAGED = "MARK_DAMAGED"
    """The mark cannot be read, or its checksum is wrong."""
    MARK_FOREIGN = "MARK_FOREIGN"
    """The mark belongs to another organization."""
    RESTORED = "RESTORED"
    """The store is not the one that raised the mark: it was restored, or is a copy."""
    AHEAD_OF_MARK = "AHEAD_OF_MARK"
    """The store has more than one step that the mark lacks, so the mark is old."""
    BEHIND_MARK = "BEHIND_MARK"
    """The store has less than the mark: released positions are missing here."""
    MARK_DIFFERS = "MARK_DIFFERS"
    """The store's history is not the one that was marked."""
    BEHIND_PEER = "BEHIND_PEER"
    """A peer holds a newer checkpoint of ours."""
    PEER_DIFFERS = "PEER_DIFFERS"
    """A peer holds a checkpoint of ours that contradicts this store's history."""
    PEERS_SILENT = "PEERS_SILENT"
    """Too few peers have answered since this machine was started."""
    TIME_BACKWARDS = "TIME_BACKWARDS"
    """The clock is behind the newest delta."""
    CLOCK_AHEAD = "CLOCK_AHEAD"
    """The clock is ahead of most peers' clocks, or too far after all stored times."""


DIVERGED: Final = frozenset({Obstacle.MARK_DIFFERS, Obstacle.PEER_DIFFERS})
"""Obstacles that mean that two histories are signed, so that only a person can decide."""

_OVERRIDABLE: Final = frozenset(
    {
        Obstacle.MARK_MISSING,
        Obstacle.MARK_DAMAGED,
        Obstacle.MARK_FOREIGN,
        Obstacle.RESTORED,
        Obstacle.AHEAD_OF_MARK,
        Obstacle.PEERS_SILENT,
        Obstacle.CLOCK_AHEAD,
    }
)


class Action(Enum):
    """What a publisher does next."""

    SIGN = "sign"
    """Sign: store, mark and peers agree."""
    FINISH = "finish"
    """Raise the mark to what the store has, then go on."""
    CATCH_UP = "catch-up"
    """Fetch from peers what they have of the list; serve reads, but sign nothing."""
    REFUSE = "refuse"
    """Serve reads, but sign nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLog:
    """What the store says about one of our own lists.

    Attributes:
        checkpoint: its newest size and root.
        settled: its size before the newest committed step; everything below was released.
        incarnation: the token of this store, which changes with each restore.
        last_time_ms: the time of its newest delta.
        root_at: returns the root of its log at an earlier size, from 1 on.
        newest_ms: the newest signed time of any list in the store; 0 if there is none.
    """

    checkpoint: Checkpoint
    settled: int
    incarnation: bytes
    last_time_ms: int
    root_at: Callable[[int], bytes]
    newest_ms: int = 0

    @property
    def size(self) -> int:
        """How many deltas it has."""
        return self.checkpoint.size

    def contradicts(self, other: Checkpoint) -> bool:
        """Return whether a checkpoint of ours belongs to another history than this one."""
        return 0 < other.size <= self.size and self.root_at(other.size) != other.root_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The high-water mark of one list.

    Attributes:
        checkpoint: the newest size and root that may have been released.
        incarnation: the token of the store that raised it.
        fresh: whether it is known to be the newest: it was compared with the peers since the
            machine was started, and only this program has changed it since.
        accepted_lead_ms: how far ahead the clock may be, because the operator has said since then
            that it is right.
    """

    checkpoint: Checkpoint
    incarnation: bytes
    fresh: bool
    accepted_lead_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReport:
    """What one peer said about one of our lists.

    Attributes:
        peer: the peer.
        answered: whether it answered at all.
        checkpoint: the newest checkpoint of ours that it holds, verified; None for none.
        time_ms: the time of its clock then; None if it did not say.
    """

    peer: OrgName
    answered: bool
    checkpoint: Checkpoint | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a publisher does next with one list.

    Attributes:
        action: the action.
        obstacle: what prevents signing; None if nothing does.
        detail: the same in a sentence; empty if nothing does.
        overridable: whether an operator can take the risk, as knowledge is only missing.
        sources: the peers to catch up from; the peer with most comes first.
    """

    action: Action
    obstacle: Obstacle | None = None
    detail: str = ""
    overridable: bool = False
    sources: tuple[OrgName, ...] = ()

    @property
    def doubts_mark(self) -> bool:
        """Whether the mark must be compared with the peers before it counts as the newest."""
        return self.obstacle not in {None, Obstacle.TIME_BACKWARDS}


def state_of(decision: Decision) -> FollowState:
    """Return the state of one of our lists."""
    if decision.obstacle is None:
        return FollowState.OWN
    return FollowState.FORKED if decision.obstacle in DIVERGED else FollowState.RECOVERING


def standing(decision: Decision, reason: str) -> tuple[FollowState, str] | None:
    """Return the state of one of our lists and its reason; None if the recorded one is to stay.

    Args:
        decision: what is known now.
        reason: the recorded reason.
    """
    state = state_of(decision)
    if state is FollowState.RECOVERING and reason == Obstacle.PEER_DIFFERS:
        # It was proved that two histories are signed; being behind one of them is less serious.
        return None
    return state, str(decision.obstacle or "")


def is_settled(decision: Decision, *, is_released: bool) -> bool:
    """Return whether nothing can be done for one of our lists until the peers are asked again.

    Args:
        decision: what is known now.
        is_released: whether everything committed of the list is released.
    """
    # A publisher may have been killed between the mark and the release: then everything agrees,
    # but what it has signed is not served to anybody.
    in_order = decision.action is Action.SIGN and is_released
    return in_order or decision.action is Action.REFUSE


def read_report(
    peer: OrgName,
    origin: Origin,
    root: PinnedRoot,
    *,
    checkpoint: bytes,
    charter: bytes,
    time_ms: int | None,
) -> tuple[PeerReport, Charter | None]:
    """Return what a peer says about one of our lists, and the charter that it holds.

    Args:
        peer: the peer.
        origin: the list.
        root: our org root.
        checkpoint: the newest checkpoint that it shows; empty for none.
        charter: the charter that it shows; empty for none.
        time_ms: the time of its clock; None if it does not say.

    Raises:
        PeerError: we did not sign what it shows, so this is not a report.
    """
    newest = None
    if checkpoint:
        newest = open_checkpoint(checkpoint, str(origin), root.document.log_verifiers(origin))
    held = open_charter(charter, origin, root, newest=0) if charter else None
    return PeerReport(peer=peer, answered=True, checkpoint=newest, time_ms=time_ms), held


def decide(
    own: OwnLog,
    mark: Mark | Obstacle,
    answers: Sequence[PeerReport],
    *,
    now_ms: int,
    needed: int | None = None,
    risk: bool = False,
) -> Decision:
    """Decide what a publisher does next with one of its lists.

    Args:
        own: what the store says.
        mark: the mark, or why it cannot be used.
        answers: a report for each peer, including those that did not answer or were not asked yet.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.
        needed: how many peers must have answered if answers are needed; None for all.
        risk: whether the operator goes on without the missing knowledge.
    """
    if known := _against_knowledge(own, mark, answers, now_ms):
        return known
    fresh = isinstance(mark, Mark) and mark.fresh
    equal = isinstance(mark, Mark) and mark.checkpoint == own.checkpoint
    missing = [] if risk else list(_missing_knowledge(own, mark, answers, now_ms, needed))
    if missing:
        # A person who takes a risk should know all of it.
        return _refuse(missing[0][0], "; ".join(detail for _, detail in missing))
    raised = isinstance(mark, Mark) and mark.incarnation == own.incarnation and equal
    return Decision(action=Action.SIGN if raised and fresh else Action.FINISH)


def median(times: Sequence[int]) -> int:
    """Return the median of times; the later one of the two middle times."""
    return sorted(times)[len(times) // 2]


def measure_lead(own: OwnLog, answers: Sequence[PeerReport], now_ms: int) -> int:
    """Return how far the clock is ahead, in milliseconds, if that is too much for signing; else 0.

    It is compared with the median of the peers' clocks: more than half of those that tell the time
    must be behind. If no peer tells the time, it is compared with the stored times.
    """
    times = [answer.time_ms for answer in answers if answer.time_ms is not None]
    if times:
        lead, allowed = now_ms - median(times), limits.MAX_CLOCK_SKEW_MS
    elif own.newest_ms:
        lead, allowed = now_ms - own.newest_ms, MAX_PAUSE_MS
    else:
        return 0
    return lead if lead > allowed else 0


def accept_lead(own: OwnLog, answers: Sequence[PeerReport], now_ms: int) -> int:
    """Return the lead, in milliseconds, that an operator accepts by going on at a risk."""
    lead = measure_lead(own, answers, now_ms)
    # The next answers may take longer to come than these.
    return lead + limits.MAX_CLOCK_SKEW_MS if lead else 0


def _against_knowledge(
    own: OwnLog, mark: Mark | Obstacle, answers: Sequence[PeerReport], now_ms: int
) -> Decision | None:
    """Return known facts that forbid signing regardless of any decision; None if there are none."""
    held = [answer for answer in answers if answer.checkpoint is not None]
    if isinstance(mark, Mark) and own.contradicts(mark.checkpoint):
        return _refuse(
            Obstacle.MARK_DIFFERS,
            f"the store at size {mark.checkpoint.size} is not what was marked",
        )
    for answer in held:
        if answer.checkpoint is not None and own.contradicts(answer.checkpoint):
            return _refuse(
                Obstacle.PEER_DIFFERS,
                f"{answer.peer} has another history of it, signed by us, at size "
                f"{answer.checkpoint.size}",
            )
    ahead = sorted(
        ((answer.checkpoint.size, answer.peer) for answer in held if answer.checkpoint),
        key=lambda item: (-item[0], item[1]),
    )
    ahead = [(size, peer) for size, peer in ahead if size > own.size]
    if ahead:
        size, peer = ahead[0]
        return Decision(
            action=Action.CATCH_UP,
            obstacle=Obstacle.BEHIND_PEER,
            detail=f"{peer} has {size} deltas of it, this node has only {own.size}",
            sources=tuple(peer for _, peer in ahead),
        )
    if isinstance(mark, Mark) and mark.checkpoint.size > own.size:
        return _refuse(
            Obstacle.BEHIND_MARK,
            f"{mark.checkpoint.size} deltas of it were released, this node has only {own.size}",
        )
    if now_ms < own.last_time_ms:
        return _refuse(
            Obstacle.TIME_BACKWARDS,
            f"the clock is {own.last_time_ms - now_ms} ms behind its newest delta",
        )
    return None


_DOUBTS: Final = {
    Obstacle.MARK_MISSING: "its high-water mark is missing",
    Obstacle.MARK_DAMAGED: "its high-water mark is damaged",
    Obstacle.MARK_FOREIGN: "its high-water mark belongs to another organization",
    Obstacle.RESTORED: "the store is not the one that raised its high-water mark",
    Obstacle.AHEAD_OF_MARK: "its high-water mark is older than the store",
}


def _missing_knowledge(
    own: OwnLog,
    mark: Mark | Obstacle,
    answers: Sequence[PeerReport],
    now_ms: int,
    needed: int | None,
) -> Iterator[tuple[Obstacle, str]]:
    """Yield the missing knowledge that is needed before anything is signed."""
    doubt = _doubt(own, mark)
    answered = sum(answer.answered for answer in answers)
    enough = answered >= _needed(len(answers), needed)
    if doubt is not None and not (enough and answered):
        yield doubt, f"{_DOUBTS[doubt]}; {_counted(answers, needed)}"
    fresh = isinstance(mark, Mark) and mark.fresh
    if doubt is None and not fresh and not enough:
        yield Obstacle.PEERS_SILENT, _counted(answers, needed)
    lead = measure_lead(own, answers, now_ms)
    if lead > (mark.accepted_lead_ms if isinstance(mark, Mark) else 0):
        yield Obstacle.CLOCK_AHEAD, f"the clock is {lead // 1000} s ahead of {_compared(answers)}"


def _compared(answers: Sequence[PeerReport]) -> str:
    """Return what the clock was compared with, in words."""
    told = [answer.peer for answer in answers if answer.time_ms is not None]
    if not told:
        return "all stored times, and no peer has told the time"
    return f"the peers' clocks (the median of {', '.join(told)})"


def _doubt(own: OwnLog, mark: Mark | Obstacle) -> Obstacle | None:
    """Return why the mark does not show that nothing newer was released."""
    if isinstance(mark, Obstacle):
        return mark
    if mark.incarnation != own.incarnation:
        # A fresh mark is an upper bound: any store that has all of it has everything that was
        # released.
        all_here = mark.fresh and mark.checkpoint == own.checkpoint
        return None if all_here else Obstacle.RESTORED
    # At most one step is between commit and mark; more means that the mark was put back.
    return Obstacle.AHEAD_OF_MARK if mark.checkpoint.size < own.settled else None


def _needed(peers: int, needed: int | None) -> int:
    return peers if needed is None else min(needed, peers)


def _counted(answers: Sequence[PeerReport], needed: int | None) -> str:
    if not answers:
        return "there is no peer to ask"
    silent = [answer.peer for answer in answers if not answer.answered]
    need = _needed(len(answers), needed)
    return (
        f"{len(answers) - len(silent)} of {len(answers)} peers have answered, "
        f"{'all' if need == len(answers) else need} are needed (silent: {', '.join(silent)})"
    )


def _refuse(obstacle: Obstacle, detail: str) -> Decision:
    return Decision(
        action=Action.REFUSE,
        obstacle=obstacle,
        detail=detail,
        overridable=obstacle in _OVERRIDABLE,
    )
