"""Finds the lists of a damaged store, and copies the parts of a list that need no rebuilding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from federation.errors import FederationError
from federation.follow import FollowState
from federation.header import Header
from federation.names import OrgName, Origin
from federation.replica import Replica
from node.repair import salvage
from node.repair.bitflips import correct_bit_of_text
from node.repair.salvage import Wreck, as_number
from node.store import fetched, lists, orgs, rebuild, snapshots, trees
from node.store.connection import Store

_NAMED_LEAVES: Final = 1_000
"""The most leaves that are read to find the hash of the list's name."""

_FOLLOW_STATES: Final = frozenset(map(str, FollowState))


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedList:
    """A list of the damaged store.

    Attributes:
        number: its number.
        origin: its name; a flipped bit in it was corrected.
        own: whether it is ours.
    """

    number: int
    origin: Origin
    own: bool


# --- which lists there are ----------------------------------------------------------------------


def iter_lists(wreck: Wreck, store: Store, org: OrgName) -> Iterator[DamagedList]:
    """Add every list to the new store, empty, and yield it.

    Args:
        wreck: the damaged store.
        store: the new one, with all organizations.
        org: the organization of this node.
    """
    for found in list(salvage.list_names(wreck)):
        owner = rebuild.load_org(store.connection, found.org)
        origin = None if owner is None else _find_origin(wreck, found.list, owner[0], found.name)
        if origin is None:
            continue
        own = origin.org == org
        with store.update_status() as connection:
            rebuild.add_list(connection, found.list, origin, own=own, via=0 if own else found.via)
        _copy_follow_state(wreck, store, found.list, own=own)
        yield DamagedList(number=found.list, origin=origin, own=own)


def _find_origin(wreck: Wreck, number: int, org: OrgName, name: str) -> Origin | None:
    """Return the name of a list, corrected so that it has the hash that its leaves sign."""
    signed_hash = _find_origin_hash(wreck, number)

    def is_it(tried: str) -> bool:
        origin = _parse(org, tried)
        return origin is not None and signed_hash in (None, origin.hash)

    corrected = correct_bit_of_text(name, is_it)
    return _parse(org, name if corrected is None else corrected)


def _parse(org: OrgName, name: str) -> Origin | None:
    try:
        return Origin.parse(f"{org}/{name}")
    except FederationError:
        return None


def _find_origin_hash(wreck: Wreck, number: int) -> bytes | None:
    """Return the hash of a list's name that its leaves sign; None if no leaf can be read."""
    for position in range(_NAMED_LEAVES):
        header = salvage.leaf_header(wreck, number, position)
        if header is None:
            return None
        try:
            return Header.parse(header).origin_hash
        except FederationError:
            continue
    return None


def _copy_follow_state(wreck: Wreck, store: Store, number: int, *, own: bool) -> None:
    row = salvage.follow_state(wreck, number)
    if row.state not in _FOLLOW_STATES:
        row = row._replace(state=FollowState.OWN if own else FollowState.CATCHING_UP)
    extent = salvage.signed_extent(wreck, number)
    with store.update_status() as connection:
        rebuild.add(connection, row)
        if extent is not None:
            rebuild.add_if_possible(connection, extent)


# --- deltas that were fetched by themselves -----------------------------------------------------


def copy_fetched(wreck: Wreck, store: Store, damaged: DamagedList) -> None:
    """Copy the deltas that were fetched alone, if they verify.

    The others can be fetched again. The list must be rebuilt before.
    """
    for row in salvage.fetched(wreck, damaged.number):
        with store.update_status() as writer:
            rebuild.add_if_possible(writer, row)
    sound = _find_sound(store, damaged)
    with store.update_status() as writer:
        rebuild.keep_fetched(writer, damaged.number, sound)


def _find_sound(store: Store, damaged: DamagedList) -> set[int]:
    """Return the positions of the copied deltas that verify."""
    connection = store.connection
    record = lists.load_list_by_number(connection, damaged.number)
    root = orgs.load_root(connection, damaged.origin.org)
    assert root is not None  # noqa: S101  # the list was rebuilt with it
    sound: set[int] = set()
    for item in fetched.iterate(connection, damaged.number, 0, record.log.size):
        try:
            tree = trees.load_frontier(connection, record, item.size)
            replica = Replica(record.origin, root, replace(record.log, frontier=tree))
            if replica.receive_past(item.delta, item.inclusion).header.position == item.position:
                sound.add(item.position)
        except Exception:  # noqa: BLE001, S112  # a damaged row can fail in any way: it is left out
            continue
    return sound


# --- a list that cannot be rebuilt --------------------------------------------------------------


def carry_over(wreck: Wreck, store: Store, damaged: DamagedList) -> None:
    """Copy the readable parts of a list that could not be rebuilt.

    Its index is not copied, since nothing is answered from the list before it is repaired.
    """
    number = damaged.number
    with store.update_status() as connection:
        rebuild.defer_references(connection)
        for snapshot in salvage.held_snapshots(wreck, number):
            rebuild.add_if_possible(connection, snapshot._replace(list=number))
            for bucket in salvage.buckets(wreck, as_number(snapshot.snapshot)):
                rebuild.add_if_possible(connection, bucket)
        for span in salvage.spans(wreck, number):
            known = snapshots.load(connection, as_number(span.snapshot)) is not None
            snapshot_number = span.snapshot if known else None
            rebuild.add_if_possible(connection, span._replace(snapshot=snapshot_number))
        for leaf in salvage.leaves(wreck, number):
            known = rebuild.load_org(connection, leaf.via) is not None
            rebuild.add_if_possible(connection, leaf._replace(via=leaf.via if known else None))
        for body in salvage.bodies(wreck, number):
            rebuild.add_if_possible(connection, body)
        state = salvage.list_state(wreck, number)
        if state is not None:
            rebuild.store_list_state(connection, number, state)
        rebuild.ensure_span(connection, number)
        released = salvage.released(wreck, number)
        if released is not None:
            rebuild.add_if_possible(connection, released)
