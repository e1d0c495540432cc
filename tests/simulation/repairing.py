"""How a simulated node finds damage and repairs it: it verifies what it stores and fetches leaves.

A leaf comes from any peer; that it is of the log that is here is shown by the leaf after it, or by
a proof.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from federation.errors import PeerError
from federation.header import Header, leaf_hash
from federation.names import Origin
from tests.simulation.disk import Held, Leaf
from tests.simulation.messages import LeafSent, WantLeaf

if TYPE_CHECKING:
    from tests.simulation.member import Member


class Repair:
    """Verifies the store of one node again.

    Attributes:
        damaged: lists of which a leaf was found damaged when all were looked at last. They are
            withheld from everybody.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.damaged: set[Origin] = set()

    def find_damage(self, held: Held) -> list[int]:
        """Return the positions of a list at which what is stored is not what was signed."""
        is_sound = self.member.tools.is_sound
        leaves = enumerate(held.leaves, held.log.start)
        return [at for at, leaf in leaves if not is_sound(held.origin, at, leaf.delta)]

    def scrub(self) -> None:
        """Verify every leaf, and ask all peers for those that are damaged."""
        member, before = self.member, self.damaged
        found = {held.origin: self.find_damage(held) for held in member.store}
        self.damaged = {origin for origin, positions in found.items() if positions}
        for origin, positions in found.items():
            for position in positions:
                member.tools.hits["damage found"] += 1
                for peer in member.peers:
                    member.send(peer, WantLeaf(origin, position, member.store[origin].size))
        if self.damaged != before:
            member.server.look_again()

    def take(self, message: LeafSent) -> None:
        """Put a leaf in the place of a damaged one, if it is what was signed."""
        member, tools, position = self.member, self.member.tools, message.position
        held = member.store.now.lists.get(message.origin)
        here = None if held is None else held.leaf(position)
        if held is None or here is None or tools.is_sound(held.origin, position, here):
            return
        if not self._belongs(held, message):
            return
        at = position - held.log.start
        leaf = Leaf(message.delta, held.leaves[at].version)
        repaired = replace(held, leaves=(*held.leaves[:at], leaf, *held.leaves[at + 1 :]))
        member.commit(repaired)
        tools.hits["leaf repaired"] += 1
        tools.trace(f"{member.org} {held.origin} repaired position {position}")
        if not self.find_damage(repaired):
            self.damaged.discard(held.origin)
            member.server.look_again()

    def _belongs(self, held: Held, message: LeafSent) -> bool:
        """Say whether a leaf is the one of the log that is here."""
        tools, position, delta = self.member.tools, message.position, message.delta
        if not tools.is_sound(held.origin, position, delta):
            return False
        # The leaf after it names it, so that a peer that is behind can help as well.
        after = held.leaf(position + 1)
        if after is None:
            return leaf_hash(delta.header) == held.log.last_leaf
        if tools.is_sound(held.origin, position + 1, after):
            return leaf_hash(delta.header) == Header.parse(after.header).previous
        try:
            tools.replica(held).receive_past(delta, message.inclusion)
        except PeerError:
            return False
        return True
