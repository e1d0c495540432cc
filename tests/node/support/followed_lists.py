"""A store that follows lists of other organizations, and gets their deltas from a test's hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from node.ingest.deltas import Acceptance, accept
from node.store import follow_state, lists, orgs
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord
from tests.federation.worlds import Publisher, pin_root
from tests.node.support.own_list import TickingClock

RELAY = OrgName("relay.example")


class FollowedLists:
    """A store with lists that it follows by way of one relay.

    Attributes:
        path: the store's file.
        clock: the store's clock.
        store: the store.
    """

    def __init__(self, folder: Path, *publishers: Publisher) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "store.db"
        self.clock = TickingClock()
        self.store = Store.create(self.path, self.clock)
        with self.store.write("init", "platform.example") as transaction:
            orgs.store_node(transaction, "org", "platform.example")
            for org in ("platform.example", RELAY):
                orgs.pin_org(transaction, pin_root(org))
        for publisher in publishers:
            self.follow(publisher)

    def close(self) -> None:
        self.store.close()

    def follow(self, publisher: Publisher) -> None:
        """Follow a list, and accept the deltas that it has."""
        with self.store.write("follow", str(publisher.origin)) as transaction:
            orgs.pin_org(transaction, publisher.root)
            lists.add_list(transaction, publisher.origin, via=RELAY)
        self.take(publisher)

    def take(self, publisher: Publisher) -> None:
        """Accept the deltas of a publisher that are not here yet; each must be fine."""
        size = self.record(publisher.origin).log.size
        acceptance = self.accept(publisher.origin, publisher.log[size:])
        assert acceptance.error is None, acceptance.error

    def accept(self, origin: Origin, deltas: Iterable[SignedDelta]) -> Acceptance:
        """Accept deltas, whatever they are."""
        return accept(self.store, origin, list(deltas), via=RELAY, clock=self.clock)

    def record(self, origin: Origin) -> ListRecord:
        record = lists.load_list(self.store.connection, origin)
        assert record is not None
        return record

    def status(self, origin: Origin) -> FollowStatus:
        return follow_state.load_follow_status(self.store.connection, self.record(origin).list)
