"""How a simulated node follows lists: the rules of `node.sync` and `node.ingest`, in order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from federation import state as states
from federation import wire
from federation.bucket import decode_bucket
from federation.checkpoint import open_checkpoint
from federation.errors import (
    FederationError,
    ForkError,
    OperationError,
    PeerError,
    ProofError,
    Reason,
)
from federation.follow import Backoff, Cursor, Outcome
from federation.header import Header, LeafKind
from federation.names import Origin
from federation.replica import Replica, SignedDelta
from federation.snapshot import Snapshot
from federation.trust.charter import verify_charter
from tests.simulation.before.disk import Arriving, Held, HeldSnapshot, Leaf
from tests.simulation.before.messages import Alive, Bucket, Delivered, End, Open, Opened, WantBucket
from tests.simulation.before.publishing import rebuild_snapshot

if TYPE_CHECKING:
    from tests.simulation.before.member import Member

INTERVAL_SECONDS: Final = 30.0
"""The longest wait before a peer is contacted again."""

IDLE_SECONDS: Final = 25.0
"""How long a stream may be silent before it counts as broken."""

_BUCKET_SECONDS: Final = 8.0
"""How long to wait for a bucket before another peer is asked."""

_MAX_ASKED: Final = 6
"""How often a bucket is asked for before the snapshot is given up for now."""

_FOLLOWABLE: Final = (Outcome.UP_TO_DATE, Outcome.DELTAS)


@dataclass(slots=True)
class Followed:
    """One list on a stream: the position that should come next, and what the peer said it has."""

    expected: int
    head: int = 0
    outcome: Outcome | None = None
    dropped: bool = False
    taken: int = 0
    deltas_only: bool = False


@dataclass(slots=True)
class Join:
    """A snapshot that is being fetched."""

    opened: Snapshot
    size: int
    asked: int = 0


@dataclass(slots=True)
class Session:
    """The stream to one peer.

    Attributes:
        peer: the peer's number.
        backoff: waits between streams.
        serial: the stream of now.
        is_open: whether there is one.
        answered: whether the peer has answered on it.
        heard: when it last said something.
        got: which of its messages have come.
        again: when to open the next one.
        lists: the lists on it.
        resting: lists that are asked for again later.
        from_start: lists to be compared delta by delta.
        joins: snapshots that are on their way.
    """

    peer: int
    backoff: Backoff
    serial: int = 0
    is_open: bool = False
    answered: bool = False
    heard: float = 0.0
    got: dict[int, bool] = field(default_factory=dict)
    again: float = 0.0
    lists: dict[Origin, Followed] = field(default_factory=dict)
    resting: dict[Origin, tuple[Backoff, float]] = field(default_factory=dict)
    from_start: dict[Origin, bool] = field(default_factory=dict)
    joins: dict[Origin, Join] = field(default_factory=dict)


class Follower:
    """Follows lists for one node."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.sessions: dict[int, Session] = {}

    def forget(self) -> None:
        """Lose what is in memory."""
        self.sessions.clear()

    # --- streams ------------------------------------------------------------------------------

    def tick(self) -> None:  # noqa: C901  # the old simulation
        """Open the streams that are due, and give up those that are silent."""
        now = self.member.tools.timeline.now
        for session in self.sessions.values():
            # As `Session.update`: when a list comes back, it is asked for anew.
            for origin in list(session.lists):
                via = self.member.store[origin].via
                if via is None or self.member.tools.number_of(via) != session.peer:
                    del session.lists[origin]
                    session.joins.pop(origin, None)
            for origin in list(session.resting):
                via = self.member.store[origin].via
                if via is None or self.member.tools.number_of(via) != session.peer:
                    del session.resting[origin]
        wanted: dict[int, list[Held]] = {}
        for held in self.member.store:
            if held.own or held.via is None:
                continue
            number = self.member.tools.number_of(held.via)
            if number not in self.sessions:
                self.sessions[number] = Session(number, self._backoff())
            rest = self.sessions[number].resting.get(held.origin)
            if not is_frozen(held) and (rest is None or rest[1] <= now):
                wanted.setdefault(number, []).append(held)
        for session in self.sessions.values():
            if session.is_open and now - session.heard > IDLE_SECONDS:
                self.lose(session.peer, broke_off=True)
            due = wanted.get(session.peer)
            if due and now >= session.again and self._has_news(session, due):
                self._open(session, due)

    @staticmethod
    def _has_news(session: Session, wanted: Sequence[Held]) -> bool:
        """Say whether a new stream is needed for a list."""
        if not session.is_open:
            return True
        items = (session.lists.get(held.origin) for held in wanted)
        return any(item is None or item.dropped for item in items)

    def _backoff(self) -> Backoff:
        return Backoff(self.member.random, INTERVAL_SECONDS)

    def _open(self, session: Session, wanted: Sequence[Held]) -> None:
        session.serial, session.got = self.member.next_serial(), {}
        session.is_open, session.answered = True, False
        session.heard = self.member.tools.timeline.now
        session.again = session.heard + 1.0
        session.lists = {}
        session.joins = {}
        cursors = []
        for held in wanted:
            known = held.size and held.origin not in session.from_start
            size = held.size if known else 0
            session.lists[held.origin] = Followed(
                expected=size, deltas_only=held.origin in session.from_start
            )
            cursors.append(
                Cursor(
                    origin=str(held.origin),
                    size=size,
                    root_hash=held.log.frontier.root() if known else b"",
                    charter_version=held.charter_version,
                    deltas_only=held.origin in session.from_start,
                )
            )
        self.member.send(session.peer, Open(session.serial, tuple(cursors), live=True))

    def leave(self, origin: Origin) -> None:
        """Take nothing more of a list on the streams that are open: it is asked for anew."""
        for session in self.sessions.values():
            session.lists.pop(origin, None)
            session.joins.pop(origin, None)

    def lose(self, peer: int, *, broke_off: bool = False) -> None:
        """Take note that a stream is broken."""
        session = self.sessions.get(peer)
        if session is not None and session.is_open:
            session.is_open = False
            session.again = self.member.tools.timeline.now + session.backoff.draw()
            if session.answered and not broke_off:
                return
            for origin in session.lists:
                item = self._item(session, origin)
                held = self.member.store[origin]
                if item is None or held.state == "quarantined":
                    continue
                self._show(held, "stale", "UNREACHABLE")

    def hear(self, peer: int, serial: int) -> Session | None:
        """Return the session that a message belongs to; None when it is of an older stream."""
        session = self.sessions.get(peer)
        if session is None or not session.is_open or session.serial != serial:
            return None
        session.heard = self.member.tools.timeline.now
        return session

    def alive(self, peer: int, message: Alive) -> None:
        """Take a sign of life; give the stream up if it has not brought what was sent."""
        session = self.hear(peer, message.serial)
        if session is not None and len(session.got) != message.sent:
            self.member.tools.hits["connection broken"] += 1
            self.lose(peer)

    def end(self, peer: int, message: End) -> None:
        """Take the end of a stream."""
        if self.hear(peer, message.serial) is not None:
            self.lose(peer)

    def _item(self, session: Session | None, origin: Origin) -> Followed | None:
        """Return how a list stands on a stream; None if nothing more of it is taken there."""
        item = None if session is None else session.lists.get(origin)
        if session is None or item is None or item.dropped:
            return None
        if self.member.store[origin].via != self.member.tools.party_of(session.peer).org:
            # Not followed by this peer any more, since a moment ago.
            item.dropped = True
            return None
        return item

    def _rest(self, session: Session, origin: Origin) -> None:
        backoff = session.resting.get(origin, (self._backoff(), 0.0))[0]
        delay, grain = backoff.draw(), INTERVAL_SECONDS / 10
        due = self.member.tools.timeline.now + delay
        session.resting[origin] = (
            backoff,
            math.ceil(due / grain) * grain if delay > grain else due,
        )

    def _drop(self, session: Session, origin: Origin, *, rest: bool) -> None:
        session.lists[origin].dropped = True
        if rest:
            self._rest(session, origin)

    # --- what comes ---------------------------------------------------------------------------

    def opened(self, peer: int, message: Opened) -> None:
        """Take how a peer stands to a cursor."""
        session = self.hear(peer, message.serial)
        if session is not None:
            session.got[message.index] = True
        item = self._item(session, message.origin)
        if session is None or item is None:
            return
        if not session.answered:
            session.answered = True
            session.backoff.reset()
        item.outcome = message.outcome
        held = self.member.store[message.origin]
        try:
            if message.charter:
                held = self._take_charter(held, message.charter)
            if message.checkpoint:
                item.head = self._check_checkpoint(held, message.checkpoint)
            if message.snapshot is not None and item.deltas_only:
                self.lose(peer, broke_off=True)
                return
            if message.snapshot is not None and held.size != item.expected:
                self._drop(session, message.origin, rest=False)
                return
            if message.snapshot is not None:
                self._begin(session, held, message)
        except PeerError as error:
            self._park(session, held, error)
            return
        if session.is_open and not item.dropped:
            self._settle(session, self.member.store[message.origin], item)

    def _settle(self, session: Session, held: Held, item: Followed) -> None:
        match item.outcome:
            case Outcome.UP_TO_DATE | Outcome.DELTAS:
                if min(held.size, item.expected) >= item.head:
                    self._be_current(session, held)
                elif held.state != "quarantined" or item.taken:
                    self._show(held, "catching-up")
            case Outcome.SNAPSHOT if held.state != "quarantined":
                self._show(held, "catching-up")
            case Outcome.UNAVAILABLE:
                self._show(held, "stale", "UNAVAILABLE")
            case Outcome.CURSOR_TOO_OLD if held.reason != "DIVERGED":
                self._show(held, "desynchronised", "CURSOR_TOO_OLD")
            case Outcome.CURSOR_AHEAD:
                self._show(held, "desynchronised", "CURSOR_AHEAD")
            case Outcome.DIVERGED:
                self._show(held, "quarantined", "DIVERGED")
                session.from_start[held.origin] = True
                self._drop(session, held.origin, rest=True)
            case _:
                pass

    def _be_current(self, session: Session, held: Held) -> None:
        session.resting.pop(held.origin, None)
        session.from_start.pop(held.origin, None)
        self._show(held, "current")

    def delivered(self, peer: int, message: Delivered) -> None:
        """Take deltas: verify, merge and commit all of them, or those before the first bad one."""
        session = self.hear(peer, message.serial)
        if session is not None:
            session.got[message.index] = True
        item = self._item(session, message.origin)
        if session is None or item is None:
            return
        if item.outcome not in _FOLLOWABLE:
            # Deltas before the answer that they follow: the peer breaks the protocol, or they have
            # overtaken it.
            self.lose(peer, broke_off=True)
            return
        held = self.member.store[message.origin]
        start, item.expected = item.expected, item.expected + len(message.deltas)
        if held.size < start and _position(message.deltas[0]) == start:
            # The peer goes on rightly, but what came before did not stay here.
            self._drop(session, message.origin, rest=False)
            return
        after, error = self.merge(held, message.deltas)
        if after is not held:
            item.taken += after.size - held.size
            self.member.commit(after)
            self.member.wake()
        if error is not None:
            self._park(session, after, error)
        else:
            self._settle(session, after, item)

    def merge(self, held: Held, deltas: Sequence[SignedDelta]) -> tuple[Held, PeerError | None]:
        """Verify deltas and merge them up to the first that does not verify.

        Raises:
            DamageError: what is here already is not what was signed.
        """
        tools = self.member.tools
        root = tools.root_of(held.origin)
        replica = tools.parts.replica(held.origin, root, held.log)
        entries, leaves, error = held.entries, held.leaves, None
        version, snapshots = self.member.store.number + 1, held.snapshots
        try:
            for delta in deltas:
                position = Header.parse(delta.header).position
                if position < replica.state.size:
                    if position >= held.log.start:
                        here = leaves[position - held.log.start].delta
                        self._compare(replica, here, position, delta)
                    continue
                before = replica.state.state_digest
                candidate = replica.receive(delta, now_ms=self.member.now_ms())
                prior = entries.prior(candidate.body)
                replica.conclude(candidate, prior)
                digest = states.advance(before, candidate.body, position, prior)
                if digest != candidate.header.state_digest:
                    raise ProofError("another live set", reason=Reason.STATE_DIGEST_MISMATCH)
                entries = entries.after(position, candidate.body)
                leaves = (*leaves, Leaf(delta, version))
                if candidate.header.kind is LeafKind.SNAPSHOT:
                    now = replace(held, log=replica.state, entries=entries, leaves=leaves)
                    snapshots = rebuild_snapshot(replace(now, snapshots=snapshots)).snapshots
        except PeerError as caught:
            error = caught
        if replica.state == held.log:
            return held, error
        after = replace(
            held, log=replica.state, entries=entries, leaves=leaves, snapshots=snapshots
        )
        return after, error

    def _compare(
        self, replica: Replica, here: SignedDelta, position: int, delta: SignedDelta
    ) -> None:
        """Compare a delta with the one that is here, which may be damaged: that is no history."""
        try:
            replica.receive_again(delta, here.header)
        except ForkError as error:
            if not self.member.repair.is_sound(replica.origin, position, here):
                raise _damaged(position) from error
            raise

    def _take_charter(self, held: Held, data: bytes) -> Held:
        envelope = wire.decode_envelope(data)
        charter = verify_charter(
            wire.decode_charter(envelope.payload),
            envelope,
            origin=held.origin,
            root=self.member.tools.root_of(held.origin).document,
            newest=held.charter_version,
        )
        if charter.version == held.charter_version:
            return held
        taken = replace(held, charter=data, charter_version=charter.version)
        self.member.commit(taken)
        return taken

    def _check_checkpoint(self, held: Held, note: bytes) -> int:
        """Return the size that a peer's newest checkpoint says, once it fits what is here."""
        verifiers = self.member.tools.root_of(held.origin).document.log_verifiers(held.origin)
        checkpoint = open_checkpoint(note, str(held.origin), verifiers)
        covered = held.log.start <= checkpoint.size <= held.size and checkpoint.size > 0
        if covered and held.root_at(checkpoint.size) != checkpoint.root_hash:
            newest = held.leaf(checkpoint.size - 1)
            sound = self.member.repair.is_sound
            if newest is not None and not sound(held.origin, checkpoint.size - 1, newest):
                raise _damaged(checkpoint.size - 1)
            raise ForkError(f"two signed checkpoints of size {checkpoint.size}")
        return checkpoint.size

    def _park(self, session: Session, held: Held, error: FederationError) -> None:
        if isinstance(error, ForkError):
            state = "forked"
        elif error.reason is Reason.TIME_IN_FUTURE:
            state = "stale"
        else:
            state = "quarantined"
        self.member.tools.hits[f"refused {error.reason}"] += 1
        self._show(held, state, str(error.reason))
        at_fault = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)
        waits = state == "forked" or error.reason in at_fault
        self._drop(session, held.origin, rest=not waits)
        if waits:
            session.resting.pop(held.origin, None)
            session.from_start.pop(held.origin, None)

    def _show(self, held: Held, state: str, reason: str = "") -> None:
        """Note how following a list goes; a fork is left only by a person's decision."""
        now = self.member.store[held.origin]
        if now.state != "forked" and (now.state, now.reason) != (state, reason):
            self.member.commit(replace(now, state=state, reason=reason))
            self.member.tools.trace(f"{self.member.org} {held.origin} {state} {reason}")

    # --- snapshots ----------------------------------------------------------------------------

    def _begin(self, session: Session, held: Held, message: Opened) -> None:
        """Verify an offer, and go on with what is here of that snapshot already."""
        offer = message.snapshot
        assert offer is not None  # looked at before
        tools = self.member.tools
        replica = tools.parts.replica(held.origin, tools.root_of(held.origin), held.log)
        opened = replica.receive_snapshot(offer, now_ms=self.member.now_ms())
        here: Mapping[int, bytes] = {}
        if held.arriving is not None and held.arriving.offer.header == offer.header:
            here = held.arriving.buckets
        self.member.commit(replace(held, arriving=Arriving(offer=offer, buckets=here)))
        session.joins[held.origin] = Join(opened, held.size)
        self._fetch(session, held.origin)

    def _fetch(self, session: Session, origin: Origin) -> None:
        """Ask for every bucket that is missing: of the peer that offered it, then of others."""
        join = session.joins.get(origin)
        held = self.member.store[origin]
        if join is None:
            return
        if held.arriving is None or held.size != join.size:
            # By way of another peer it has come, or the list has moved on: it is asked for anew.
            del session.joins[origin]
            self._drop(session, origin, rest=False)
            return
        missing = [
            number
            for number in range(len(join.opened.bucket_hashes))
            if number not in held.arriving.buckets
        ]
        if not missing:
            self._finish(session, held, join)
            return
        if join.asked >= _MAX_ASKED:
            del session.joins[origin]
            self._show(held, "stale", "UNREACHABLE")
            self._drop(session, origin, rest=True)
            return
        sources = [session.peer, *(peer for peer in self.member.peers if peer != session.peer)]
        for number in missing:
            source = sources[(join.asked + number) % len(sources)]
            self.member.send(source, WantBucket(origin, join.opened.position, number))
        join.asked += 1
        self.member.after(_BUCKET_SECONDS, lambda: self._retry(session, origin, join))

    def _retry(self, session: Session, origin: Origin, join: Join) -> None:
        if self.sessions.get(session.peer) is session and session.joins.get(origin) is join:
            self._fetch(session, origin)

    def bucket(self, message: Bucket) -> None:
        """Keep a bucket, if it is what was signed; else another peer is asked for it."""
        for session in self.sessions.values():
            join = session.joins.get(message.origin)
            held = self.member.store[message.origin]
            if join is None or held.arriving is None or message.data is None:
                continue
            if held.size != join.size:
                continue
            if join.opened.position != message.position or message.number in held.arriving.buckets:
                continue
            try:
                join.opened.open_bucket(message.number, message.data)
            except PeerError as error:
                self.member.tools.hits[f"refused {error.reason}"] += 1
                continue
            buckets = {**held.arriving.buckets, message.number: message.data}
            arriving = replace(held.arriving, buckets=buckets)
            self.member.commit(replace(held, arriving=arriving))
            if len(buckets) == len(join.opened.bucket_hashes):
                self._finish(session, self.member.store[message.origin], join)
            return

    def _finish(self, session: Session, held: Held, join: Join) -> None:
        """Put a snapshot in force, all of whose buckets are here."""
        del session.joins[held.origin]
        self._drop(session, held.origin, rest=False)
        if held.arriving is None or held.size != join.size:
            return
        tools, opened = self.member.tools, join.opened
        data = tuple(held.arriving.buckets[at] for at in range(len(opened.bucket_hashes)))
        buckets = [decode_bucket(item) for item in data]
        replica = tools.parts.replica(held.origin, tools.root_of(held.origin), held.log)
        try:
            state = replica.adopt(opened, [bucket.extent() for bucket in buckets])
            digest = states.EMPTY
            for bucket in buckets:
                digest = states.add_bucket(digest, bucket)
            if digest != opened.header.state_digest:
                raise ProofError("another live set", reason=Reason.STATE_DIGEST_MISMATCH)
        except PeerError as error:
            self._park(session, held, error)
            return
        leaf = SignedDelta(opened.offer.header, b"", opened.offer.checkpoint)
        offer = opened.offer._replace(consistency=())
        self.member.commit(
            replace(
                held,
                log=state,
                before=opened.before,
                leaves=(Leaf(leaf, self.member.store.number + 1),),
                entries=tools.parts.entries.of_buckets(buckets),
                snapshots=(HeldSnapshot(position=opened.position, offer=offer, buckets=data),),
                arriving=None,
            )
        )
        tools.hits["joined by a snapshot"] += 1
        tools.trace(f"{self.member.org} {held.origin} joined at {opened.position}")
        self.member.wake()


def is_frozen(held: Held) -> bool:
    """Say whether a list waits for a person."""
    at_fault = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)
    return held.state == "forked" or (held.state == "quarantined" and held.reason in at_fault)


def _damaged(position: int) -> OperationError:
    """Return what parks a list until it is repaired."""
    return OperationError(f"position {position} is damaged here")


def _position(delta: SignedDelta) -> int | None:
    try:
        return Header.parse(delta.header).position
    except FederationError:
        return None
