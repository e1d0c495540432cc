"""Buckets so small that a few entries fill several, and snapshots that go from hand to hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

from federation import limits
from federation.bucket import decode_bucket
from federation.names import Origin
from node.ingest import snapshot
from node.ingest.snapshot import Arrival
from node.publish import snapshot as publish_snapshot
from node.publish.snapshot import MadeSnapshot
from node.store import log, snapshots
from node.store.lists import ListRecord
from node.store.snapshots import SnapshotState
from tests.federation.worlds import Published, Publisher
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.peering import Site

ENTRIES = 3
"""Entries of a bucket."""


@contextmanager
def small_buckets(entries: int = ENTRIES) -> Iterator[None]:
    """Let buckets be cut small, as who makes them decides alone."""
    with mock.patch.object(limits, "MAX_BUCKET_ENTRIES", entries):
        yield


# --- joining by hand --------------------------------------------------------------------------


def begin(followed: FollowedLists, publisher: Publisher, published: Published) -> Arrival:
    """Offer a snapshot to a node, with the proof from where it stands."""
    held = followed.record(publisher.origin).log.size
    size = publisher.log.index(published.leaf) + 1
    offer = published.offer._replace(consistency=publisher.prove_growth(held, size))
    return snapshot.begin(followed.store, publisher.origin, offer, clock=followed.clock)


def take(
    followed: FollowedLists, arrival: Arrival, published: Published, numbers: Iterable[int]
) -> int | None:
    """Let some buckets arrive."""
    return snapshot.take(followed.store, arrival, [(n, published.buckets[n]) for n in numbers])


def join(followed: FollowedLists, publisher: Publisher, published: Published) -> ListRecord:
    """Let all of a snapshot arrive, and put it in force."""
    arrival = begin(followed, publisher, published)
    assert take(followed, arrival, published, arrival.missing) is not None
    record = snapshot.finish(followed.store, arrival, via=RELAY)
    assert record is not None
    return record


# --- at sites ---------------------------------------------------------------------------------


def hold(site: Site, publisher: Publisher, published: Published | None = None) -> None:
    """Let a site hold a snapshot of a list, the newest by default, as its maker would."""
    made = published or publisher.snapshots[-1]
    with site.store.update_status() as connection:
        number = snapshots.add(
            connection,
            site.record(publisher.origin).list,
            publisher.log.index(made.leaf),
            SnapshotState.HELD,
            made.offer,
        )
        for at, data in enumerate(made.buckets):
            extent = decode_bucket(data).extent()
            snapshots.store_bucket(connection, number, at, data, extent)


def rebuild(site: Site, origin: Origin) -> MadeSnapshot:
    """Make the newest snapshot of a followed list anew, to be served."""
    return publish_snapshot.rebuild(site.store, site.record(origin))


def leaves(site: Site, origin: Origin) -> list[int]:
    """Return the positions whose leaves are at a site."""
    record = site.record(origin)
    found = log.iter_records(site.store.connection, record.list, 0, record.log.size)
    return [leaf.position for leaf in found]
