"""What each kind of event does to a run. An event that meets nothing to act on does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from federation.errors import FederationError
from federation.names import Origin
from federation.recovery import Obstacle
from federation.replica import SignedDelta
from tests.simulation.byzantine import LIES, Liar
from tests.simulation.disk import Held, Intent, Leaf
from tests.simulation.publishing import CRASH_WINDOWS
from tests.simulation.schedule import Event

if TYPE_CHECKING:
    from tests.simulation.member import Member
    from tests.simulation.world import World

Act = Callable[["World", "Member", Event], bool]
"""Lets an event happen; says whether it met something."""

_DAY_MS: Final = 24 * 3600 * 1000
_KINDS: Final = ("assert", "assert", "retract", "assert", "retract", "purge")


def _pick(items: list[Origin], share: float) -> Origin | None:
    return items[int(share * len(items))] if items else None


def _own(member: Member) -> list[Origin]:
    return [held.origin for held in member.store if held.own]


# --- work -------------------------------------------------------------------------------------


def _publish(world: World, member: Member, event: Event, *, risk: bool = False) -> bool:
    origin = _pick(_own(member), event.one)
    if origin is None:
        return False
    staged = member.staging.setdefault(origin, [])
    for at in range(1 + int(event.two * 7)):
        number = world.next_intent()
        staged.append(Intent(number, _KINDS[(number + at) % len(_KINDS)], number))
    return world.publish(member, origin, risk=risk)


def _publish_at_risk(world: World, member: Member, event: Event) -> bool:
    return _publish(world, member, event, risk=True)


def _snapshot(world: World, member: Member, event: Event) -> bool:
    origin = _pick(_own(member), event.one)
    return origin is not None and world.publish(member, origin, snapshot=True)


def _followed(member: Member) -> list[Held]:
    return [held for held in member.store if not held.own]


def _follow_again(world: World, member: Member, event: Event) -> bool:
    """Begin with nothing of a list, as a newcomer."""
    lists = _followed(member)
    if not lists or member.store.is_full:
        return False
    held = lists[int(event.one * len(lists))]
    world.oracle.put_back(member.number)
    member.commit(Held(origin=held.origin, own=False, via=held.via))
    member.follower.leave(held.origin)
    return True


def _follow_by_another(world: World, member: Member, event: Event) -> bool:
    lists = _followed(member)
    if not lists or member.store.is_full:
        return False
    held = lists[int(event.one * len(lists))]
    peer = member.peers[int(event.two * len(member.peers))]
    member.commit(replace(member.store[held.origin], via=world.members[peer].org))
    return True


# --- processes and clocks ---------------------------------------------------------------------


def _kill(_world: World, member: Member, event: Event) -> bool:
    member.crash(back_after=event.seconds)
    return True


def _lose_power(_world: World, member: Member, event: Event) -> bool:
    member.lose_power(back_after=event.seconds)
    return True


def _lose_synced(world: World, member: Member, event: Event) -> bool:
    """Lose the newest commits with the power: the disk said that it had them."""
    lost = 1 + int(event.one * 4)
    if len(member.store.history) <= lost:
        return False
    member.lose_power(back_after=event.seconds)
    _go_back(world, member, len(member.store.history) - 1 - lost)
    return True


def _pause(world: World, member: Member, event: Event) -> bool:
    if not member.is_up:
        return False
    member.is_paused = True
    world.after(event.seconds, lambda: member.guarded(member.resume))
    return True


def _clock_back(world: World, member: Member, event: Event) -> bool:
    member.clock.offset_ms -= _DAY_MS
    world.after(event.seconds, lambda: world.set_clock(member))
    return True


def _clock_ahead(world: World, member: Member, event: Event) -> bool:
    member.clock.offset_ms += 3653 * _DAY_MS
    world.after(event.seconds, lambda: world.set_clock(member))
    return True


def _clock_still(world: World, member: Member, event: Event) -> bool:
    member.clock.frozen_ms = member.now_ms()
    world.after(event.seconds, lambda: world.set_clock(member))
    return True


def _clock_drifts(world: World, member: Member, event: Event) -> bool:
    """Go up to ten minutes wrong, at a rate of its own: more than peers put up with, or less."""
    member.clock.offset_ms += int((event.one - 0.5) * 1_200_000)
    member.clock.rate = 0.9 + event.two / 5
    world.after(event.seconds, lambda: world.set_clock(member))
    return True


# --- disks ------------------------------------------------------------------------------------


def _disk_full(world: World, member: Member, event: Event) -> bool:
    member.store.is_full = True
    member.mark.is_full = event.one < 0.5

    def free() -> None:
        member.store.is_full = member.mark.is_full = False

    world.after(event.seconds, free)
    return True


def _commit_fails(_world: World, member: Member, event: Event) -> bool:
    member.commit_fails = event.one < 0.5
    return True


def _mark_fails(_world: World, member: Member, _event: Event) -> bool:
    member.mark.fails = True
    return True


def _flip(_world: World, member: Member, event: Event) -> bool:
    """Change one bit of what is stored of one leaf."""
    lists = [held for held in member.store if held.leaves]
    if not lists:
        return False
    held = lists[int(event.one * len(lists))]
    at = int(event.two * len(held.leaves))
    parts = list(held.leaves[at].delta)
    part = int(event.seconds * 10) % 3
    if not parts[part]:
        part = 0
    data = parts[part]
    where = int(event.one * 997 * len(data)) % len(data)
    bit = 1 << (int(event.two * 997) % 8)
    parts[part] = data[:where] + bytes([data[where] ^ bit]) + data[where + 1 :]
    leaf = Leaf(SignedDelta(*parts), held.leaves[at].version)
    member.store.damage(replace(held, leaves=(*held.leaves[:at], leaf, *held.leaves[at + 1 :])))
    return True


def _scrub(_world: World, member: Member, _event: Event) -> bool:
    if member.is_up and not member.is_paused:
        member.guarded(member.repair.scrub)
    return member.is_up


# --- what is put back -------------------------------------------------------------------------


def _go_back(world: World, member: Member, at: int, *, rotate: bool = False) -> None:
    version = member.store.history[max(0, at)]
    member.store.go_back(version, member.next_incarnation() if rotate else None)
    world.oracle.put_back(member.number)


def _restore(world: World, member: Member, event: Event) -> bool:
    """Restore a backup, as `hashfed restore` does: the store gets another token."""
    member.crash(back_after=1.0)
    _go_back(world, member, int(event.one * len(member.store.history)), rotate=True)
    return True


def _put_store_back(world: World, member: Member, event: Event) -> bool:
    """Put a copy of the file in place by hand."""
    member.crash(back_after=1.0)
    _go_back(world, member, int(event.one * len(member.store.history)))
    return True


def _put_recent_store_back(world: World, member: Member, event: Event) -> bool:
    """Put a copy in place that lacks no more than the last steps."""
    lost = 3 + int(event.two * 3)
    if len(member.store.history) <= lost:
        return False
    member.crash(back_after=1.0)
    _go_back(world, member, len(member.store.history) - 1 - lost)
    return True


def _put_mark_back(_world: World, member: Member, event: Event) -> bool:
    member.mark.tamper(member.mark.history[int(event.one * len(member.mark.history))])
    return True


def _put_newest_mark_back(_world: World, member: Member, _event: Event) -> bool:
    """Put back the mark that says most, of all that there ever were."""
    usable = [content for content in member.mark.history if not isinstance(content, Obstacle)]
    member.mark.tamper(
        max(usable, key=lambda content: sum(record.size for record in content.values()))
    )
    return True


def _put_both_back(world: World, member: Member, event: Event) -> bool:
    """Put a copy of the whole disk in place."""
    member.crash(back_after=1.0)
    at = int(event.one * len(member.store.history))
    _go_back(world, member, at)
    # The mark that was in place then: the newest that says no more than that store has.
    for content in reversed(member.mark.history):
        if not isinstance(content, Obstacle) and all(
            record.size <= member.store[origin].size for origin, record in content.items()
        ):
            member.mark.tamper(content)
            return True
    return True


def _mark_missing(_world: World, member: Member, _event: Event) -> bool:
    member.mark.tamper(Obstacle.MARK_MISSING)
    return True


def _mark_damaged(_world: World, member: Member, _event: Event) -> bool:
    member.mark.tamper(Obstacle.MARK_DAMAGED)
    return True


def _mark_foreign(_world: World, member: Member, _event: Event) -> bool:
    member.mark.tamper(Obstacle.MARK_FOREIGN)
    return True


# --- the network ------------------------------------------------------------------------------


def _spoil(name: str, most: float) -> Act:
    """Return what spoils all links of a node in one way."""

    def act(world: World, member: Member, event: Event) -> bool:
        for peer in range(len(world.members)):
            if peer != member.number:
                for pair in ((member.number, peer), (peer, member.number)):
                    setattr(world.links[pair], name, event.one * most)

        def end() -> None:
            for peer in range(len(world.members)):
                if peer != member.number:
                    for pair in ((member.number, peer), (peer, member.number)):
                        setattr(world.links[pair], name, 0.0)

        world.after(event.seconds, end)
        return True

    return act


def _partition(world: World, _member: Member, event: Event) -> bool:
    """Cut the network in two."""
    cut = int(event.one * 2 ** len(world.members))
    pairs = [
        (one, other)
        for one in range(len(world.members))
        for other in range(len(world.members))
        if one != other and (cut >> one & 1) != (cut >> other & 1)
    ]
    world.cut(pairs, event.seconds)
    return bool(pairs)


def _one_way(world: World, member: Member, event: Event) -> bool:
    """Let a node hear and not be heard."""
    others = [peer for peer in range(len(world.members)) if peer != member.number]
    world.cut([(member.number, peer) for peer in others], event.seconds)
    return True


def _isolate(world: World, member: Member, event: Event) -> bool:
    others = [peer for peer in range(len(world.members)) if peer != member.number]
    pairs = [(member.number, peer) for peer in others] + [(peer, member.number) for peer in others]
    world.cut(pairs, 20.0 + event.seconds)
    return True


def _swizzle(world: World, _member: Member, event: Event) -> bool:
    """Isolate some nodes one after the other, and heal them in another order."""
    count = len(world.members)
    some = [at for at in range(count) if int(event.one * 2**count) >> at & 1] or [0]
    for order, at in enumerate(some):
        pairs = [(at, other) for other in range(count) if other != at]
        pairs += [(other, at) for other in range(count) if other != at]
        stop = event.seconds + 3.0 * ((order * 7 + int(event.two * 10)) % len(some))
        world.after(2.0 * order, partial(world.cut, pairs, stop))
    return True


# --- what liars do ----------------------------------------------------------------------------


def _lie(lie: str) -> Act:
    def act(world: World, member: Member, event: Event) -> bool:
        if not isinstance(member, Liar):
            return False
        member.lies[lie] = True
        # Long enough that something passes by it.
        world.after(60.0 + event.seconds, lambda: member.lies.pop(lie, None))
        return True

    return act


def _two_histories(_world: World, member: Member, event: Event) -> bool:
    origin = _pick(_own(member), event.one)
    if not isinstance(member, Liar) or origin is None or not member.is_up:
        return False
    try:
        member.grow_twin(origin, int(event.two * 1000))
    except FederationError:
        # Its clock is wrong just now: even a liar signs nothing that nobody would take.
        return False
    member.wake()
    return True


def _crash_after(step: str, *, machine: bool) -> Act:
    def act(_world: World, member: Member, _event: Event) -> bool:
        member.crash_at = (step, machine)
        return True

    return act


WORK: Final[Mapping[str, Act]] = {
    "publish": _publish,
    "publish at a risk": _publish_at_risk,
    "snapshot": _snapshot,
    "follow again": _follow_again,
    "follow by another peer": _follow_by_another,
    "scrub": _scrub,
}
"""What operators do."""

FAULTS: Final[Mapping[str, Act]] = {
    "kill": _kill,
    "lose power": _lose_power,
    "lose what was synced": _lose_synced,
    "pause": _pause,
    "clock a day back": _clock_back,
    "clock ten years ahead": _clock_ahead,
    "clock stands still": _clock_still,
    "clock drifts": _clock_drifts,
    "disk full": _disk_full,
    "commit fails": _commit_fails,
    "mark cannot be written": _mark_fails,
    "flip a bit": _flip,
    "restore a backup": _restore,
    "put the store back": _put_store_back,
    "put a recent store back": _put_recent_store_back,
    "put the mark back": _put_mark_back,
    "put the newest mark back": _put_newest_mark_back,
    "put both back": _put_both_back,
    "mark missing": _mark_missing,
    "mark damaged": _mark_damaged,
    "mark foreign": _mark_foreign,
    "messages lost": _spoil("loss", 0.5),
    "messages doubled": _spoil("doubling", 0.7),
    "messages overtake": _spoil("disorder", 0.7),
    "messages late": _spoil("delay", 10.0),
    "partition": _partition,
    "one way only": _one_way,
    "isolate": _isolate,
    "swizzle": _swizzle,
    "show two histories": _two_histories,
    **{lie: _lie(lie) for lie in LIES},
    **{f"killed after: {step}": _crash_after(step, machine=False) for step in CRASH_WINDOWS},
    **{f"power lost after: {step}": _crash_after(step, machine=True) for step in CRASH_WINDOWS},
}
"""What goes wrong."""

KINDS: Final = {**WORK, **FAULTS}
