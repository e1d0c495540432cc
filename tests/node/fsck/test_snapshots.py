"""What `fsck.check` promises of snapshots: what is stored of one and was not signed is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation.bucket import decode_bucket, encode_bucket
from federation.entry import Cause, Operation
from federation.errors import Reason
from federation.follow import FollowState
from federation.replica import SignedDelta
from node.errors import DamageError
from node.fsck.check import Damage, fsck
from node.ingest import checks, single_delta, snapshot
from node.maintenance.backup import backup
from node.store import follow_state, lists, snapshots
from node.store.connection import Store
from node.store.snapshots import SnapshotState
from tests.federation.offers import OfferForgery, forge_offer
from tests.federation.worlds import Forgery, Publisher, assertion, fingerprint
from tests.node.ingest.test_single_delta import prove
from tests.node.ingest.test_snapshot import exported, follow_without
from tests.node.support.damage_in_sql import damage, flip_bit
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.small_buckets import begin, join, small_buckets, take

MAIN = "hotline.example/main"


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_buckets():
        yield


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher(MAIN)
    made.publish(*(assertion(n, fingerprint(n, "md5")) for n in range(10)))
    made.publish(assertion(2, labels=("B",)), assertion(10, entry="x"))
    made.publish_snapshot()
    return made


@pytest.fixture
def joined(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    """Return a node with a first part, a snapshot, deltas after it, and a fetched delta."""
    made = FollowedLists(tmp_path / "joined")
    follow_without(made, publisher)
    assert made.accept(publisher.origin, publisher.log[:1]).error is None
    join(made, publisher, publisher.snapshots[0])
    publisher.publish(Operation.retraction(assertion(3).entry, Cause.WITHDRAWN), assertion(20))
    made.take(publisher)
    single_delta.keep_delta(
        made.store,
        made.record(publisher.origin),
        1,
        publisher.log[1],
        prove(publisher, 1),
        expected=[],
        via=RELAY,
        clock=made.clock,
    )
    yield made
    made.close()


@dataclass(frozen=True)
class Flip:
    """One bit of stored bytes, and what of the damage found has to be said."""

    table: str
    column: str
    where: str
    at: int
    says: str


BUCKET = "id % 4294967296 = 1"
FLIPS = (
    Flip("bucket", "bytes", BUCKET, 0, "bucket 1"),
    Flip("bucket", "bytes", BUCKET, -1, "bucket 1"),
    Flip("bucket", "first", BUCKET, -1, "bucket 1"),
    Flip("bucket", "last", BUCKET, 3, "bucket 1"),
    Flip("snapshot", "header", "1", 1, "FORMAT_UNSUPPORTED"),
    Flip("snapshot", "header", "1", 40, "SIGNATURE_INVALID"),
    Flip("snapshot", "checkpoint", "1", 0, "CHECKPOINT_SIGNATURE_INVALID"),
    Flip("snapshot", "frontier", "1", 0, "CHECKPOINT_MISMATCH"),
    Flip("snapshot", "bucket_hashes", "1", 0, "SNAPSHOT_MISMATCH"),
    Flip("fetched", "header", "1", 100, "SIGNATURE_INVALID"),
    Flip("fetched", "body", "1", 0, "BODY_DIGEST_MISMATCH"),
    Flip("fetched", "checkpoint", "1", 0, "CHECKPOINT_SIGNATURE_INVALID"),
    Flip("fetched", "inclusion", "1", 0, "PROOF_INVALID"),
)


def found(store: Store) -> list[Damage]:
    return list(fsck(store))


def test_a_sound_store_with_snapshots_is_called_sound_and_progress_is_told(
    joined: FollowedLists,
) -> None:
    told: list[tuple[str, int, int]] = []
    assert list(fsck(joined.store, on_progress=lambda *at: told.append(at))) == []
    assert told == [(MAIN, done, told[-1][2]) for done in range(1, told[-1][2] + 1)]


@pytest.mark.parametrize("case", FLIPS, ids=lambda case: f"{case.table}.{case.column}[{case.at}]")
def test_a_flipped_bit_of_a_snapshot_or_a_fetched_delta_is_found(
    joined: FollowedLists, case: Flip
) -> None:
    flip_bit(joined.store, case.table, case.column, case.where, case.at)
    damages = found(joined.store)
    assert damages[0].origin == MAIN
    assert case.says in damages[0].message


IN_BUCKET = "bucket = 1 AND kind = (SELECT min(kind) FROM posting WHERE bucket = 1)"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM posting WHERE {IN_BUCKET}",
        "UPDATE posting SET position = position + 5 WHERE {IN_BUCKET}",
        "UPDATE posting SET row = row + 20 WHERE {IN_BUCKET}",
        "UPDATE posting SET bucket = 2 WHERE {IN_BUCKET}",
        "UPDATE posting SET bucket = NULL WHERE {IN_BUCKET}",
        "UPDATE posting SET op = 2 WHERE {IN_BUCKET}",
        "UPDATE posting SET span = 99 WHERE {IN_BUCKET}",
        "UPDATE bucket SET entries = entries + 1 WHERE id % 4294967296 = 1",
        "DELETE FROM bucket WHERE id % 4294967296 = 1",
        "DELETE FROM snapshot",
        "UPDATE snapshot SET state = 'arriving'",
        "UPDATE snapshot SET position = position - 1",
        "DELETE FROM span WHERE start = 3",
        "UPDATE span SET start = start - 1 WHERE start = 3",
        "UPDATE span SET start = start + 1 WHERE start = 3",
        "UPDATE span SET stop = 0 WHERE start = 0",
        "UPDATE span SET stop = 2 WHERE start = 0",
        "UPDATE span SET snapshot = NULL WHERE start = 3",
        "UPDATE list SET span = 1",
        "UPDATE delta SET id = id - 1 WHERE id % 4294967296 = 2",
        "DELETE FROM superseded",
        "UPDATE fetched SET id = id - 1",
        "UPDATE fetched SET size = size - 1",
    ],
)
def test_rows_of_spans_and_snapshots_that_are_not_as_they_must_be_are_found(
    joined: FollowedLists, statement: str
) -> None:
    damage(joined.store, statement.replace("{IN_BUCKET}", IN_BUCKET))
    assert found(joined.store)


def test_a_snapshot_that_is_still_arriving_is_checked_as_far_as_it_is_here(
    tmp_path: Path, publisher: Publisher
) -> None:
    node = FollowedLists(tmp_path / "node")
    follow_without(node, publisher)
    published = publisher.snapshots[0]
    arrival = begin(node, publisher, published)
    take(node, arrival, published, [0, 2])
    assert found(node.store) == []
    flip_bit(node.store, "bucket", "bytes", "id % 4294967296 = 2", 30)
    assert "bucket 2" in found(node.store)[0].message
    node.close()


def test_what_a_killed_maker_of_a_snapshot_left_is_no_damage(
    tmp_path: Path, publisher: Publisher
) -> None:
    node = FollowedLists(tmp_path / "node", publisher)
    published = publisher.snapshots[0]
    with node.store.update_status() as connection:
        number = snapshots.add(connection, 1, 2, SnapshotState.BUILDING, published.offer)
        extent = decode_bucket(published.buckets[0]).extent()
        snapshots.store_bucket(connection, number, 0, published.buckets[0], extent)
    assert found(node.store) == []
    node.close()


def test_a_live_set_that_is_not_the_one_a_snapshot_signs_is_found_by_who_replayed(
    tmp_path: Path, publisher: Publisher
) -> None:
    other = encode_bucket(publisher.entries.by_name()[:2])
    liar = forge_offer(publisher, OfferForgery(buckets=(other,)), held=0)
    publisher.log.append(SignedDelta(liar.header, b"", liar.checkpoint))
    node = FollowedLists(tmp_path / "node", publisher)
    (damaged,) = found(node.store)
    assert damaged.position == 3
    assert "the live set is not the one that the snapshot signs" in damaged.message
    node.close()


def test_a_snapshot_whose_entries_are_not_the_live_set_quarantines_the_list_behind_acceptance(
    tmp_path: Path, publisher: Publisher
) -> None:
    buckets = publisher.snapshots[0].buckets
    offer = forge_offer(
        publisher,
        OfferForgery(buckets=buckets, leaf=Forgery(fields={"state_digest": b"\x01" * 32})),
        held=0,
    )
    node = FollowedLists(tmp_path / "node")
    follow_without(node, publisher)
    published = publisher.snapshots[0]._replace(offer=offer)
    arrival = snapshot.begin(node.store, publisher.origin, offer, clock=node.clock)
    take(node, arrival, published, arrival.missing)
    snapshot.finish(node.store, arrival, via=RELAY)
    assert checks.check_behind(node.store, 10.0, clock=node.clock) == len(buckets)
    status = node.status(publisher.origin)
    assert (status.state, status.reason) == (
        FollowState.QUARANTINED,
        Reason.STATE_DIGEST_MISMATCH,
    )
    # Noted once; what a person decides then stands.
    with node.store.update_status() as connection:
        follow_state.store_follow_state(connection, 1, FollowState.CURRENT, now_ms=0)
    assert checks.check_behind(node.store, 10.0, clock=node.clock) == 0
    assert node.status(publisher.origin).state is FollowState.CURRENT
    assert "not the live set that was signed" in found(node.store)[0].message
    node.close()


def test_the_buckets_of_a_sound_snapshot_are_checked_behind_acceptance(
    joined: FollowedLists, publisher: Publisher
) -> None:
    buckets = len(publisher.snapshots[0].buckets)
    assert checks.check_behind(joined.store, 10.0, clock=joined.clock) == buckets + 1
    assert checks.check_behind(joined.store, 10.0, clock=joined.clock) == 0
    assert joined.status(publisher.origin).state is not FollowState.QUARANTINED


@pytest.mark.parametrize("what", ["a bucket", "the sum of those that were checked"])
def test_nobody_is_accused_of_a_snapshot_that_a_disk_has_spoiled(
    joined: FollowedLists, publisher: Publisher, what: str
) -> None:
    connection = joined.store.connection
    if what == "a bucket":
        other = publisher.snapshots[0].buckets[1]
        connection.execute("UPDATE bucket SET bytes = ? WHERE id & 0xffff = 0", (other,))
    else:
        connection.execute("UPDATE snapshot SET checked = 1, checked_digest = zeroblob(32)")

    for _ in range(2):
        with pytest.raises(DamageError, match="damaged here"):
            checks.check_behind(joined.store, 10.0, clock=joined.clock)
    assert joined.status(publisher.origin).state is not FollowState.QUARANTINED


def test_a_backup_of_a_store_with_spans_answers_as_the_store_does(
    joined: FollowedLists, publisher: Publisher, tmp_path: Path
) -> None:
    path = tmp_path / "backup.db"
    backup(joined.store, path, clock=joined.clock)
    copy = Store.open(path, joined.clock)
    record = joined.record(publisher.origin)
    assert lists.load_list(copy.connection, publisher.origin) == record
    for position in (0, 1, 3, 4):
        assert exported(copy, record, position) == exported(joined.store, record, position)
    copy.close()
