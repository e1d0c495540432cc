"""What `node.ingest.snapshot` promises: joining by snapshot ends like replaying."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation import merkle
from federation import state as states
from federation.bucket import encode_bucket
from federation.entry import Cause, EntryId, Operation
from federation.errors import FederationError, PeerError, Reason
from federation.header import Header, LeafKind, leaf_hash
from federation.note import NoteSigner, sign_note
from federation.snapshot import SnapshotOffer
from node.errors import CommandError
from node.formats.jsonl import Format
from node.fsck.check import fsck
from node.ingest import snapshot
from node.publish import snapshot as publish_snapshot
from node.publish.snapshot import Making
from node.query import diff, lookup, provenance, status
from node.query.as_of import resolve_as_of
from node.query.export import export
from node.store import history, snapshots
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.snapshots import SnapshotState
from tests.federation.histories import (
    CUTS,
    FURTHER,
    MOVES,
    POOL,
    Move,
    operations_of,
    publish_cut,
)
from tests.federation.offers import OfferForgery, forge_offer
from tests.federation.worlds import (
    Forgery,
    HeaderFields,
    Published,
    Publisher,
    assertion,
    fingerprint,
)
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.small_buckets import begin, join, small_buckets, take

MAIN = "hotline.example/main"


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_buckets():
        yield


@pytest.fixture
def publisher() -> Publisher:
    """Return a list with a snapshot of several buckets, after changes of every kind."""
    made = Publisher(MAIN)
    made.publish(
        *(assertion(n, fingerprint(n, "md5")) for n in range(10)), assertion(10, entry="x")
    )
    made.publish(
        Operation.retraction(assertion(0).entry, Cause.WITHDRAWN),
        Operation.purge(assertion(1).entry),
        assertion(2, labels=("B",)),
    )
    made.publish_snapshot()
    return made


@pytest.fixture
def joiner(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    """Return a node that follows the list and has nothing of it."""
    made = FollowedLists(tmp_path / "joiner")
    follow_without(made, publisher)
    yield made
    made.close()


def follow_without(followed: FollowedLists, publisher: Publisher) -> None:
    """Follow a list of which nothing has come yet."""
    deltas, publisher.log = publisher.log, []
    followed.follow(publisher)
    publisher.log = deltas


def exported(store: Store, record: ListRecord, position: int | None = None) -> bytes:
    out = io.BytesIO()
    export(store, record, record.log.size if position is None else position, Format.JSONL, out)
    return out.getvalue()


PROBES = sorted(
    {
        item.format()
        for variants in POOL
        for operation in variants
        for item in operation.fingerprints
    }
    | {item.format() for further in FURTHER for item in further}
)


def looked_up(store: Store, probes: list[str]) -> list[object]:
    """Return what is found; a type that nobody has heard of is an error, and found nowhere."""
    return [
        str(found) if isinstance(found, FederationError)
        else [(match.operation, match.position, match.fingerprint) for match in found]
        for _, found in lookup.lookup_many(store, probes)
    ]  # fmt: skip


def live_places(followed: FollowedLists, publisher: Publisher) -> list[tuple[int, int, Operation]]:
    record = followed.record(publisher.origin)
    live = history.iter_live(followed.store.connection, record.list, record.log.size)
    return sorted(live, key=lambda item: item[:2])


def assert_alike(replayer: FollowedLists, joined: FollowedLists, publisher: Publisher) -> None:
    """Assert that two nodes say the same of a list."""
    one, other = (node.record(publisher.origin) for node in (replayer, joined))
    assert one.log.live_count == other.log.live_count
    assert one.log.state_digest == other.log.state_digest
    assert one.log.frontier == other.log.frontier
    assert exported(replayer.store, one) == exported(joined.store, other)
    assert live_places(replayer, publisher) == live_places(joined, publisher)
    assert looked_up(replayer.store, PROBES) == looked_up(joined.store, PROBES)


# --- the law ----------------------------------------------------------------------------------


@dataclass
class Nodes:
    """A node that replays every delta of a list, and one that takes snapshots where it is told."""

    replayer: FollowedLists
    joiner: FollowedLists

    def close(self) -> None:
        self.replayer.close()
        self.joiner.close()


@settings(max_examples=25)
@given(
    moves=MOVES,
    cuts=CUTS,
    at=st.sets(st.integers(1, 20), min_size=1),
    joins=st.sets(st.integers(0, 19), min_size=1),
)
@example(
    # Two entries of one delta with one fingerprint, in two buckets, whose names stand in the other
    # order than their rows.
    moves=[(0, Move.ASSERT, 0), (1, Move.ASSERT, 0), (2, Move.ASSERT, 1), (3, Move.ASSERT, 2)],
    cuts=set(),
    at={1},
    joins={0},
)
def test_who_joins_by_snapshots_says_what_who_replays_says_after_every_later_delta(
    moves: list[tuple[int, Move, int]], cuts: set[int], at: set[int], joins: set[int]
) -> None:
    publisher = publish_cut(operations_of(moves), cuts, at)
    if not publisher.snapshots:
        publisher.publish_snapshot()
    chosen = {joined % len(publisher.snapshots) for joined in joins}
    with TemporaryDirectory() as folder:
        nodes = Nodes(*(FollowedLists(Path(folder) / name) for name in ("one", "other")))
        try:
            for node in (nodes.replayer, nodes.joiner):
                follow_without(node, publisher)
            _deliver(nodes, publisher, [publisher.snapshots[number] for number in chosen])
            assert list(fsck(nodes.replayer.store)) == []
            assert list(fsck(nodes.joiner.store)) == []
            _rebuild_alike(nodes, publisher)
        finally:
            nodes.close()


def _deliver(nodes: Nodes, publisher: Publisher, chosen: list[Published]) -> None:
    """Deliver a log: all of it to the one, to the other from the first snapshot on."""
    joins = {publisher.log.index(published.leaf): published for published in chosen}
    first = min(joins)
    for position, delta in enumerate(publisher.log):
        assert nodes.replayer.accept(publisher.origin, [delta]).error is None
        if position in joins:
            join(nodes.joiner, publisher, joins[position])
        elif position > first:
            assert nodes.joiner.accept(publisher.origin, [delta]).error is None
        if position >= first:
            assert_alike(nodes.replayer, nodes.joiner, publisher)


def _rebuild_alike(nodes: Nodes, publisher: Publisher) -> None:
    """Make the newest snapshot again from deltas; it has to be as its owner signed it."""
    newest = publisher.snapshots[-1]
    record = nodes.replayer.record(publisher.origin)
    made = publish_snapshot.rebuild(nodes.replayer.store, record)
    assert made.root_hash == Header.parse(newest.leaf.header).ops_root
    assert made.making is Making.REBUILT
    held = snapshots.newest_held(nodes.replayer.store.connection, record.list)
    assert held is not None
    assert held.offer == newest.offer
    for number, data in enumerate(newest.buckets):
        connection = nodes.replayer.store.connection
        assert snapshots.load_bucket_bytes(connection, held.snapshot, number) == data
    assert list(fsck(nodes.replayer.store)) == []


def test_what_was_retracted_before_the_snapshot_can_be_purged_after_it(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    join(joiner, publisher, publisher.snapshots[0])
    publisher.publish(
        Operation.purge(assertion(0).entry),
        assertion(1, labels=("back",)),
        Operation.retraction(EntryId.parse("x"), Cause.FALSE_POSITIVE),
        assertion(2, labels=("C",)),
    )
    joiner.take(publisher)
    record = joiner.record(publisher.origin)
    assert record.log.state_digest == publisher.state.state_digest
    assert {operation.entry: operation for _, _, operation in _live(joiner, record)} == (
        publisher.entries.live()
    )
    assert list(fsck(joiner.store)) == []


def _live(node: FollowedLists, record: ListRecord) -> Iterator[tuple[int, int, Operation]]:
    return history.iter_live(node.store.connection, record.list, record.log.size)


# --- one step ---------------------------------------------------------------------------------


def test_nothing_of_a_snapshot_is_seen_before_it_is_put_in_force_and_all_of_it_after(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    origin = publisher.origin
    probes = [fingerprint(n, kind).format() for n in range(11) for kind in ("sha256", "md5")]
    arrival = begin(joiner, publisher, published)
    for number in arrival.missing:
        assert not any(looked_up(joiner.store, probes))
        assert exported(joiner.store, joiner.record(origin)) == b""
        assert joiner.record(origin).log.size == 0
        assert snapshots.newest_held(joiner.store.connection, joiner.record(origin).list) is None
        assert list(status.read_log(joiner.store, joiner.record(origin), None)) == []
        assert list(fsck(joiner.store)) == []
        take(joiner, arrival, published, [number])
    assert not any(looked_up(joiner.store, probes))
    before = joiner.store.version
    record = snapshot.finish(joiner.store, arrival, via=RELAY)
    assert record is not None
    assert joiner.store.version == before + 1
    assert (record.log.size, record.start) == (len(publisher.log), len(publisher.log))
    assert record.log.live_count == publisher.state.live_count
    in_force = {
        item.format() for operation in publisher.entries.said.values()
        for item in operation.fingerprints
    }  # fmt: skip
    assert {probe for probe, found in zip(probes, looked_up(joiner.store, probes), strict=True)
            if found} == in_force  # fmt: skip
    # The version that it came with tells the two apart, and no version in between does.
    assert resolve_as_of(joiner.store, record, f"version:{before}") == 0
    assert resolve_as_of(joiner.store, record, f"version:{before + 1}") == record.log.size
    changes = list(diff.diff(joiner.store, record, 0, record.log.size))
    assert {change.entry for change in changes} == set(publisher.entries.live())
    assert all(change.before is None for change in changes)
    (line,) = status.read_log(joiner.store, record, None)
    assert line.position == len(publisher.log) - 1


def test_a_reader_that_began_before_the_step_sees_nothing_of_it(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    arrival = begin(joiner, publisher, published)
    take(joiner, arrival, published, arrival.missing)
    reader = Store.open_reader(joiner.path, joiner.clock)
    record = joiner.record(publisher.origin)
    with reader.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM delta").fetchone() == (0,)
        snapshot.finish(joiner.store, arrival, via=RELAY)
        assert list(history.iter_live(connection, record.list, 0)) == []
    reader.close()


# --- the part before --------------------------------------------------------------------------


@pytest.fixture
def late(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    """Return a node that had the first delta, and then joined by the snapshot."""
    made = FollowedLists(tmp_path / "late")
    follow_without(made, publisher)
    assert made.accept(publisher.origin, publisher.log[:1]).error is None
    join(made, publisher, publisher.snapshots[0])
    publisher.publish(assertion(20), Operation.retraction(assertion(3).entry, Cause.WITHDRAWN))
    made.take(publisher)
    yield made
    made.close()


def test_what_was_here_before_a_snapshot_answers_for_the_positions_that_it_covers(
    late: FollowedLists, publisher: Publisher, tmp_path: Path
) -> None:
    replayer = FollowedLists(tmp_path / "replayer", publisher)
    record = late.record(publisher.origin)
    assert (record.start, record.log.size) == (3, 4)
    for position in (0, 1, 3, 4):
        assert exported(late.store, record, position) == exported(
            replayer.store, replayer.record(publisher.origin), position
        )
    assert list(fsck(late.store)) == []
    replayer.close()


def test_positions_that_a_snapshot_went_past_are_not_retained_and_the_error_names_what_is(
    late: FollowedLists, publisher: Publisher
) -> None:
    record = late.record(publisher.origin)
    for ask in (
        lambda: exported(late.store, record, 2),
        lambda: list(diff.diff(late.store, record, 2, 4)),
        lambda: list(diff.diff(late.store, record, 0, 2)),
    ):
        with pytest.raises(CommandError) as caught:
            ask()
        assert caught.value.reason == "NOT_RETAINED"
        assert "position:3" in caught.value.hint
        assert "position:1" in caught.value.hint


def test_a_diff_across_what_a_snapshot_went_past_is_the_difference_of_the_two_states(
    late: FollowedLists, publisher: Publisher, tmp_path: Path
) -> None:
    replayer = FollowedLists(tmp_path / "replayer", publisher)
    for start, stop in ((0, 3), (0, 4), (1, 3), (1, 4), (0, 1), (3, 4)):
        found, expected = (
            {
                change.entry: (change.before, change.after)
                for change in diff.diff(node.store, node.record(publisher.origin), start, stop)
            }
            for node in (late, replayer)
        )
        assert found == expected, (start, stop)
    replayer.close()


def test_an_entry_that_is_asserted_anew_as_it_was_is_no_change_across_a_snapshot(
    tmp_path: Path,
) -> None:
    publisher = Publisher(MAIN)
    publisher.publish(assertion(1), assertion(2))
    publisher.publish(Operation.retraction(assertion(1).entry, Cause.WITHDRAWN))
    publisher.publish(assertion(1))
    publisher.publish_snapshot()
    node = FollowedLists(tmp_path / "node")
    follow_without(node, publisher)
    assert node.accept(publisher.origin, publisher.log[:1]).error is None
    record = join(node, publisher, publisher.snapshots[0])
    assert list(diff.diff(node.store, record, 1, record.log.size)) == []
    node.close()


def test_an_entrys_versions_from_before_a_snapshot_are_still_shown(
    late: FollowedLists, publisher: Publisher
) -> None:
    record = late.record(publisher.origin)
    # Retracted in the part that is not here: gone at the snapshot at the latest.
    ((gone,),) = provenance.show(late.store, record, assertion(0).entry.format())
    assert (gone.position, gone.until, gone.snapshot_position) == (0, 2, None)
    # Revised there.
    ((was, now),) = provenance.show(late.store, record, assertion(2).entry.format())
    assert (was.position, was.until, was.operation.annotation.labels) == (0, 2, ("A1",))
    assert (now.position, now.until, now.snapshot_position) == (1, None, 2)
    assert now.delta is None
    # The same assertion on both sides is one version, and its delta is here.
    ((same, retraction),) = provenance.show(late.store, record, assertion(3).entry.format())
    assert (same.position, same.until, same.snapshot_position) == (0, 3, None)
    assert same.delta is not None
    assert same.version < now.version
    assert retraction.position == 3
    assert provenance.missing_deltas(provenance.show(late.store, record, "x")) == {}


# --- arriving ---------------------------------------------------------------------------------


def test_what_has_arrived_is_not_asked_for_again(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    arrival = begin(joiner, publisher, published)
    assert arrival.missing == tuple(range(len(published.buckets)))
    assert len(arrival.missing) > 2
    take(joiner, arrival, published, [1])
    again = begin(joiner, publisher, published)
    assert (again.snapshot, again.span) == (arrival.snapshot, arrival.span)
    assert again.missing == tuple(n for n in arrival.missing if n != 1)
    # A bucket that two sources bring is kept once.
    assert take(joiner, again, published, [1, 0]) == 3
    assert list(fsck(joiner.store)) == []


def test_a_bucket_that_was_not_signed_is_refused_with_those_that_came_with_it(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    arrival = begin(joiner, publisher, published)
    second = published.buckets[1]
    for bad in (published.buckets[0], second[:-1] + bytes([second[-1] ^ 1]), b""):
        with pytest.raises(PeerError) as caught:
            snapshot.take(joiner.store, arrival, [(0, published.buckets[0]), (1, bad)])
        assert caught.value.reason is Reason.SNAPSHOT_MISMATCH
    assert begin(joiner, publisher, published).missing == arrival.missing


def _join_forged(joiner: FollowedLists, publisher: Publisher, buckets: list[bytes]) -> None:
    offer = forge_offer(publisher, OfferForgery(buckets=tuple(buckets)), held=0)
    arrival = snapshot.begin(joiner.store, publisher.origin, offer, clock=joiner.clock)
    snapshot.take(joiner.store, arrival, list(enumerate(buckets)))
    snapshot.finish(joiner.store, arrival, via=RELAY)


def test_buckets_that_overlap_or_do_not_add_up_are_not_put_in_force(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    live = publisher.entries.by_name()
    for buckets, reason in (
        ([live[:3], live[2:5], live[5:8], live[8:]], Reason.OP_ORDER),
        ([live[3:6], live[:3], live[6:]], Reason.OP_ORDER),
        ([live[:3], live[3:6]], Reason.LIVE_COUNT_MISMATCH),
    ):
        with pytest.raises(PeerError) as caught:
            _join_forged(joiner, publisher, [encode_bucket(some) for some in buckets])
        assert caught.value.reason is reason
        assert joiner.record(publisher.origin).log.size == 0


def test_a_list_that_has_moved_on_meanwhile_is_left_as_it_is_until_asked_for_anew(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    arrival = begin(joiner, publisher, published)
    take(joiner, arrival, published, arrival.missing)
    assert joiner.accept(publisher.origin, publisher.log[:1]).error is None
    version = joiner.store.version
    assert snapshot.finish(joiner.store, arrival, via=RELAY) is None
    assert joiner.store.version == version
    anew = begin(joiner, publisher, published)
    assert anew.missing == ()
    record = snapshot.finish(joiner.store, anew, via=RELAY)
    assert record is not None
    assert record.start == 3
    assert list(fsck(joiner.store)) == []


def test_a_snapshot_that_another_process_has_put_in_force_is_asked_for_anew(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    one, other = (begin(joiner, publisher, published) for _ in range(2))
    take(joiner, one, published, one.missing)
    assert snapshot.finish(joiner.store, one, via=RELAY) is not None
    assert take(joiner, other, published, other.missing) is None
    assert snapshot.finish(joiner.store, other, via=RELAY) is None


# --- sweeping ---------------------------------------------------------------------------------


def _index_rows(followed: FollowedLists) -> int:
    (rows,) = followed.store.connection.execute("SELECT count(*) FROM posting").fetchone()
    return int(rows)


def _states(followed: FollowedLists) -> list[str]:
    return [
        state
        for (state,) in followed.store.connection.execute(
            "SELECT state FROM snapshot ORDER BY snapshot"
        )
    ]


def test_a_newer_snapshot_takes_the_place_of_one_on_its_way_which_leaves_no_trace(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    older = publisher.snapshots[0]
    first = begin(joiner, publisher, older)
    take(joiner, first, older, first.missing)
    publisher.publish(assertion(30), assertion(4, labels=("C",)))
    newer = publisher.publish_snapshot()
    second = begin(joiner, publisher, newer)
    assert _states(joiner) == [SnapshotState.ABANDONED, SnapshotState.ARRIVING]
    assert take(joiner, first, older, [0]) is None
    assert snapshot.finish(joiner.store, first, via=RELAY) is None
    version = joiner.store.version
    while snapshot.sweep(joiner.store):
        # As a crash would leave it now.
        assert list(fsck(joiner.store)) == []
    assert (_states(joiner), _index_rows(joiner)) == ([SnapshotState.ARRIVING], 0)
    assert joiner.store.version == version
    take(joiner, second, newer, second.missing)
    assert snapshot.finish(joiner.store, second, via=RELAY) is not None
    assert not snapshot.sweep(joiner.store)
    assert list(fsck(joiner.store)) == []


def test_an_older_snapshot_that_is_offered_again_is_fetched_and_not_swept(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    older = publisher.snapshots[0]
    first = begin(joiner, publisher, older)
    take(joiner, first, older, [0, 1])
    publisher.publish(assertion(30))
    newer = publisher.publish_snapshot()
    second = begin(joiner, publisher, newer)
    take(joiner, second, newer, [0])
    snapshot.sweep(joiner.store)
    again = begin(joiner, publisher, older)
    # One bucket was let go of meanwhile.
    assert again.missing == (0, *range(2, len(older.buckets)))
    while snapshot.sweep(joiner.store):
        pass
    take(joiner, again, older, again.missing)
    assert snapshot.finish(joiner.store, again, via=RELAY) is not None
    assert _states(joiner) == [SnapshotState.HELD]
    assert list(fsck(joiner.store)) == []


def test_buckets_that_state_one_fingerprint_are_swept_each_by_itself(tmp_path: Path) -> None:
    publisher = Publisher(MAIN)
    shared = fingerprint("shared", "md5")
    publisher.publish(*(assertion(n, shared) for n in range(9)))
    older = publisher.publish_snapshot()
    publisher.publish(assertion(100))
    newer = publisher.publish_snapshot()
    joiner = FollowedLists(tmp_path / "joiner")
    follow_without(joiner, publisher)
    arrival = begin(joiner, publisher, older)
    take(joiner, arrival, older, arrival.missing[:2])
    begin(joiner, publisher, newer)
    assert snapshot.sweep(joiner.store)
    # Offered again, with one bucket left of it.
    join(joiner, publisher, older)
    assert len(lookup.lookup(joiner.store, shared.format())) == 9
    while snapshot.sweep(joiner.store):
        pass
    assert list(fsck(joiner.store)) == []
    joiner.close()


def test_what_the_list_has_gone_past_by_deltas_is_swept_away(
    joiner: FollowedLists, publisher: Publisher
) -> None:
    published = publisher.snapshots[0]
    arrival = begin(joiner, publisher, published)
    take(joiner, arrival, published, [0, 2])
    assert not snapshot.sweep(joiner.store)
    joiner.take(publisher)
    while snapshot.sweep(joiner.store):
        assert list(fsck(joiner.store)) == []
    assert _states(joiner) == []
    spans = joiner.store.connection.execute("SELECT count(*) FROM span").fetchone()
    assert spans == (1,)
    assert _index_rows(joiner) == sum(
        len(operation.fingerprints) + (1 if not operation.entry.type else 0)
        for operation in _asserted(publisher)
    ) + 2  # fmt: skip  # the retraction's and the purge's names
    assert list(fsck(joiner.store)) == []


def _asserted(publisher: Publisher) -> Iterator[Operation]:
    for body in publisher.entries.bodies:
        yield from (operation for _, operation in body.operations() if operation.fingerprints)


def test_a_list_that_is_far_behind_takes_a_second_snapshot(
    late: FollowedLists, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish(assertion(21), Operation.retraction(assertion(4).entry, Cause.WITHDRAWN))
    newer = publisher.publish_snapshot()
    join(late, publisher, newer)
    publisher.publish(assertion(22), assertion(21, labels=("D",)))
    late.take(publisher)
    replayer = FollowedLists(tmp_path / "replayer", publisher)
    assert_alike(replayer, late, publisher)
    record = late.record(publisher.origin)
    assert record.start == 6
    for position in (0, 1, 3, 4, 6, 7):
        assert exported(late.store, record, position) == exported(
            replayer.store, replayer.record(publisher.origin), position
        )
    assert list(fsck(late.store)) == []
    replayer.close()


def test_a_snapshot_of_another_history_is_refused(
    late: FollowedLists, publisher: Publisher
) -> None:
    twin = Publisher(MAIN)
    for number in range(6):
        twin.publish(assertion(f"another {number}"))
    twin.publish_snapshot()
    before = late.record(publisher.origin)
    with pytest.raises(PeerError) as caught:
        begin(late, twin, twin.snapshots[0])
    assert caught.value.reason is Reason.PROOF_INVALID
    assert late.record(publisher.origin) == before
    assert _states(late) == [SnapshotState.HELD]


def test_a_snapshot_does_not_take_the_row_of_another_lists_leaf(tmp_path: Path) -> None:
    attacker, other, victim = (
        Publisher(f"{name}.example/main") for name in ("attacker", "other", "victim")
    )
    followed = FollowedLists(tmp_path)
    for number, made in enumerate((attacker, other, victim), 1):
        follow_without(followed, made)
        assert followed.record(made.origin).list == number
    # List 1 at this position would have the row of list 3 at position 1.
    position = 2 << 32 | 1
    buckets = (encode_bucket([]),)
    hashes = [merkle.leaf_hash(data) for data in buckets]
    leaf = attacker.forge(
        Forgery(
            body=b"",
            fields=HeaderFields(
                kind=LeafKind.SNAPSHOT,
                position=position,
                change_set=position,
                previous=b"\x01" * 32,
                op_count=1,
                ops_root=merkle.root_hash(hashes),
                live_count=0,
                state_digest=states.EMPTY,
            ),
        )
    )
    # A log of so many leaves as its frontier says: a bit 33, a bit 0, and this leaf.
    large, small = b"\x02" * 32, b"\x03" * 32
    root = merkle.node_hash(large, merkle.node_hash(small, leaf_hash(leaf.header)))
    text = f"{attacker.origin}\n{position + 1}\n{b64encode(root).decode()}\n"
    offer = SnapshotOffer(
        header=leaf.header,
        checkpoint=sign_note(text, [NoteSigner(str(attacker.origin), attacker.log_key)]),
        frontier=large + small,
        bucket_hashes=b"".join(hashes),
        consistency=(),
    )
    with pytest.raises(PeerError) as caught:
        snapshot.begin(followed.store, attacker.origin, offer, clock=followed.clock)
    assert caught.value.reason is Reason.HEADER_MALFORMED
    for made in (other, victim):
        made.publish(assertion(1))
        made.publish(assertion(2))
        followed.take(made)
    assert list(fsck(followed.store)) == []
    followed.close()
