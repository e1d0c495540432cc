"""One simulated node: its disk, its processes, its clock; what crashes leave of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from federation import recovery
from federation.errors import FederationError
from federation.follow import FollowState
from federation.names import OrgName, Origin
from federation.recovery import Decision, Mark, OwnLog, PeerReport
from federation.replica import LogState, Replica, SignedDelta
from federation.trust.orgroot import PinnedRoot
from tests.simulation.disk import (
    DamageError,
    DiskFailedError,
    DiskFullError,
    Entries,
    Held,
    Intent,
    MarkFile,
    MarkRecord,
    Store,
)
from tests.simulation.following import Follower
from tests.simulation.guarding import Guard, Said
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
from tests.simulation.oracle import Oracle
from tests.simulation.parties import EPOCH_MS, Party, party, sign_charter
from tests.simulation.publishing import ASK, Publisher, Steps
from tests.simulation.repairing import Repair
from tests.simulation.serving import Server
from tests.simulation.timeline import Timeline

TICK_SECONDS: Final = 4.0
_BEAT_TICKS: Final = 3
_STEP_SECONDS: Final = (0.01, 0.4)
"""What one step of publishing takes."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The code that is tried. A test puts something broken in the place of one of them."""

    decide: Callable[..., Decision] = recovery.decide
    replica: type[Replica] = Replica
    entries: type[Entries] = Entries
    publisher: type[Publisher] = Publisher


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all nodes of a run share.

    Attributes:
        timeline: virtual time.
        oracle: checks every step.
        hits: counts what happened.
        parts: the code that is tried.
        trace: takes note of what happens.
        post: sends a message from one node to another.
        members: all nodes, by number.
        numbers: the number of each organization's node.
        places: the position that a leaf is signed for, None if it is not what was signed: the
            same bytes are verified again once, not once by each node.
    """

    timeline: Timeline
    oracle: Oracle
    hits: Counter[str]
    parts: Parts
    trace: Callable[[str], None]
    post: Callable[[int, int, Message], None]
    members: list[Member] = field(default_factory=list)
    numbers: dict[OrgName, int] = field(default_factory=dict)
    places: dict[tuple[Origin, SignedDelta], int | None] = field(default_factory=dict)

    def party_of(self, number: int) -> Party:
        """Return the organization of a node."""
        return self.members[number].party

    def number_of(self, org: OrgName) -> int:
        """Return the node of an organization."""
        return self.numbers[org]

    def root_of(self, origin: Origin) -> PinnedRoot:
        """Return the org root of a list's owner, as everybody has pinned it."""
        return self.members[self.numbers[origin.org]].party.root

    def replica(self, held: Held) -> Replica:
        """Return what verifies the next deltas of a list."""
        return self.parts.replica(held.origin, self.root_of(held.origin), held.log)

    def is_sound(self, origin: Origin, position: int, delta: SignedDelta) -> bool:
        """Say whether a leaf is what was signed for its position."""
        if (origin, delta) not in self.places:
            self.places[origin, delta] = self._verify(origin, delta)
        return self.places[origin, delta] == position

    def _verify(self, origin: Origin, delta: SignedDelta) -> int | None:
        # Not the part that is tried: what is stored is judged by what is right.
        replica = Replica(origin, self.root_of(origin), LogState.empty())
        try:
            header = replica.read_leaf(delta.header)
            replica.read_checkpoint(delta.checkpoint, header.position)
            replica.read_body(header, delta.body)
        except FederationError:
            return None
        return header.position

    def check_permit(
        self, member: Member, held: Held, answers: Sequence[PeerReport], *, risk: bool
    ) -> None:
        """Let the oracle see that a publisher goes on."""
        holding = {
            peer.org: peer.store[held.origin].size
            for peer in (self.members[number] for number in member.peers)
            if not peer.is_byzantine and held.origin in peer.store.now.lists
        }
        self.oracle.permit(held, member.mark, answers, holding, needed=member.needed, risk=risk)


class Clock:
    """A clock that can be wrong.

    Attributes:
        offset_ms: how far it is ahead.
        rate: how fast it goes.
        frozen_ms: what it shows when it stands still.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self.rate = 1.0
        self.frozen_ms: int | None = None

    def show_ms(self, seconds: float) -> int:
        """Return what it shows at a virtual time."""
        if self.frozen_ms is not None:
            return self.frozen_ms
        return EPOCH_MS + self.offset_ms + int(seconds * 1000 * self.rate)


class Member:
    """One node.

    Attributes:
        number, party, org: who it is.
        peers: the numbers of its peers.
        store, mark, staging: what lies on its disk.
        commit_fails: whether the next commit of what is signed fails, and whether it is there then.
        needed: how many peers must answer before it signs; None for all.
        clock: its clock.
        is_up, is_paused: whether it runs, and whether it was stopped for a while.
        lock: the process that publishes, if there is one.
        permits: what the process that publishes may sign for.
        writing: the list that a transaction is open for.
        crash_at: the step after which a process is to end, and whether the machine does.
    """

    is_byzantine = False

    def __init__(self, number: int, tools: Tools, peers: list[int], random: Random) -> None:
        self.number, self.tools, self.peers, self.random = number, tools, peers, random
        self.party = party(number)
        self.org = self.party.org
        self.store = Store({}, b"")
        self.mark = MarkFile({})
        self.staging: dict[Origin, list[Intent]] = {}
        self.commit_fails: bool | None = None
        self.needed: int | None = None
        self.clock = Clock()
        self.is_up, self.is_paused = False, False
        self.lock: Steps | None = None
        self.permits: dict[Origin, Mark] = {}
        self.writing: Origin | None = None
        self.crash_at: tuple[str, bool] | None = None
        self.server = Server(self)
        self.follower = Follower(self)
        self.publisher = tools.parts.publisher(self)
        self.guard = Guard(self)
        self.repair = Repair(self)
        self._life = 0
        self._serial = 0
        self._ticks = 0
        self._incarnations = 0
        self._waiting: list[Callable[[], None]] = []

    def found(self, own: Sequence[Origin], followed: Mapping[Origin, OrgName]) -> None:
        """Begin with empty lists."""
        lists = {}
        for origin in own:
            charter = sign_charter(self.number, origin, 1)
            lists[origin] = Held(
                origin=origin,
                own=True,
                via=None,
                charter=charter,
                charter_version=1,
                state=FollowState.OWN,
            )
        for origin, via in followed.items():
            lists[origin] = Held(origin=origin, own=False, via=via)
        token = self.next_incarnation()
        self.store = Store(lists, token)
        self.mark = MarkFile(
            {origin: MarkRecord(0, lists[origin].log.frontier.root(), token) for origin in own}
        )

    # --- what the parts need ------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return what this node's clock shows."""
        return self.clock.show_ms(self.tools.timeline.now)

    def next_serial(self) -> int:
        """Return a number that this node has not used."""
        self._serial += 1
        return self._serial

    def next_incarnation(self) -> bytes:
        """Return a token that no store has."""
        self._incarnations += 1
        return self.number.to_bytes(8) + self._incarnations.to_bytes(8)

    def staged(self, origin: Origin) -> list[Intent]:
        """Return the staged changes of a list that are not signed yet."""
        extent = self.store[origin].signed_extent
        return [item for item in self.staging.get(origin, []) if item.number > extent]

    def send(self, target: int, message: Message) -> None:
        """Send a message to another node."""
        self.tools.post(self.number, target, message)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, unless the process has ended by then."""
        life = self._life

        def due() -> None:
            if life != self._life:
                return
            if self.is_paused:
                self._waiting.append(due)
                return
            self.guarded(action)

        self.tools.timeline.after(seconds, due)

    def guarded(self, action: Callable[[], None]) -> None:
        """Do something that may end the process."""
        try:
            action()
        except (DiskFullError, DiskFailedError) as error:
            self.tools.hits[f"process ended by {type(error).__name__}"] += 1
            self.crash(back_after=self.random.uniform(3.0, 10.0))
        except DamageError:
            self.tools.hits["damage met"] += 1

    def commit(self, held: Held) -> None:
        """Commit a list, and let the oracle look.

        Raises:
            DiskFullError: there is no space.
        """
        self.store.commit(held)
        self.tools.oracle.check(self.number, held)

    def commit_signed(self, held: Held) -> None:
        """Commit a list with what was signed.

        Raises:
            DiskFullError: there is no space; nothing is committed.
            DiskFailedError: the disk failed; whether it is committed nobody knows.
        """
        fails, self.commit_fails = self.commit_fails, None
        if fails is not None:
            self.tools.hits[
                f"commit failed, {'and is there' if fails else 'and is not there'}"
            ] += 1
            if fails:
                self.commit(held)
            raise DiskFailedError
        now = self.store[held.origin]
        self.commit(replace(held, released=now.released, state=now.state, reason=now.reason))
        self.tools.trace(f"{self.org} {held.origin} committed {held.size}")

    def wake(self) -> None:
        """Let streams look for what is new."""
        self.server.wake()

    def unasked(self) -> tuple[PeerReport, ...]:
        """Return what peers have said that nobody has asked."""
        return tuple(
            PeerReport(peer=self.tools.party_of(peer).org, answered=False) for peer in self.peers
        )

    def decide(self, held: Held, answers: Sequence[PeerReport], *, risk: bool = False) -> Decision:
        """Decide what is next with an own list.

        Raises:
            DamageError: a checkpoint that the decision needs cannot be read.
        """
        own = self.describe(held)
        decision = self.tools.parts.decide(
            own,
            self.mark.load(held.origin),
            answers,
            now_ms=self.now_ms(),
            needed=self.needed,
            risk=risk,
        )
        self.tools.hits[f"decision {decision.action.name}"] += 1
        if decision.obstacle is not None:
            self.tools.hits[f"decision {decision.obstacle}"] += 1
            self.tools.trace(f"{self.org} {held.origin} {decision.action.name} {decision.obstacle}")
        return decision

    def describe(self, held: Held) -> OwnLog:
        """Return what the store says of an own list."""
        return OwnLog(
            checkpoint=held.checkpoint(),
            settled=held.settled,
            incarnation=self.store.incarnation,
            last_time_ms=held.log.last_time_ms,
            root_at=lambda size: self._signed_root(held, size),
            newest_ms=max(other.log.last_time_ms for other in self.store),
        )

    def _signed_root(self, held: Held, size: int) -> bytes:
        """Return the root that we signed for an earlier size; damage is no history.

        Raises:
            DamageError: what is stored there is not what was signed.
        """
        leaf = held.leaf(size - 1)
        if leaf is None or not self.tools.is_sound(held.origin, size - 1, leaf):
            raise DamageError(f"position {size - 1} of {held.origin} is damaged")
        return held.root_at(size)

    def note_own(self, held: Held, decision: Decision) -> None:
        """Record how a list of ours stands, if that is news."""
        noted = recovery.standing(decision, held.reason)
        if noted is not None and noted != (held.state, held.reason):
            state, reason = noted
            self.commit(replace(held, state=state, reason=reason))

    # --- processes ----------------------------------------------------------------------------

    def run(self, steps: Steps) -> None:
        """Run the process that publishes; it holds the lock."""
        self.lock = steps
        self._go(steps, None)

    def _go(self, steps: Steps, value: Sequence[PeerReport] | None) -> None:
        if self.lock is not steps:
            return
        try:
            step = steps.send(value)
        except StopIteration:
            self._end(steps)
            return
        except (DiskFullError, DiskFailedError) as error:
            self.tools.hits[f"publisher ended by {type(error).__name__}"] += 1
            self._end(steps)
            return
        except (DamageError, FederationError) as error:
            self.tools.hits[f"publisher stopped by {type(error).__name__}"] += 1
            self._end(steps)
            return
        if step == "signed":
            self.writing = next(iter(self.permits), None)
        elif step == "committed":
            self.writing = None
        if self.crash_at is not None and self.crash_at[0] == step:
            machine = self.crash_at[1]
            self.crash_at = None
            self.tools.hits[f"{'power lost' if machine else 'killed'} after: {step}"] += 1
            self.tools.trace(f"{self.org} ends after {step}")
            if machine:
                self.lose_power(back_after=self.random.uniform(2.0, 30.0))
            else:
                self._end(steps)
            return
        self.after(self.random.uniform(*_STEP_SECONDS), lambda: self._go(steps, None))

    def ask_then_go(self, origin: Origin, steps: Steps) -> None:
        """Run a process that publishes one list: it begins with a question to the peers."""
        self.lock = steps
        step = next(steps)
        assert step == ASK  # the first step of every publication

        def go(said: Said) -> None:
            self._go(steps, said[origin])

        self.guard.ask(go)

    def _end(self, steps: Steps) -> None:
        if self.lock is steps:
            self.lock, self.writing = None, None
            self.permits.clear()

    def start(self) -> None:
        """Start `serve`."""
        if self.is_up:
            return
        self.is_up = True
        self.is_paused = False
        self.tools.trace(f"{self.org} starts")
        self.after(self.random.uniform(0.1, TICK_SECONDS), self._tick)

    def _tick(self) -> None:
        self.after(TICK_SECONDS, self._tick)
        self._ticks += 1
        if self._ticks % _BEAT_TICKS == 0:
            self.server.beat()
        self.server.wake()
        self.follower.tick()
        self.guard.tick()

    def crash(self, *, back_after: float | None) -> None:
        """End all processes at once: what is committed and in place stays."""
        self._life += 1
        self.is_up, self.is_paused, self.lock, self.writing = False, False, None, None
        self.permits.clear()
        self._waiting.clear()
        for part in (self.server, self.follower, self.guard):
            part.forget()
        self.tools.trace(f"{self.org} ends")
        if back_after is not None:
            life = self._life
            self.tools.timeline.after(
                back_after, lambda: self.start() if life == self._life else None
            )

    def lose_power(self, *, back_after: float | None) -> None:
        """End the machine: what is not synced is lost, or is not."""
        self.mark.lose_power(self.random)
        self.crash(back_after=back_after)

    def resume(self) -> None:
        """Go on after a pause, with all that has come meanwhile."""
        self.is_paused = False
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()

    # --- messages -----------------------------------------------------------------------------

    def receive(self, source: int, message: Message) -> None:
        """Take a message from another node."""
        if not self.is_up:
            return
        if self.is_paused:
            life = self._life
            self._waiting.append(
                lambda: self.receive(source, message) if life == self._life else None
            )
            return
        self.guarded(lambda: self._dispatch(source, message))

    def _dispatch(self, source: int, message: Message) -> None:
        match message:
            case Open():
                self.server.open(source, message)
            case Alive():
                self.follower.hear(source, message)
            case Opened() | Delivered() | End():
                self.follower.hear(source, message)
                self.guard.hear(source, message)
            case Ask():
                self.server.show(source, message)
            case Shown():
                self.guard.shown(source, message)
            case WantBucket():
                self.server.give_bucket(source, message)
            case Bucket():
                self.follower.bucket(message)
            case WantLeaf():
                self.server.give_leaf(source, message)
            case LeafSent():
                self.repair.take(message)
