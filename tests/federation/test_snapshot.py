"""Starting from a snapshot ends like replaying the deltas; a wrong snapshot is refused."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits, merkle, state
from federation.entry import EntryId, Operation, OpKind
from federation.errors import ForkError, LimitError, PeerError, Reason, UsageError
from federation.header import Header, LeafKind
from federation.merge import Prior, merge
from federation.replica import LogState
from federation.snapshot import SnapshotOffer, build_buckets
from tests.federation.forgeries import purge, retraction, together
from tests.federation.histories import CUTS, MOVES, Move, model_of, operations_of, publish_cut
from tests.federation.offers import (
    BAD_BUCKETS,
    CASES,
    FAULTS,
    HELD,
    NEXT_FAULTS,
    SIZE,
    TRANSFERS,
    OfferForgery,
    forge_offer,
    grown,
    live_buckets,
)
from tests.federation.worlds import (
    LATER,
    Forgery,
    HeaderFields,
    Published,
    Publisher,
    Subscriber,
    assertion,
    fingerprint,
    slow_state_digest,
)

FEW = {"MAX_BUCKET_ENTRIES": 3}


def holding(publisher: Publisher, size: int) -> Subscriber:
    """Return a subscriber that holds the first leaves of a log."""
    subscriber = Subscriber(publisher)
    for leaf in publisher.log[:size]:
        subscriber.deliver(leaf)
    return subscriber


def offered(publisher: Publisher, published: Published, held: int) -> SnapshotOffer:
    """Return the offer of a snapshot to who holds so many leaves."""
    size = Header.parse(published.leaf.header).position + 1
    return published.offer._replace(consistency=publisher.prove_growth(held, size))


def rebuilt(subscriber: Subscriber) -> list[bytes]:
    """Return the buckets of what a subscriber has."""
    return [data for _, data in build_buckets(subscriber.entries.by_name())]


def of_the_log(log: LogState) -> LogState:
    """Return a state without what is local: where the copy begins."""
    return replace(log, start=0)


# --- replaying and joining --------------------------------------------------------------------


@given(moves=MOVES, cuts=CUTS, at=st.sets(st.integers(1, 40), min_size=1), data=st.data())
def test_who_joins_ends_where_who_replays_does(
    moves: list[tuple[int, Move, int]], cuts: set[int], at: set[int], data: st.DataObject
) -> None:
    operations = operations_of(moves)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEW.items():
            patch.setattr(limits, name, value)
        publisher = publish_cut(operations, cuts, at)
        publisher.publish_snapshot()
        everything = holding(publisher, len(publisher.log))
        chosen = data.draw(st.sampled_from(publisher.snapshots))
        position = Header.parse(chosen.leaf.header).position
        held = data.draw(st.integers(0, position))
        joined = holding(publisher, held)
        arrivals = data.draw(st.permutations(list(enumerate(chosen.buckets))))
        joined.join(offered(publisher, chosen, held), arrivals)
        for leaf in publisher.log[position + 1 :]:
            joined.deliver(leaf)
        last = Header.parse(publisher.log[-1].header)
        for subscriber in (everything, joined):
            assert of_the_log(subscriber.state) == publisher.state
            assert subscriber.entries.live() == model_of(operations)
            assert subscriber.entries.places() == publisher.entries.places()
            buckets = rebuilt(subscriber)
            assert len(buckets) == last.op_count
            assert merkle.root_hash(list(map(merkle.leaf_hash, buckets))) == last.ops_root
            assert buckets == list(publisher.snapshots[-1].buckets)
        assert joined.state.start == position
        assert everything.state.start == 0


@given(moves=MOVES, cuts=CUTS, at=st.sets(st.integers(1, 40), min_size=1))
def test_the_buckets_of_every_snapshot_have_its_count_and_state_digest(
    moves: list[tuple[int, Move, int]], cuts: set[int], at: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEW.items():
            patch.setattr(limits, name, value)
        publisher = publish_cut(operations_of(moves), cuts, at)
        publisher.publish_snapshot()
    for offer, buckets in ((one.offer, one.buckets) for one in publisher.snapshots):
        snapshot = Subscriber(publisher).replica.receive_snapshot(offer, now_ms=LATER)
        opened = [snapshot.open_bucket(number, data) for number, data in enumerate(buckets)]
        assert sum(bucket.count for bucket in opened) == snapshot.header.live_count
        total = state.EMPTY
        for bucket in opened:
            total = state.add_bucket(total, bucket)
        assert total == snapshot.header.state_digest


def test_a_snapshot_changes_nothing_of_the_list() -> None:
    publisher, _ = grown()
    subscriber = holding(publisher, SIZE)
    live, before = subscriber.entries.live(), subscriber.state
    subscriber.deliver(publisher.publish_snapshot().leaf)
    assert subscriber.entries.live() == live
    assert subscriber.state.size == before.size + 1
    assert subscriber.state.state_digest == before.state_digest
    assert subscriber.state.live_count == before.live_count
    assert subscriber.state == publisher.state


def test_an_empty_list_has_a_snapshot_without_buckets() -> None:
    publisher = Publisher()
    first = publisher.publish_snapshot()
    assert first.buckets == ()
    assert Header.parse(first.leaf.header).ops_root == merkle.EMPTY_ROOT
    joined, replayed = Subscriber(publisher), Subscriber(publisher)
    joined.join(first.offer, [])
    replayed.deliver(first.leaf)
    assert joined.state == replayed.state == publisher.state
    delta = publisher.publish(assertion(1))
    for subscriber in (joined, replayed):
        subscriber.deliver(delta)
        assert len(subscriber.entries.live()) == 1


def test_a_snapshot_takes_the_place_of_what_was_held() -> None:
    publisher, _ = grown()
    published = publisher.publish_snapshot()
    for held in range(SIZE + 1):
        subscriber = holding(publisher, held)
        subscriber.join(offered(publisher, published, held), enumerate(published.buckets))
        assert subscriber.entries.live() == publisher.entries.live()
        assert of_the_log(subscriber.state) == publisher.state


def test_what_is_revised_or_retracted_after_a_snapshot_is_what_it_said() -> None:
    publisher, subscriber = grown()
    published = publisher.publish_snapshot()
    subscriber.join(offered(publisher, published, HELD), enumerate(published.buckets))
    publisher.publish(assertion(1, labels=("A9",)), retraction(6), purge(7))
    subscriber.deliver(publisher.log[-1])
    assert subscriber.entries.live() == publisher.entries.live()
    assert subscriber.state.state_digest == slow_state_digest(publisher.entries.places())


# --- what was retracted before a snapshot -----------------------------------------------------


def test_who_joined_lets_be_purged_what_was_retracted_before() -> None:
    publisher, subscriber = grown()
    published = publisher.publish_snapshot()
    subscriber.join(offered(publisher, published, HELD), enumerate(published.buckets))
    replayed = holding(publisher, SIZE + 1)
    assert EntryId.of(fingerprint(2)) not in subscriber.entries.in_force
    delta = publisher.publish(purge(2))
    for follower in (subscriber, replayed):
        follower.deliver(delta)
        assert of_the_log(follower.state) == publisher.state


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ([retraction(2)], Reason.RETRACT_OF_ABSENT),
        ([retraction(77)], Reason.RETRACT_OF_ABSENT),
        ([purge(1), retraction(1)], Reason.RETRACT_OF_ABSENT),
        ([retraction(1), retraction(1)], Reason.RETRACT_OF_ABSENT),
    ],
)
def test_who_joined_refuses_all_that_it_can_know_to_be_wrong(
    operations: list[Operation], reason: Reason
) -> None:
    publisher, subscriber = grown()
    published = publisher.publish_snapshot()
    subscriber.join(offered(publisher, published, HELD), enumerate(published.buckets))
    *honest, last = operations
    for operation in honest:
        subscriber.deliver(publisher.publish(operation))
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(publisher.forge(Forgery(ops=(last,))))
    assert caught.value.reason is reason


def test_a_purge_of_what_cannot_be_known_counts_nothing() -> None:
    publisher, _ = grown()
    publisher.publish(purge(2), purge(1))
    body = publisher.entries.bodies[-1]
    rows = {
        row for row, operation in body.operations() if operation.entry.key == fingerprint(1).digest
    }
    prior = {row: Prior(0, 0, OpKind.ASSERT) for row in rows}
    assert merge(body, prior, 9) == 8


# --- refusals ---------------------------------------------------------------------------------


def test_what_the_forger_offers_is_accepted_when_nothing_is_forged() -> None:
    publisher, subscriber = grown()
    offer = forge_offer(publisher)
    subscriber.join(offer, enumerate(live_buckets(publisher)))
    assert subscriber.entries.live() == publisher.entries.live()
    assert subscriber.state.size == SIZE + 1


@pytest.mark.parametrize("name", CASES)
def test_refuses_an_offer_and_is_as_it_was(name: str) -> None:
    case = CASES[name]
    publisher, _ = grown()
    ahead, _ = grown()
    ahead.publish(assertion("more"))
    replica = holding(ahead, case.held).replica
    before = replica.state
    with pytest.raises(PeerError) as caught:
        replica.receive_snapshot(case.make(publisher), now_ms=case.now_ms)
    assert caught.value.reason is case.reason, str(caught.value)
    assert replica.state == before
    assert isinstance(caught.value, ForkError) is (case.reason is Reason.PREVIOUS_MISMATCH)


PAIRS = [
    pytest.param(earlier[0], forgery, id=f"{earlier[0]} before {later[0]}")
    for earlier, later in combinations(FAULTS, 2)
    if (forgery := together(earlier[1], later[1])) is not None
]


def test_nearly_every_two_faults_can_be_combined() -> None:
    assert len(PAIRS) > len(FAULTS) * (len(FAULTS) - 1) // 2 - 6


@pytest.mark.parametrize(("reason", "forgery"), PAIRS)
def test_of_two_faults_the_one_of_the_earlier_check_is_reported(
    reason: Reason, forgery: OfferForgery
) -> None:
    publisher, subscriber = grown()
    with pytest.raises(PeerError) as caught:
        subscriber.replica.receive_snapshot(forge_offer(publisher, forgery), now_ms=LATER)
    assert caught.value.reason is reason


@pytest.mark.parametrize(("earlier", "later"), list(combinations(NEXT_FAULTS, 2)))
def test_of_two_faults_at_the_very_next_leaf_the_earlier_is_reported(
    earlier: tuple[Reason, HeaderFields], later: tuple[Reason, HeaderFields]
) -> None:
    publisher, _ = grown()
    fields = HeaderFields(**earlier[1], **later[1])
    offer = forge_offer(publisher, OfferForgery(leaf=Forgery(fields=fields)), held=SIZE)
    with pytest.raises(PeerError) as caught:
        holding(publisher, SIZE).replica.receive_snapshot(offer, now_ms=LATER)
    assert caught.value.reason is earlier[0]


REASONS = {
    "header": {
        Reason.HEADER_MALFORMED,
        Reason.FORMAT_UNSUPPORTED,
        Reason.ORIGIN_MISMATCH,
        Reason.ROOT_MISMATCH,
        Reason.KEY_UNAUTHORISED,
        Reason.SIGNATURE_INVALID,
    },
    "checkpoint": {Reason.CHECKPOINT_MALFORMED, Reason.CHECKPOINT_SIGNATURE_INVALID},
    "frontier": {Reason.CHECKPOINT_MISMATCH},
    "bucket_hashes": {Reason.SNAPSHOT_MISMATCH},
    "consistency": {Reason.PROOF_INVALID},
}


def flipped(data: bytes) -> Iterable[bytes]:
    """Yield bytes with one bit of each byte flipped, another one in each."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


@pytest.mark.parametrize("part", REASONS)
def test_no_flipped_bit_of_an_offer_is_accepted(part: str) -> None:
    publisher, subscriber = grown()
    offer = forge_offer(publisher)
    altered: list[SnapshotOffer] = []
    if part == "consistency":
        for number, node in enumerate(offer.consistency):
            before, after = offer.consistency[:number], offer.consistency[number + 1 :]
            altered += [
                offer._replace(consistency=(*before, other, *after)) for other in flipped(node)
            ]
    else:
        changes = [{part: other} for other in flipped(getattr(offer, part))]
        altered += [offer._replace(**change) for change in changes]  # type: ignore[arg-type]  # bytes
    replica = subscriber.replica
    reasons = set()
    for other in altered:
        with pytest.raises(PeerError) as caught:
            replica.receive_snapshot(other, now_ms=LATER)
        reasons.add(caught.value.reason)
    assert reasons == REASONS[part]
    replica.receive_snapshot(offer, now_ms=LATER)


def test_no_flipped_bit_of_a_bucket_is_accepted() -> None:
    publisher, subscriber = grown()
    snapshot = subscriber.replica.receive_snapshot(forge_offer(publisher), now_ms=LATER)
    for number, data in enumerate(live_buckets(publisher)):
        for altered in flipped(data):
            with pytest.raises(PeerError) as caught:
                snapshot.open_bucket(number, altered)
            assert caught.value.reason is Reason.SNAPSHOT_MISMATCH
        snapshot.open_bucket(number, data)


@pytest.mark.parametrize("number", [-1, 1, 3, 2**32 - 1])
def test_a_bucket_is_taken_under_its_own_number_alone(number: int) -> None:
    publisher, subscriber = grown()
    snapshot = subscriber.replica.receive_snapshot(forge_offer(publisher), now_ms=LATER)
    first, _, last = live_buckets(publisher)
    with pytest.raises(PeerError) as caught:
        snapshot.open_bucket(number, last if number == -1 else first)
    assert caught.value.reason is Reason.SNAPSHOT_MISMATCH


@pytest.mark.parametrize("name", BAD_BUCKETS)
def test_a_bucket_that_is_none_is_refused_though_it_is_signed(name: str) -> None:
    case = BAD_BUCKETS[name]
    publisher, _ = grown()
    for number in range(4):
        publisher.publish(assertion(f"filling {number}"))
    data = case.make()
    offer = forge_offer(publisher, OfferForgery(buckets=(data,)), held=0)
    with pytest.raises(PeerError) as caught:
        Subscriber(publisher).join(offer, [(0, data)])
    assert caught.value.reason is case.reason


# --- adopting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFERS)
def test_buckets_that_are_not_those_of_one_live_set_are_not_adopted(name: str) -> None:
    case = TRANSFERS[name]
    publisher, subscriber = grown()
    forgery = case.forge(publisher.entries.by_name())
    assert forgery.buckets is not None
    with pytest.raises(PeerError) as caught:
        subscriber.join(forge_offer(publisher, forgery), enumerate(forgery.buckets))
    assert caught.value.reason is case.reason
    assert subscriber.state.size == HELD


def test_nothing_is_adopted_before_every_bucket_is_held() -> None:
    publisher, subscriber = grown()
    *some, _ = enumerate(live_buckets(publisher))
    with pytest.raises(UsageError):
        subscriber.join(forge_offer(publisher), some)
    assert subscriber.state.size == HELD


def test_a_log_that_went_on_past_a_snapshot_does_not_go_back_to_it() -> None:
    publisher, subscriber = grown()
    replica = subscriber.replica
    published = publisher.publish_snapshot()
    snapshot = replica.receive_snapshot(offered(publisher, published, HELD), now_ms=LATER)
    extents = [
        snapshot.open_bucket(number, data).extent() for number, data in enumerate(published.buckets)
    ]
    for leaf in publisher.log[HELD:]:
        subscriber.deliver(leaf)
    replica.state = subscriber.state
    with pytest.raises(UsageError):
        replica.adopt(snapshot, extents)
    assert replica.state == publisher.state


# --- a snapshot's leaf among others -----------------------------------------------------------


def test_another_leaf_for_the_position_of_a_snapshot_is_a_fork() -> None:
    publisher, subscriber = grown()
    published = publisher.publish_snapshot()
    subscriber.join(offered(publisher, published, HELD), enumerate(published.buckets))
    twin, _ = grown()
    subscriber.replica.receive_again(published.leaf, published.leaf.header)
    with pytest.raises(ForkError):
        subscriber.replica.receive_again(twin.publish(assertion("x")), published.leaf.header)


def test_neither_kind_of_leaf_can_be_relabelled_as_the_other() -> None:
    publisher, _ = grown()
    publisher.publish_snapshot()
    delta, snapshot = (leaf.header for leaf in publisher.log[-2:])
    for record, kind in ((delta, LeafKind.SNAPSHOT), (snapshot, LeafKind.DELTA)):
        with pytest.raises(PeerError) as caught:
            Header.parse(record[:1] + bytes([kind]) + record[2:])
        assert caught.value.reason is Reason.HEADER_MALFORMED


# --- the author -------------------------------------------------------------------------------


def test_a_list_too_large_for_a_snapshot_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, _ = grown()
    monkeypatch.setattr(limits, "MAX_BUCKET_ENTRIES", 2)
    monkeypatch.setattr(limits, "MAX_SNAPSHOT_BUCKETS", 2)
    with pytest.raises(LimitError):
        publisher.publish_snapshot()
    monkeypatch.setattr(limits, "MAX_SNAPSHOT_BUCKETS", 3)
    assert len(publisher.publish_snapshot().buckets) == 3


def test_a_publisher_that_goes_on_from_a_snapshot_purges_what_it_does_not_know() -> None:
    publisher, subscriber = grown()
    published = publisher.publish_snapshot()
    subscriber.join(offered(publisher, published, HELD), enumerate(published.buckets))
    replayed = holding(publisher, SIZE + 1)
    # As after a restoration from a peer.
    publisher.state, publisher.entries = subscriber.state, deepcopy(subscriber.entries)
    for entry in (2, 77, 1, 1):
        delta = publisher.publish(purge(entry))
        for follower in (subscriber, replayed):
            follower.deliver(delta)
    assert of_the_log(subscriber.state) == of_the_log(replayed.state)
    assert subscriber.entries.live() == replayed.entries.live()
