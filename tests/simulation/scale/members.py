"""Members of the network: simulated nodes around the production author and replica.

What a member does is what `hashfed serve` does: it holds one stream to each peer by which it
follows lists; a stream is a cursor for each list; what comes is verified, committed, and then
served on to those that the list's charter allows. What verifies and what allows is the code that
runs in production; what a node's processor and its lines take is virtual (`costs`).

A member does not keep a copy of what it holds: it holds the first `size` deltas of a shared log,
where `size` is that of its own replica, which has verified those very bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from random import Random

from federation import limits
from federation.author import ChangeSet
from federation.body import Body, build_body, pack
from federation.entry import EntryId, Operation
from federation.errors import PeerError
from federation.follow import Backoff, open_charter, take_deltas
from federation.header import Header
from federation.merge import Prior
from federation.names import Origin
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.trust.charter import Audience, Charter
from tests.simulation.parties import EPOCH_MS, party, sign_charter
from tests.simulation.scale import costs
from tests.simulation.scale.network import Network
from tests.simulation.timeline import Timeline, Worker

_RETRY_CAP_SECONDS = 300.0
"""`sync.interval_seconds`, as it is by default."""


@dataclass(slots=True, eq=False)
class SharedLog:
    """A list, as its owner has signed it.

    Attributes:
        origin: its name.
        owner: the number of the member that owns it.
        deltas: as they travel.
        priors: for each delta, what was in force before on the entries that it names. It follows
            from the deltas before, so that every member that has verified those would find the
            same: it is worked out once.
        charter, charter_version: the signed envelope in force at the owner, and its version.
    """

    origin: Origin
    owner: int
    deltas: list[SignedDelta] = field(default_factory=list)
    priors: list[Mapping[int, Prior]] = field(default_factory=list)
    charter: bytes = b""
    charter_version: int = 0
    _in_force: dict[EntryId, Prior] = field(default_factory=dict)

    def share(self, audience: Audience) -> None:
        """Sign the next charter."""
        self.charter_version += 1
        self.charter = sign_charter(self.owner, self.origin, self.charter_version, audience)

    def sign(self, operations: Iterable[Operation], state: LogState, now_ms: int) -> None:
        """Sign the next delta, from where the log stands."""
        position = state.size
        body = build_body(
            map(pack, operations), sha256(f"{self.origin} {position}".encode()).digest()
        )
        named = [(row, operation) for row, operation in body.operations()]
        prior = {
            row: self._in_force[operation.entry]
            for row, operation in named
            if operation.entry in self._in_force
        }
        author = party(self.owner).author(self.origin)
        change_set = ChangeSet(first=position, last=True)
        self.deltas.append(author.sign(body, prior, state, change_set=change_set, now_ms=now_ms))
        self.priors.append(prior)
        for row, operation in named:
            self._in_force[operation.entry] = Prior(position, row, operation.kind)


@dataclass(slots=True)
class Held:
    """What a member has of one list: a `federation.follow.Copy`.

    Attributes:
        log: the list itself, of which only what the replica has verified is looked at.
        replica: where this member's copy of the log stands.
        start: as `federation.follow.Copy`.
        charter: the charter that it holds; None before the first.
        envelope: that charter's signed bytes.
        refused: what was wrong with what came; nothing more of the list is taken then.
    """

    log: SharedLog
    replica: Replica
    start: int = 0
    charter: Charter | None = None
    envelope: bytes = b""
    refused: PeerError | None = None

    @property
    def size(self) -> int:
        """How many deltas the member has."""
        return self.replica.state.size

    @property
    def charter_version(self) -> int:
        """The version of the charter that the member has; 0 for none."""
        return 0 if self.charter is None else self.charter.version

    def take_charter(self, data: bytes) -> None:
        """Take a charter that is not older than the one here.

        Raises:
            PeerError: it is older, or is not what the owner signed.
        """
        origin, root = self.log.origin, party(self.log.owner).root
        self.charter = open_charter(data, origin, root, newest=self.charter_version)
        self.envelope = data

    def load_header(self, position: int) -> bytes:
        """Return the signed record at a position."""
        return self.log.deltas[position].header

    def require_sound(self, position: int) -> None:
        """Return: nothing is ever damaged here."""

    def load_prior(self, _body: Body) -> Mapping[int, Prior]:
        """Return what is in force on the entries that the next delta names."""
        return self.log.priors[self.size]

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        """Keep nothing: the replica knows what it has verified."""


@dataclass(slots=True)
class Frame:
    """One message of a stream: deltas of one list, and a charter if the reader's is older."""

    origin: Origin
    deltas: list[SignedDelta]
    charter: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire."""
        parts = (len(part) for delta in self.deltas for part in delta)
        return int(costs.FRAME.value) + len(self.charter) + sum(parts)


@dataclass(slots=True, eq=False)
class Stream:
    """A connection by which one member follows another.

    Attributes:
        reader, server: who follows whom.
        cursors: what the reader has, or has been sent, of each list: deltas, charter version.
        sending: whether a frame is on its way to the line.
    """

    reader: Member
    server: Member
    cursors: dict[Origin, tuple[int, int]] = field(default_factory=dict)
    sending: bool = False

    @property
    def is_current(self) -> bool:
        """Whether the reader is up and has no newer one: what comes by an older one is lost."""
        return self.reader.is_up and self.reader.following[self.server] is self

    @property
    def delay(self) -> float:
        """Seconds from one end to the other."""
        return self.server.network.peers[self.server.number][self.reader.number]


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


OnCommit = Callable[["Member", Origin, int], None]
"""Is told of each delta that a member has committed: the list, and its size then."""


class Member:
    """One node.

    Attributes:
        number, org: its place in the network, and whose it is.
        network: the network.
        lists: what it has, by list.
        following, streams: the streams by which it follows others, and those that it serves.
        counts: what it has done.
        processor, uplink, downlink: what it does one thing at a time with. Python runs one thread
            at a time, so one processor is all that a node has.
        is_up: whether it runs.
    """

    def __init__(
        self,
        number: int,
        network: Network,
        timeline: Timeline,
        random: Random,
        on_commit: OnCommit,
    ) -> None:
        self.number, self.network = number, network
        self.org = party(number).org
        self.lists: dict[Origin, Held] = {}
        self.following: dict[Member, Stream] = {}
        self.streams: dict[Member, Stream] = {}
        self.counts = Counts()
        self.processor, self.uplink, self.downlink = (Worker(timeline) for _ in range(3))
        self.is_up = True
        self._timeline, self._on_commit = timeline, on_commit
        self._followed: defaultdict[Member, list[Origin]] = defaultdict(list)
        self._backoffs = defaultdict[Member, Backoff](lambda: Backoff(random, _RETRY_CAP_SECONDS))
        self._inbox: list[tuple[Stream, Frame]] = []
        self._lives = 0

    def hold(self, log: SharedLog, via: Member) -> None:
        """Begin with nothing of a list; follow it by a peer, once `connect` is called."""
        replica = Replica(log.origin, party(log.owner).root, LogState.empty())
        self.lists[log.origin] = Held(log, replica)
        if via is not self:
            self._followed[via].append(log.origin)

    def publish(self, log: SharedLog, operations: Iterable[Operation]) -> None:
        """Sign a delta of an own list, take it as its first subscriber, and serve it."""
        held = self.lists[log.origin]
        log.sign(operations, held.replica.state, self._now_ms())
        if error := self._take_deltas(held, log.deltas[held.size :]):
            raise error
        held.take_charter(log.charter)
        self._on_commit(self, log.origin, held.size)
        self._wake()

    def _now_ms(self) -> int:
        return EPOCH_MS + int(self._timeline.now * 1000)

    # --- following ----------------------------------------------------------------------------

    def connect(self, only: Member | None = None) -> None:
        """Open the stream to each peer, or to one."""
        for via in self._followed if only is None else [only]:
            stream = self.following[via] = Stream(self, via)
            self.counts.reconnects += 1
            # TCP, TLS 1.3, the request: three ways there and two back.
            self._timeline.after(5 * stream.delay, partial(self._open, stream))

    def _open(self, stream: Stream) -> None:
        via = stream.server
        if not stream.is_current:
            return
        if not via.is_up:
            self._retry(stream)
            return
        self._backoffs[via].reset()
        for origin in self._followed[via]:
            held = self.lists[origin]
            if held.refused is None:
                stream.cursors[origin] = (held.size, held.charter_version)
        self.processor.do(lambda: costs.CONNECT.value, lambda: None)
        via.accept(stream)

    def lose(self, via: Member) -> None:
        """Notice that a peer is gone, and try again after a while."""
        if self.is_up:
            self.following[via] = Stream(self, via)
            self._retry(self.following[via])

    def _retry(self, stream: Stream) -> None:
        def again() -> None:
            if stream.is_current:
                self.connect(stream.server)

        self._timeline.after(self._backoffs[stream.server].draw(), again)

    def arrive(self, stream: Stream, frame: Frame) -> None:
        """Take a frame from the line, as fast as it is."""
        seconds = frame.size_bytes / self.network.bandwidth[self.number]
        self.downlink.do(lambda: seconds, lambda: self._receive(stream, frame))

    def _receive(self, stream: Stream, frame: Frame) -> None:
        if not stream.is_current:
            return
        self.counts.received_bytes += frame.size_bytes
        self._inbox.append((stream, frame))
        if len(self._inbox) == 1:
            # All that comes until the processor is free is one transaction.
            taken: list[Frame] = []
            life = self._lives
            self.processor.do(
                lambda: self._begin_commit(taken) if life == self._lives else 0.0,
                lambda: self._commit(taken) if life == self._lives else None,
            )

    def _begin_commit(self, taken: list[Frame]) -> float:
        taken += [frame for stream, frame in self._inbox if stream.is_current]
        self._inbox.clear()
        # As the headers say, which are not verified yet: only how long that takes is meant.
        headers = (Header.parse(delta.header) for frame in taken for delta in frame.deltas)
        operations = sum(header.op_count for header in headers)
        return costs.ACCEPT.value + operations * costs.ACCEPT_OP.value

    def _commit(self, taken: list[Frame]) -> None:
        self.counts.transactions += 1
        for frame in taken:
            held = self.lists[frame.origin]
            try:
                if frame.charter:
                    held.take_charter(frame.charter)
                before = held.size
                if held.refused is None:
                    held.refused = self._take_deltas(held, frame.deltas)
                for size in range(before + 1, held.size + 1):
                    self._on_commit(self, frame.origin, size)
            except PeerError as error:
                held.refused = error
        self._wake()

    def _take_deltas(self, held: Held, deltas: Sequence[SignedDelta]) -> PeerError | None:
        taken = take_deltas(held.replica, deltas, held, now_ms=self._now_ms())
        self.counts.verified += taken.deltas
        return taken.error

    # --- serving ------------------------------------------------------------------------------

    def accept(self, stream: Stream) -> None:
        """Take a stream, after the handshake."""
        life = self._lives

        def begin() -> None:
            if not stream.is_current:
                return
            if life != self._lives:
                stream.reader.lose(self)
                return
            self.streams[stream.reader] = stream
            self._serve(stream)

        self.processor.do(lambda: costs.CONNECT.value, begin)

    def _wake(self) -> None:
        for stream in list(self.streams.values()):
            self._serve(stream)

    def _serve(self, stream: Stream) -> None:
        """Send the next frame of a stream, if its line has taken the one before."""
        frame = None if stream.sending else self._next_frame(stream)
        if frame is None:
            return
        stream.sending = True
        size = frame.size_bytes

        def sent() -> None:
            stream.sending = False
            if self.is_up and self.streams.get(stream.reader) is stream:
                self._serve(stream)
                self._timeline.after(stream.delay, partial(stream.reader.arrive, stream, frame))

        self.counts.sent_bytes += size
        self.counts.frames += 1
        self.processor.do(
            lambda: costs.SEND.value + size * costs.SEND_BYTE.value,
            lambda: self.uplink.do(lambda: size / self.network.bandwidth[self.number], sent),
        )

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
            return Frame(origin, deltas, held.envelope if held.charter_version > version else b"")
        return None

    def read(self, held: Held, start: int) -> list[SignedDelta]:
        """Return the deltas of one frame, out of those that this member has verified."""
        deltas: list[SignedDelta] = []
        taken = 0
        for delta in held.log.deltas[start : held.size]:
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
        for stream in self.streams.values():
            self._timeline.after(stream.delay, partial(stream.reader.lose, self))
        self.streams.clear()
        for via in self._followed:
            via.streams.pop(self, None)

    def start(self) -> None:
        """Begin again with what is committed."""
        self.is_up = True
        self.connect()
