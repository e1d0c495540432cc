"""Publisher, subscriber and a plain dictionary agree, however deltas are cut and arrive."""

from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import wire
from federation.errors import PeerError, Reason
from federation.header import Header
from federation.replica import SignedDelta
from tests.federation.histories import CUTS, MOVES, Move, model_of, operations_of, publish_cut
from tests.federation.worlds import Subscriber, slow_state_digest


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
