"""Repairing: a damaged store is made anew from its signed bytes, and takes the place of the old one.

What is derived is made by the code that makes it when deltas are accepted. Signed bytes that are
damaged come from peers, and are verified as always before they are kept. The old store stays as it
is, under another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from node.clock import Clock
from node.findings import Damage
from node.home import Home
from node.serving import Cursor


class Source(Protocol):
    """Where signed bytes come from that are damaged here: peers, one after the other."""

    def deltas(
        self, origin: Origin, cursor: Cursor, count: int
    ) -> Iterator[tuple[OrgName, Sequence[SignedDelta]]]:
        """Yield, for each peer that has them, `count` deltas that follow a cursor, not verified."""

    def buckets(
        self, origin: Origin, position: int, numbers: Sequence[int]
    ) -> Iterator[tuple[OrgName, Sequence[tuple[int, bytes]]]]:
        """Yield, for each peer that has them, buckets of the snapshot at a position."""

    def charters(self, origin: Origin) -> Iterator[tuple[OrgName, bytes]]:
        """Yield, for each peer that has one, the envelope of a list's charter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gained:
    """Signed bytes that came from a peer.

    Attributes:
        origin: the list, as text.
        position: the leaf's position; None for a charter.
        what: what came.
        peer: from whom.
    """

    origin: str
    position: int | None
    what: str
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair did.

    Attributes:
        damages: what was damaged.
        gained: what came from peers.
        left: what is damaged still.
        aside: the old store, under its new name; None when nothing could be repaired, and nothing
            was changed.
    """

    damages: tuple[Damage, ...]
    gained: tuple[Gained, ...]
    left: tuple[Damage, ...]
    aside: Path | None


def repair(
    home: Home,
    source: Source,
    *,
    clock: Clock,
    on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Repaired:
    """Repair the store of a node. The caller holds both locks of the node (`serve`, `publish`).

    Args:
        home: the node's folder.
        source: where damaged signed bytes are fetched (`node.sync.repair.PeerSource`).
        clock: tells the time.
        on_progress: told (what, done, of how much).

    Raises:
        StoreError: the store made anew could not be written; nothing was changed.
    """
    raise NotImplementedError
