"""What a simulated node serves: the rules of `node.rpc.access`, streams as in `node.rpc`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from federation.errors import UsageError
from federation.follow import (
    Cursor,
    ServedList,
    SnapshotSize,
    StreamCursor,
    answer,
    without_snapshot,
)
from federation.names import Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from tests.simulation.disk import DamageError, Held
from tests.simulation.messages import (
    Alive,
    Ask,
    Bucket,
    Delivered,
    End,
    LeafSent,
    Message,
    Open,
    Opened,
    Shown,
    WantBucket,
    WantLeaf,
)

if TYPE_CHECKING:
    from tests.simulation.member import Member

_FRAME_DELTAS: Final = 3
"""Deltas in a frame at most: so few that a list takes several."""


@dataclass(slots=True)
class Stream:
    """One caller's stream.

    Attributes:
        serial: the caller's number of it.
        places: how it stands to each list.
        sent: how many messages were sent on it.
    """

    serial: int
    places: dict[Origin, StreamCursor]
    sent: int = 0


class Server:
    """Serves what one node holds."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.streams: dict[int, Stream] = {}
        self._looked_at = 0

    def forget(self) -> None:
        """Lose what is in memory."""
        self.streams.clear()

    def drop(self, caller: int) -> None:
        """End the stream of a caller that is gone."""
        self.streams.pop(caller, None)

    def beat(self) -> None:
        """Show every caller a sign of life."""
        for caller, stream in list(self.streams.items()):
            self.send(caller, Alive(stream.serial, stream.sent))

    def wake(self) -> None:
        """Send every caller what is new, if anything is."""
        if self._looked_at == self.member.store.number:
            return
        self._looked_at = self.member.store.number
        for caller, stream in list(self.streams.items()):
            self._push(caller, stream)

    def look_again(self) -> None:
        """Send every caller what is new, also where only what is withheld has changed."""
        self._looked_at = 0
        self.wake()

    def send(self, caller: int, message: Message) -> None:
        """Send a message to a caller."""
        stream = self.streams.get(caller)
        if stream is not None and isinstance(message, Opened | Delivered):
            stream.sent += 1
            message = replace(message, index=stream.sent)
        self.member.send(caller, message)

    def view(self, caller: int, origin: Origin) -> Held | None:
        """Return what a caller sees of a list."""
        del caller
        if origin in self.member.repair.damaged:
            return None
        return self.member.store.now.lists.get(origin)

    # --- calls --------------------------------------------------------------------------------

    def open(self, caller: int, message: Open) -> None:
        """Answer every cursor of a new stream, and send what follows."""
        cursors = {Origin.parse(cursor.origin): cursor for cursor in message.cursors}
        places = {origin: StreamCursor(cursor=cursor) for origin, cursor in cursors.items()}
        stream = Stream(message.serial, places)
        if message.live:
            self.streams[caller] = stream
        if self._push(caller, stream) and not message.live:
            self.send(caller, End(stream.serial, failed=False))

    def _push(self, caller: int, stream: Stream) -> bool:
        """Answer what has moved and send what is new; say whether that worked."""
        try:
            for origin, place in stream.places.items():
                held = self.view(caller, origin)
                if place.look(None if held is None else (held.available, held.charter_version)):
                    self._answer(caller, stream, held, origin, place)
                while held is not None and place.behind and (frame := _frame(held, place)):
                    size = place.cursor.size + len(frame)
                    place.advance(size, held.root_at(size))
                    self.send(caller, Delivered(stream.serial, origin, self.pack(frame)))
        except DamageError:
            # As any fault of a server: the call ends without saying why.
            self.send(caller, End(stream.serial, failed=True))
            self.drop(caller)
            return False
        return True

    def _answer(
        self, caller: int, stream: Stream, held: Held | None, origin: Origin, place: StreamCursor
    ) -> None:
        if held is None or not held.charter:
            opened = Opened(stream.serial, origin, answer(None, place.cursor).outcome)
        else:
            opened = self.stand(held, place.cursor, stream.serial)
        head = 0 if held is None else held.available
        version = held.charter_version if held is not None and opened.charter else 0
        if place.tell(opened.outcome, head=head, charter_version=version):
            self.send(caller, opened)

    def stand(self, held: Held, cursor: Cursor, serial: int) -> Opened:
        """Say how this node stands to a cursor.

        Raises:
            DamageError: what is stored cannot be read.
        """
        reply = answer(served(held), cursor)
        outcome, offer = reply.outcome, None
        if reply.snapshot is not None and reply.reason is not None:
            offer = self._offer(held, cursor, reply.snapshot)
            outcome = outcome if offer is not None else without_snapshot(reply.reason)
        charter = held.charter if reply.charter else b""
        return Opened(serial, held.origin, outcome, held.shown, charter, offer)

    @staticmethod
    def _offer(held: Held, cursor: Cursor, position: int) -> SnapshotOffer | None:
        """Return a snapshot with the proof from a cursor; None when it cannot be proved."""
        (offer,) = (item.offer for item in held.snapshots if item.position == position)
        if not cursor.size:
            return offer
        try:
            proof = held.tail().prove_consistency(cursor.size, position + 1)
        except UsageError:
            return None
        return offer._replace(consistency=tuple(proof))

    def pack(self, frame: tuple[SignedDelta, ...]) -> tuple[SignedDelta, ...]:
        """Return what is sent of a frame."""
        return frame

    def show(self, caller: int, message: Ask) -> None:
        """Show the owner of lists what is held of them."""
        org = self.member.tools.party_of(caller).org
        theirs = [held for held in self.member.store if held.origin.org == org and held.charter]
        shown = {held.origin: (held.shown, held.charter) for held in theirs}
        self.send(caller, Shown(message.number, shown, self.member.now_ms()))

    def give_bucket(self, caller: int, message: WantBucket) -> None:
        """Send one bucket of a snapshot."""
        data, held, position = None, self.view(caller, message.origin), message.position
        if held is not None and position < held.available:
            for snapshot in held.snapshots:
                if snapshot.position == position:
                    data = snapshot.buckets[message.number]
        self.send(caller, Bucket(message.origin, position, message.number, data))

    def give_leaf(self, caller: int, message: WantLeaf) -> None:
        """Send a leaf that is sound, with a proof where there can be one.

        A list that is damaged here gives no proof, but its sound leaves are sent all the same.
        """
        origin, position, size = message.origin, message.position, message.size
        held = self.member.store.now.lists.get(origin)
        delta = None if held is None or position >= held.available else held.leaf(position)
        if held is None or delta is None:
            return
        if not self.member.tools.is_sound(origin, position, delta):
            return
        proof: list[bytes] = []
        if origin not in self.member.repair.damaged and size <= held.available:
            with suppress(UsageError):
                proof = held.tail().prove_inclusion(position, size)
        self.send(caller, LeafSent(origin, position, delta, tuple(proof)))


def _frame(held: Held, place: StreamCursor) -> tuple[SignedDelta, ...]:
    """Return the deltas that come next on a stream, in one frame."""
    start = place.cursor.size
    stop = min(held.available, start + _FRAME_DELTAS)
    found = (held.leaf(position) for position in range(start, stop))
    return tuple(delta for delta in found if delta is not None)


def served(held: Held) -> ServedList:
    """Return what a node has of a list, as the server's decisions need it."""
    sizes = [
        SnapshotSize(item.position, sum(map(len, item.buckets)))
        for item in held.snapshots
        if item.position < held.available
    ]

    def measure(first: int, stop: int) -> tuple[int, int]:
        leaves = [held.leaf(position) for position in range(first, stop)]
        return len(leaves), sum(len(leaf.body) for leaf in leaves if leaf is not None)

    return ServedList(
        size=held.available,
        start=held.log.start,
        charter_version=held.charter_version,
        snapshot=sizes[-1] if sizes else None,
        root_at=held.root_at,
        measure=measure,
    )
