"""Nodes that lie: a publisher that shows two histories, a relay that changes or holds back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Final

from federation.follow import Cursor, Outcome
from federation.names import Origin
from federation.replica import SignedDelta
from tests.simulation.before.disk import Held, Intent
from tests.simulation.before.member import Member, Tools
from tests.simulation.before.messages import (
    Ask,
    Bucket,
    Delivered,
    LeafSent,
    Message,
    Opened,
    Shown,
    WantBucket,
    WantLeaf,
)
from tests.simulation.before.parties import origin_of
from tests.simulation.before.serving import Server

LIES: Final = (
    "alters deltas",
    "leaves deltas out",
    "sends deltas again",
    "holds deltas back",
    "claims another history",
    "sends false buckets",
    "offers a false snapshot",
    "shows what was not signed",
    "shows less than it holds",
    "sends what nobody asked for",
    "tells another time",
)
"""What a lying node may do, besides showing two histories of its own lists."""

_TWIN_NUMBER: Final = 1_000_000
_YEAR_MS: Final = 365 * 24 * 3600 * 1000


class LyingServer(Server):
    """Serves, and lies in the ways that are switched on."""

    def __init__(self, member: Liar) -> None:
        super().__init__(member)
        self.liar = member

    def _tells(self, lie: str) -> bool:
        if lie not in self.liar.lies:
            return False
        self.member.tools.hits[f"peer {lie}"] += 1
        return True

    def view(self, caller: int, origin: Origin) -> Held | None:
        """Show every second caller the other history."""
        twin = self.liar.twins.get(origin)
        if twin is not None and caller % 2:
            self.member.tools.hits["peer shows two histories"] += 1
            return twin
        held = super().view(caller, origin)
        if held is not None and held.size > 1 and self._tells("holds deltas back"):
            # As if it were an own list of which not all is released.
            return replace(held, own=True, released=(held.log.start + held.available) // 2)
        return held

    def stand(self, held: Held, cursor: Cursor, serial: int) -> Opened:
        """Claim another outcome, or offer what nobody signed."""
        opened = super().stand(held, cursor, serial)
        if cursor.size and self._tells("claims another history"):
            return replace(opened, outcome=Outcome.DIVERGED)
        offer = opened.snapshot
        if offer is not None and self._tells("offers a false snapshot"):
            return replace(opened, snapshot=offer._replace(frontier=_flip(offer.frontier)))
        return opened

    def pack(self, frame: tuple[SignedDelta, ...]) -> tuple[SignedDelta, ...]:
        """Change what is sent."""
        if self._tells("alters deltas"):
            first = frame[0]
            part = self.member.random.randrange(3)
            changed = SignedDelta(
                *(_flip(data) if at == part else data for at, data in enumerate(first))
            )
            return (changed, *frame[1:])
        if len(frame) > 1 and self._tells("leaves deltas out"):
            return frame[1:]
        if self._tells("sends deltas again"):
            return (frame[0], *frame, frame[-1])
        return frame

    def send(self, caller: int, message: Message) -> None:
        """Send, and sometimes something else first."""
        if isinstance(message, Delivered) and self._tells("sends what nobody asked for"):
            strange = origin_of(self.member.number, 99)
            super().send(caller, Delivered(message.serial, strange, message.deltas))
        super().send(caller, message)

    def show(self, caller: int, message: Ask) -> None:
        """Show an owner something else than is held."""
        if self._tells("shows less than it holds"):
            super().send(caller, Shown(message.number, {}, self.member.now_ms()))
            return
        if self._tells("shows what was not signed"):
            org = self.member.tools.party_of(caller).org
            false: Mapping[Origin, tuple[bytes, bytes]] = {
                held.origin: (b"no checkpoint", b"")
                for held in self.member.store
                if held.origin.org == org
            }
            super().send(caller, Shown(message.number, false, self.member.now_ms()))
            return
        if self._tells("tells another time"):
            years = self.member.random.choice((-10, 10))
            self.member.clock.offset_ms += years * _YEAR_MS
            super().show(caller, message)
            self.member.clock.offset_ms -= years * _YEAR_MS
            return
        super().show(caller, message)

    def give_bucket(self, caller: int, message: WantBucket) -> None:
        """Send a bucket with a bit changed."""
        if self._tells("sends false buckets"):
            false = Bucket(message.origin, message.position, message.number, b"no bucket")
            super().send(caller, false)
            return
        super().give_bucket(caller, message)

    def give_leaf(self, caller: int, message: WantLeaf) -> None:
        """Send a leaf with a bit changed."""
        held = self.view(caller, message.origin)
        delta = None if held is None else held.leaf(message.position)
        if delta is not None and self._tells("alters deltas"):
            altered = delta._replace(header=_flip(delta.header))
            super().send(caller, LeafSent(message.origin, message.position, altered, ()))
            return
        super().give_leaf(caller, message)


class Liar(Member):
    """A node that lies.

    Attributes:
        lies: what it does now.
        twins: the other history of each list of its own that has two.
    """

    is_byzantine = True

    def __init__(self, number: int, tools: Tools, peers: list[int], random: Random) -> None:
        super().__init__(number, tools, peers, random)
        self.server = LyingServer(self)
        self.lies: dict[str, bool] = {}
        self.twins: dict[Origin, Held] = {}

    def grow_twin(self, origin: Origin, value: int) -> None:
        """Sign one more delta of the other history of a list."""
        twin = self.twins.get(origin, self.store[origin])
        number = _TWIN_NUMBER + twin.size
        after = self.publisher.sign(twin, [Intent(number, "assert", _TWIN_NUMBER + value)])
        self.twins[origin] = replace(after, released=after.size)


def _flip(data: bytes) -> bytes:
    """Return bytes with one bit changed; a byte where there is none."""
    if not data:
        return b"\x01"
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
