"""What `publish.snapshot` promises: a snapshot commits to the live set, and is signed whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from federation import merkle
from federation.entry import Annotation, Cause, EntryId, Operation
from federation.errors import PeerError, Reason
from federation.header import Header, LeafKind
from federation.keys import SigningKey
from federation.names import Origin
from federation.trust.orgroot import Role
from node.errors import CommandError, ConfigError, DamageError, NodeError
from node.fsck.check import fsck
from node.ingest import snapshot
from node.publish import snapshot as publish_snapshot
from node.publish.sign import PublishingKeys
from node.publish.snapshot import MadeSnapshot, Making
from node.store import history, log, snapshots
from node.store.snapshots import SnapshotState
from tests.federation.worlds import Publisher, assertion, fingerprint, role_key, signing_key
from tests.node.ingest.test_snapshot import exported, follow_without
from tests.node.support.damage_in_sql import flip_bit
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.own_list import ORIGIN, OwnList
from tests.node.support.small_buckets import join, small_buckets


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small_buckets():
        yield


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path / "own")
    yield made
    made.close()


def keys(publisher: SigningKey | None = None) -> PublishingKeys:
    return PublishingKeys(
        publisher=publisher or role_key(ORIGIN.org, Role.PUBLISHER),
        log=role_key(ORIGIN.org, Role.LOG),
    )


def make(own: OwnList) -> MadeSnapshot:
    return publish_snapshot.publish_snapshot(
        own.store, ORIGIN, keys(), own.permit(), clock=own.clock
    )


def states(own: OwnList | FollowedLists) -> list[str]:
    query = "SELECT state FROM snapshot ORDER BY snapshot"
    return [state for (state,) in own.store.connection.execute(query)]


def fill(own: OwnList) -> None:
    """Publish entries of several shapes, and changes of every kind."""
    own.import_operations(
        *(assertion(n, fingerprint(n, "md5")) for n in range(8)),
        assertion(9, entry="case 9"),
        assertion(10, fingerprint(10, "pdq"), labels=()),
    )
    own.publish()
    own.import_operations(
        assertion(1, labels=("B",)),
        Operation.retraction(assertion(2).entry, Cause.WITHDRAWN),
        Operation.purge(assertion(3).entry),
        Operation.assertion(
            (fingerprint(9), fingerprint(99)), Annotation(reason="more"), EntryId.parse("case 9")
        ),
    )
    own.publish()


# --- making -----------------------------------------------------------------------------------


def test_a_snapshot_is_signed_as_the_next_leaf_and_served_from_then_on(own: OwnList) -> None:
    fill(own)
    live = own.live()
    told: list[tuple[int, int]] = []
    made = publish_snapshot.publish_snapshot(
        own.store,
        ORIGIN,
        keys(),
        own.permit(),
        clock=own.clock,
        on_progress=lambda *at: told.append(at),
    )
    assert (made.position, made.entries, made.making) == (2, len(live), Making.SIGNED)
    assert made.buckets == 3
    assert told[-1] == (len(live), len(live))
    assert own.live() == live
    record = own.record
    header = Header.parse(log.load_signed(own.store.connection, record.list, 2).header)
    assert header.kind is LeafKind.SNAPSHOT
    held = snapshots.newest_held(own.store.connection, record.list)
    assert held is not None
    hashes = []
    found = []
    for number in range(held.buckets):
        data = snapshots.load_bucket_bytes(own.store.connection, held.snapshot, number)
        assert data is not None
        hashes.append(merkle.leaf_hash(data))
        bucket = snapshots.load_bucket(own.store.connection, held.snapshot, number)
        found += [(entry.position, entry.row) for entry in bucket.entries()]
    assert merkle.root_hash(hashes) == header.ops_root == made.root_hash
    places = history.iter_live(own.store.connection, record.list, record.log.size)
    assert sorted(found) == sorted((position, row) for position, row, _ in places)
    assert list(fsck(own.store)) == []


def test_publishing_goes_on_after_a_snapshot_and_a_newer_one_takes_its_place(
    own: OwnList,
) -> None:
    fill(own)
    make(own)
    own.import_operations(assertion(20), Operation.retraction(assertion(1).entry, Cause.WITHDRAWN))
    result = own.publish()
    assert (result.first, result.size) == (3, 4)
    made = make(own)
    assert made.position == 4
    assert states(own) == [SnapshotState.HELD]
    assert list(fsck(own.store)) == []


def test_a_list_of_which_nothing_is_live_has_a_snapshot_of_no_buckets(own: OwnList) -> None:
    own.import_operations(assertion(1))
    own.publish()
    own.import_operations(Operation.retraction(assertion(1).entry, Cause.FALSE_POSITIVE))
    own.publish()
    made = make(own)
    assert (made.entries, made.buckets, made.size_bytes) == (0, 0, 0)
    assert list(fsck(own.store)) == []


def test_there_is_no_snapshot_of_nothing_and_none_of_what_has_one(own: OwnList) -> None:
    with pytest.raises(CommandError, match="is published yet"):
        make(own)
    fill(own)
    made = make(own)
    size = own.record.log.size
    assert make(own) == replace(made, making=Making.HERE)
    with pytest.raises(CommandError, match="is not a list of this node"):
        publish_snapshot.publish_snapshot(
            own.store, Origin.parse("hotline.example/other"), keys(), own.permit(), clock=own.clock
        )
    assert own.record.log.size == size


def test_keys_that_are_not_the_lists_sign_no_snapshot(own: OwnList) -> None:
    fill(own)
    with pytest.raises(ConfigError):
        publish_snapshot.publish_snapshot(
            own.store, ORIGIN, keys(signing_key("stranger")), own.permit(), clock=own.clock
        )
    assert states(own) == []


def test_a_clock_that_runs_behind_signs_no_snapshot_and_the_next_one_clears_up(
    own: OwnList,
) -> None:
    class Behind:
        @staticmethod
        def now_ms() -> int:
            return 0

    fill(own)
    size = own.record.log.size
    with pytest.raises(NodeError, match="clock") as caught:
        publish_snapshot.publish_snapshot(own.store, ORIGIN, keys(), own.permit(), clock=Behind())
    assert caught.value.reason == Reason.TIME_BACKWARDS
    assert own.record.log.size == size
    assert list(fsck(own.store)) == []
    make(own)
    assert states(own) == [SnapshotState.HELD]


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_maker_that_is_killed_has_signed_nothing_and_the_next_one_clears_up(
    own: OwnList, at: int
) -> None:
    fill(own)
    size = own.record.log.size
    store_bucket = snapshots.store_bucket
    stored = 0

    def kill(*args: object) -> None:
        nonlocal stored
        if stored == at:
            raise Killed
        stored += 1
        store_bucket(*args)  # type: ignore[arg-type]  # as they came

    with (
        mock.patch.object(publish_snapshot, "_TRANSACTION_BUCKETS", 1),
        mock.patch.object(snapshots, "store_bucket", kill),
        pytest.raises(Killed),
    ):
        make(own)
    assert states(own) == [SnapshotState.BUILDING]
    assert own.record.log.size == size
    assert snapshots.newest_held(own.store.connection, own.record.list) is None
    assert list(fsck(own.store)) == []
    made = make(own)
    assert states(own) == [SnapshotState.HELD]
    rows = own.store.connection.execute("SELECT count(*) FROM bucket").fetchone()
    assert rows == (made.buckets,)
    assert list(fsck(own.store)) == []


# --- by rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every_ops", "since", "live", "due"),
    [
        (0, 10**9, 0, False),
        (100, 99, 10, False),
        (100, 100, 10, True),
        (100, 150, 99, True),
        (100, 150, 100, False),
        (100, 15_000, 10_000, False),
        (100, 15_001, 10_000, True),
    ],
)
def test_a_snapshot_is_due_when_as_much_was_published_as_the_rule_says_and_half_again_what_is_live(
    own: OwnList, every_ops: int, since: int, live: int, due: bool
) -> None:
    record = own.record
    record = replace(record, since_snapshot=since, log=replace(record.log, live_count=live))
    assert publish_snapshot.is_due(record, every_ops) is due


def test_what_was_published_since_the_last_snapshot_is_counted_in_the_store(own: OwnList) -> None:
    fill(own)
    before = own.record.since_snapshot
    assert before >= 14
    make(own)
    assert own.record.since_snapshot == 0
    own.import_operations(assertion(30))
    own.publish()
    assert 1 <= own.record.since_snapshot < before


# --- making it again --------------------------------------------------------------------------


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher()
    made.publish(*(assertion(n) for n in range(8)))
    made.publish(assertion(1, labels=("B",)), Operation.retraction(assertion(2).entry, Cause(1)))
    made.publish_snapshot()
    made.publish(assertion(3, labels=("C",)), Operation.purge(assertion(4).entry))
    return made


def test_who_replayed_makes_the_same_buckets_though_the_list_has_moved_on(
    tmp_path: Path, publisher: Publisher
) -> None:
    node = FollowedLists(tmp_path / "node", publisher)
    made = publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert (made.position, made.making, made.entries) == (2, Making.REBUILT, 7)
    held = snapshots.newest_held(node.store.connection, 1)
    assert held is not None
    assert held.offer == publisher.snapshots[0].offer
    again = publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert again == replace(made, making=Making.HERE)
    assert list(fsck(node.store)) == []
    node.close()


def test_no_snapshot_that_nobody_could_join_by_is_made_from_damaged_headers(
    tmp_path: Path, publisher: Publisher
) -> None:
    node = FollowedLists(tmp_path / "node", publisher)
    # A bit of its signature: it says the same, and hashes to something else.
    flip_bit(node.store, "delta", "header", "id & 0xffffffff = 0", -1)
    with pytest.raises(DamageError, match="do not hash to the root that was signed"):
        publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert states(node) == []
    flip_bit(node.store, "delta", "header", "id & 0xffffffff = 0", -1)
    publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert states(node) == [SnapshotState.HELD]
    node.close()


def test_a_snapshot_of_ours_whose_buckets_are_gone_is_made_anew_and_not_signed_again(
    own: OwnList,
) -> None:
    fill(own)
    made = make(own)
    held = snapshots.newest_held(own.store.connection, own.record.list)
    assert held is not None
    # As after a recovery, which takes back from peers what was signed, and no buckets.
    with own.store.update_status() as connection:
        snapshots.remove(connection, held.snapshot)
    size = own.record.log.size

    assert make(own) == replace(made, making=Making.REBUILT)
    assert own.record.log.size == size
    anew = snapshots.newest_held(own.store.connection, own.record.list)
    assert anew is not None
    assert anew.offer == held.offer
    assert list(fsck(own.store)) == []


def test_who_joined_makes_a_later_snapshot_from_the_earlier_one_and_the_deltas(
    tmp_path: Path, publisher: Publisher
) -> None:
    node = FollowedLists(tmp_path / "node")
    follow_without(node, publisher)
    join(node, publisher, publisher.snapshots[0])
    node.take(publisher)
    here = publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert here.making is Making.HERE
    publisher.publish_snapshot()
    node.take(publisher)
    made = publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert made.root_hash == Header.parse(publisher.log[-1].header).ops_root
    # What the span begins with stays, though it is not the newest.
    assert states(node) == [SnapshotState.HELD] * 2
    assert list(fsck(node.store)) == []
    node.close()


def test_a_list_without_a_snapshot_has_none_to_be_made_anew(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.publish(assertion(1))
    node = FollowedLists(tmp_path / "node", publisher)
    with pytest.raises(CommandError, match="no snapshot in the deltas that are here") as caught:
        publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert "only its owner" in caught.value.hint
    node.close()


def test_a_live_set_that_is_not_the_one_that_was_signed_is_said_so_and_not_served(
    tmp_path: Path, publisher: Publisher
) -> None:
    node = FollowedLists(tmp_path / "node", publisher)
    node.store.connection.execute("DELETE FROM superseded WHERE by_position = 1")
    with pytest.raises(PeerError) as caught:
        publish_snapshot.rebuild(node.store, node.record(publisher.origin))
    assert caught.value.reason is Reason.SNAPSHOT_MISMATCH
    assert states(node) == []
    node.close()


# --- from hand to hand ------------------------------------------------------------------------


def test_who_joins_by_what_publish_made_exports_the_same_bytes(
    own: OwnList, tmp_path: Path
) -> None:
    fill(own)
    make(own)
    held = snapshots.newest_held(own.store.connection, own.record.list)
    assert held is not None
    node = FollowedLists(tmp_path / "node")
    follow_without(node, Publisher(str(ORIGIN)))
    arrival = snapshot.begin(node.store, ORIGIN, held.offer, clock=own.clock)
    buckets = [
        (n, snapshots.load_bucket_bytes(own.store.connection, held.snapshot, n) or b"")
        for n in arrival.missing
    ]
    snapshot.take(node.store, arrival, buckets)
    record = snapshot.finish(node.store, arrival, via=RELAY)
    assert record is not None
    assert exported(node.store, record) == exported(own.store, own.record)
    assert record.log == replace(own.record.log, start=2)
    node.close()


# --- memory -----------------------------------------------------------------------------------

_MAKE_AND_JOIN = """
import sys
from pathlib import Path
from hashlib import sha256
from federation.entry import Annotation, Operation
from federation.fingerprint import Fingerprint
from node.ingest import snapshot as ingest_snapshot
from node.publish import snapshot
from node.store import snapshots
from node.store.connection import Store
from tests.federation.worlds import Publisher
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.own_list import ORIGIN, OwnList
from tests.node.ingest.test_snapshot import follow_without
from tests.node.publish.test_snapshot import keys

folder, entries = Path(sys.argv[1]), int(sys.argv[2])
own = OwnList(folder / "own")
digests = sorted(sha256(b"%d" % n).hexdigest() for n in range(entries))
lines = "".join(f"sha256,{digest},A\\n" for digest in digests)
own.import_text("type,digest,label\\n" + lines)
del digests, lines
own.publish()

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

# From now on: what import and publishing took is not counted.
Path("/proc/self/clear_refs").write_text("5")
before = peak()
snapshot.publish_snapshot(own.store, ORIGIN, keys(), own.permit(), clock=own.clock)
node = FollowedLists(folder / "node")
follow_without(node, Publisher(str(ORIGIN)))
held = snapshots.newest_held(own.store.connection, own.record.list)
arrival = ingest_snapshot.begin(node.store, ORIGIN, held.offer, clock=own.clock)
for at in range(0, len(arrival.missing), 16):
    some = arrival.missing[at : at + 16]
    ingest_snapshot.take(node.store, arrival, [
        (n, snapshots.load_bucket_bytes(own.store.connection, held.snapshot, n)) for n in some
    ])
assert ingest_snapshot.finish(node.store, arrival, via=RELAY).log.live_count == entries
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="of Linux")
def test_memory_of_making_and_joining_does_not_grow_with_the_list(tmp_path: Path) -> None:
    peaks = []
    for entries in (50_000, 200_000):
        folder = tmp_path / str(entries)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _MAKE_AND_JOIN, str(folder), str(entries)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        peaks.append(tuple(map(int, done.stdout.split())))
    print(f"KiB before, and at most while made and joined: {peaks}")
    growth = [joined - before for before, joined in peaks]
    # Four times the entries: some caches were not full yet.
    assert growth[1] <= growth[0] + 64 * 1024
    assert peaks[1][1] < 300 * 1024
