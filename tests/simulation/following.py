"""How a simulated node follows lists: streams in virtual time around `federation.follow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
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
from tests.simulation.disk import Arriving, Held, HeldSnapshot
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
        """Add a delta; rebuild the snapshot that it may be."""
        held, position, body = self.held, candidate.header.position, candidate.body
        digest = states.advance(held.log.state_digest, body, position, prior)
        if digest != candidate.header.state_digest:
            self.fault = ProofError("another live set", reason=Reason.STATE_DIGEST_MISMATCH)
        after = replace(
            held,
            log=candidate.state,
            entries=held.entries.after(position, body),
            leaves=(*held.leaves, self._member.store.leaf(candidate.signed)),
        )
        self.held = rebuild_snapshot(after)


@dataclass(slots=True)
class Join:
    """A snapshot that is being fetched to a list that had a size when it was offered."""

    opened: Snapshot
    size: int
    asked: int = 0


@dataclass(slots=True, kw_only=True)
class Item(Following):
    """One list on one stream, and the snapshot that is on its way there."""

    join: Join | None = None


@dataclass(slots=True)
class Session:
    """The stream to one peer.

    Attributes:
        peer: the peer's number.
        agenda: which lists are asked for, and when.
        serial: the stream of now.
        is_open, answered: whether there is one, and whether the peer has answered on it.
        heard: when the peer last said something.
        got: which of its messages have come.
        again: when to open the next one.
        lists: the lists on it.
    """

    peer: int
    agenda: Agenda
    serial: int = 0
    is_open: bool = False
    answered: bool = False
    heard: float = 0.0
    got: set[int] = field(default_factory=set)
    again: float = 0.0
    lists: dict[Origin, Item] = field(default_factory=dict)


class Follower:
    """Follows lists for one node."""

    def __init__(self, member: Member) -> None:
        self.member, self.tools = member, member.tools
        self.sessions: dict[int, Session] = {}

    def forget(self) -> None:
        """Lose what is in memory."""
        self.sessions.clear()

    # --- streams ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Open the streams that are due, and give up those that are silent."""
        now, lists = self.tools.timeline.now, list(self.member.store)
        for session in self.sessions.values():
            # When a list comes back to this peer, nothing of before counts.
            for origin in {*session.lists, *session.agenda.resting}:
                if not self._is_by(session, origin):
                    session.lists.pop(origin, None)
                    session.agenda.forget(origin)
        for peer in [self.tools.number_of(held.via) for held in lists if held.via is not None]:
            if peer not in self.sessions:
                agenda = Agenda(self.member.random, INTERVAL_SECONDS)
                self.sessions[peer] = Session(peer, agenda)
        for session in self.sessions.values():
            due = [
                held
                for held in lists
                if self._is_by(session, held.origin)
                and session.agenda.is_due(held.origin, now)
                and not is_frozen(held.state, held.reason)
            ]
            if session.is_open and now - session.heard > IDLE_SECONDS:
                self.lose(session.peer, broke_off=True)
            items = (session.lists.get(held.origin) for held in due)
            has_news = any(item is None or item.dropped for item in items)
            if due and now >= session.again and (has_news or not session.is_open):
                self._open(session, due)

    def _is_by(self, session: Session, origin: Origin) -> bool:
        """Say whether a list is followed by the peer of a session."""
        return self.member.store[origin].via == self.tools.party_of(session.peer).org

    def _open(self, session: Session, wanted: Sequence[Held]) -> None:
        session.serial, session.got, session.lists = self.member.next_serial(), set(), {}
        session.is_open, session.answered = True, False
        session.heard = self.tools.timeline.now
        session.again = session.heard + 1.0
        cursors = []
        for held in wanted:
            from_start = held.origin in session.agenda.from_start
            item = Item.ask(held.log, deltas_only=False, from_start=from_start)
            session.lists[held.origin] = item
            cursors.append(item.cursor(held.origin, held.log, held.charter_version))
        self.member.send(session.peer, Open(session.serial, tuple(cursors), live=True))

    def leave(self, origin: Origin) -> None:
        """Take nothing more of a list on the streams that are open: it is asked for again."""
        for session in self.sessions.values():
            session.lists.pop(origin, None)

    def lose(self, peer: int, *, broke_off: bool = False) -> None:
        """Take note that a stream is broken, perhaps by a peer that is silent or at fault."""
        session = self.sessions.get(peer)
        if session is None or not session.is_open:
            return
        session.is_open = False
        session.again = self.tools.timeline.now + session.agenda.backoff.draw()
        news = news_of_failure(answered=session.answered, broke_off=broke_off)
        for origin in session.lists:
            if news is not None and self._item(session, origin) is not None:
                self._learn(session, origin, news, _UNREACHABLE)

    def hear(self, peer: int, message: Opened | Delivered | Alive | End) -> None:
        """Take a message; one of an older stream is passed over."""
        session = self.sessions.get(peer)
        if session is None or not session.is_open or session.serial != message.serial:
            return
        session.heard = self.tools.timeline.now
        match message:
            case Alive():
                # It has to have brought what was sent before it.
                if len(session.got) != message.sent:
                    self.tools.hits["connection broken"] += 1
                    self.lose(peer)
            case End():
                self.lose(peer)
            case _:
                session.got.add(message.index)
                item = self._item(session, message.origin)
                if item is not None:
                    self._take(session, item, message)

    def _item(self, session: Session, origin: Origin) -> Item | None:
        """Return how a list stands on a stream; None if nothing more of it is taken there."""
        item = session.lists.get(origin)
        if item is None or item.dropped:
            return None
        # It may be followed by another peer since a moment ago.
        item.dropped = not self._is_by(session, origin)
        return None if item.dropped else item

    def _learn(self, session: Session, origin: Origin, news: News, reason: str = "") -> None:
        """Record what a piece of news makes of a list, and do what follows from it."""
        held = self.member.store[origin]
        step = decide(held.state, held.reason, news)
        self.tools.hits[f"news {news.name}"] += 1
        reason = step.reason or reason
        if step.state is not None and (held.state, held.reason) != (step.state, reason):
            self.member.commit(replace(held, state=step.state, reason=reason))
            self.tools.trace(f"{self.member.org} {origin} {step.state} {reason}")
        session.agenda.follow(origin, step.action, self.tools.timeline.now)
        if not step.action.stays_open:
            session.lists[origin].dropped = True

    def _refuse(self, session: Session, origin: Origin, error: PeerError) -> None:
        self.tools.hits[f"refused {error.reason}"] += 1
        self._learn(session, origin, news_of(error), str(error.reason))

    # --- what comes ---------------------------------------------------------------------------

    def _take(self, session: Session, item: Item, message: Opened | Delivered) -> None:
        """Take what a peer sends of a list, and learn what it means for the list by now."""
        held = self.member.store[message.origin]
        try:
            if isinstance(message, Opened):
                self._take_answer(session, item, held, message)
            else:
                self._take_deltas(session, item, held, message.deltas)
        except PeerError as error:
            self._refuse(session, held.origin, error)
            return
        news = item.news(self.member.store[held.origin].size)
        if news is not None and session.is_open and not item.dropped:
            self._learn(session, held.origin, news)

    def _take_answer(self, session: Session, item: Item, held: Held, message: Opened) -> None:
        """Take how a peer stands to a cursor."""
        if not session.answered:
            session.answered = True
            session.agenda.backoff.reset()
        item.outcome = message.outcome
        root = self.tools.root_of(held.origin)
        if message.charter:
            charter = open_charter(message.charter, held.origin, root, newest=held.charter_version)
            if charter.version != held.charter_version:
                held = replace(held, charter=message.charter, charter_version=charter.version)
                self.member.commit(held)
        if message.checkpoint:
            item.head = read_claim(
                message.checkpoint,
                held.origin,
                root,
                held.log,
                root_at=lambda size: held.root_at(size) if size >= held.log.start else None,
                require_sound=MemoryCopy(self.member, held).require_sound,
            )
        if message.snapshot is not None:
            self._take_offer(session, item, held, message.snapshot)

    def _take_deltas(
        self, session: Session, item: Item, held: Held, deltas: Sequence[SignedDelta]
    ) -> None:
        """Verify, merge and commit deltas: all of them, or those before the first bad one."""
        if item.judge_frame() is not Handling.TAKE:
            # The peer breaks the protocol, or they have overtaken the answer that they follow. That
            # happens here alone: what was passed over would be missed.
            self.lose(session.peer, broke_off=True)
            return
        if item.judge_deltas(deltas, held.size) is Handling.ASK_AGAIN:
            self._learn(session, held.origin, News.MOVED_ON)
            return
        after, error = self.merge(held, deltas)
        if after is not held:
            item.taken += after.size - held.size
            self.member.commit(after)
            self.member.wake()
        if error is not None:
            raise error

    def merge(self, held: Held, deltas: Sequence[SignedDelta]) -> tuple[Held, PeerError | None]:
        """Verify deltas and merge them up to the first that does not verify."""
        copy = MemoryCopy(self.member, held)
        taken = take_deltas(self.tools.replica(held), deltas, copy, now_ms=self.member.now_ms())
        return copy.held, taken.error or copy.fault

    # --- snapshots ----------------------------------------------------------------------------

    def _take_offer(self, session: Session, item: Item, held: Held, offer: SnapshotOffer) -> None:
        """Verify an offer, and go on with what is here of that snapshot already."""
        match item.judge_offer(held.size):
            case Handling.BREAK_OFF:
                self.lose(session.peer, broke_off=True)
            case Handling.ASK_AGAIN:
                self._learn(session, held.origin, News.MOVED_ON)
            case _:
                replica = self.tools.replica(held)
                opened = replica.receive_snapshot(offer, now_ms=self.member.now_ms())
                here = held.arriving
                is_known = here is not None and here.offer.header == offer.header
                buckets = here.buckets if here is not None and is_known else {}
                self.member.commit(replace(held, arriving=Arriving(offer, buckets)))
                item.join = Join(opened, held.size)
                self._go_on(session, held.origin, item.join)

    def _go_on(self, session: Session, origin: Origin, join: Join | None) -> None:
        """Put a snapshot in force if all of it is here; ask for what is missing if not.

        The peer that offered it is asked first, then the others.
        """
        item, held = session.lists.get(origin), self.member.store[origin]
        if item is None or join is None or item.join is not join:
            return
        item.join = None
        if held.arriving is None or held.size != join.size:
            # By way of another peer it has come, or the list has moved on.
            self._learn(session, origin, News.MOVED_ON)
            return
        buckets = range(len(join.opened.bucket_hashes))
        missing = [number for number in buckets if number not in held.arriving.buckets]
        if not missing:
            self._adopt(session, held, join, [held.arriving.buckets[at] for at in buckets])
            return
        if join.asked >= _MAX_ASKED:
            self._learn(session, origin, News.NOT_FETCHED, _UNREACHABLE)
            return
        sources = [session.peer, *(peer for peer in self.member.peers if peer != session.peer)]
        for number in missing:
            source = sources[(join.asked + number) % len(sources)]
            self.member.send(source, WantBucket(origin, join.opened.position, number))
        item.join = join
        join.asked += 1
        self.member.after(_BUCKET_SECONDS, lambda: self._go_on(session, origin, join))

    def bucket(self, message: Bucket) -> None:
        """Keep a bucket, if it is what was signed; else another peer is asked for it."""
        origin, number = message.origin, message.number
        for session in self.sessions.values():
            item, held = session.lists.get(origin), self.member.store[origin]
            join = None if item is None else item.join
            if join is None or held.arriving is None or message.data is None:
                continue
            if (join.size, join.opened.position) != (held.size, message.position):
                continue
            if number in held.arriving.buckets:
                continue
            try:
                join.opened.open_bucket(number, message.data)
            except PeerError as error:
                self.tools.hits[f"refused {error.reason}"] += 1
                continue
            buckets = {**held.arriving.buckets, number: message.data}
            self.member.commit(replace(held, arriving=replace(held.arriving, buckets=buckets)))
            if len(buckets) == len(join.opened.bucket_hashes):
                self._go_on(session, origin, join)
            return

    def _adopt(self, session: Session, held: Held, join: Join, data: Sequence[bytes]) -> None:
        """Put a snapshot in force, all of whose buckets are here."""
        member, opened = self.member, join.opened
        buckets = [decode_bucket(item) for item in data]
        try:
            extents = [bucket.extent() for bucket in buckets]
            log = self.tools.replica(held).adopt(opened, extents)
            if reduce(states.add_bucket, buckets, states.EMPTY) != opened.header.state_digest:
                raise ProofError("another live set", reason=Reason.STATE_DIGEST_MISMATCH)
        except PeerError as error:
            self._refuse(session, held.origin, error)
            return
        leaf = SignedDelta(opened.offer.header, b"", opened.offer.checkpoint)
        offer = opened.offer._replace(consistency=())
        snapshot = HeldSnapshot(position=opened.position, offer=offer, buckets=tuple(data))
        joined = replace(
            held,
            log=log,
            before=opened.before,
            leaves=(member.store.leaf(leaf),),
            entries=self.tools.parts.entries.of_buckets(buckets),
            snapshots=(snapshot,),
            arriving=None,
        )
        member.commit(joined)
        self._learn(session, held.origin, News.JOINED)
        self.tools.hits["joined by a snapshot"] += 1
        self.tools.trace(f"{member.org} {held.origin} joined at {opened.position}")
        member.wake()
