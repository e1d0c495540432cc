"""The states of a followed list, and how each piece of news changes them.

`TRANSITIONS` is the one table for this. Every state has a row, and every row decides every piece of
news. This node's own lists have no row, as nothing about them is learnt by following.
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
    """It is our own, so there is nothing to follow."""
    RECOVERING = "recovering"
    """It is our own, and not signed for now, as something newer of it may have been released."""
    CATCHING_UP = "catching-up"
    """Deltas are known to be missing, or the peer has not been asked yet."""
    CURRENT = "current"
    """Everything that the peer has is here."""
    STALE = "stale"
    """The peer cannot be reached, or does not have the list for us. What is here still counts."""
    QUARANTINED = "quarantined"
    """The peer sent something that does not verify. Nothing of it was kept."""
    DESYNCHRONISED = "desynchronised"
    """The peer has less of the list than we do."""
    STOPPED = "stopped"
    """It is no longer followed. What is here still counts."""
    FORKED = "forked"
    """The list has two signed histories. It stays as it is until a person decides."""
    DAMAGED = "damaged"
    """Its stored data is known to differ from what was signed, so nothing is answered from it. This
    state is never recorded in the store, as the store is what is damaged."""


class FollowReason(StrEnum):
    """Why a list is not current, if no error says so. Stable words, as in `errors.Reason`."""

    UNAVAILABLE = "UNAVAILABLE"
    CURSOR_AHEAD = "CURSOR_AHEAD"
    CURSOR_TOO_OLD = "CURSOR_TOO_OLD"
    DIVERGED = "DIVERGED"
    NO_PEER = "NO_PEER"


class News(Enum):
    """What a follower learns about one list."""

    ALL_HERE = "all here"
    """Everything that the peer has is here."""
    MORE_TAKEN = "more taken"
    """Some of the missing deltas have arrived on this stream, and the peer has more."""
    MORE_MISSING = "more missing"
    """The peer has more, but nothing of it has arrived on this stream."""
    SNAPSHOT_OFFERED = "snapshot offered"
    """A snapshot replaces the missing deltas."""
    UNAVAILABLE = "unavailable"
    """The peer does not have the list, or not for us."""
    TOO_OLD = "too old"
    """The peer has neither the next deltas nor a snapshot to start from."""
    AHEAD = "ahead"
    """The peer has less than is here."""
    DIVERGED = "diverged"
    """The peer says that it has another history, which is a claim without evidence yet."""
    FORKED = "forked"
    """Two signed histories are shown."""
    EARLY = "early"
    """Something is signed for a time that is in the future here."""
    REFUSED = "refused"
    """Something does not verify; another peer may send something that does."""
    PUBLISHER_AT_FAULT = "publisher at fault"
    """What the owner signed contradicts itself, so no peer can send anything better."""
    MOVED_ON = "moved on"
    """The list is not in the state that the stream expects: another cursor is needed."""
    JOINED = "joined"
    """A snapshot was put in force, so the deltas after it are wanted now."""
    NOT_FETCHED = "not fetched"
    """The buckets of a snapshot could not be fetched for now."""
    PEER_FAILED = "peer failed"
    """The peer cannot be followed now."""
    PEER_UNKNOWN = "peer unknown"
    """The peer from which the list is followed is no longer known here."""


class Action(Enum):
    """What a follower does next with one list."""

    GO_ON = "go on"
    """Take what arrives next on this stream."""
    SETTLE = "settle"
    """As GO_ON, and forget former failures."""
    ASK_AGAIN = "ask again"
    """Take nothing more on this stream, and open another one at once."""
    REST = "rest"
    """Take nothing more on this stream, and ask again later, at a time for this list alone."""
    COMPARE = "compare"
    """As REST, and then ask for every delta, from the first one on."""
    RETRY = "retry"
    """Ask again together with all other lists of the peer, when the peer is tried again."""
    WAIT = "wait"
    """Take nothing more, and do not ask again before a person has decided."""

    @property
    def stays_open(self) -> bool:
        """Whether more of the list is taken on this stream."""
        return self in {Action.GO_ON, Action.SETTLE, Action.RETRY}


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of a piece of news on a list.

    Attributes:
        action: what is done next.
        state: the new state; None if state, reason and detail stay as they are.
        reason: the reason; empty if nothing is wrong, or if the error itself has a reason.
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
    # The peer will say on this stream when it has more.
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
    # The refused part has not arrived again yet, so nothing says that it is better now.
    News.MORE_MISSING: Step(Action.GO_ON),
    News.SNAPSHOT_OFFERED: Step(Action.GO_ON),
    # What was wrong with the list stays wrong while nobody can be asked.
    News.NOT_FETCHED: Step(Action.REST),
    News.PEER_FAILED: Step(Action.RETRY),
}

_DIVERGED: Final[_Row] = {
    **_QUARANTINED,
    # What the peer said before is more serious, and cannot be compared with this.
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
    # Fetching it again would not change the problem. Only two histories would be worse.
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
        # The problem remains in what is here, which still counts.
        News.PUBLISHER_AT_FAULT: Step(Action.WAIT, FollowState.QUARANTINED),
    },
    (FollowState.FORKED, ""): _FROZEN,
    (FollowState.DAMAGED, ""): _FROZEN,
}
"""The row of each state and reason; a reason without a row has the row of the state with ""."""

_AT_FAULT: Final = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)


def decide(state: FollowState, reason: str, news: News) -> Step:
    """Decide the effect of a piece of news on a list.

    Args:
        state: the state of the list.
        reason: the reason recorded with the state.
        news: what was learnt.

    Raises:
        UsageError: the list is this node's own.
    """
    return _row(state, reason)[news]


def is_frozen(state: FollowState, reason: str) -> bool:
    """Return whether a list waits for a person because fetching it again would change nothing.

    Raises:
        UsageError: the list is this node's own.
    """
    return _row(state, reason)[News.ALL_HERE].action is Action.WAIT


def news_of(error: FederationError) -> News:
    """Return the news for a list if something of it was refused."""
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
