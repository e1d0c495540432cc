"""Who is whose peer, over which link, and by whom each follows a list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

_MEMBER_UPLINK: Final = 100e6 / 8
_HUB_UPLINK: Final = 1e9 / 8
_LATENCY_SECONDS: Final = (0.005, 0.080)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A graph of peers.

    Attributes:
        name: what it is called.
        peers: the peers of each member by number, with the seconds one way to each.
        bandwidth: bytes a second of each member, each way.
    """

    name: str
    peers: list[dict[int, float]]
    bandwidth: list[float]

    def routes(self, owner: int) -> list[int]:
        """Return by which peer each member follows the lists of an owner: the shortest way.

        The owner's own place holds itself.
        """
        via = [-1] * len(self.peers)
        via[owner] = owner
        waiting = deque([owner])
        while waiting:
            at = waiting.popleft()
            for peer in self.peers[at]:
                if via[peer] < 0:
                    via[peer] = at
                    waiting.append(peer)
        return via


def iter_way(via: Sequence[int], member: int) -> Iterator[int]:
    """Yield the members that a list passes to come to a member, from itself back to the owner."""
    yield member
    while via[member] != member:
        member = via[member]
        yield member


def build(kind: str, members: int, random: Random) -> Network:
    """Build a network of one of `KINDS`."""
    links, hubs = KINDS[kind](members)
    peers: list[dict[int, float]] = [{} for _ in range(members)]
    for one, other in links:
        peers[one][other] = peers[other][one] = random.uniform(*_LATENCY_SECONDS)
    bandwidth = [_HUB_UPLINK if at < hubs else _MEMBER_UPLINK for at in range(members)]
    return Network(name=kind, peers=peers, bandwidth=bandwidth)


def _tree(fan_out: int | None, members: int) -> tuple[list[tuple[int, int]], int]:
    """Return a tree with so many members below each, or all below the first: a star."""
    fan = fan_out or members
    return [((at - 1) // fan, at) for at in range(1, members)], 1 + (fan_out or 0)


def _hubs(hubs: int, members: int) -> tuple[list[tuple[int, int]], int]:
    """Return a ring of hubs, each with its share of the members."""
    ring = [(at, (at + 1) % hubs) for at in range(hubs)]
    return ring + [(at % hubs, at) for at in range(hubs, members)], hubs


KINDS: Final[dict[str, Callable[[int], tuple[list[tuple[int, int]], int]]]] = {
    "star": partial(_tree, None),
    "tree of 8": partial(_tree, 8),
    "tree of 32": partial(_tree, 32),
    "ring of 8 hubs": partial(_hubs, 8),
}
"""How to lay out so many members: pairs of peers, and how many of the first are well connected."""
