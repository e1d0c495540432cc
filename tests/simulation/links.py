"""The network: every message takes some time, and faults lose, delay or repeat it.

Without faults, messages of one link arrive in their order. Real connections lose and double no
message: they end. Here each one arrives as it comes, so that what verifies has to stand that too;
and that the connection is broken is found out by the next sign of life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.simulation.messages import Message
from tests.simulation.timeline import Timeline

_LATENCY_SECONDS: Final = (0.01, 0.1)


@dataclass(slots=True)
class Link:
    """One direction between two nodes.

    Attributes:
        cut: how many faults cut it now.
        loss, doubling, disorder: shares of the messages that are lost, doubled, overtaken.
        delay: additional seconds at most.
        last: when the newest message in order arrives.
    """

    cut: int = 0
    loss: float = 0.0
    doubling: float = 0.0
    disorder: float = 0.0
    delay: float = 0.0
    last: float = 0.0


class Links:
    """All links of a network."""

    def __init__(
        self,
        nodes: int,
        timeline: Timeline,
        random: Random,
        deliver: Callable[[int, int, Message], None],
        hits: Counter[str],
    ) -> None:
        self._links = {
            (one, other): Link() for one in range(nodes) for other in range(nodes) if one != other
        }
        self._timeline = timeline
        self._random = random
        self._deliver = deliver
        self._hits = hits

    def __getitem__(self, pair: tuple[int, int]) -> Link:
        return self._links[pair]

    def send(self, source: int, target: int, message: Message) -> None:
        """Send a message; it may never arrive."""
        link, random = self._links[source, target], self._random
        if link.cut:
            self._hits["message cut off"] += 1
            return
        if link.loss and random.random() < link.loss:
            self._hits["message lost"] += 1
            return
        copies = 1
        if link.doubling and random.random() < link.doubling:
            self._hits["message doubled"] += 1
            copies = 2
        for _ in range(copies):
            seconds = random.uniform(*_LATENCY_SECONDS)
            if link.delay:
                self._hits["message delayed"] += 1
                seconds += random.uniform(0.0, link.delay)
            arrival = self._timeline.now + seconds
            if link.disorder and random.random() < link.disorder:
                self._hits["message overtaken"] += 1
                arrival += random.uniform(0.0, 5.0)
            else:
                # One microsecond: those of one time are told apart by more than their number.
                arrival = link.last = max(arrival, link.last + 1e-6)
            self._timeline.after(
                arrival - self._timeline.now, lambda: self._arrive(source, target, message)
            )

    def _arrive(self, source: int, target: int, message: Message) -> None:
        if self._links[source, target].cut:
            self._hits["message cut off"] += 1
            return
        self._deliver(source, target, message)

    def heal(self) -> None:
        """End every fault of the network."""
        for link in self._links.values():
            link.cut = 0
            link.loss = link.doubling = link.disorder = link.delay = 0.0
