"""Repairing: a damaged store is made anew from its signed bytes, and takes the old one's place.

What is derived is made by the code that makes it when deltas are accepted. Signed bytes that are
damaged come from peers, and are verified as always before they are kept. The old store stays as it
is, under another name. There is one way for every damage, whatever page it is on: of the old file,
nothing is believed that was not verified, but for what nobody signs.
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
from node.repair.lists import OldList, carry_over, copy_fetched, iter_lists
from node.repair.rebuild import Gained, ListRebuild, RepairSource, UnrepairableError
from node.repair.records import copy_records
from node.repair.salvage import Wreck, open_wreck
from node.store import damage as store_damage
from node.store import lists, orgs
from node.store.connection import Store
from node.store.copies import name_copy, put_aside, put_back, remove_copies
from node.store.damage import Damage, DamageKind, Findings
from node.store.orgs import Peer
from node.store.sqlite import sqlite_errors
from node.system import durable

__all__ = ["Gained", "RepairSource", "Repaired", "repair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair did.

    Attributes:
        damages: what was damaged.
        gained: what came from peers.
        refused: what peers sent that does not verify, in a sentence each.
        failed: why a list could not be made whole, in a sentence each.
        left: what is damaged still.
        aside: the old store, under its new name; None when nothing was changed: because nothing
            is damaged, or because nothing could be repaired.
    """

    damages: tuple[Damage, ...]
    gained: tuple[Gained, ...] = ()
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
        org: whose node it is.
        connect: gives the source of damaged signed bytes, from the peers that the store knows
            (`node.sync.repair_source.PeerSource`).
        clock: tells the time.
        on_progress: told (what, done, of how much).

    Raises:
        StoreError: the store made anew could not be written; nothing was changed.
    """
    store = home.store.resolve()
    put_back(store)
    # Also where nothing is left to repair: a repair may be killed after it was done.
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
        gained=tuple(work.gained),
        refused=tuple(work.refused),
        failed=tuple(work.failed),
        left=left,
        aside=aside,
    )


def _check(
    path: Path, clock: Clock, on_progress: Callable[[str, int, int], None]
) -> tuple[Damage, ...]:
    """Return all that is damaged in a store."""
    try:
        store = Store.open_reader(path, clock)
    except DamageError as error:
        return (Damage(kind=DamageKind.FILE, origin="", position=None, message=str(error)),)
    try:
        return tuple(fsck(store, on_progress=on_progress))
    finally:
        store.close()


def _is_better(before: Sequence[Damage], after: Sequence[Damage]) -> bool:
    """Say whether at least one list, or what is of no list, is whole that was not."""
    bad = {damage.origin for damage in before if damage.kind is not DamageKind.CLAIM}
    return bool(bad - {damage.origin for damage in after if damage.kind is not DamageKind.CLAIM})


def _note(home: Home, store: Path, left: Sequence[Damage], clock: Clock) -> None:
    store_damage.store(store, Findings(ended_ms=clock.now_ms(), damages=tuple(left)))
    for journal in (home.fsck_journal, home.scrub_journal):
        fsck_journal.forget(journal)


class _Repair:
    """Makes a store anew. One use."""

    def __init__(
        self,
        wreck: Wreck,
        path: Path,
        org: OrgName,
        connect: Callable[[Sequence[Peer]], RepairSource],
        clock: Clock,
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        self.gained: list[Gained] = []
        self.refused: list[str] = []
        self.failed: list[str] = []
        self._wreck = wreck
        self._path = path
        self._org = org
        self._connect = connect
        self._clock = clock
        self._on_progress = on_progress

    def run(self) -> None:
        """Make it.

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
        # Synced as a whole at the end: before that it is nobody's store.
        store.connection.execute("PRAGMA synchronous = OFF")
        copy_records(self._wreck, store, self._org)
        source = self._connect(_load_peers(store))
        for old in list(iter_lists(self._wreck, store, self._org)):
            self._rebuild(store, source, old)
        with store.write("repair", f"{len(self.gained)} parts from peers"):
            pass
        # One file, complete in itself, so that it can be renamed.
        store.connection.execute("PRAGMA journal_mode = DELETE")

    def _rebuild(self, store: Store, source: RepairSource, old: OldList) -> None:
        try:
            root = orgs.load_root(store.connection, old.origin.org)
        except DamageError as error:
            root = None
            self.failed.append(f"{old.origin}: {error}")
        if root is None:
            carry_over(self._wreck, store, old)
            return
        work = ListRebuild(
            wreck=self._wreck,
            store=store,
            number=old.number,
            origin=old.origin,
            own=old.own,
            root=root,
            source=source,
            now_ms=self._clock.now_ms(),
            on_leaf=lambda done, total: self._on_progress(f"repairing {old.origin}", done, total),
        )
        try:
            work.run()
        except UnrepairableError as error:
            self.failed.append(f"{old.origin}: {error}")
            carry_over(self._wreck, store, old)
        else:
            copy_fetched(self._wreck, store, old)
            # One that is damaged, and is served beside the deltas, is made from them again.
            with suppress(NodeError, FederationError):
                snapshot.rebuild(store, lists.load_list_by_number(store.connection, old.number))
        finally:
            self.gained += work.gained
            self.refused += work.refused


def _load_peers(store: Store) -> list[Peer]:
    return list(orgs.iter_peers(store.connection))
