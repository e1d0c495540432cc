"""One run: nodes, network, events, and at the end a network that heals.

While faults happen, every commit and every release is checked. Then all faults end, operators do
what the guide tells them, and within a bounded number of rounds all honest nodes must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final

from federation.follow import FollowState
from federation.limits import MAX_CLOCK_SKEW_MS
from federation.names import Origin
from federation.recovery import Mark
from tests.simulation.byzantine import Liar
from tests.simulation.disk import Held
from tests.simulation.faults import KINDS
from tests.simulation.links import Links
from tests.simulation.member import Member, Parts, Tools
from tests.simulation.messages import Message
from tests.simulation.oracle import Oracle, ViolationError
from tests.simulation.parties import origin_of, party
from tests.simulation.schedule import DURATION_SECONDS, Event, Scenario
from tests.simulation.timeline import Timeline

ROUND_SECONDS: Final = 40.0
"""As long as the longest wait of anything that nodes do by themselves."""

_PUBLISH_SECONDS: Final = 9.0
"""More than a publication takes."""

MAX_ROUNDS: Final = 20
"""In so many rounds after the last fault all honest nodes must agree."""


class World:
    """One run.

    Attributes:
        members: the nodes.
        links: the network.
        oracle: checks every step.
        hits: what happened, how often.
        seed: what it was drawn from.
        rounds: how many rounds it took until all agreed.
    """

    def __init__(
        self,
        scenario: Scenario,
        parts: Parts | None = None,
        trace: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.hits: Counter[str] = Counter()
        self.oracle = Oracle(self.hits)
        self.rounds = 0
        self.seed = scenario.seed
        self._scenario = scenario
        self._trace = trace
        self._timeline = Timeline()
        self._intents = 0
        random = Random(f"run {scenario.seed}")  # the same in every run is wanted
        count = len(scenario.peers)
        self.links = Links(count, self._timeline, random, self._deliver, self.hits)
        self.tools = Tools(
            timeline=self._timeline,
            oracle=self.oracle,
            hits=self.hits,
            parts=parts or Parts(),
            trace=self.note,
            post=self.links.send,
        )
        self.members = self.tools.members
        for number in range(count):
            kind = Liar if number in scenario.liars else Member
            self.members.append(kind(number, self.tools, list(scenario.peers[number]), random))
            self.tools.numbers[party(number).org] = number
        for member, needed in zip(self.members, scenario.needed, strict=True):
            member.needed = needed
        self._found_lists()

    def _found_lists(self) -> None:
        for item in self._scenario.lists:
            origin = origin_of(item.owner, item.number)
            self.oracle.add(origin, item.owner, honest=item.owner not in self._scenario.liars)
        for member in self.members:
            own, followed = [], {}
            for item in self._scenario.lists:
                origin = origin_of(item.owner, item.number)
                if item.owner == member.number:
                    own.append(origin)
                else:
                    followed[origin] = party(item.via[member.number]).org
            member.found(own, followed)

    # --- what events need ---------------------------------------------------------------------

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self._trace(f"{self._timeline.now:10.3f}  {line}")

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something later."""

        def act() -> None:
            action()

        self._timeline.after(seconds, act)

    def next_intent(self) -> int:
        """Return the number of the next staged change."""
        self._intents += 1
        return self._intents

    def publish(
        self, member: Member, origin: Origin, *, risk: bool = False, snapshot: bool = False
    ) -> bool:
        """Run `hashfed publish`, if nobody else does; say so."""
        if not member.is_up or member.is_paused or member.lock is not None:
            return False
        steps = member.publisher.publish(origin, risk=risk, snapshot=snapshot)
        member.ask_then_go(origin, steps)
        return True

    def cut(self, pairs: Sequence[tuple[int, int]], seconds: float) -> None:
        """Cut links for a while."""
        for pair in pairs:
            self.links[pair].cut += 1

        def heal() -> None:
            for pair in pairs:
                self.links[pair].cut = max(0, self.links[pair].cut - 1)

        self.after(seconds, heal)

    def set_clock(self, member: Member) -> None:
        """Set a clock right."""
        member.clock.offset_ms, member.clock.rate, member.clock.frozen_ms = 0, 1.0, None

    def _deliver(self, source: int, target: int, message: Message) -> None:
        self.members[target].receive(source, message)

    # --- the run ------------------------------------------------------------------------------

    def run(self) -> None:
        """Let all happen, and check that all is in order in the end.

        Raises:
            ViolationError: a promise was broken.
        """
        for at, member in enumerate(self.members):
            self.after(0.1 * at, member.start)
        for event in self._scenario.events:
            self.after(event.at, partial(self._happen, event))
        self._timeline.run(DURATION_SECONDS)
        self._heal()
        while not self._agree():
            self.rounds += 1
            if self.rounds > MAX_ROUNDS:
                raise ViolationError("all agree in the end", "; ".join(self._differences()))
            self._operate()
            self._timeline.run(self._timeline.now + ROUND_SECONDS)
        self._check_end()

    def _happen(self, event: Event) -> None:
        self.note(f"EVENT {event.kind}, node {event.node}")
        if KINDS[event.kind](self, self.members[event.node], event):
            self.hits[f"event {event.kind}"] += 1

    def _heal(self) -> None:
        """End every fault."""
        self.note("all faults end")
        self.links.heal()
        for member in self.members:
            self.set_clock(member)
            member.store.is_full = member.mark.is_full = member.mark.fails = False
            member.commit_fails = member.crash_at = None
            if member.is_paused:
                member.guarded(member.resume)
            member.start()
        # A node that lies is no peer any more; who followed by it follows by the owner.
        liars = self._scenario.liars
        for member in self._honest():
            member.peers = [peer for peer in member.peers if peer not in liars]
            if not member.peers:
                member.peers = [other.number for other in self._honest() if other is not member][:1]

    def _honest(self) -> Iterable[Member]:
        return [member for member in self.members if not member.is_byzantine]

    def _operate(self) -> None:
        """Do what the guide for operators says about how each list stands."""
        honest = [member.number for member in self._honest()]
        for member in self._honest():
            member.guarded(member.repair.scrub)
            staged = [
                held.origin for held in member.store if held.own and member.staged(held.origin)
            ]
            for at, origin in enumerate(staged):
                # One after the other: each holds the lock.
                self.after(_PUBLISH_SECONDS * at, partial(self.publish, member, origin))
            behind = any(held.state is FollowState.RECOVERING for held in member.store if held.own)
            if behind or member.repair.damaged:
                # Whoever may have what is missing becomes a peer.
                member.peers = [number for number in honest if number != member.number]
            for held in list(member.store):
                if not held.own:
                    self._choose_peer(member, held)

    def _choose_peer(self, member: Member, held: Held) -> None:
        """Follow a list by its owner, where the peer of now lags or lies."""
        owner = self.members[self.oracle.ledgers[held.origin].owner]
        if held.via is None or held.via == owner.org or owner.is_byzantine:
            return
        via = self.members[self.tools.number_of(held.via)]
        lags = held.reason in {"CURSOR_TOO_OLD", "CURSOR_AHEAD"}
        if via.is_byzantine or lags or not self._reaches_owner(member, held):
            member.commit(replace(held, via=owner.org))

    def _reaches_owner(self, member: Member, held: Held) -> bool:
        """Say whether relays lead to the owner, or in a circle: each is current then, and stays."""
        at, seen = member, {member.number: True}
        while (via := at.store[held.origin].via) is not None:
            at = self.members[self.tools.number_of(via)]
            if at.number in seen:
                self.hits["circle of relays"] += 1
                return False
            seen[at.number] = True
        return True

    # --- agreement ----------------------------------------------------------------------------

    def _agree(self) -> bool:
        return not any(True for _ in self._differences())

    def _differences(self) -> Iterable[str]:
        """Yield what keeps honest nodes from agreeing, unless there is no way for them to."""
        for origin, ledger in self.oracle.ledgers.items():
            owner = self.members[ledger.owner]
            if not ledger.honest or ledger.lost:
                continue
            held = owner.store[origin]
            if self.excuse(origin):
                continue
            if (
                held.released != held.size
                or held.state is not FollowState.OWN
                or owner.staged(origin)
            ):
                yield (
                    f"{origin} at its owner: {held.state} {held.reason}, {held.size} deltas, "
                    f"{held.released} released"
                )
            for member in self._honest():
                if member is owner:
                    continue
                copy = member.store[origin]
                if (
                    copy.log != replace(held.log, start=copy.log.start)
                    or copy.state is not FollowState.CURRENT
                ):
                    yield (
                        f"{origin} at node {member.number}: {copy.state} {copy.reason}, "
                        f"{copy.size} of {held.size}"
                    )

    def excuse(self, origin: Origin) -> str:
        """Return why nobody can bring a list in order without the owner's decision; or nothing."""
        ledger = self.oracle.ledgers[origin]
        owner = self.members[ledger.owner]
        held = owner.store[origin]
        copies = [member.store[origin] for member in self._honest() if member is not owner]
        sound = self.tools.is_sound
        for copy in [held, *copies]:
            for position in owner.repair.find_damage(copy):
                others = (other.leaf(position) for other in [held, *copies])
                if not any(
                    other is not None and sound(origin, position, other) for other in others
                ):
                    return "the only copy of a delta is damaged"
        if origin in self.oracle.forks and held.state is FollowState.FORKED:
            return "what was put back is of a history that was never released"
        ahead = [copy for copy in copies if copy.size > held.size]
        mark = owner.mark.load(origin)
        marked = mark.checkpoint.size if isinstance(mark, Mark) else 0
        if max(marked, len(ledger.released)) > held.size and not ahead:
            return "nobody holds what was released, or may have been"
        if ahead and all(copy.log.start > held.size for copy in ahead):
            return "nobody holds the deltas, only what a snapshot made of them"
        now_ms = owner.now_ms()
        times = [held.log.last_time_ms, *(copy.log.last_time_ms for copy in copies)]
        if max(times) > now_ms + MAX_CLOCK_SKEW_MS:
            return "signed for a time that is to come"
        return ""

    def _check_end(self) -> None:
        """Check what must be true when all has settled."""
        self.hits[f"agreed after {self.rounds} rounds"] += 1
        for origin, ledger in self.oracle.ledgers.items():
            if not ledger.honest:
                continue
            excuse = f"list lost {ledger.lost}" if ledger.lost else self.excuse(origin)
            if excuse:
                self.hits[f"not brought in order: {excuse}"] += 1
                continue
            held = self.members[ledger.owner].store[origin]
            chain = self.oracle.chain(held.log.last_leaf)
            if len(chain) < ledger.acknowledged or chain[: len(ledger.released)] != ledger.released:
                raise ViolationError("nothing acknowledged is lost", str(origin))
            self.hits["list in order at the end"] += 1
