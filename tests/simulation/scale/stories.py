"""What happens in a network, and how long a retraction takes to be everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from federation.names import Origin
from federation.trust.charter import Audience
from tests.simulation.scale.lists import EPOCH_MS, OwnList, entries, retraction
from tests.simulation.scale.members import Member, make_members, org_of
from tests.simulation.scale.network import Network, build, iter_below
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


@dataclass(slots=True)
class Outcome:
    """What a network has done.

    Attributes:
        network: the network.
        spreads: by story.
        members: the members at the end.
        quiet_bytes, quiet_seconds: what each member sent, and how long its processor worked, for
            one retraction when nothing else went on: the mean of all probes, by member.
    """

    network: Network
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
        owners = [0, *self.random.sample(range(1, plan.members), plan.lists - 1)]
        self.sources = [
            OwnList(Origin(org_of(owner), f"list-{number}"), owner)
            for number, owner in enumerate(owners)
        ]
        self.members = make_members(self.network, self.timeline, self.sources, self.random)
        for member in self.members:
            member.on_commit = self._note
        self._numbers = iter(range(10**9))
        self._first_entries: dict[Origin, int] = {}
        self._watched: dict[tuple[Origin, int], dict[int, float]] = {}

    def begin(self) -> None:
        """Let every list begin with some entries, and everybody get them."""
        for source in self.sources:
            source.share(Audience(all_peers=True, orgs=()))
            self._first_entries[source.origin] = self.publish(source, 100)
        for member in self.members:
            member.connect()
        self.timeline.run()
        self.require_equal()

    def publish(self, source: OwnList, count: int) -> int:
        """Publish so many new entries now; return the number of the first."""
        numbers = [next(self._numbers) for _ in range(count)]
        source.publish(entries(numbers), self._now_ms())
        self.members[source.owner].publish(source)
        return numbers[0]

    def retract(self, source: OwnList) -> dict[int, float]:
        """Retract an entry now; return when each member has it, once the timeline has run."""
        number = self._first_entries[source.origin]
        self._first_entries[source.origin] += 1
        source.publish([retraction(number)], self._now_ms())
        times = self._watched[source.origin, source.state.size] = {}
        self.members[source.owner].publish(source)
        return times

    def require_equal(self) -> None:
        """Check that every member has every list as its owner has.

        Raises:
            AssertionError: one has not: the simulation is wrong.
        """
        for member in self.members:
            for origin, held in member.lists.items():
                if held.refused is not None or held.replica.state != held.source.state:
                    raise AssertionError(f"{member.org} has not all of {origin}: {held.refused}")

    def _note(self, member: Member, origin: Origin, size: int) -> None:
        watched = self._watched.get((origin, size))
        if watched is not None:
            watched[member.number] = self.timeline.now

    def _now_ms(self) -> int:
        return EPOCH_MS + int(self.timeline.now * 1000)


def run(kind: str, plan: Plan) -> Outcome:
    """Run all stories in one network, one after the other."""
    stage = Stage(kind, plan)
    stage.begin()
    sent = [member.counts.sent_bytes for member in stage.members]
    worked = [member.processor.busy_seconds for member in stage.members]
    spreads = {"quiet": _quiet(stage)}
    probes = min(plan.probes, plan.lists)
    quiet_bytes = [
        (member.counts.sent_bytes - before) / probes
        for member, before in zip(stage.members, sent, strict=True)
    ]
    quiet_seconds = [
        (member.processor.busy_seconds - before) / probes
        for member, before in zip(stage.members, worked, strict=True)
    ]
    spreads["loaded"] = _loaded(stage)
    spreads["down"] = _down(stage)
    stage.require_equal()
    return Outcome(
        network=stage.network,
        spreads=spreads,
        members=stage.members,
        quiet_bytes=quiet_bytes,
        quiet_seconds=quiet_seconds,
    )


def _quiet(stage: Stage) -> Spread:
    """Retract when nothing else goes on."""
    spread = Spread()
    for source in stage.sources[: stage.plan.probes]:
        began = stage.timeline.now
        times = stage.retract(source)
        stage.timeline.run()
        spread.seconds += _elapsed(times, began, source.owner)
    return spread


def _loaded(stage: Stage) -> Spread:
    """Retract while an import of another owner goes through the network."""
    spread = Spread()
    bulk, *others = stage.sources
    began = stage.timeline.now
    for _ in range(stage.plan.load_deltas):
        stage.publish(bulk, stage.plan.load_ops)
    times = [(stage.retract(source), source.owner) for source in others[: stage.plan.probes]]
    stage.timeline.run()
    for found, owner in times:
        spread.seconds += _elapsed(found, began, owner)
    return spread


def _down(stage: Stage) -> Spread:
    """Retract while some members are down; each comes back after a time that it draws."""
    plan, timeline = stage.plan, stage.timeline
    spread = Spread()
    sources = stage.sources[: plan.probes]
    owners = {source.owner for source in stage.sources}
    others = [member for member in stage.members if member.number not in owners]
    began = timeline.now
    back: dict[int, float] = {}
    chosen = stage.random.sample(others, max(1, int(len(others) * plan.down_share)))
    # One relay of the first rank among them, where there are any.
    chosen += [member for member in others[:1] if member not in chosen]
    for member in chosen:
        member.stop()
        away = stage.random.uniform(0, plan.down_seconds)
        timeline.after(away, member.start)
        back[member.number] = began + away
    found = [(stage.retract(source), source) for source in sources]
    timeline.run()
    for times, source in found:
        whole = _when_whole(stage.network, source, back)
        beside = {at: moment for at, moment in times.items() if at not in whole}
        spread.seconds += _elapsed(beside, began, source.owner)
        spread.healed += [times[at] - since for at, since in whole.items()]
    return spread


def _when_whole(network: Network, source: OwnList, back: Mapping[int, float]) -> dict[int, float]:
    """Return when all on the way to a member is up again, for those that were cut off."""
    via = network.routes(source.owner)
    whole: dict[int, float] = {}
    for gone, moment in back.items():
        for member in iter_below(via, gone):
            whole[member] = max(moment, whole.get(member, moment))
    return whole


def _elapsed(times: dict[int, float], began: float, owner: int) -> list[float]:
    return [moment - began for member, moment in times.items() if member != owner]
