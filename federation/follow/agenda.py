"""When the lists of one peer are asked for again: together, or each at a time of its own."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from federation.follow.states import Action, News
from federation.names import Origin

BASE_SECONDS: Final = 1.0

_DUE_TIMES: Final = 10
"""How often at most, within the longest wait, a stream is opened again for lists that rest."""


class Uniform(Protocol):
    """Draws numbers: `random.Random`, or what stands in for it."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between the two."""


class Backoff:
    """Waits that double at each failure, up to a cap, with full jitter.

    Full jitter, so that the peers of a node that was away do not all come back in the same moment.
    """

    def __init__(self, random: Uniform, cap_seconds: float) -> None:
        self._random = random
        self._cap_seconds = cap_seconds
        self._failures = 0

    def reset(self) -> None:
        """Start again: it worked."""
        self._failures = 0

    def draw(self, at_least: float = 0.0) -> float:
        """Count one more failure and return how long to wait, in seconds."""
        # The exponent is bounded: 2**10 s is longer than any cap that makes sense, and floats end.
        bound = min(self._cap_seconds, BASE_SECONDS * 2 ** min(self._failures, 20))
        self._failures += 1
        return max(at_least, self._random.uniform(0.0, bound))


def news_of_failure(*, answered: bool, broke_off: bool) -> News | None:
    """Return what it means for the lists of a stream that it has failed; None when nothing yet.

    A connection that has worked may end, by its age or with a restart of the peer: that is news
    only if the next one cannot be opened.

    Args:
        answered: whether the peer has said anything on it.
        broke_off: whether the peer was silent for too long, or broke the protocol.
    """
    return None if answered and not broke_off else News.PEER_FAILED


@dataclass(slots=True)
class _Rest:
    backoff: Backoff
    until: float


class Agenda:
    """Which lists of a peer are asked for, and how. Times are seconds of one monotonic clock.

    Attributes:
        backoff: how long the peer itself is waited for.
        from_start: lists that are to be compared delta by delta, from the first one on.
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
        """The lists that are asked for later, or were since they failed."""
        return frozenset(self._resting)

    def is_due(self, origin: Origin, now: float) -> bool:
        """Say whether a list is asked for when a stream is opened now."""
        rest = self._resting.get(origin)
        return rest is None or rest.until <= now

    def seconds_until_due(self, active: Collection[Origin], now: float) -> float | None:
        """Return how long until a list that rests is to be asked for; None if none rests.

        Args:
            active: the lists that the stream of now brings something of.
            now: the time.
        """
        waiting = [rest.until for origin, rest in self._resting.items() if origin not in active]
        return max(0.0, min(waiting) - now) if waiting else None

    def follow(self, origin: Origin, action: Action, now: float) -> None:
        """Take note of what is done next with a list."""
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
        """Take note that a list is not followed by this peer any more."""
        self._resting.pop(origin, None)

    def _rest(self, origin: Origin, now: float) -> None:
        rest = self._resting.get(origin)
        if rest is None:
            backoff = Backoff(self._random, self._interval_seconds)
            rest = self._resting[origin] = _Rest(backoff, 0.0)
        rest.until = self._due_after(rest.backoff.draw(), now)

    def _due_after(self, delay: float, now: float) -> float:
        """Return when a list is due that rests for `delay` seconds.

        Each due list costs the others of its peer a new stream, so those that rest for long are
        made due together.
        """
        due = now + delay
        grain = self._interval_seconds / _DUE_TIMES
        return math.ceil(due / grain) * grain if delay > grain else due
