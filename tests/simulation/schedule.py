"""Draws a run from its seed before it starts: who takes part, and a list of events.

Each event carries all that is drawn for it, as shares of what there is then. So some of them can be
left out, and the others still mean something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.simulation.byzantine import LIES
from tests.simulation.publishing import CRASH_WINDOWS

DURATION_SECONDS: Final = 180.0
"""How long faults happen."""


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One thing that happens.

    Attributes:
        at: when, in virtual seconds.
        kind: what.
        node: to which node.
        one, two: what else was drawn, from 0 up to 1.
        seconds: how long it lasts, where it lasts.
    """

    at: float
    kind: str
    node: int
    one: float
    two: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.at:8.3f} s  {self.kind}, node {self.node} "
            f"({self.one:.3f}, {self.two:.3f}, {self.seconds:.1f} s)"
        )


@dataclass(frozen=True, slots=True)
class Following:
    """Who follows a list by whom.

    Attributes:
        owner: the node that signs it.
        number: which of its lists it is.
        via: by which peer each other node follows it.
    """

    owner: int
    number: int
    via: dict[int, int]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run.

    Attributes:
        seed: what it was drawn from.
        peers: the peers of each node.
        lists: the lists.
        liars: the nodes that may lie.
        needed: how many peers each node's operator asks for; None for all.
        events: what happens.
    """

    seed: int
    peers: list[list[int]]
    lists: list[Following]
    liars: tuple[int, ...]
    needed: list[int | None]
    events: tuple[Event, ...]

    def with_events(self, events: Sequence[Event]) -> Scenario:
        """Return the run with other events."""
        return replace(self, events=tuple(events))


FAULTS: Final = (
    "kill",
    "kill",
    "lose power",
    "lose power",
    "lose what was synced",
    "pause",
    "clock a day back",
    "clock ten years ahead",
    "clock stands still",
    "clock drifts",
    "disk full",
    "commit fails",
    "mark cannot be written",
    "flip a bit",
    "flip a bit",
    "restore a backup",
    "restore a backup",
    "put the store back",
    "put the mark back",
    "put both back",
    "mark missing",
    "mark damaged",
    "mark foreign",
    "messages lost",
    "messages doubled",
    "messages overtake",
    "messages late",
    "partition",
    "partition",
    "one way only",
    "isolate",
    "swizzle",
    "follow again",
    "follow by another peer",
    "scrub",
)
"""What can go wrong, as often as it is named."""

_MARK_FOUND_AGAIN: Final = (
    ("isolate", 0.0),
    ("publish", 1.0),
    ("put a recent store back", 8.0),
    ("mark missing", 9.0),
    ("publish at a risk", 15.0),
    ("publish at a risk", 24.0),
    ("put the newest mark back", 34.0),
    ("publish", 36.0),
)
"""A publisher alone lost its last steps and its mark, and signs the steps again at a risk. Then the
old mark is found."""

_STORIES: Final = (
    _MARK_FOUND_AGAIN,
    _MARK_FOUND_AGAIN,
    # A publisher alone with a lost mark, whose operator takes the risk: two histories.
    (("isolate", 0.0), ("put both back", 4.0), ("publish at a risk", 12.0), ("publish", 20.0)),
    (("publish", 0.0), ("publish", 6.0), ("put the mark back", 14.0), ("publish", 16.0)),
    (("restore a backup", 0.0), ("publish", 2.0), ("snapshot", 30.0)),
    (("put the store back", 0.0), ("publish", 8.0)),
    (("snapshot", 0.0), ("follow again", 8.0), ("follow again", 9.0), ("kill", 12.0)),
    (("clock a day back", 0.0), ("publish", 3.0), ("publish", 9.0)),
    (("isolate", 0.0), ("mark damaged", 1.0), ("publish", 5.0), ("publish at a risk", 20.0)),
)
"""Events that mean more together: kinds with the seconds after the first; of one node."""


def draw(seed: int) -> Scenario:
    """Draw a run."""
    random = Random(f"schedule {seed}")  # the same in every run is wanted
    # Nine nodes say little that four do not, and take four times as long.
    count = random.choice((3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 9))
    peers = _draw_peers(random, count)
    lists = []
    for number in range(random.choice((3, 3, 3, 4, 5, 6)) if count < 5 else 3):
        owner = random.randrange(count)
        lists.append(Following(owner, number, _routes(random, peers, owner)))
    liars = _draw_liars(random, lists, count)
    needed = [None if random.random() < 0.85 else max(1, len(of) - 1) for of in peers]
    events = _draw_work(random, lists, count) + _draw_faults(random, lists, count)
    for liar in liars:
        events += _draw_lies(random, liar)
    return Scenario(seed, peers, lists, liars, needed, tuple(sorted(events)))


def _draw_liars(random: Random, lists: list[Following], count: int) -> tuple[int, ...]:
    """Return the nodes that may lie: relays, as others have nobody to lie to."""
    if random.random() > 0.3:
        return ()
    relays = sorted({via for item in lists for via in item.via.values() if via != item.owner})
    if count < 5 or len(relays) < 2:
        return (random.choice(relays or range(count)),)
    return tuple(sorted(random.sample(relays, random.randint(1, 2))))


def _draw_peers(random: Random, count: int) -> list[list[int]]:
    """Return a connected graph: a tree with some more links."""
    pairs = {(random.randrange(at), at) for at in range(1, count)}
    for _ in range(random.randint(0, count)):
        one, other = sorted(random.sample(range(count), 2))
        pairs.add((one, other))
    peers: list[list[int]] = [[] for _ in range(count)]
    for one, other in sorted(pairs):
        peers[one].append(other)
        peers[other].append(one)
    return peers


def _routes(random: Random, peers: list[list[int]], owner: int) -> dict[int, int]:
    """Return by which peer each node follows a list of an owner."""
    via: dict[int, int] = {}
    waiting = [owner]
    while waiting:
        at = waiting.pop(random.randrange(len(waiting)))
        for peer in peers[at]:
            if peer != owner and peer not in via:
                via[peer] = at
                waiting.append(peer)
    return via


def _event(random: Random, at: float, kind: str, node: int) -> Event:
    return Event(
        round(at, 3),
        kind,
        node,
        random.randrange(1000) / 1000,
        random.randrange(1000) / 1000,
        round(random.uniform(5.0, 50.0), 1),
    )


def _draw_work(random: Random, lists: list[Following], count: int) -> list[Event]:
    events = []
    for item in lists:
        # Something before the first fault, so that there is something to lose.
        events.append(_event(random, random.uniform(1.0, 8.0), "publish", item.owner))
        events += [
            _event(random, random.uniform(10.0, DURATION_SECONDS), "publish", item.owner)
            for _ in range(random.randint(1, 3))
        ]
    for _ in range(random.randint(0, 2)):
        owner = random.choice(lists).owner
        events.append(_event(random, random.uniform(30.0, DURATION_SECONDS), "snapshot", owner))
    if random.random() < 0.3:
        at = random.uniform(60.0, DURATION_SECONDS)
        events.append(_event(random, at, "follow again", random.randrange(count)))
    return events


def _draw_faults(random: Random, lists: list[Following], count: int) -> list[Event]:
    owners = [item.owner for item in lists]

    def node() -> int:
        # Publishers have more to lose.
        return random.choice(owners) if random.random() < 0.6 else random.randrange(count)

    events = []
    for _ in range(random.randint(4, 12)):
        at = random.uniform(15.0, DURATION_SECONDS)
        events.append(_event(random, at, random.choice(FAULTS), node()))
    for _ in range(random.randint(0, 3)):
        at, owner = random.uniform(10.0, DURATION_SECONDS - 10.0), random.choice(owners)
        machine = "power lost" if random.random() < 0.5 else "killed"
        events.append(_event(random, at, f"{machine} after: {random.choice(CRASH_WINDOWS)}", owner))
        events.append(_event(random, at + 1.0, "publish", owner))
    if random.random() < 0.6:
        at, owner = random.uniform(40.0, DURATION_SECONDS - 40.0), random.choice(owners)
        story = [_event(random, at + after, kind, owner) for kind, after in random.choice(_STORIES)]
        # All of one list.
        events += [replace(event, one=story[0].one) for event in story]
    return events


def _draw_lies(random: Random, liar: int) -> list[Event]:
    events = [
        _event(random, random.uniform(2.0, DURATION_SECONDS - 60.0), random.choice(LIES), liar)
        for _ in range(random.randint(2, 5))
    ]
    if random.random() < 0.6:
        at = random.uniform(10.0, DURATION_SECONDS - 40.0)
        events += [
            _event(random, at + after, "show two histories", liar) for after in (0.0, 15.0, 30.0)
        ]
        events += [_event(random, at + after, "publish", liar) for after in (2.0, 18.0, 33.0)]
    return events
