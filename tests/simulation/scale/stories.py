"""What happens in a network, and how long a retraction takes to be everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random

from federation.names import Origin
from tests.simulation.parties import EVERYBODY, assertion, origin_of, retraction
from tests.simulation.scale.members import Member, SharedLog
from tests.simulation.scale.network import Network, build, iter_way
from tests.simulation.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything.

    Attributes:
        members: organizations, each with one node.
        lists: lists; their owners are drawn, but for the first, which is the first member's.
        probes: retractions in each story, one after the other, each of another list.
        load_deltas, load_ops: what is published at once by one owner, under load.
        down_share: share of the members that are down in the last story, beside one next to the
            first.
        down_seconds: the longest that one of them is down; each as long as it draws.
        seed: of everything that is drawn.
    """

    members: int = 1000
    lists: int = 10
    probes: int = 5
    load_deltas: int = 5
    load_ops: int = 10_000
    down_share: float = 0.05
    down_seconds: float = 600.0
    seed: int = 1


@dataclass(slots=True)
class Spread:
    """How the retractions of one story spread.

    Attributes:
        seconds: from the owner's commit to each member's, of all retractions, for the members that
            were up with every relay on their way.
        healed: for the others, from when they and every relay on their way were up again.
    """

    seconds: list[float] = field(default_factory=list)
    healed: list[float] = field(default_factory=list)

    def add(
        self, log: SharedLog, times: Mapping[int, float], began: float, whole: Mapping[int, float]
    ) -> None:
        """Add one retraction.

        Args:
            log: the list.
            times: when each member had it.
            began: when it was committed.
            whole: from when on nothing on a member's way was down any more, if it was cut off.
        """
        for member, moment in times.items():
            if member in whole:
                self.healed.append(moment - whole[member])
            elif member != log.owner:
                self.seconds.append(moment - began)


@dataclass(slots=True)
class Outcome:
    """What a network has done.

    Attributes:
        network: the network.
        logs: the lists.
        spreads: by story.
        members: the members at the end.
        quiet_bytes, quiet_seconds: what each member sent, and how long its processor worked, for
            one retraction when nothing else went on: the mean of all probes, by member.
    """

    network: Network
    logs: list[SharedLog]
    spreads: dict[str, Spread]
    members: list[Member]
    quiet_bytes: list[float]
    quiet_seconds: list[float]

    @property
    def verified(self) -> int:
        """How many deltas were verified by all members."""
        return sum(member.counts.verified for member in self.members)


class Stage:
    """One network and its lists, through all stories."""

    def __init__(self, kind: str, plan: Plan) -> None:
        self.random = Random(plan.seed)  # the same in every run is wanted
        self.plan = plan
        self.network = build(kind, plan.members, self.random)
        self.timeline = Timeline()
        self.members = [
            Member(number, self.network, self.timeline, self.random, self._note)
            for number in range(plan.members)
        ]
        owners = [0, *self.random.sample(range(1, plan.members), plan.lists - 1)]
        self.logs = [SharedLog(origin_of(owner, at), owner) for at, owner in enumerate(owners)]
        for log in self.logs:
            for member, via in zip(self.members, self.network.routes(log.owner), strict=True):
                member.hold(log, self.members[via])
        self._numbers = count()
        self._to_retract: dict[Origin, int] = {}
        self._watched: dict[tuple[Origin, int], dict[int, float]] = {}

    def begin(self) -> None:
        """Let every list begin with some entries, and everybody get them."""
        for log in self.logs:
            log.share(EVERYBODY)
            self._to_retract[log.origin] = self.publish(log, 100)
        for member in self.members:
            member.connect()
        self.timeline.run()
        self.require_equal()

    def publish(self, log: SharedLog, entries: int) -> int:
        """Publish so many new entries now; return the number of the first."""
        numbers = [next(self._numbers) for _ in range(entries)]
        self.members[log.owner].publish(log, [assertion(number, "a") for number in numbers])
        return numbers[0]

    def retract(self, log: SharedLog) -> dict[int, float]:
        """Retract an entry now; return when each member has it, once the timeline has run."""
        number = self._to_retract[log.origin]
        self._to_retract[log.origin] += 1
        times = self._watched[log.origin, len(log.deltas) + 1] = {}
        self.members[log.owner].publish(log, [retraction(assertion(number, "a").entry)])
        return times

    def require_equal(self) -> None:
        """Check that every member has every list as its owner has.

        Raises:
            AssertionError: one has not: the simulation is wrong.
        """
        for log in self.logs:
            state = self.members[log.owner].lists[log.origin].replica.state
            for member in self.members:
                held = member.lists[log.origin]
                if held.refused is not None or held.replica.state != state:
                    raise AssertionError(f"{member.org} lacks some of {log.origin}: {held.refused}")

    def _note(self, member: Member, origin: Origin, size: int) -> None:
        if (origin, size) in self._watched:
            self._watched[origin, size][member.number] = self.timeline.now


def run(kind: str, plan: Plan) -> Outcome:
    """Run all stories in one network, one after the other."""
    stage = Stage(kind, plan)
    stage.begin()
    before = [(member.counts.sent_bytes, member.processor.busy_seconds) for member in stage.members]
    spreads = {"quiet": _quiet(stage)}
    probes = min(plan.probes, plan.lists)
    members = list(zip(stage.members, before, strict=True))
    outcome = Outcome(
        network=stage.network,
        logs=stage.logs,
        spreads=spreads,
        members=stage.members,
        quiet_bytes=[(member.counts.sent_bytes - sent) / probes for member, (sent, _) in members],
        quiet_seconds=[
            (member.processor.busy_seconds - worked) / probes for member, (_, worked) in members
        ],
    )
    spreads["loaded"] = _loaded(stage)
    spreads["down"] = _down(stage)
    stage.require_equal()
    return outcome


def _quiet(stage: Stage) -> Spread:
    """Retract when nothing else goes on."""
    spread = Spread()
    for log in stage.logs[: stage.plan.probes]:
        began, times = stage.timeline.now, stage.retract(log)
        stage.timeline.run()
        spread.add(log, times, began, {})
    return spread


def _loaded(stage: Stage) -> Spread:
    """Retract while an import of another owner goes through the network."""
    bulk, *others = stage.logs
    for _ in range(stage.plan.load_deltas):
        stage.publish(bulk, stage.plan.load_ops)
    return _retract_together(stage, others[: stage.plan.probes], {})


def _down(stage: Stage) -> Spread:
    """Retract while some members are down; each comes back after a time that it draws."""
    plan, timeline = stage.plan, stage.timeline
    owners = {log.owner for log in stage.logs}
    others = [member for member in stage.members if member.number not in owners]
    chosen = stage.random.sample(others, max(1, int(len(others) * plan.down_share)))
    # One relay of the first rank among them, where there are any.
    chosen += [member for member in others[:1] if member not in chosen]
    back: dict[int, float] = {}
    for member in chosen:
        member.stop()
        away = stage.random.uniform(0, plan.down_seconds)
        timeline.after(away, member.start)
        back[member.number] = timeline.now + away
    return _retract_together(stage, stage.logs[: plan.probes], back)


def _retract_together(stage: Stage, logs: list[SharedLog], back: Mapping[int, float]) -> Spread:
    """Retract an entry of each list now, while members are down until they are back."""
    spread, began = Spread(), stage.timeline.now
    found = [(log, stage.retract(log)) for log in logs]
    stage.timeline.run()
    for log, times in found:
        via = stage.network.routes(log.owner)
        ways = {at: [back[on] for on in iter_way(via, at) if on in back] for at in times}
        spread.add(log, times, began, {at: max(ends) for at, ends in ways.items() if ends})
    return spread
