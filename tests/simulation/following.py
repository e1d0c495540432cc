"""How a simulated node follows lists: streams in virtual time around `federation.follow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from federation import state as states
from federation.body import Body
from federation.bucket import decode_bucket
from federation.errors import OperationError, PeerError, ProofError, Reason
from federation.follow import (
    Agenda,
    Following,
    Handling,
    News,
    decide,
    is_frozen,
    news_of,
    news_of_failure,
    open_charter,
    read_claim,
    take_deltas,
)
from federation.merge import Prior
from federation.names import Origin
from federation.replica import Candidate, SignedDelta
from federation.snapshot import Snapshot, SnapshotOffer
from tests.simulation.disk import Arriving, Held, HeldSnapshot, Leaf
from tests.simulation.messages import Alive, Bucket, Delivered, End, Open, Opened, WantBucket
from tests.simulation.publishing import rebuild_snapshot

if TYPE_CHECKING:
    from tests.simulation.member import Member

INTERVAL_SECONDS: Final = 30.0
"""The longest wait before a peer is contacted again."""

IDLE_SECONDS: Final = 25.0
"""How long a stream may be silent before it counts as broken."""

_BUCKET_SECONDS: Final = 8.0
"""How long to wait for a bucket before another peer is asked."""

_MAX_ASKED: Final = 6
"""How often a bucket is asked for before the snapshot is given up for now."""

_UNREACHABLE: Final = "UNREACHABLE"


class MemoryCopy:
    """What a node has of a list while deltas are added to it: a `federation.follow.Copy`.

    Attributes:
        held: the list, with the deltas so far.
        start: as `federation.follow.Copy`.
        fault: what the owner signed and what contradicts it, once that was seen. The node finds it
            behind acceptance.
    """

    def __init__(self, member: Member, held: Held) -> None:
        self.held, self.start = held, held.log.start
        self.fault: PeerError | None = None
        self._member = member

    def load_header(self, position: int) -> bytes | None:
        """Return the signed record at a position."""
        leaf = self.held.leaf(position)
        return None if leaf is None else leaf.header

    def require_sound(self, position: int) -> None:
        """Raise unless the leaf at a position is what was signed: damage is no history.

        Raises:
            OperationError: it is not.
        """
        here = self.held.leaf(position)
        if here is None or not self._member.tools.is_sound(self.held.origin, position, here):
            raise OperationError(f"position {position} is damaged here")

    def load_prior(self, body: Body) -> Mapping[int, Prior]:
        """Return what is in force on the entries that a body names."""
        return self.held.entries.prior(body)

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        """Add a delta; make the snapshot anew that it may be."""
        held, position, body = self.held, candidate.header.position, candidate.body
        digest = states.advance(held.log.state_digest, body, position, prior)
        if digest != candidate.header.state_digest:
            self.fault = ProofError("another live set", reason=Reason.STATE_DIGEST_MISMATCH)
        leaf = Leaf(candidate.signed, self._member.store.number + 1)
        self.held = rebuild_snapshot(
            replace(
                held,
                log=candidate.state,
                entries=held.entries.after(position, body),
                leaves=(*held.leaves, leaf),
            )
        )


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
        agenda: which lists are asked for, and when.
        serial: the stream of now.
        is_open: whether there is one.
        answered: whether the peer has answered on it.
        heard: when it last said something.
        got: which of its messages have come.
        again: when to open the next one.
        lists: the lists on it.
        joins: snapshots that are on their way.
    """

    peer: int
    agenda: Agenda
    serial: int = 0
    is_open: bool = False
    answered: bool = False
    heard: float = 0.0
    got: dict[int, bool] = field(default_factory=dict)
    again: float = 0.0
    lists: dict[Origin, Following] = field(default_factory=dict)
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

    def tick(self) -> None:
        """Open the streams that are due, and give up those that are silent."""
        now = self.member.tools.timeline.now
        for session in self.sessions.values():
            # As `Session.update`: when a list comes back, it is asked for anew.
            for origin in {**session.lists, **dict.fromkeys(session.agenda.resting)}:
                via = self.member.store[origin].via
                if via is None or self.member.tools.number_of(via) != session.peer:
                    session.lists.pop(origin, None)
                    session.joins.pop(origin, None)
                    session.agenda.forget(origin)
        wanted: dict[int, list[Held]] = {}
        for held in self.member.store:
            if held.own or held.via is None:
                continue
            number = self.member.tools.number_of(held.via)
            if number not in self.sessions:
                agenda = Agenda(self.member.random, INTERVAL_SECONDS)
                self.sessions[number] = Session(number, agenda)
            is_due = self.sessions[number].agenda.is_due(held.origin, now)
            if is_due and not is_frozen(held.state, held.reason):
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

    def _open(self, session: Session, wanted: Sequence[Held]) -> None:
        session.serial, session.got = self.member.next_serial(), {}
        session.is_open, session.answered = True, False
        session.heard = self.member.tools.timeline.now
        session.again = session.heard + 1.0
        session.lists = {}
        session.joins = {}
        cursors = []
        for held in wanted:
            from_start = held.origin in session.agenda.from_start
            item = Following.ask(held.log, deltas_only=False, from_start=from_start)
            session.lists[held.origin] = item
            cursors.append(item.cursor(held.origin, held.log, held.charter_version))
        self.member.send(session.peer, Open(session.serial, tuple(cursors), live=True))

    def leave(self, origin: Origin) -> None:
        """Take nothing more of a list on the streams that are open: it is asked for anew."""
        for session in self.sessions.values():
            session.lists.pop(origin, None)
            session.joins.pop(origin, None)

    def lose(self, peer: int, *, broke_off: bool = False) -> None:
        """Take note that a stream is broken, perhaps by a peer that is silent or at fault."""
        session = self.sessions.get(peer)
        if session is None or not session.is_open:
            return
        session.is_open = False
        session.again = self.member.tools.timeline.now + session.agenda.backoff.draw()
        news = news_of_failure(answered=session.answered, broke_off=broke_off)
        for origin in session.lists:
            if news is not None and self._item(session, origin) is not None:
                self._learn(session, origin, news, _UNREACHABLE)

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

    def _item(self, session: Session | None, origin: Origin) -> Following | None:
        """Return how a list stands on a stream; None if nothing more of it is taken there."""
        item = None if session is None else session.lists.get(origin)
        if session is None or item is None or item.dropped:
            return None
        if self.member.store[origin].via != self.member.tools.party_of(session.peer).org:
            # Not followed by this peer any more, since a moment ago.
            item.dropped = True
            return None
        return item

    def _learn(self, session: Session, origin: Origin, news: News, reason: str = "") -> None:
        """Record what a piece of news makes of a list, and do what follows from it."""
        tools, held = self.member.tools, self.member.store[origin]
        step = decide(held.state, held.reason, news)
        tools.hits[f"news {news.name}"] += 1
        reason = step.reason or reason
        if step.state is not None and (held.state, held.reason) != (step.state, reason):
            self.member.commit(replace(held, state=step.state, reason=reason))
            tools.trace(f"{self.member.org} {origin} {step.state} {reason}")
        session.agenda.follow(origin, step.action, tools.timeline.now)
        if not step.action.stays_open:
            session.lists[origin].dropped = True

    def _refuse(self, session: Session, origin: Origin, error: PeerError) -> None:
        self.member.tools.hits[f"refused {error.reason}"] += 1
        self._learn(session, origin, news_of(error), str(error.reason))

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
            session.agenda.backoff.reset()
        item.outcome = message.outcome
        held = self.member.store[message.origin]
        try:
            if message.charter:
                held = self._take_charter(held, message.charter)
            if message.checkpoint:
                item.head = self._read_claim(held, message.checkpoint)
            if message.snapshot is not None:
                self._take_offer(session, held, item, message.snapshot)
        except PeerError as error:
            self._refuse(session, held.origin, error)
            return
        self._settle(session, held.origin, item)

    def _settle(self, session: Session, origin: Origin, item: Following) -> None:
        news = item.news(self.member.store[origin].size)
        if news is not None and session.is_open and not item.dropped:
            self._learn(session, origin, news)

    def delivered(self, peer: int, message: Delivered) -> None:
        """Take deltas: verify, merge and commit all of them, or those before the first bad one."""
        session = self.hear(peer, message.serial)
        if session is not None:
            session.got[message.index] = True
        item = self._item(session, message.origin)
        if session is None or item is None:
            return
        if item.judge_frame() is not Handling.TAKE:
            # The peer breaks the protocol, or they have overtaken the answer that they follow. That
            # happens here alone: what was passed over would be missed.
            self.lose(peer, broke_off=True)
            return
        held = self.member.store[message.origin]
        if item.judge_deltas(message.deltas, held.size) is Handling.ASK_AGAIN:
            self._learn(session, held.origin, News.MOVED_ON)
            return
        after, error = self.merge(held, message.deltas)
        if after is not held:
            item.taken += after.size - held.size
            self.member.commit(after)
            self.member.wake()
        if error is not None:
            self._refuse(session, held.origin, error)
        else:
            self._settle(session, held.origin, item)

    def merge(self, held: Held, deltas: Sequence[SignedDelta]) -> tuple[Held, PeerError | None]:
        """Verify deltas and merge them up to the first that does not verify."""
        tools = self.member.tools
        replica = tools.parts.replica(held.origin, tools.root_of(held.origin), held.log)
        copy = MemoryCopy(self.member, held)
        taken = take_deltas(replica, deltas, copy, now_ms=self.member.now_ms())
        return copy.held, taken.error or copy.fault

    def _take_charter(self, held: Held, data: bytes) -> Held:
        root = self.member.tools.root_of(held.origin)
        charter = open_charter(data, held.origin, root, newest=held.charter_version)
        if charter.version == held.charter_version:
            return held
        taken = replace(held, charter=data, charter_version=charter.version)
        self.member.commit(taken)
        return taken

    def _read_claim(self, held: Held, note: bytes) -> int:
        return read_claim(
            note,
            held.origin,
            self.member.tools.root_of(held.origin),
            held.log,
            root_at=lambda size: held.root_at(size) if size >= held.log.start else None,
            require_sound=MemoryCopy(self.member, held).require_sound,
        )

    # --- snapshots ----------------------------------------------------------------------------

    def _take_offer(
        self, session: Session, held: Held, item: Following, offer: SnapshotOffer
    ) -> None:
        """Verify an offer, and go on with what is here of that snapshot already."""
        handling = item.judge_offer(held.size)
        if handling is Handling.BREAK_OFF:
            self.lose(session.peer, broke_off=True)
            return
        if handling is Handling.ASK_AGAIN:
            self._learn(session, held.origin, News.MOVED_ON)
            return
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
            self._learn(session, origin, News.MOVED_ON)
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
            self._learn(session, origin, News.NOT_FETCHED, _UNREACHABLE)
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
        if held.arriving is None or held.size != join.size:
            self._learn(session, held.origin, News.MOVED_ON)
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
            self._refuse(session, held.origin, error)
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
        self._learn(session, held.origin, News.JOINED)
        tools.hits["joined by a snapshot"] += 1
        tools.trace(f"{self.member.org} {held.origin} joined at {opened.position}")
        self.member.wake()
