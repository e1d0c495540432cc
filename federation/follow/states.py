"""How a list that is followed stands, and what each piece of news makes of it.

`TRANSITIONS` is the one table of it. Every state has a row, and every row decides every piece of
news. A list of this node's own has no row: nothing is learnt of it by following.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from federation.errors import FederationError, ForkError, Reason, UsageError


class FollowState(StrEnum):
    """How following a list goes, as an operator sees it."""

    OWN = "own"
    """Ours: nothing to follow."""
    RECOVERING = "recovering"
    """Ours, and not signed for now: something newer of it may have been released."""
    CATCHING_UP = "catching-up"
    """Deltas are known to be missing, or the peer has not been asked yet."""
    CURRENT = "current"
    """All that the peer has is here."""
    STALE = "stale"
    """The peer cannot be reached, or does not have the list for us; what is here still counts."""
    QUARANTINED = "quarantined"
    """The peer sent what does not verify; nothing of it was kept."""
    DESYNCHRONISED = "desynchronised"
    """The peer has less of the list than we do."""
    STOPPED = "stopped"
    """Not followed any more; what is here still counts."""
    FORKED = "forked"
    """The list has two signed histories; it stays where it is until a person decides."""
    DAMAGED = "damaged"
    """What is stored of it is known not to be what was signed: nothing is answered from it. It is
    never recorded in the store, which is what is damaged."""


class FollowReason(StrEnum):
    """Why a list is not current, where no error says so. Stable words, as `errors.Reason`."""

    UNAVAILABLE = "UNAVAILABLE"
    CURSOR_AHEAD = "CURSOR_AHEAD"
    CURSOR_TOO_OLD = "CURSOR_TOO_OLD"
    DIVERGED = "DIVERGED"
    NO_PEER = "NO_PEER"


class News(Enum):
    """What a follower learns of one list."""

    ALL_HERE = "all here"
    """The peer has nothing that is not here."""
    MORE_TAKEN = "more taken"
    """Some of what was missing has come on this stream; the peer has more."""
    MORE_MISSING = "more missing"
    """The peer has more; nothing of it has come on this stream."""
    SNAPSHOT_OFFERED = "snapshot offered"
    """A snapshot takes the place of what is missing."""
    UNAVAILABLE = "unavailable"
    """The peer does not have the list, or not for us."""
    TOO_OLD = "too old"
    """The peer has neither the deltas that come next nor a snapshot to go on from."""
    AHEAD = "ahead"
    """The peer has less than is here."""
    DIVERGED = "diverged"
    """The peer says that it has another history: a claim, and no evidence yet."""
    FORKED = "forked"
    """Two signed histories are shown."""
    EARLY = "early"
    """Something is signed for a time that is still to come here."""
    REFUSED = "refused"
    """Something does not verify; another peer may send what does."""
    PUBLISHER_AT_FAULT = "publisher at fault"
    """What the owner signed contradicts itself: no peer can send anything better."""
    MOVED_ON = "moved on"
    """The list does not stand where the stream needs it to: another cursor is needed."""
    JOINED = "joined"
    """A snapshot was put in force: what follows it is asked for."""
    NOT_FETCHED = "not fetched"
    """The buckets of a snapshot could not be fetched for now."""
    PEER_FAILED = "peer failed"
    """The peer cannot be followed now."""
    PEER_UNKNOWN = "peer unknown"
    """The peer that the list is followed by is not known here any more."""


class Action(Enum):
    """What a follower does next with one list."""

    GO_ON = "go on"
    """Take what comes next on this stream."""
    SETTLE = "settle"
    """As GO_ON; what went wrong before counts no more."""
    ASK_AGAIN = "ask again"
    """Take nothing more on this stream, and open another one at once."""
    REST = "rest"
    """Take nothing more on this stream; ask again later, at a time of the list's own."""
    COMPARE = "compare"
    """As REST; then ask for every delta, from the first one on."""
    RETRY = "retry"
    """Ask again together with all other lists of the peer, once the peer is tried again."""
    WAIT = "wait"
    """Take nothing more, and do not ask again before a person has decided."""

    @property
    def stays_open(self) -> bool:
        """Whether more of the list is taken on this stream."""
        return self in {Action.GO_ON, Action.SETTLE, Action.RETRY}


@dataclass(frozen=True, slots=True)
class Step:
    """What a piece of news makes of a list.

    Attributes:
        action: what is done next.
        state: how the list stands now; None when state, reason and detail stay as they are.
        reason: why; empty when nothing is wrong, or when the error that was the news has a reason.
    """

    action: Action
    state: FollowState | None = None
    reason: str = ""


_Row = Mapping[News, Step]

_FOLLOWED: Final[_Row] = {
    News.ALL_HERE: Step(Action.SETTLE, FollowState.CURRENT),
    News.MORE_TAKEN: Step(Action.GO_ON, FollowState.CATCHING_UP),
    News.MORE_MISSING: Step(Action.GO_ON, FollowState.CATCHING_UP),
    News.SNAPSHOT_OFFERED: Step(Action.GO_ON, FollowState.CATCHING_UP),
    # The peer says on this stream when it has more.
    News.UNAVAILABLE: Step(Action.GO_ON, FollowState.STALE, FollowReason.UNAVAILABLE),
    News.TOO_OLD: Step(Action.GO_ON, FollowState.DESYNCHRONISED, FollowReason.CURSOR_TOO_OLD),
    News.AHEAD: Step(Action.GO_ON, FollowState.DESYNCHRONISED, FollowReason.CURSOR_AHEAD),
    # The evidence is in the deltas themselves, or the peer does not tell the truth.
    News.DIVERGED: Step(Action.COMPARE, FollowState.QUARANTINED, FollowReason.DIVERGED),
    News.FORKED: Step(Action.WAIT, FollowState.FORKED),
    # One of the two clocks is wrong: what was sent may be right.
    News.EARLY: Step(Action.REST, FollowState.STALE),
    News.REFUSED: Step(Action.REST, FollowState.QUARANTINED),
    News.PUBLISHER_AT_FAULT: Step(Action.WAIT, FollowState.QUARANTINED),
    News.MOVED_ON: Step(Action.ASK_AGAIN),
    News.JOINED: Step(Action.ASK_AGAIN),
    News.NOT_FETCHED: Step(Action.REST, FollowState.STALE),
    News.PEER_FAILED: Step(Action.RETRY, FollowState.STALE),
    News.PEER_UNKNOWN: Step(Action.WAIT, FollowState.STALE, FollowReason.NO_PEER),
}

_QUARANTINED: Final[_Row] = {
    **_FOLLOWED,
    # What was refused is still to come: nothing says yet that it is better now.
    News.MORE_MISSING: Step(Action.GO_ON),
    News.SNAPSHOT_OFFERED: Step(Action.GO_ON),
    # What was wrong with the list stays wrong while nobody can be asked.
    News.NOT_FETCHED: Step(Action.REST),
    News.PEER_FAILED: Step(Action.RETRY),
}

_DIVERGED: Final[_Row] = {
    **_QUARANTINED,
    # What the peer said before is worse, and cannot be compared with this one.
    News.TOO_OLD: Step(Action.GO_ON),
}

_FROZEN: Final[_Row] = dict.fromkeys(News, Step(Action.WAIT))

TRANSITIONS: Final[Mapping[tuple[FollowState, str], _Row]] = {
    (FollowState.CATCHING_UP, ""): _FOLLOWED,
    (FollowState.CURRENT, ""): _FOLLOWED,
    (FollowState.STALE, ""): _FOLLOWED,
    (FollowState.DESYNCHRONISED, ""): _FOLLOWED,
    (FollowState.QUARANTINED, ""): _QUARANTINED,
    (FollowState.QUARANTINED, FollowReason.DIVERGED): _DIVERGED,
    # Fetching it again would not change what is wrong. Two histories would be worse.
    (FollowState.QUARANTINED, Reason.OPS_ROOT_MISMATCH): {
        **_FROZEN,
        News.FORKED: Step(Action.WAIT, FollowState.FORKED),
    },
    (FollowState.QUARANTINED, Reason.STATE_DIGEST_MISMATCH): {
        **_FROZEN,
        News.FORKED: Step(Action.WAIT, FollowState.FORKED),
    },
    (FollowState.STOPPED, ""): {
        **_FROZEN,
        # What is here still counts, and is wrong.
        News.PUBLISHER_AT_FAULT: Step(Action.WAIT, FollowState.QUARANTINED),
    },
    (FollowState.FORKED, ""): _FROZEN,
    (FollowState.DAMAGED, ""): _FROZEN,
}
"""The row of a state and its reason; that of the state with "" where the reason has none."""

_AT_FAULT: Final = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)


def decide(state: FollowState, reason: str, news: News) -> Step:
    """Decide what a piece of news makes of a list.

    Args:
        state: how the list stands.
        reason: why, as it is recorded with the state.
        news: what was learnt.

    Raises:
        UsageError: the list is this node's own.
    """
    return _row(state, reason)[news]


def is_frozen(state: FollowState, reason: str) -> bool:
    """Say whether a list waits for a person: fetching it again would not change what is wrong.

    Raises:
        UsageError: the list is this node's own.
    """
    return _row(state, reason)[News.ALL_HERE].action is Action.WAIT


def news_of(error: FederationError) -> News:
    """Return what it means for a list that something of it was refused."""
    if isinstance(error, ForkError):
        return News.FORKED
    if error.reason is Reason.TIME_IN_FUTURE:
        return News.EARLY
    return News.PUBLISHER_AT_FAULT if error.reason in _AT_FAULT else News.REFUSED


def _row(state: FollowState, reason: str) -> _Row:
    row = TRANSITIONS.get((state, reason)) or TRANSITIONS.get((state, ""))
    if row is None:
        raise UsageError(f"a list that is {state} is not followed")
    return row
