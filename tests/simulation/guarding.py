"""How a simulated node keeps its own lists fit to be signed for, as `node.sync.own_lists` does.

It asks the peers what they hold, takes back what is missing, and finishes what a killed publisher
has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from federation.errors import FederationError, ForkError
from federation.follow import Following, Handling, judge_recovery
from federation.names import OrgName, Origin
from federation.recovery import Action, Decision, Obstacle, PeerReport, is_settled, read_report
from federation.replica import LogState
from tests.simulation.disk import DamageError
from tests.simulation.messages import Ask, Delivered, End, Open, Opened, Shown

if TYPE_CHECKING:
    from tests.simulation.member import Member

ASK_SECONDS: Final = 5.0
"""How long to wait for the peers' answers."""

_INTERVAL_SECONDS: Final = 40.0
"""Between two rounds of questions."""

_FETCH_SECONDS: Final = 20.0
"""How long a peer may take to give what it holds."""

Said = dict[Origin, tuple[PeerReport, ...]]


@dataclass(slots=True)
class Question:
    """A round of questions: what has come, and whom to tell."""

    then: Callable[[Said], None]
    shown: dict[int, Shown] = field(default_factory=dict)


@dataclass(slots=True)
class Fetch:
    """What is being taken back from the first of some peers."""

    origin: Origin
    sources: tuple[OrgName, ...]
    from_start: bool


class Guard:
    """Guards the lists of one node."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._questions: dict[int, Question] = {}
        self._fetches: dict[int, Fetch] = {}
        self._waiting: list[tuple[Origin, tuple[PeerReport, ...]]] = []
        self._asked = -_INTERVAL_SECONDS

    def forget(self) -> None:
        """Lose what is in memory."""
        self._questions.clear()
        self._fetches.clear()
        self._waiting.clear()
        self._asked = -_INTERVAL_SECONDS

    def tick(self) -> None:
        """Ask now and then; finish what is committed and not released."""
        own = [held for held in self.member.store if held.own]
        if not own or self.member.lock is not None:
            return
        self._go_on()
        now = self.member.tools.timeline.now
        if now - self._asked >= _INTERVAL_SECONDS:
            self._asked = now
            self.ask(self._attend_all)
            return
        for held in own:
            if held.size > held.released and self._attend(held.origin, ()):
                # One at a time: it holds the lock.
                return

    # --- asking -------------------------------------------------------------------------------

    def ask(self, then: Callable[[Said], None]) -> None:
        """Ask all peers what they hold of our lists, and tell when all have answered or not."""
        member = self.member
        number = member.next_serial()
        self._questions[number] = Question(then)
        for peer in member.peers:
            member.send(peer, Ask(number))
        member.after(ASK_SECONDS, lambda: self._close(number))

    def shown(self, peer: int, message: Shown) -> None:
        """Take what one peer shows."""
        question = self._questions.get(message.number)
        if question is not None and peer in self.member.peers:
            question.shown[peer] = message
            if len(question.shown) == len(self.member.peers):
                self._close(message.number)

    def _close(self, number: int) -> None:
        question = self._questions.pop(number, None)
        if question is not None:
            shown = [(peer, question.shown.get(peer)) for peer in self.member.peers]
            own = [held.origin for held in self.member.store if held.own]
            question.then(
                {origin: tuple(self._read(*at, origin) for at in shown) for origin in own}
            )

    def _read(self, peer: int, shown: Shown | None, origin: Origin) -> PeerReport:
        """Return what a peer said of one list; what we did not sign is no answer."""
        org, root = self.member.tools.party_of(peer).org, self.member.party.root
        if shown is not None:
            note, charter = shown.lists.get(origin, (b"", b""))
            time_ms = shown.time_ms
            try:
                return read_report(
                    org, origin, root, checkpoint=note, charter=charter, time_ms=time_ms
                )[0]
            except FederationError:
                self.member.tools.hits["answer refused"] += 1
        return PeerReport(peer=org, answered=False)

    # --- attending ----------------------------------------------------------------------------

    def _attend_all(self, said: Said) -> None:
        self._waiting = list(said.items())
        self._go_on()

    def _go_on(self) -> None:
        """Attend to one list after the other: what is done for one of them may hold the lock."""
        while self._waiting and self.member.lock is None:
            self._attend(*self._waiting.pop(0))

    def _attend(self, origin: Origin, answers: Sequence[PeerReport]) -> bool:
        """Bring one list in order, as far as that is possible; say whether that goes on now."""
        member = self.member
        answers = answers or member.unasked()
        try:
            decision = member.decide(member.store[origin], answers)
        except DamageError:
            return False
        member.note_own(member.store[origin], decision)
        if decision.action is Action.CATCH_UP:
            member.mark.known.pop(origin, None)
            self._fetch(origin, decision.sources)
            return False
        held = member.store[origin]
        is_released = held.released == held.size
        if is_settled(decision, is_released=is_released) or member.lock is not None:
            return False
        member.run(member.publisher.permit(origin, answers))
        return True

    def _fetch(
        self, origin: Origin, sources: tuple[OrgName, ...], *, from_start: bool = False
    ) -> None:
        """Ask the first of the peers that hold more for it, or for all of it."""
        member = self.member
        if not sources or any(fetch.origin == origin for fetch in self._fetches.values()):
            return
        held = member.store[origin]
        log = LogState.empty() if from_start else held.log
        serial, peer = member.next_serial(), member.tools.number_of(sources[0])
        self._fetches[serial] = Fetch(origin, sources, from_start)
        # Of an own list every delta is to be here: it is the one copy that answers for all of it.
        asked = Following.ask(log, deltas_only=True, from_start=False)
        cursor = asked.cursor(origin, log, held.charter_version)
        member.send(peer, Open(serial, (cursor,), live=False))
        member.after(_FETCH_SECONDS, lambda: self._next(serial))

    def _next(self, serial: int) -> None:
        """Go on with another peer, if the one that was asked has not given all."""
        fetch = self._fetches.pop(serial, None)
        if fetch is not None:
            self._fetch(fetch.origin, fetch.sources[1:])

    def hear(self, peer: int, message: Opened | Delivered | End) -> None:
        """Take what comes from the peer that is fetched from."""
        fetch = self._fetches.get(message.serial)
        if fetch is None:
            return
        match message:
            case Opened():
                self._take_answer(fetch, message)
            case Delivered():
                source = self.member.tools.number_of(fetch.sources[0])
                if source == peer and self.member.writing != fetch.origin:
                    self._take_deltas(fetch, message)
            case End(failed=True):
                self._next(message.serial)
            case End():
                del self._fetches[message.serial]
                if self.member.lock is None:
                    # They may hold more by now.
                    self.ask(self._attend_all)

    def _take_answer(self, fetch: Fetch, message: Opened) -> None:
        match judge_recovery(message.outcome, from_start=fetch.from_start):
            case Handling.TAKE:
                return
            case Handling.ASK_AGAIN:
                del self._fetches[message.serial]
                self._fetch(fetch.origin, fetch.sources, from_start=True)
            case _:
                self._next(message.serial)

    def _take_deltas(self, fetch: Fetch, message: Delivered) -> None:
        """Take deltas of our own back, verified as anybody's."""
        member = self.member
        held = member.store[fetch.origin]
        after, error = member.follower.merge(held, message.deltas)
        if after is not held:
            member.commit(after)
            member.tools.hits["own deltas taken back"] += after.size - held.size
            member.tools.trace(f"{member.org} {fetch.origin} taken back to {after.size}")
        if isinstance(error, ForkError):
            decision = Decision(action=Action.REFUSE, obstacle=Obstacle.PEER_DIFFERS)
            member.note_own(member.store[fetch.origin], decision)
        if error is not None:
            self._next(message.serial)
