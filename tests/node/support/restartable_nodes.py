"""Nodes of one list that die and come back: a publisher, and followers of it.

What a node is, is its folder. One that dies leaves the folder as it is at that moment, write-ahead
logs and all; a copy of it is what the next process opens. Nodes are made by copying one that was
made once, as a store takes longer to make than what is done to it.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from federation import wire
from federation.checkpoint import read_checkpoint
from federation.names import OrgName
from federation.recovery import PeerReport
from federation.replica import SignedDelta
from node.clock import Clock
from node.home import Home
from node.publish.high_water import HighWater
from node.publish.permit import Permit, obtain_permit
from node.staging.file import Staging
from node.store import lists, log, orgs
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.release import load_incarnation
from tests.federation.worlds import make_charter, pin_root, seal_charter
from tests.node.support.own_list import ORIGIN

FOLLOWERS: Final = (OrgName("relay.example"), OrgName("ngo.example"))


class Node:
    """One node, while it lives.

    Attributes:
        org: whose it is.
        home: its files.
        store: its store.
        is_alive: whether its store is open.
    """

    def __init__(self, org: OrgName, folder: Path, clock: Clock) -> None:
        self.org = org
        self.home = Home(folder)
        self.clock = clock
        self.is_alive = False
        self._deaths = 0
        self.open()

    @classmethod
    def make(cls, org: OrgName, folder: Path, clock: Clock) -> None:
        """Make the folder of a node that has nothing of the list yet."""
        folder.mkdir(parents=True)
        Store.create(Home(folder).store, clock).close()
        node = cls(org, folder, clock)
        node.found()
        node.close()

    def found(self) -> None:
        """Record who there is, and the list with its charter."""
        envelope = wire.encode_envelope(seal_charter(make_charter(ORIGIN, all_peers=True)))
        via = None if self.org == ORIGIN.org else ORIGIN.org
        with self.store.write("init", self.org) as transaction:
            orgs.store_node(transaction, "org", self.org)
            for org in (ORIGIN.org, *FOLLOWERS):
                orgs.pin_org(transaction, pin_root(org))
            lists.add_list(transaction, ORIGIN, via=via)
            lists.store_charter(transaction, self.record, envelope, 1)

    @property
    def record(self) -> ListRecord:
        """The list as its store has it."""
        return self.record_in(self.store)

    @staticmethod
    def record_in(store: Store) -> ListRecord:
        """Return the list as a store has it."""
        found = lists.load_list(store.connection, ORIGIN)
        assert found is not None
        return found

    @property
    def size(self) -> int:
        """How many deltas of the list it has come to."""
        return self.record.log.size

    def deltas(self, start: int = 0) -> list[SignedDelta]:
        """Return the deltas that lie there, from a position on."""
        record = self.record
        size = record.log.size
        found: list[SignedDelta] = []
        while start + len(found) < size:
            more = log.read_frame(
                self.store.connection, record.list, start + len(found), size, 1 << 30
            )
            if not more:
                break
            found += more
        return found

    # --- living and dying ---------------------------------------------------------------------

    def open(self) -> None:
        """Do what a new process does."""
        self.store = Store.open(self.home.store, self.clock)
        self.is_alive = True

    def close(self) -> None:
        """Do what a process does that ends in peace."""
        self.is_alive = False
        self.store.close()

    def leave(self) -> None:
        """Keep what a process that ends here and now leaves behind."""
        self._deaths += 1
        shutil.copytree(self.home.path, self._left)

    def abandon(self) -> None:
        """Be what was left behind; it is not opened yet."""
        with suppress(Exception):
            # Whatever the dead process would still have written goes with the old folder.
            self.close()
        shutil.rmtree(self.home.path)
        self._left.rename(self.home.path)

    @property
    def _left(self) -> Path:
        return self.home.path.with_name(f"{self.org}.left-{self._deaths}")


class Follower(Node):
    """A node that follows the list.

    Attributes:
        deltas_only: whether it asks for every delta, and takes no snapshot.
    """

    deltas_only = False

    def checkpoint(self) -> PeerReport:
        """Say what its owner is told who asks for the newest checkpoint of the list."""
        size = self.size
        if not size:
            return PeerReport(peer=self.org, answered=True)
        held = log.load_record(self.store.connection, self.record.list, size - 1)
        assert held is not None
        return PeerReport(peer=self.org, answered=True, checkpoint=read_checkpoint(held.checkpoint))


class Owner(Node):
    """The node that publishes the list.

    Attributes:
        staging: what is staged for it.
        mark: its high-water mark.
    """

    staging: Staging

    @property
    def mark(self) -> HighWater:
        return HighWater(self.home.mark, self.org)

    def found(self) -> None:
        super().found()
        self.mark.create()
        self.mark.begin(ORIGIN, load_incarnation(self.store.connection))

    def open(self) -> None:
        super().open()
        self.home.staging.mkdir(exist_ok=True)
        self.staging = Staging.open(self.home.staging_file(ORIGIN.name))

    def close(self) -> None:
        self.staging.close()
        super().close()

    def permit(self, answers: tuple[PeerReport, ...]) -> Permit:
        return obtain_permit(self.store, self.mark, ORIGIN, lambda: answers, clock=self.clock)
