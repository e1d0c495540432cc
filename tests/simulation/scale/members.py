"""Members of the network: simulated nodes around the production replica.

What a member does is what `hashfed serve` does: it holds one stream to each peer by which it
follows lists; a stream is a cursor for each list; what comes is verified, committed, and then
served on to whom the list's charter allows. What verifies and what allows is the code that runs in
production; what a node's processor and its lines take is virtual (`costs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from federation import limits
from federation.body import Body
from federation.errors import PeerError
from federation.follow import Backoff, open_charter, take_deltas
from federation.header import Header
from federation.merge import Prior
from federation.names import OrgName, Origin, parse_org
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.trust.charter import Charter
from tests.simulation.scale import costs
from tests.simulation.scale.lists import EPOCH_MS, OwnList
from tests.simulation.scale.network import Network
from tests.simulation.timeline import Timeline, Worker

_RETRY_CAP_SECONDS = 300.0
"""`sync.interval_seconds`, as it is by default."""


@dataclass(slots=True)
class Held:
    """What a member has of one list.

    Attributes:
        source: the list itself, of which only what the replica has verified is looked at.
        replica: where this member's copy of the log stands.
        charter: the charter that it holds; None before the first.
        envelope: that charter's signed bytes.
        refused: what was wrong with what came; nothing more of the list is taken then.
    """

    source: OwnList
    replica: Replica
    charter: Charter | None = None
    envelope: bytes = b""
    refused: PeerError | None = None

    @property
    def size(self) -> int:
        """How many deltas the member has."""
        return self.replica.state.size

    @property
    def start(self) -> int:
        """The size from which on every leaf is here."""
        return 0

    def load_header(self, position: int) -> bytes:
        """Return the signed record at a position."""
        return self.source.log[position].header

    def require_sound(self, position: int) -> None:
        """Return: nothing is ever damaged here."""

    def load_prior(self, _body: Body) -> Mapping[int, Prior]:
        """Return what is in force on the entries that the next delta names."""
        return self.source.priors[self.size]

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        """Keep nothing: the replica knows what it has verified."""

    @property
    def charter_version(self) -> int:
        """The version of the charter that the member has; 0 for none."""
        return 0 if self.charter is None else self.charter.version


@dataclass(slots=True)
class Frame:
    """One message of a stream: deltas of one list, and a charter if the reader's is older."""

    origin: Origin
    deltas: list[SignedDelta]
    charter: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire."""
        return (
            int(costs.FRAME.value)
            + len(self.charter)
            + sum(len(part) for delta in self.deltas for part in delta)
        )


@dataclass(slots=True)
class Stream:
    """What one member follows by another.

    Attributes:
        reader: who follows.
        cursors: what the reader has, or has been sent, of each list: deltas, charter version.
        sending: whether a frame is on its way to the line.
        serial: the connection that it belongs to; what comes from an older one is lost.
    """

    reader: Member
    cursors: dict[Origin, tuple[int, int]]
    serial: int
    sending: bool = False


@dataclass(slots=True)
class Counts:
    """What a member has done.

    Attributes:
        sent_bytes, received_bytes: on the wire, heartbeats left out.
        frames: frames sent.
        verified: deltas that the replica has verified.
        transactions: commits of what came.
        reconnects: attempts to reach a peer again.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    frames: int = 0
    verified: int = 0
    transactions: int = 0
    reconnects: int = 0


class Member:
    """One node.

    Attributes:
        number: its place in the network.
        org: whose it is.
        lists: what it has, by list.
        streams: who follows lists here, by the reader's number.
        counts: what it has done.
        processor, uplink, downlink: what it does one thing at a time with. Python runs one thread
            at a time, so one processor is all that a node has.
        is_up: whether it runs.
    """

    def __init__(
        self, number: int, org: OrgName, network: Network, timeline: Timeline, random: Random
    ) -> None:
        self.number = number
        self.org = org
        self.lists: dict[Origin, Held] = {}
        self.streams: dict[int, Stream] = {}
        self.counts = Counts()
        self.processor, self.uplink, self.downlink = (Worker(timeline) for _ in range(3))
        self.is_up = True
        self.on_commit: Callable[[Member, Origin, int], None] = lambda *_: None
        self._network = network
        self._timeline = timeline
        self._random = random
        self._followed: dict[Member, list[Origin]] = {}
        self._backoffs: dict[int, Backoff] = {}
        self._serials: dict[int, int] = {}
        self._inbox: list[tuple[int, int, Frame]] = []
        self._lives = 0

    # --- what it has --------------------------------------------------------------------------

    def own(self, source: OwnList) -> None:
        """Take a list of its own: what is signed is here at once."""
        self.lists[source.origin] = Held(
            source, Replica(source.origin, source.root, LogState.empty())
        )

    def follow(self, source: OwnList, via: Member) -> None:
        """Follow a list by a peer, from the beginning, once `connect` is called."""
        self.own(source)
        self._followed.setdefault(via, []).append(source.origin)

    def publish(self, source: OwnList) -> None:
        """Take what its owner has just signed, and serve it."""
        held = self.lists[source.origin]
        if error := self._take_deltas(held, source.log[held.size :]):
            raise error
        self._take_charter(held, source.charter)
        self.on_commit(self, source.origin, held.size)
        self._wake()

    # --- following ----------------------------------------------------------------------------

    def connect(self, only: Member | None = None) -> None:
        """Open the stream to each peer, or to one."""
        for via in [only] if only is not None else self._followed:
            self._serials[via.number] = serial = self._serials.get(via.number, 0) + 1
            self.counts.reconnects += 1
            # TCP, TLS 1.3, the request: three ways there and two back.
            delay = 5 * self._network.delay(self.number, via.number)
            self._timeline.after(delay, partial(self._open, via, serial))

    def _open(self, via: Member, serial: int) -> None:
        if not self.follows(via, serial):
            return
        if not via.is_up:
            self._retry(via, serial)
            return
        self._backoffs.pop(via.number, None)
        cursors = {
            origin: (self.lists[origin].size, self.lists[origin].charter_version)
            for origin in self._followed[via]
            if self.lists[origin].refused is None
        }
        self.processor.do(lambda: costs.CONNECT.value, lambda: None)
        via.accept(Stream(reader=self, cursors=cursors, serial=serial))

    def follows(self, via: Member, serial: int) -> bool:
        """Say whether a connection to a peer is the one of now."""
        return self.is_up and self._serials.get(via.number) == serial

    def lose(self, via: Member) -> None:
        """Notice that a peer is gone, and try again after a while."""
        if self.is_up:
            self._serials[via.number] = serial = self._serials.get(via.number, 0) + 1
            self._retry(via, serial)

    def _retry(self, via: Member, serial: int) -> None:
        backoff = self._backoffs.setdefault(via.number, Backoff(self._random, _RETRY_CAP_SECONDS))

        def again() -> None:
            if self.follows(via, serial):
                self.connect(via)

        self._timeline.after(backoff.draw(), again)

    def _receive(self, stream: Stream, via: Member, frame: Frame) -> None:
        """Take what has come over the line."""
        if not self.follows(via, stream.serial):
            return
        self.counts.received_bytes += frame.size_bytes
        self._inbox.append((via.number, stream.serial, frame))
        if len(self._inbox) == 1:
            # All that comes until the processor is free is one transaction.
            taken: list[Frame] = []
            life = self._lives
            self.processor.do(
                lambda: self._begin_commit(taken, life), lambda: self._commit(taken, life)
            )

    def _begin_commit(self, taken: list[Frame], life: int) -> float:
        if life != self._lives:
            return 0.0
        taken += [frame for via, serial, frame in self._inbox if self._serials.get(via) == serial]
        self._inbox.clear()
        deltas = [delta for frame in taken for delta in frame.deltas]
        # As the headers say, which are not verified yet: only how long that takes is meant.
        operations = sum(Header.parse(delta.header).op_count for delta in deltas)
        return costs.ACCEPT.value + operations * costs.ACCEPT_OP.value

    def _commit(self, taken: list[Frame], life: int) -> None:
        if life != self._lives:
            return
        self.counts.transactions += 1
        for frame in taken:
            held = self.lists[frame.origin]
            try:
                if frame.charter:
                    self._take_charter(held, frame.charter)
                before = held.size
                if held.refused is None:
                    held.refused = self._take_deltas(held, frame.deltas)
                for size in range(before + 1, held.size + 1):
                    self.on_commit(self, frame.origin, size)
            except PeerError as error:
                held.refused = error
        self._wake()

    def _take_deltas(self, held: Held, deltas: Sequence[SignedDelta]) -> PeerError | None:
        now_ms = EPOCH_MS + int(self._timeline.now * 1000)
        taken = take_deltas(held.replica, deltas, held, now_ms=now_ms)
        self.counts.verified += taken.deltas
        return taken.error

    def _take_charter(self, held: Held, data: bytes) -> None:
        source = held.source
        held.charter = open_charter(data, source.origin, source.root, newest=held.charter_version)
        held.envelope = data

    # --- serving ------------------------------------------------------------------------------

    def accept(self, stream: Stream) -> None:
        """Take a stream, after the handshake."""
        life = self._lives

        def begin() -> None:
            if not stream.reader.follows(self, stream.serial):
                return
            if life != self._lives:
                stream.reader.lose(self)
                return
            self.streams[stream.reader.number] = stream
            self._serve(stream)

        self.processor.do(lambda: costs.CONNECT.value, begin)

    def _wake(self) -> None:
        for stream in list(self.streams.values()):
            self._serve(stream)

    def _serve(self, stream: Stream) -> None:
        """Send the next frame of a stream, if its line has taken the one before."""
        if stream.sending:
            return
        frame = self._next_frame(stream)
        if frame is None:
            return
        stream.sending = True
        size = frame.size_bytes

        def sent() -> None:
            stream.sending = False
            if self.is_up and self.streams.get(stream.reader.number) is stream:
                self._serve(stream)
                self._timeline.after(
                    self._network.delay(self.number, stream.reader.number),
                    lambda: stream.reader.arrive(stream, self, frame),
                )

        self.counts.sent_bytes += size
        self.counts.frames += 1
        self.processor.do(
            lambda: costs.SEND.value + size * costs.SEND_BYTE.value,
            lambda: self.uplink.do(lambda: size / self._network.bandwidth[self.number], sent),
        )

    def arrive(self, stream: Stream, via: Member, frame: Frame) -> None:
        """Take a frame from the line, as fast as it is."""
        seconds = frame.size_bytes / self._network.bandwidth[self.number]
        self.downlink.do(lambda: seconds, lambda: self._receive(stream, via, frame))

    def _next_frame(self, stream: Stream) -> Frame | None:
        for origin, (size, version) in stream.cursors.items():
            held = self.lists[origin]
            if held.charter is None or (held.size, held.charter_version) == (size, version):
                continue
            if not held.charter.allows(stream.reader.org):
                continue
            deltas = self.read(held, size)
            # To the end: lists take turns.
            del stream.cursors[origin]
            stream.cursors[origin] = (size + len(deltas), held.charter_version)
            charter = held.envelope if held.charter_version > version else b""
            return Frame(origin, deltas, charter)
        return None

    def read(self, held: Held, start: int) -> list[SignedDelta]:
        """Return the deltas of one frame, out of those that this member has verified."""
        deltas: list[SignedDelta] = []
        taken = 0
        for delta in held.source.log[start : held.size]:
            if taken >= limits.FRAME_TARGET_BYTES or len(deltas) == limits.MAX_FRAME_DELTAS:
                break
            deltas.append(delta)
            taken += sum(map(len, delta))
        return deltas

    # --- going and coming ---------------------------------------------------------------------

    def stop(self) -> None:
        """End, as a process that is killed: what is committed stays."""
        self.is_up = False
        self._lives += 1
        self._inbox.clear()
        readers = [stream.reader for stream in self.streams.values()]
        self.streams.clear()
        for via in self._followed:
            via.streams.pop(self.number, None)
        for reader in readers:
            delay = self._network.delay(self.number, reader.number)
            self._timeline.after(delay, partial(reader.lose, self))

    def start(self) -> None:
        """Begin again with what is committed."""
        self.is_up = True
        self.connect()


def org_of(number: int) -> OrgName:
    """Return the organization of a member."""
    return parse_org(f"m{number}.example")


def make_members(
    network: Network, timeline: Timeline, sources: Iterable[OwnList], random: Random
) -> list[Member]:
    """Make all members of a network; each follows all lists."""
    members = [
        Member(number, org_of(number), network, timeline, random)
        for number in range(len(network.peers))
    ]
    for source in sources:
        via = network.routes(source.owner)
        for member in members:
            if member.number == source.owner:
                member.own(source)
            else:
                member.follow(source, members[via[member.number]])
    return members
