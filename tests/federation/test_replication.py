"""Publisher, subscriber and a plain dictionary agree, however deltas are cut and arrive."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import wire
from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.errors import PeerError, Reason
from federation.header import Header
from federation.replica import SignedDelta
from tests.federation.worlds import (
    Publisher,
    Subscriber,
    fingerprint,
    slow_state_digest,
)

Live = dict[EntryId, Operation]

LABELS = [(), ("A1",), ("A1", "B2"), ("ünïcödé",)]
FURTHER = [
    (),
    (fingerprint(1, "md5"),),
    (fingerprint(1, "md5"), fingerprint(2, "md5"), fingerprint(3, "pdq")),
    (fingerprint(1, "acme-2031"), fingerprint(2, "acme-2031", 7)),
]


def variants(number: int, own_id: str | None) -> list[Operation]:
    """All that an entry may be asserted as."""
    return [
        Operation.assertion(
            (fingerprint(number), *further),
            Annotation(labels=labels),
            None if own_id is None else EntryId.parse(own_id),
        )
        for labels in LABELS
        for further in FURTHER
    ]


# Few entries, so that they are revised, retracted, purged and asserted again.
POOL = [
    *(variants(number, None) for number in range(5)),
    *(variants(number, f"case {number}") for number in (3, 4)),
    variants(9, "https://hotline.example/Fälle/9"),
    [
        Operation.assertion((fingerprint(number, "vpdq", 37 * number),), Annotation())
        for number in (1, 2)
    ],
]


class Move(Enum):
    """What a publisher does to an entry, when it can."""

    ASSERT = 1
    RETRACT = 2
    PURGE = 3


MOVES = st.lists(
    st.tuples(
        st.integers(0, len(POOL) - 1),
        st.sampled_from(Move),
        st.integers(0, len(LABELS) * len(FURTHER) - 1),
    ),
    min_size=1,
    max_size=40,
)


def operations_of(moves: Sequence[tuple[int, Move, int]]) -> list[Operation]:
    """Turn moves into operations that are allowed one after the other."""
    kinds: dict[EntryId, OpKind] = {}
    operations = []
    for index, move, variant in moves:
        assertion = POOL[index][variant % len(POOL[index])]
        entry, kind = assertion.entry, kinds.get(assertion.entry)
        if move is Move.RETRACT and kind is OpKind.ASSERT:
            operation = Operation.retraction(
                entry, Cause(1 + variant % 3), "because" * (variant % 2)
            )
        elif move is Move.PURGE and kind in {OpKind.ASSERT, OpKind.RETRACT}:
            operation = Operation.purge(entry)
        else:
            operation = assertion
        kinds[entry] = operation.kind
        operations.append(operation)
    return operations


def model_of(operations: Sequence[Operation]) -> Live:
    """What is live in the end, by the plainest of means."""
    live: Live = {}
    for operation in operations:
        live.pop(operation.entry, None)
        if operation.kind is OpKind.ASSERT:
            live[operation.entry] = operation
    return live


def publish_cut(operations: Sequence[Operation], cuts: set[int]) -> Publisher:
    """Publish operations in deltas that end at the cuts, and where an entry comes again."""
    publisher = Publisher()
    batch: dict[EntryId, Operation] = {}
    for number, operation in enumerate(operations):
        if batch and (number in cuts or operation.entry in batch):
            publisher.publish(*batch.values())
            batch = {}
        batch[operation.entry] = operation
    publisher.publish(*batch.values())
    return publisher


CUTS = st.sets(st.integers(1, 40))


@given(moves=MOVES, cuts=CUTS)
def test_the_publisher_holds_what_a_dictionary_holds(
    moves: list[tuple[int, Move, int]], cuts: set[int]
) -> None:
    operations = operations_of(moves)
    publisher = publish_cut(operations, cuts)
    assert publisher.entries.live() == model_of(operations)
    assert publisher.state.live_count == len(model_of(operations))


@given(moves=MOVES, cuts=CUTS)
def test_the_state_digest_is_that_of_the_whole_live_set_after_every_delta(
    moves: list[tuple[int, Move, int]], cuts: set[int]
) -> None:
    publisher = publish_cut(operations_of(moves), cuts)
    subscriber = Subscriber(publisher)
    for delta in publisher.log:
        subscriber.deliver(delta)
        places = subscriber.entries.places()
        assert subscriber.state.state_digest == slow_state_digest(places)
        assert subscriber.state.live_count == len(places)


@given(moves=MOVES, one=CUTS, other=CUTS)
def test_how_operations_are_cut_into_deltas_changes_no_entry(
    moves: list[tuple[int, Move, int]], one: set[int], other: set[int]
) -> None:
    operations = operations_of(moves)
    first, second = publish_cut(operations, one), publish_cut(operations, other)
    assert first.entries.live() == second.entries.live()
    assert first.state.live_count == second.state.live_count


@given(moves=MOVES, cuts=CUTS)
def test_every_body_says_what_was_published_and_hashes_to_its_ops_root(
    moves: list[tuple[int, Move, int]], cuts: set[int]
) -> None:
    operations = operations_of(moves)
    received = []
    for delta in publish_cut(operations, cuts).log:
        body = wire.decode_body(delta.body)
        assert body.ops_root() == Header.parse(delta.header).ops_root
        received += [operation for _, operation in body.operations()]
    assert sorted(map(repr, received)) == sorted(map(repr, operations))


class Fate(Enum):
    """What becomes of a delta on its way."""

    ARRIVES = 1
    CUT_OFF = 2
    """Its check is cut off before it is applied, as by a crash."""
    DAMAGED = 3


ARRIVALS = st.lists(st.tuples(st.integers(0, 39), st.sampled_from(Fate)), max_size=80)


def arrive(subscriber: Subscriber, delta: SignedDelta, fate: Fate) -> None:
    """Let a delta arrive as a node would take it: anything it cannot use leaves no trace."""
    position, before = Header.parse(delta.header).position, subscriber.state
    if fate is Fate.DAMAGED:
        with pytest.raises(PeerError):
            subscriber.deliver(delta._replace(body=delta.body[:-1]))
    elif position < before.size:
        subscriber.replica.receive_again(delta, subscriber.records[position])
    elif position > before.size:
        with pytest.raises(PeerError) as caught:
            subscriber.receive(delta)
        assert caught.value.reason is Reason.POSITION_GAP
    elif fate is Fate.CUT_OFF:
        subscriber.receive(delta)
    else:
        subscriber.deliver(delta)
        return
    assert subscriber.state == before


@given(moves=MOVES, cuts=CUTS, arrivals=ARRIVALS)
def test_any_order_with_repeats_losses_and_crashes_ends_in_the_publishers_state(
    moves: list[tuple[int, Move, int]], cuts: set[int], arrivals: list[tuple[int, Fate]]
) -> None:
    operations = operations_of(moves)
    publisher = publish_cut(operations, cuts)
    subscriber = Subscriber(publisher)
    for number, fate in arrivals:
        delta = publisher.log[number % len(publisher.log)]
        arrive(subscriber, delta, fate)
    # Then the connection works, and what is missing is asked for.
    while subscriber.state.size < publisher.state.size:
        arrive(subscriber, publisher.log[subscriber.state.size], Fate.ARRIVES)
    assert subscriber.state == publisher.state
    assert subscriber.state.frontier.encode() == publisher.state.frontier.encode()
    assert subscriber.records == [delta.header for delta in publisher.log]
    assert subscriber.entries.in_force == publisher.entries.in_force
    assert subscriber.entries.live() == publisher.entries.live() == model_of(operations)
