"""What a simulated node serves: the rules of `node.serving`, streams as in `node.rpc`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from disk import DamageError, Held, HeldSnapshot
from messages import (
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

from federation.errors import FederationError, UsageError
from federation.names import Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from node.serving import Cursor, Outcome

if TYPE_CHECKING:
    from member import Member

_FRAME_DELTAS: Final = 3
"""Deltas in a frame at most: so few that a list takes several."""

_REPLACED: Final = 2
"""Deltas that a snapshot must take the place of to be offered."""


@dataclass(slots=True)
class Stream:
    """One caller's stream.

    Attributes:
        serial: the caller's number of it.
        live: whether it goes on.
        cursors: how far the caller was brought in each list that goes on.
        waiting: cursors that could not be followed, and the size that they were answered at.
    """

    serial: int
    live: bool
    cursors: dict[Origin, int] = field(default_factory=dict)
    waiting: dict[Origin, tuple[Cursor, int]] = field(default_factory=dict)


class Server:
    """Serves what one node holds."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.streams: dict[int, Stream] = {}

    def forget(self) -> None:
        """Lose what is in memory."""
        self.streams.clear()

    def drop(self, caller: int) -> None:
        """End the stream of a caller that is gone."""
        self.streams.pop(caller, None)

    def beat(self) -> None:
        """Show every caller a sign of life."""
        for caller, stream in list(self.streams.items()):
            self.send(caller, Alive(stream.serial))

    def wake(self) -> None:
        """Send every caller what is new."""
        for caller in list(self.streams):
            self._push(caller)

    def send(self, caller: int, message: Message) -> None:
        """Send a message to a caller."""
        self.member.send(caller, message)

    def view(self, caller: int, origin: Origin) -> Held | None:
        """Return what a caller sees of a list."""
        del caller
        return self.member.store.now.lists.get(origin)

    # --- calls --------------------------------------------------------------------------------

    def open(self, caller: int, message: Open) -> None:
        """Answer every cursor of a new stream, and send what follows."""
        stream = Stream(message.serial, message.live)
        own = self.member.tools.party_of(caller).org
        if message.live:
            self.streams[caller] = stream
        for cursor in message.cursors:
            origin = Origin.parse(cursor.origin)
            try:
                self._answer(caller, stream, origin, cursor)
            except DamageError:
                # As any fault of a server: the call ends, and says nothing of why.
                self.send(caller, End(message.serial, failed=True))
                self.streams.pop(caller, None)
                return
        if message.live:
            self._push(caller)
            return
        for origin in stream.cursors:
            self._send_frames(caller, stream, origin)
        self.member.tools.trace(f"{self.member.org} served {own} once")
        self.send(caller, End(stream.serial, failed=False))

    def _answer(self, caller: int, stream: Stream, origin: Origin, cursor: Cursor) -> None:
        held = self.view(caller, origin)
        if held is None or not held.charter:
            self.send(caller, Opened(stream.serial, origin, Outcome.UNAVAILABLE))
            stream.waiting[origin] = (cursor, 0)
            return
        opened = self.stand(held, cursor, stream.serial)
        if opened.outcome in (Outcome.UP_TO_DATE, Outcome.DELTAS):
            stream.waiting.pop(origin, None)
            stream.cursors[origin] = cursor.size
        else:
            stream.waiting[origin] = (cursor, held.available)
        self.send(caller, opened)

    def stand(self, held: Held, cursor: Cursor, serial: int) -> Opened:
        """Say how this node stands to a cursor.

        Raises:
            DamageError: what is stored cannot be read.
        """
        size = held.available
        newest = held.leaf(size - 1)
        outcome = self._outcome(held, cursor, size)
        offer = None
        if outcome in (Outcome.DELTAS, Outcome.CURSOR_TOO_OLD) and not cursor.deltas_only:
            offer = self._offer(held, cursor, size, outcome)
        return Opened(
            serial,
            held.origin,
            outcome if offer is None else Outcome.SNAPSHOT,
            checkpoint=b"" if newest is None else newest.checkpoint,
            charter=held.charter if held.charter_version > cursor.charter_version else b"",
            snapshot=offer,
        )

    @staticmethod
    def _outcome(held: Held, cursor: Cursor, size: int) -> Outcome:
        if cursor.size > size:
            return Outcome.CURSOR_AHEAD
        if 0 < cursor.size < held.log.start:
            return Outcome.CURSOR_TOO_OLD
        if cursor.size and cursor.root_hash != held.root_at(cursor.size):
            return Outcome.DIVERGED
        if cursor.size == size:
            return Outcome.UP_TO_DATE
        return Outcome.DELTAS if cursor.size >= held.log.start else Outcome.CURSOR_TOO_OLD

    @staticmethod
    def _offer(
        held: Held, cursor: Cursor, size: int, outcome: Outcome
    ) -> SnapshotOffer | None:
        fitting = [item for item in held.snapshots if cursor.size <= item.position < size]
        if not fitting:
            return None
        newest: HeldSnapshot = fitting[-1]
        if outcome is Outcome.CURSOR_TOO_OLD:
            return None if cursor.size else newest.offer
        if newest.position - cursor.size < _REPLACED:
            return None
        if not cursor.size:
            return newest.offer
        try:
            proof = held.tail().prove_consistency(cursor.size, newest.position + 1)
        except UsageError:
            return None
        return newest.offer._replace(consistency=tuple(proof))

    def frame(self, held: Held, start: int) -> tuple[SignedDelta, ...]:
        """Return the deltas of one frame."""
        stop = min(held.available, start + _FRAME_DELTAS)
        found = (held.leaf(position) for position in range(start, stop))
        return tuple(delta for delta in found if delta is not None)

    def _push(self, caller: int) -> None:
        stream = self.streams.get(caller)
        if stream is None:
            return
        for origin, (cursor, answered) in list(stream.waiting.items()):
            held = self.view(caller, origin)
            if held is not None and held.available > answered:
                try:
                    self._answer(caller, stream, origin, cursor)
                except DamageError:
                    self.send(caller, End(stream.serial, failed=True))
                    self.drop(caller)
                    return
        for origin in list(stream.cursors):
            self._send_frames(caller, stream, origin)

    def _send_frames(self, caller: int, stream: Stream, origin: Origin) -> None:
        held = self.view(caller, origin)
        while held is not None and (frame := self.frame(held, stream.cursors[origin])):
            stream.cursors[origin] += len(frame)
            self.send(caller, Delivered(stream.serial, origin, self.pack(frame)))

    def pack(self, frame: tuple[SignedDelta, ...]) -> tuple[SignedDelta, ...]:
        """Return what is sent of a frame."""
        return frame

    def show(self, caller: int, message: Ask) -> None:
        """Show the owner of lists what is held of them."""
        org = self.member.tools.party_of(caller).org
        shown = {}
        for held in self.member.store:
            if held.origin.org == org and held.charter:
                newest = held.leaf(held.available - 1)
                shown[held.origin] = (b"" if newest is None else newest.checkpoint, held.charter)
        self.send(caller, Shown(message.number, shown))

    def give_bucket(self, caller: int, message: WantBucket) -> None:
        """Send one bucket of a snapshot."""
        data = None
        held = self.view(caller, message.origin)
        if held is not None and message.position < held.available:
            for snapshot in held.snapshots:
                if snapshot.position == message.position:
                    data = snapshot.buckets[message.number]
        self.send(caller, Bucket(message.origin, message.position, message.number, data))

    def give_leaf(self, caller: int, message: WantLeaf) -> None:
        """Send one leaf with its proof, if it is here."""
        held = self.view(caller, message.origin)
        if held is None or not held.log.start <= message.position < message.size <= held.available:
            return
        delta = held.leaf(message.position)
        try:
            proof = held.tail().prove_inclusion(message.position, message.size)
        except FederationError:
            return
        if delta is not None:
            self.send(
                caller, LeafSent(message.origin, message.position, delta, tuple(proof))
            )
