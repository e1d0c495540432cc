"""Repairs a store by replacing it with a new one that is made from its signed bytes.

Derived data is derived again, by the same code as when deltas are accepted. Damaged signed bytes
come from peers and are verified before they are kept. The old store is kept unchanged under another
name. All damage is repaired in this one way, on any page. Nothing in the old file is trusted before
it is verified, except unsigned data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from federation.errors import FederationError
from federation.names import OrgName
from node.clock import Clock
from node.errors import DamageError, NodeError
from node.fsck import journal as fsck_journal
from node.fsck.check import fsck
from node.home import Home
from node.publish import snapshot
from node.repair.lists import DamagedList, carry_over, copy_fetched, iter_lists
from node.repair.peers import FetchedPart, PartsFromPeers, RepairSource, UnrepairableError
from node.repair.rebuild import rebuild_list
from node.repair.records import copy_records
from node.repair.salvage import Wreck, open_wreck
from node.repair.work import ListWork
from node.store import damage as store_damage
from node.store import lists, orgs, rebuild
from node.store.connection import Store
from node.store.copies import name_copy, put_aside, put_back, remove_copies
from node.store.damage import Damage, DamageKind, Findings
from node.store.orgs import Peer
from node.store.sqlite import sqlite_errors
from node.system import durable

__all__ = ["FetchedPart", "RepairSource", "Repaired", "repair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """The result of a repair.

    Attributes:
        damages: the damage before the repair.
        fetched: the parts that came from peers.
        refused: a sentence for each part from a peer that did not verify.
        failed: a sentence for each list that could not be rebuilt.
        left: the damage after the repair.
        aside: the old store, under its new name; None if nothing was changed, because nothing
            is damaged or nothing could be repaired.
    """

    damages: tuple[Damage, ...]
    fetched: tuple[FetchedPart, ...] = ()
    refused: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    left: tuple[Damage, ...] = ()
    aside: Path | None = None


def repair(
    home: Home,
    org: OrgName,
    connect: Callable[[Sequence[Peer]], RepairSource],
    *,
    clock: Clock,
    on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Repaired:
    """Repair the store of a node. The caller holds both locks of the node (`serve`, `publish`).

    Args:
        home: the node's folder.
        org: the organization of this node.
        connect: returns a source of signed bytes, given the peers in the store
            (`node.sync.repair_source.PeerSource`).
        clock: tells the time.
        on_progress: called with (activity, done, total).

    Raises:
        StoreError: the new store could not be written; nothing was changed.
    """
    store = home.store.resolve()
    put_back(store)
    # Even if there is nothing to repair, as the last repair may have been killed after it was done.
    remove_copies(store, "repairing", "wreck")
    damages = _check(store, clock, on_progress)
    if all(damage.kind is DamageKind.CLAIM for damage in damages):
        _note(home, store, damages, clock)
        return Repaired(damages=damages, left=damages)
    store_damage.add(store, damages)
    with name_copy(store, "repairing") as made:
        with open_wreck(store, clock) as wreck:
            work = _Repair(wreck, made, org, connect, clock, on_progress)
            work.run()
        left = _check(made, clock, on_progress)
        if _is_better(damages, left):
            with durable.disk_errors(store):
                durable.sync(made)
                aside = put_aside(store, clock.now_ms())
                durable.rename(made, store)
            _note(home, store, left, clock)
        else:
            aside, left = None, damages
    return Repaired(
        damages=damages,
        fetched=tuple(work.fetched),
        refused=tuple(work.refused),
        failed=tuple(work.failed),
        left=left,
        aside=aside,
    )


def _check(
    path: Path, clock: Clock, on_progress: Callable[[str, int, int], None]
) -> tuple[Damage, ...]:
    """Return all damage in a store."""
    try:
        store = Store.open_reader(path, clock)
    except DamageError as error:
        return (Damage(kind=DamageKind.FILE, origin="", position=None, message=str(error)),)
    try:
        return tuple(fsck(store, on_progress=on_progress))
    finally:
        store.close()


def _is_better(before: Sequence[Damage], after: Sequence[Damage]) -> bool:
    """Return whether at least one list, or the records that belong to no list, became sound."""
    bad = {damage.origin for damage in before if damage.kind is not DamageKind.CLAIM}
    return bool(bad - {damage.origin for damage in after if damage.kind is not DamageKind.CLAIM})


def _note(home: Home, store: Path, left: Sequence[Damage], clock: Clock) -> None:
    store_damage.store(store, Findings(ended_ms=clock.now_ms(), damages=tuple(left)))
    for journal in (home.fsck_journal, home.scrub_journal):
        fsck_journal.forget(journal)


class _Repair:
    """Makes the new store. For one use."""

    def __init__(
        self,
        wreck: Wreck,
        path: Path,
        org: OrgName,
        connect: Callable[[Sequence[Peer]], RepairSource],
        clock: Clock,
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        self.fetched: list[FetchedPart] = []
        self.refused: list[str] = []
        self.failed: list[str] = []
        self._wreck = wreck
        self._path = path
        self._org = org
        self._connect = connect
        self._clock = clock
        self._on_progress = on_progress

    def run(self) -> None:
        """Make the new store.

        Raises:
            StoreError: it could not be written.
        """
        store = Store.create(self._path, self._clock)
        try:
            with sqlite_errors(self._path):
                self._fill(store)
        finally:
            store.close()

    def _fill(self, store: Store) -> None:
        rebuild.fill_unsynced(store)
        copy_records(self._wreck, store, self._org)
        source = self._connect(list(orgs.iter_peers(store.connection)))
        for damaged in list(iter_lists(self._wreck, store, self._org)):
            self._fill_list(store, source, damaged)
        with store.write("repair", f"{len(self.fetched)} parts from peers"):
            pass
        rebuild.complete(store)

    def _fill_list(self, store: Store, source: RepairSource, damaged: DamagedList) -> None:
        """Rebuild a list, or copy it as it is."""
        origin = damaged.origin
        try:
            root = orgs.load_root(store.connection, origin.org)
        except DamageError as error:
            root = None
            self.failed.append(f"{origin}: {error}")
        if root is None:
            carry_over(self._wreck, store, damaged)
            return
        peers = PartsFromPeers(origin, root, source)
        work = ListWork(
            wreck=self._wreck,
            store=store,
            number=damaged.number,
            origin=origin,
            own=damaged.own,
            root=root,
            peers=peers,
            now_ms=self._clock.now_ms(),
            on_progress=lambda done, total: self._on_progress(f"repairing {origin}", done, total),
        )
        try:
            rebuild_list(work)
        except UnrepairableError as error:
            self.failed.append(f"{origin}: {error}")
            carry_over(self._wreck, store, damaged)
        else:
            copy_fetched(self._wreck, store, damaged)
            # A damaged snapshot that is served beside the deltas is built again from them.
            with suppress(NodeError, FederationError):
                snapshot.rebuild(store, lists.load_list_by_number(store.connection, damaged.number))
        finally:
            self.fetched += peers.fetched
            self.refused += peers.refused
