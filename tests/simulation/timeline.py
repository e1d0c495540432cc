"""Virtual time: events in order, and what can do one thing at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

Action = Callable[[], None]


class Timeline:
    """Runs actions at their virtual times; those of one time in the order they were planned.

    Attributes:
        now: the virtual time, in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Action]] = []
        self._count = 0

    def after(self, seconds: float, action: Action) -> None:
        """Plan an action."""
        self._count += 1
        heappush(self._planned, (self.now + seconds, self._count, action))

    def run(self, until: float = math.inf) -> None:
        """Run what is planned up to a time, or until nothing is planned any more."""
        while self._planned and self._planned[0][0] <= until:
            self.now, _, action = heappop(self._planned)
            action()
        if until < math.inf:
            self.now = until


class Worker:
    """A processor or one direction of a line: does one thing after the other.

    Attributes:
        busy_seconds: how long it has worked.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.busy_seconds = 0.0
        self._timeline = timeline
        self._waiting: deque[tuple[Callable[[], float], Action]] = deque()
        self._is_busy = False

    def do(self, work: Callable[[], float], then: Action) -> None:
        """Do something when all before it is done.

        Args:
            work: called when it begins; returns how many seconds it takes.
            then: called when it is done.
        """
        self._waiting.append((work, then))
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = bool(self._waiting)
        if not self._is_busy:
            return
        work, then = self._waiting.popleft()
        seconds = work()
        self.busy_seconds += seconds

        def done() -> None:
            then()
            self._next()

        self._timeline.after(seconds, done)
