"""Decides when a follower asks again for the lists of one peer: together, or one by one."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from federation.follow.states import Action, News
from federation.names import Origin

BASE_SECONDS: Final = 1.0

_DUE_TIMES: Final = 10
"""How often a stream is reopened for resting lists within the longest wait, at most."""


class Uniform(Protocol):
    """Draws numbers, as `random.Random` does."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between the two."""


class Backoff:
    """Waits that double at each failure, up to a cap, with full jitter.

    With full jitter, the peers of a node that was away do not all come back at the same moment.
    """

    def __init__(self, random: Uniform, cap_seconds: float) -> None:
        self._random = random
        self._cap_seconds = cap_seconds
        self._failures = 0

    def reset(self) -> None:
        """Start again after a success."""
        self._failures = 0

    def draw(self, at_least: float = 0.0) -> float:
        """Count one more failure and return how long to wait, in seconds."""
        # The exponent is bounded, as 2**10 s exceeds any sensible cap and floats overflow.
        bound = min(self._cap_seconds, BASE_SECONDS * 2 ** min(self._failures, 20))
        self._failures += 1
        return max(at_least, self._random.uniform(0.0, bound))


def news_of_failure(*, answered: bool, broke_off: bool) -> News | None:
    """Return the news for the lists of a failed stream; None if there is none yet.

    A working connection may end because of its age or a restart of the peer. That is only news if
    the next one cannot be opened.

    Args:
        answered: whether the peer has answered on it.
        broke_off: whether the peer was silent for too long, or broke the protocol.
    """
    return None if answered and not broke_off else News.PEER_FAILED


@dataclass(slots=True)
class _Rest:
    backoff: Backoff
    until: float


class Agenda:
    """Which lists a follower asks a peer for, and how. Times are seconds of one monotonic clock.

    Attributes:
        backoff: the waits for the peer itself.
        from_start: lists to compare delta by delta, from the first one on.
    """

    def __init__(self, random: Uniform, interval_seconds: float) -> None:
        """Ask for every list.

        Args:
            random: draws waits.
            interval_seconds: the longest wait.
        """
        self.backoff = Backoff(random, interval_seconds)
        self.from_start: set[Origin] = set()
        self._random = random
        self._interval_seconds = interval_seconds
        self._resting: dict[Origin, _Rest] = {}

    @property
    def resting(self) -> frozenset[Origin]:
        """The lists that rest until later, or that were asked for again since they failed."""
        return frozenset(self._resting)

    def is_due(self, origin: Origin, now: float) -> bool:
        """Return whether to ask for a list on a stream that is opened now."""
        rest = self._resting.get(origin)
        return rest is None or rest.until <= now

    def seconds_until_due(self, active: Collection[Origin], now: float) -> float | None:
        """Return how long until a resting list is due; None if none rests.

        Args:
            active: the lists of the current stream.
            now: the time.
        """
        waiting = [rest.until for origin, rest in self._resting.items() if origin not in active]
        return max(0.0, min(waiting) - now) if waiting else None

    def follow(self, origin: Origin, action: Action, now: float) -> None:
        """Take note of the next action for a list."""
        match action:
            case Action.REST | Action.COMPARE:
                self._rest(origin, now)
                if action is Action.COMPARE:
                    self.from_start.add(origin)
            case Action.SETTLE | Action.WAIT:
                self._resting.pop(origin, None)
                self.from_start.discard(origin)
            case Action.GO_ON | Action.ASK_AGAIN | Action.RETRY:
                return

    def forget(self, origin: Origin) -> None:
        """Take note that a list is no longer followed from this peer."""
        self._resting.pop(origin, None)

    def _rest(self, origin: Origin, now: float) -> None:
        rest = self._resting.get(origin)
        if rest is None:
            backoff = Backoff(self._random, self._interval_seconds)
            rest = self._resting[origin] = _Rest(backoff, 0.0)
        rest.until = self._due_after(rest.backoff.draw(), now)

    def _due_after(self, delay: float, now: float) -> float:
        """Return when a list that rests for `delay` seconds is due.

        Each due list costs the others of its peer a new stream, so lists that rest long become due
        together.
        """
        due = now + delay
        grain = self._interval_seconds / _DUE_TIMES
        return math.ceil(due / grain) * grain if delay > grain else due
