"""`ingest.single_delta` promises the way from a snapshot's entry to its own, proved delta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from federation import merkle
from federation.entry import Cause, Operation
from federation.errors import PeerError, Reason
from federation.header import leaf_hash
from federation.replica import SignedDelta
from node.fsck.check import fsck
from node.ingest import single_delta
from node.query import provenance
from node.store import fetched
from tests.federation.worlds import Forgery, Publisher, assertion
from tests.node.ingest.test_snapshot import follow_without
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.small_buckets import join, small_buckets

MAIN = "hotline.example/main"


def prove(publisher: Publisher, position: int, size: int | None = None) -> tuple[bytes, ...]:
    """Prove that a leaf is in a publisher's log of a size, as it stands by default."""
    leaves = [leaf_hash(leaf.header) for leaf in publisher.log[:size]]
    return tuple(merkle.inclusion_proof(leaves, position))


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_buckets():
        yield


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher(MAIN)
    made.publish(*(assertion(n) for n in range(5)))
    made.publish(
        assertion(1, labels=("B",)), Operation.retraction(assertion(4).entry, Cause.WITHDRAWN)
    )
    made.publish(assertion(9))
    made.publish_snapshot()
    made.publish(assertion(1, labels=("C",)))
    return made


@pytest.fixture
def joined(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "joined")
    later, publisher.log = publisher.log[4:], publisher.log[:4]
    follow_without(made, publisher)
    join(made, publisher, publisher.snapshots[0])
    publisher.log += later
    made.take(publisher)
    yield made
    made.close()


def keep(joined: FollowedLists, publisher: Publisher, position: int, number: int) -> None:
    """Keep the delta of a position, for what the snapshot says of an entry."""
    record = joined.record(publisher.origin)
    shown = provenance.show(joined.store, record, assertion(number).entry.format())
    wanted = provenance.missing_deltas(shown)
    single_delta.keep_delta(
        joined.store,
        record,
        position,
        publisher.log[position],
        prove(publisher, position),
        expected=wanted[position],
        via=RELAY,
        clock=joined.clock,
    )


def test_an_entry_of_a_snapshot_names_its_delta_which_is_kept_with_its_proof(
    joined: FollowedLists, publisher: Publisher
) -> None:
    record = joined.record(publisher.origin)
    ((came, later),) = provenance.show(joined.store, record, assertion(1).entry.format())
    assert (came.position, came.delta, came.snapshot_position) == (1, None, 3)
    assert came.snapshot is not None
    assert (later.position, later.snapshot) == (4, None)
    assert set(provenance.missing_deltas([[came, later]])) == {1}
    keep(joined, publisher, 1, 1)
    shown = provenance.show(joined.store, record, assertion(1).entry.format())
    assert provenance.missing_deltas(shown) == {}
    delta = shown[0][0].delta
    assert delta is not None
    assert delta.leaf_hash == leaf_hash(publisher.log[1].header)
    assert list(fsck(joined.store)) == []


def test_what_was_fetched_stays_proved_when_the_log_has_grown(
    joined: FollowedLists, publisher: Publisher
) -> None:
    keep(joined, publisher, 0, 2)
    for number in range(20, 25):
        publisher.publish(assertion(number))
    joined.take(publisher)
    keep(joined, publisher, 1, 1)
    assert list(fsck(joined.store)) == []
    sizes = [item.size for item in fetched.iterate(joined.store.connection, 1, 0, 9)]
    assert sizes == [5, 10]


def test_what_was_fetched_stays_proved_when_a_second_snapshot_went_past_its_log(
    joined: FollowedLists, publisher: Publisher
) -> None:
    keep(joined, publisher, 0, 2)
    publisher.publish(assertion(30))
    publisher.publish_snapshot()
    join(joined, publisher, publisher.snapshots[-1])
    assert list(fsck(joined.store)) == []
    keep(joined, publisher, 5, 30)
    assert list(fsck(joined.store)) == []


def _refused(
    joined: FollowedLists,
    publisher: Publisher,
    position: int,
    *,
    delta: SignedDelta | None = None,
    inclusion: Sequence[bytes] | None = None,
    expected: Sequence[tuple[int, Operation]] = (),
) -> Reason:
    """Have a delta refused, as it is but for what is given; return the reason."""
    record = joined.record(publisher.origin)
    with pytest.raises(PeerError) as caught:
        single_delta.keep_delta(
            joined.store,
            record,
            position,
            publisher.log[position] if delta is None else delta,
            prove(publisher, position) if inclusion is None else inclusion,
            expected=expected,
            via=RELAY,
            clock=joined.clock,
        )
    assert fetched.load(joined.store.connection, record.list, position) is None
    return caught.value.reason


def test_a_peer_that_lies_about_a_delta_is_found_out_and_nothing_is_kept(
    joined: FollowedLists, publisher: Publisher
) -> None:
    delta, proof = publisher.log[1], prove(publisher, 1)
    assert _refused(joined, publisher, 1, inclusion=proof[:-1]) is Reason.PROOF_INVALID
    assert _refused(joined, publisher, 1, inclusion=()) is Reason.PROOF_INVALID
    assert _refused(joined, publisher, 1, inclusion=prove(publisher, 1, 4)) is Reason.PROOF_INVALID
    # Another delta of the same log, rightly proved.
    other = _refused(joined, publisher, 1, delta=publisher.log[0], inclusion=prove(publisher, 0))
    assert other is Reason.PROOF_INVALID
    twin = Publisher(MAIN)
    twin.publish(assertion("another"))
    assert _refused(joined, publisher, 0, delta=twin.log[0]) is Reason.PROOF_INVALID
    body = delta._replace(body=delta.body[:-1])
    assert _refused(joined, publisher, 1, delta=body) is Reason.BODY_DIGEST_MISMATCH
    checkpoint = delta._replace(checkpoint=publisher.log[2].checkpoint)
    assert _refused(joined, publisher, 1, delta=checkpoint) is Reason.CHECKPOINT_MISMATCH
    stranger = Publisher("ngo.example/main")
    stranger.publish(assertion(1))
    assert _refused(joined, publisher, 0, delta=stranger.log[0]) is Reason.ORIGIN_MISMATCH


@pytest.mark.parametrize(
    ("row", "operation"),
    [(0, assertion(1)), (0, assertion(1, labels=("Z",))), (9, assertion(1, labels=("B",)))],
)
def test_a_snapshot_that_says_otherwise_than_the_delta_is_evidence_against_its_owner(
    joined: FollowedLists, publisher: Publisher, row: int, operation: Operation
) -> None:
    found = _refused(joined, publisher, 1, expected=[(row, operation)])
    assert found is Reason.SNAPSHOT_MISMATCH


def test_the_leaf_of_a_snapshot_is_no_entrys_delta(
    joined: FollowedLists, publisher: Publisher
) -> None:
    found = _refused(joined, publisher, 3, expected=[(0, assertion(1))])
    assert found is Reason.SNAPSHOT_MISMATCH


def test_a_forged_delta_of_the_gap_is_refused(joined: FollowedLists, publisher: Publisher) -> None:
    twin = Publisher(MAIN)
    twin.publish(*(assertion(n) for n in range(5)))
    forged = twin.forge(Forgery(ops=(assertion("planted"),)))
    assert _refused(joined, publisher, 1, delta=forged) is Reason.PROOF_INVALID
