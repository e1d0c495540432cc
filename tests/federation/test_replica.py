"""A replica refuses everything that is wrong, each with its reason, and is then as it was.

The wrong deltas are made by a publisher that really signs them wherever the check lies behind the
signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.body import PackedOp, Shape
from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.errors import ForkError, PeerError, Reason, UsageError
from federation.header import Header
from federation.names import Origin
from federation.replica import LogState, Replica, SignedDelta
from federation.v1 import delta_pb2
from tests.federation.forgeries import (
    CASES,
    FAULTS,
    MD5,
    TWO_ANNOTATIONS,
    TWO_SHAPES,
    body_message,
    live_count,
    purge,
    retraction,
    started,
    together,
    with_a_strangers_line,
    with_time,
)
from tests.federation.worlds import (
    LATER,
    Entries,
    Forgery,
    HeaderFields,
    Publisher,
    Subscriber,
    assertion,
    digest,
    fingerprint,
    pin_root,
    signing_key,
)

REASONS_OF_OTHER_PARTS = {
    Reason.MALFORMED,  # documents, names
    Reason.KEY_REFUSED,  # org roots: a replica is given one that was admitted
    Reason.OPS_ROOT_MISMATCH,  # checked behind acceptance
    Reason.SNAPSHOT_MISMATCH,  # snapshots in place of deltas
    Reason.BUCKET_MALFORMED,  # snapshots in place of deltas
    Reason.PROOF_INVALID,  # proofs of single operations, consistency
    Reason.CHARTER_ROLLBACK,  # charters
    Reason.PURGE_OF_ABSENT,  # what is staged
    Reason.USAGE,  # no fault of a peer
}


HALF = (limits.MAX_BODY_OPS + 2) // 2


def many(count: int) -> Callable[[Publisher], SignedDelta]:
    """Sign a body of `2 * count` operations in two groups, which no header can announce rightly."""

    def make(publisher: Publisher) -> SignedDelta:
        message = body_message(publisher, *TWO_SHAPES)
        for number, group in enumerate(message.groups):
            group.count = count
            group.annotation_codes = bytes(count)
            for column in group.columns:
                rows = [
                    digest(number * count + row, width=32)[: column.width] for row in range(count)
                ]
                column.digests = b"".join(sorted(rows))
        return publisher.forge(Forgery(body=message.SerializeToString()))

    return make


# What needs another history than `started` has, or another method than `receive`.
CASES_TESTED_APART = {Reason.FORK}


def offer(replica: Replica, delta: SignedDelta, entries: Entries, *, now_ms: int) -> None:
    candidate = replica.receive(delta, now_ms=now_ms)
    replica.conclude(candidate, entries.prior(candidate.body))


@pytest.mark.parametrize("name", CASES)
def test_refuses_and_is_as_it_was(name: str) -> None:
    case = CASES[name]
    publisher, subscriber = started()
    delta = case.make(publisher)
    replica = Replica(subscriber.origin, subscriber.root, subscriber.state)
    before = subscriber.state
    with pytest.raises(PeerError) as caught:
        offer(replica, delta, subscriber.entries, now_ms=case.now_ms)
    assert caught.value.reason is case.reason, str(caught.value)
    assert replica.state == before
    # The honest delta is accepted by the very same replica afterwards.
    offer(replica, publisher.publish(assertion("honest")), subscriber.entries, now_ms=LATER)
    assert replica.state == publisher.state


def test_every_reason_that_a_replica_can_give_has_a_case() -> None:
    tested = {case.reason for case in CASES.values()} | CASES_TESTED_APART
    assert tested == set(Reason) - REASONS_OF_OTHER_PARTS


def test_the_forger_signs_what_is_accepted_when_nothing_is_forged() -> None:
    publisher, subscriber = started()
    subscriber.deliver(publisher.forge(Forgery()))
    assert subscriber.state.size == 3


def test_more_operations_than_a_delta_may_have_are_refused_whatever_is_announced() -> None:
    publisher, subscriber = started()
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(many(HALF)(publisher))
    assert caught.value.reason is Reason.OP_COUNT_MISMATCH


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ([retraction(1), retraction(1)], Reason.RETRACT_OF_ABSENT),
        ([purge(1), retraction(1)], Reason.RETRACT_OF_ABSENT),
    ],
    ids=["retracted twice", "retracted after purge"],
)
def test_an_entry_that_is_gone_cannot_be_retracted(
    operations: list[Operation], reason: Reason
) -> None:
    publisher, subscriber = started()
    *honest, last = operations
    for operation in honest:
        subscriber.deliver(publisher.publish(operation))
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(publisher.forge(Forgery(ops=(last,), fields=live_count(2))))
    assert caught.value.reason is reason


def test_a_refusal_by_the_entries_names_no_hash() -> None:
    publisher, subscriber = started()
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(publisher.forge(Forgery(ops=(retraction(77),), fields=live_count(3))))
    assert fingerprint(77).digest.hex() not in str(caught.value)


@pytest.mark.parametrize(
    "operations",
    [
        [purge(77)],
        [purge(77), purge(77)],
        [retraction(1), purge(1), purge(1)],
        [purge(1), purge(1)],
    ],
    ids=["unknown", "unknown twice", "retracted and purged twice", "live and purged twice"],
)
def test_any_entry_can_be_purged_and_only_a_live_one_counts(operations: list[Operation]) -> None:
    publisher, subscriber = started()
    live = subscriber.state.live_count
    for operation in operations:
        subscriber.deliver(publisher.publish(operation))
    gone = {operation.entry for operation in operations}
    assert subscriber.state == publisher.state
    assert not gone & subscriber.entries.live().keys()
    assert subscriber.state.live_count == live - (purge(1).entry in gone)


def test_a_first_delta_with_a_leaf_before_it_is_malformed_not_a_fork() -> None:
    publisher = Publisher()
    delta = publisher.forge(Forgery(fields=HeaderFields(previous=b"\x01" * 32)))
    with pytest.raises(PeerError) as caught:
        Subscriber(publisher).deliver(delta)
    assert caught.value.reason is Reason.HEADER_MALFORMED
    assert not isinstance(caught.value, ForkError)


def test_another_predecessor_is_a_fork() -> None:
    publisher, subscriber = started()
    with pytest.raises(ForkError):
        subscriber.deliver(CASES["successor of another delta"].make(publisher))


def test_the_clock_may_run_behind_by_the_skew_exactly() -> None:
    publisher, subscriber = started()
    now_ms = publisher.state.last_time_ms
    subscriber.deliver(with_time(limits.MAX_CLOCK_SKEW_MS)(publisher), now_ms=now_ms)
    assert subscriber.state.last_time_ms == now_ms + limits.MAX_CLOCK_SKEW_MS


def test_two_deltas_may_have_one_time() -> None:
    publisher, subscriber = started()
    subscriber.deliver(with_time(0)(publisher))
    assert subscriber.state.size == 3


# --- the order of checks ----------------------------------------------------------------------


PAIRS = [
    pytest.param(earlier[0], forgery, id=f"{earlier[0]} before {later[0]}")
    for earlier, later in combinations(FAULTS, 2)
    if (forgery := together(earlier[1], later[1])) is not None
]


def test_nearly_every_two_faults_can_be_combined() -> None:
    assert len(PAIRS) > len(FAULTS) * (len(FAULTS) - 1) // 2 - 20


@pytest.mark.parametrize(("reason", "forgery"), PAIRS)
def test_of_two_faults_the_one_of_the_earlier_check_is_reported(
    reason: Reason, forgery: Forgery
) -> None:
    publisher, subscriber = started()
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(publisher.forge(forgery))
    assert caught.value.reason is reason


# --- bytes altered on the way -----------------------------------------------------------------


@pytest.mark.parametrize("part", ["header", "body", "checkpoint"])
def test_no_flipped_bit_is_accepted(part: str) -> None:
    publisher, subscriber = started()
    delta = publisher.publish(assertion(10, MD5), retraction(2))
    data: bytes = getattr(delta, part)
    for at in range(len(data)):
        for bit in (at % 8, (at * 3 + 4) % 8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            altered = delta._replace(**{part: bytes(flipped)})
            with pytest.raises(PeerError):
                subscriber.deliver(altered)
    assert subscriber.state.size == 2
    subscriber.deliver(delta)
    assert subscriber.state == publisher.state


@pytest.mark.parametrize("part", ["header", "body", "checkpoint"])
def test_no_part_of_another_delta_fits(part: str) -> None:
    publisher, subscriber = started()
    before = publisher.log[-1]
    delta = publisher.publish(assertion(10))
    with pytest.raises(PeerError):
        subscriber.deliver(delta._replace(**{part: getattr(before, part)}))
    subscriber.deliver(delta)


def test_a_delta_of_another_list_of_the_same_owner_is_refused() -> None:
    publisher, other = Publisher(), Publisher("hotline.example/other")
    subscriber = Subscriber(publisher)
    delta = other.publish(assertion(1))
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(delta)
    assert caught.value.reason is Reason.ORIGIN_MISMATCH
    # Neither its body nor its checkpoint can be slipped under the header of this list.
    mine = publisher.publish(assertion(2))
    for part, reason in (
        ("checkpoint", Reason.CHECKPOINT_SIGNATURE_INVALID),
        ("body", Reason.BODY_DIGEST_MISMATCH),
    ):
        with pytest.raises(PeerError) as caught:
            subscriber.deliver(mine._replace(**{part: getattr(delta, part)}))
        assert caught.value.reason is reason


def test_a_relay_cannot_hide_lines_in_a_checkpoint() -> None:
    publisher, subscriber = started()
    delta, padded = publisher.forge(Forgery()), with_a_strangers_line(publisher)
    with pytest.raises(PeerError) as caught:
        subscriber.deliver(padded)
    assert caught.value.reason is Reason.CHECKPOINT_MALFORMED
    subscriber.deliver(delta)
    assert subscriber.state.size == 3


Edit = Callable[[delta_pb2.DeltaBody, object], object]


def group_edit(name: str) -> Edit:
    return lambda message, value: setattr(message.groups[0], name, value)


def column_edit(name: str) -> Edit:
    return lambda message, value: setattr(message.groups[-1].columns[0], name, value)


def annotation_edit(name: str) -> Edit:
    return lambda message, value: setattr(message.annotations[-1], name, value)


def set_labels(message: delta_pb2.DeltaBody, labels: object) -> None:
    assert isinstance(labels, list)
    message.annotations[0].labels[:] = labels


NUMBERS = st.integers(0, 2**32 - 1) | st.integers(0, 40)
TEXTS = st.text(max_size=300) | st.text("a-z\u202e", max_size=40)
EDITS = (
    st.tuples(st.just(group_edit("count")), NUMBERS)
    | st.tuples(st.just(group_edit("id_width")), NUMBERS)
    | st.tuples(st.just(group_edit("ids")), st.binary(max_size=600))
    | st.tuples(st.just(group_edit("annotation_codes")), st.binary(max_size=4))
    | st.tuples(st.just(group_edit("named_by_fingerprint")), st.booleans())
    | st.tuples(st.just(group_edit("kind")), st.integers(0, 4))
    | st.tuples(st.just(column_edit("hash_type")), TEXTS)
    | st.tuples(st.just(column_edit("width")), NUMBERS)
    | st.tuples(st.just(column_edit("digests")), st.binary(max_size=80))
    | st.tuples(st.just(annotation_edit("reason")), TEXTS)
    | st.tuples(st.just(annotation_edit("vocabulary")), TEXTS)
    | st.tuples(st.just(annotation_edit("cause")), st.integers(0, 4))
    | st.tuples(st.just(set_labels), st.lists(TEXTS, max_size=40))
)


@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_whatever_a_publisher_signs_as_a_body_is_accepted_or_refused(
    edits: list[tuple[Edit, object]],
) -> None:
    publisher, subscriber = started()
    message = body_message(publisher, *TWO_ANNOTATIONS, assertion(12, MD5, entry="case 12"))
    for edit, value in edits:
        edit(message, value)
    count = max(1, min(sum(group.count for group in message.groups), limits.MAX_BODY_OPS))
    claims = HeaderFields(op_count=count, live_count=3 + count)
    delta = publisher.forge(Forgery(body=message.SerializeToString(), fields=claims))
    before = subscriber.state
    try:
        subscriber.deliver(delta)
    except PeerError:
        assert subscriber.state == before
    else:
        assert subscriber.state.size == before.size + 1


# --- arrival again ----------------------------------------------------------------------------


def test_arrival_twice_changes_nothing() -> None:
    publisher, subscriber = started()
    before = subscriber.state
    replica = subscriber.replica
    for delta, held in zip(publisher.log, subscriber.records, strict=True):
        replica.receive_again(delta, held)
    assert replica.state == before


def test_another_delta_for_a_held_position_is_a_fork() -> None:
    publisher, subscriber = started()
    twin, _ = started()
    held = publisher.publish(assertion(10))
    subscriber.deliver(held)
    replica = subscriber.replica
    other = twin.publish(assertion(11))
    with pytest.raises(ForkError) as caught:
        replica.receive_again(other, held.header)
    assert caught.value.reason is Reason.FORK
    assert replica.state == publisher.state


def test_a_second_signature_of_the_same_header_is_a_fork_too() -> None:
    # The leaf of the log is the whole record, so the two logs have two roots.
    publisher, subscriber = started()
    held = Header.parse(subscriber.records[0])
    other = replace(held, ends_change_set=False).sign(publisher.publisher_key)
    with pytest.raises(ForkError):
        subscriber.replica.receive_again(SignedDelta(other, b"", b""), subscriber.records[0])


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        (Forgery(publisher=signing_key("stranger")), Reason.KEY_UNAUTHORISED),
        (Forgery(publisher=signing_key("stranger"), keep_key_id=True), Reason.SIGNATURE_INVALID),
        (Forgery(fields=HeaderFields(origin_hash=bytes(32))), Reason.ORIGIN_MISMATCH),
        (Forgery(fields=HeaderFields(root_hash=bytes(32))), Reason.ROOT_MISMATCH),
        (Forgery(raw={0: 9}), Reason.FORMAT_UNSUPPORTED),
    ],
)
def test_nobody_but_the_publisher_can_make_a_list_look_forked(
    forgery: Forgery, reason: Reason
) -> None:
    publisher, subscriber = started()
    delta = publisher.forge(
        replace(forgery, fields=HeaderFields(position=1, change_set=1, **forgery.fields))
    )
    with pytest.raises(PeerError) as caught:
        subscriber.replica.receive_again(delta, subscriber.records[1])
    assert caught.value.reason is reason
    assert not isinstance(caught.value, ForkError)


# --- calling it wrongly -----------------------------------------------------------------------


def test_a_candidate_of_an_older_state_cannot_be_concluded() -> None:
    publisher, subscriber = started()
    replica = subscriber.replica
    candidate = replica.receive(publisher.publish(assertion(10)), now_ms=LATER)
    replica.conclude(candidate, {})
    with pytest.raises(UsageError):
        replica.conclude(candidate, {})


def test_a_replica_needs_the_owners_root() -> None:
    with pytest.raises(UsageError):
        Replica(Origin.parse("hotline.example/main"), pin_root("other.example"), LogState.empty())


def test_an_unknown_hash_type_is_carried_through_untouched() -> None:
    publisher, subscriber = started()
    unknown = fingerprint(1, "acme-2031", 19)
    operation = Operation.assertion((unknown,), Annotation(), None)
    delta = publisher.publish(operation, assertion(10, unknown))
    subscriber.deliver(delta)
    live = subscriber.entries.live()
    assert live[EntryId("acme-2031", unknown.digest)] == operation
    assert unknown in live[EntryId.of(fingerprint(10))].fingerprints
    assert subscriber.entries.bodies[-1].ops_root() == Header.parse(delta.header).ops_root
    named = PackedOp(
        Shape(OpKind.RETRACT, named=True, id_width=0, columns=(("acme-2031", 19),)),
        unknown.digest,
        Annotation(cause=Cause.WITHDRAWN),
    )
    subscriber.deliver(publisher.forge(Forgery(ops=(named,), fields=live_count(4))))
