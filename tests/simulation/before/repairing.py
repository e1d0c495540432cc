"""How a simulated node finds damage and repairs it: what is stored, verified again; leaves fetched.

A leaf comes from any peer; that it is of the log that is here is shown by the leaf after it, or by
a proof.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from federation.checkpoint import open_checkpoint
from federation.errors import FederationError, PeerError
from federation.header import Header, leaf_hash, verify_header
from federation.names import Origin
from federation.replica import SignedDelta
from tests.simulation.before.disk import Held, Leaf
from tests.simulation.before.messages import LeafSent, WantLeaf

if TYPE_CHECKING:
    from tests.simulation.before.member import Member


class Repair:
    """Verifies the store of one node again.

    Attributes:
        damaged: lists of which a leaf was found damaged when all were looked at last. They are
            withheld from everybody.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.damaged: set[Origin] = set()

    def scrub(self) -> None:
        """Verify every leaf, and ask all peers for those that are damaged."""
        member, before = self.member, self.damaged
        self.damaged = set()
        for held in member.store:
            for position, leaf in enumerate(held.leaves, held.log.start):
                if self.is_sound(held.origin, position, leaf.delta):
                    continue
                self.damaged.add(held.origin)
                member.tools.hits["damage found"] += 1
                for peer in member.peers:
                    member.send(peer, WantLeaf(held.origin, position, held.size))
        if self.damaged != before:
            member.server.look_again()

    def is_sound(self, origin: Origin, position: int, delta: SignedDelta) -> bool:
        """Say whether a leaf is what was signed for its position."""
        places = self.member.tools.places
        if (origin, delta) not in places:
            places[origin, delta] = self._verify(origin, delta)
        return places[origin, delta] == position

    def _verify(self, origin: Origin, delta: SignedDelta) -> int | None:
        """Return the position that a leaf is signed for; None when it is not what was signed."""
        root = self.member.tools.root_of(origin).document
        try:
            header = Header.parse(delta.header)
            verify_header(delta.header, root.publisher_key(header.key_id))
            verifiers = root.log_verifiers(origin)
            checkpoint = open_checkpoint(delta.checkpoint, str(origin), verifiers)
        except FederationError:
            return None
        sound_body = sha256(delta.body).digest() == header.body_digest
        return header.position if sound_body and checkpoint.size == header.position + 1 else None

    def take(self, message: LeafSent) -> None:
        """Put a leaf in the place of a damaged one, if it is what was signed."""
        member = self.member
        held = member.store.now.lists.get(message.origin)
        here = None if held is None else held.leaf(message.position)
        if held is None or here is None or self.is_sound(held.origin, message.position, here):
            return
        if not self._belongs(held, message):
            return
        tools = member.tools
        at = message.position - held.log.start
        leaf = Leaf(message.delta, held.leaves[at].version)
        leaves = (*held.leaves[:at], leaf, *held.leaves[at + 1 :])
        member.commit(replace(held, leaves=leaves))
        tools.hits["leaf repaired"] += 1
        tools.trace(f"{member.org} {held.origin} repaired position {message.position}")
        if all(
            self.is_sound(held.origin, position, leaf.delta)
            for position, leaf in enumerate(leaves, held.log.start)
        ):
            self.damaged.discard(held.origin)
            member.server.look_again()

    def _belongs(self, held: Held, message: LeafSent) -> bool:
        """Say whether a leaf is the one of the log that is here."""
        position, delta = message.position, message.delta
        if not self.is_sound(held.origin, position, delta):
            return False
        # The leaf after it names it, so that a peer that is behind can help as well.
        after = held.leaf(position + 1)
        if after is None:
            return leaf_hash(delta.header) == held.log.last_leaf
        if self.is_sound(held.origin, position + 1, after):
            return leaf_hash(delta.header) == Header.parse(after.header).previous
        tools = self.member.tools
        replica = tools.parts.replica(held.origin, tools.root_of(held.origin), held.log)
        try:
            replica.receive_past(delta, message.inclusion)
        except PeerError:
            return False
        return True
