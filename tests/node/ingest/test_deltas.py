"""What `node.ingest.deltas` promises: what verifies is kept whole, what does not leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation import wire
from federation.entry import Cause, Operation
from federation.errors import (
    ForkError,
    MalformedError,
    OperationError,
    PeerError,
    ProofError,
    Reason,
    SequenceError,
    SignatureError,
)
from federation.follow import Action, FollowState, News
from federation.names import Origin
from node.errors import CommandError
from node.fsck.check import fsck
from node.ingest import deltas
from node.store import log
from tests.federation.worlds import (
    T0,
    Forgery,
    Publisher,
    assertion,
    make_charter,
    seal_charter,
    signing_key,
)
from tests.node.support.damage_in_sql import flip_bit
from tests.node.support.followed_lists import RELAY, FollowedLists


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher()
    for number in range(3):
        made.publish(assertion(number), assertion(f"second {number}"))
    return made


@pytest.fixture
def followed(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node", Publisher(str(publisher.origin)))
    yield made
    made.close()


def contents(followed: FollowedLists) -> list[list[tuple[object, ...]]]:
    """Return all that the store has of lists."""
    tables = ("list", "delta", "body", "posting", "run", "superseded", "version")
    return [
        followed.store.connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
        for table in tables
    ]


def test_a_batch_is_one_version_and_says_how_it_came(
    followed: FollowedLists, publisher: Publisher
) -> None:
    before = followed.store.version
    acceptance = followed.accept(publisher.origin, publisher.log)
    assert (acceptance.size, acceptance.deltas, acceptance.ops) == (3, 3, 6)
    assert acceptance.error is None
    assert followed.store.version == before + 1
    record = followed.record(publisher.origin)
    held = list(log.iter_records(followed.store.connection, record.list, 0, 3))
    assert {(item.via, item.version) for item in held} == {(RELAY, before + 1)}
    assert all(item.received_ms > T0 for item in held)
    frame = log.read_frame(followed.store.connection, record.list, 0, 3)
    assert frame == publisher.log


@pytest.mark.parametrize(
    ("first", "second"), [((0, 3), (0, 3)), ((0, 2), (1, 3)), ((0, 1), (0, 3))]
)
def test_what_comes_twice_is_passed_over(
    followed: FollowedLists, publisher: Publisher, first: tuple[int, int], second: tuple[int, int]
) -> None:
    followed.accept(publisher.origin, publisher.log[slice(*first)])
    acceptance = followed.accept(publisher.origin, publisher.log[slice(*second)])
    assert (acceptance.size, acceptance.error) == (3, None)
    assert acceptance.deltas == 3 - first[1]
    assert list(fsck(followed.store)) == []


def test_what_brings_nothing_new_makes_no_version(
    followed: FollowedLists, publisher: Publisher
) -> None:
    followed.take(publisher)
    before = contents(followed)
    for again in (publisher.log, []):
        assert followed.accept(publisher.origin, again).deltas == 0
    assert contents(followed) == before


FORGERIES = {
    Reason.SIGNATURE_INVALID: Forgery(publisher=signing_key("thief"), keep_key_id=True),
    Reason.BODY_DIGEST_MISMATCH: Forgery(sent_body=b"another"),
    Reason.LIVE_COUNT_MISMATCH: Forgery(fields={"live_count": 99}),
    Reason.RETRACT_OF_ABSENT: Forgery(
        ops=(Operation.retraction(assertion("absent").entry, Cause.WITHDRAWN), assertion("new"))
    ),
    Reason.CHECKPOINT_MISMATCH: Forgery(checkpoint_root=bytes(32)),
}


@pytest.mark.parametrize("reason", list(FORGERIES))
def test_what_does_not_verify_leaves_nothing_but_what_came_before_it(
    followed: FollowedLists, publisher: Publisher, reason: Reason
) -> None:
    followed.accept(publisher.origin, publisher.log[:1])
    twin = Publisher()
    twin.publish(assertion(0), assertion("second 0"))
    twin.publish(assertion(1), assertion("second 1"))
    acceptance = followed.accept(twin.origin, [twin.log[1], twin.forge(FORGERIES[reason])])
    assert (acceptance.size, acceptance.deltas) == (2, 1)
    assert acceptance.error is not None
    assert acceptance.error.reason is reason
    status = followed.status(publisher.origin)
    assert (status.state, status.reason) == (FollowState.QUARANTINED, reason)
    assert list(fsck(followed.store)) == []
    # It heals with the right one.
    followed.take(publisher)


def test_a_gap_is_refused(followed: FollowedLists, publisher: Publisher) -> None:
    acceptance = followed.accept(publisher.origin, publisher.log[1:])
    assert acceptance.error is not None
    assert acceptance.error.reason is Reason.POSITION_GAP
    assert acceptance.size == 0


def test_a_clock_that_runs_ahead_makes_a_list_stale_and_accuses_nobody(
    followed: FollowedLists,
) -> None:
    publisher = Publisher()
    publisher.publish(assertion(1), after_ms=10**9)
    acceptance = followed.accept(publisher.origin, publisher.log)
    assert acceptance.error is not None
    assert followed.status(publisher.origin).state is FollowState.STALE
    followed.clock._now_ms += 10**9
    followed.take(publisher)


@pytest.mark.parametrize("position", [0, 1])
def test_a_second_history_freezes_the_list_where_it_is(
    followed: FollowedLists, publisher: Publisher, position: int
) -> None:
    followed.take(publisher)
    before = contents(followed)
    twin = Publisher()
    for number in range(position):
        twin.publish(assertion(number), assertion(f"second {number}"))
    twin.publish(assertion("another history"))
    acceptance = followed.accept(twin.origin, twin.log)
    assert acceptance.error is not None
    assert followed.status(publisher.origin).state is FollowState.FORKED
    assert contents(followed) == before
    # Whatever is noted later does not hide it.
    for state in (FollowState.CURRENT, FollowState.STALE):
        deltas.record_follow_state(
            followed.store, publisher.origin, state, clock=followed.clock, head=7
        )
        assert followed.status(publisher.origin).state is FollowState.FORKED
    assert followed.status(publisher.origin).head == 7


def test_a_list_whose_publisher_is_at_fault_stays_frozen_whatever_comes_later(
    followed: FollowedLists, publisher: Publisher
) -> None:
    followed.take(publisher)
    store, origin, clock = followed.store, publisher.origin, followed.clock
    fault = ProofError("another live set", reason=Reason.STATE_DIGEST_MISMATCH)
    assert deltas.park(store, origin, fault, clock=clock) is Action.WAIT
    frozen = followed.status(origin)
    assert (frozen.state, frozen.reason) == (FollowState.QUARANTINED, fault.reason)
    # Another quarantine, or a peer that cannot be asked, would have it fetched again.
    assert deltas.park(store, origin, SequenceError("a gap"), clock=clock) is Action.WAIT
    for news in (News.NOT_FETCHED, News.PEER_FAILED, News.ALL_HERE):
        assert deltas.learn(store, origin, news, clock=clock) is Action.WAIT
    assert followed.status(origin) == frozen
    deltas.park(store, origin, ForkError("two histories"), clock=clock)
    assert followed.status(origin).state is FollowState.FORKED


def test_damage_is_not_taken_for_a_second_history(
    followed: FollowedLists, publisher: Publisher
) -> None:
    followed.take(publisher)
    flip_bit(followed.store, "delta", "header", "id & 0xffffffff = 0", 40)
    acceptance = followed.accept(publisher.origin, publisher.log)
    assert isinstance(acceptance.error, OperationError)
    assert "run 'hashfed fsck'" in str(acceptance.error)
    assert followed.status(publisher.origin).state is FollowState.QUARANTINED
    # Once it is repaired, the list goes on.
    flip_bit(followed.store, "delta", "header", "id & 0xffffffff = 0", 40)
    assert followed.accept(publisher.origin, publisher.log).error is None


def test_an_index_that_does_not_fit_parks_its_list_and_not_the_node(
    followed: FollowedLists, publisher: Publisher
) -> None:
    publisher.publish(assertion(901))
    followed.accept(publisher.origin, publisher.log)
    before = followed.record(publisher.origin)
    position = before.log.size
    publisher.publish(Operation.retraction(assertion(901).entry, Cause.WITHDRAWN))
    # As a fault of the index would leave it: what the next delta is to add is there.
    with followed.store.update_status() as connection:
        connection.execute(
            "INSERT INTO superseded (span, position, row, op, by_position, by_row) "
            "VALUES (?, ?, 0, 1, ?, 0)",
            (before.span, position + 1, position),
        )
    acceptance = followed.accept(publisher.origin, publisher.log[position:])
    assert (acceptance.size, acceptance.deltas) == (position, 0)
    assert acceptance.error is not None
    assert "do not fit what is stored here" in str(acceptance.error)
    assert followed.record(publisher.origin) == before
    assert followed.status(publisher.origin).state is FollowState.QUARANTINED


def test_only_a_followed_list_is_accepted(followed: FollowedLists, publisher: Publisher) -> None:
    unknown = Origin.parse("hotline.example/unknown")
    with pytest.raises(CommandError, match="is not followed here"):
        followed.accept(unknown, publisher.log)
    with pytest.raises(CommandError, match="is not followed here"):
        deltas.accept_charter(followed.store, unknown, b"")


def test_a_delta_of_another_list_is_refused(followed: FollowedLists) -> None:
    other = Publisher("hotline.example/other")
    other.publish(assertion(1))
    acceptance = followed.accept(Origin.parse("hotline.example/main"), other.log)
    assert acceptance.error is not None
    assert acceptance.error.reason is Reason.ORIGIN_MISMATCH


# --- charters ---------------------------------------------------------------------------------


def charter(origin: Origin, version: int, signer: str | None = None) -> bytes:
    made = make_charter(origin, orgs=[f"v{version}.example"], version=version)
    key = None if signer is None else signing_key(signer)
    return wire.encode_envelope(seal_charter(made, key))


def test_the_newest_charter_is_in_force_and_an_older_one_is_a_rollback(
    followed: FollowedLists, publisher: Publisher
) -> None:
    origin = publisher.origin
    for version in (1, 3, 3):
        deltas.accept_charter(followed.store, origin, charter(origin, version))
    before = contents(followed)
    with pytest.raises(SequenceError) as caught:
        deltas.accept_charter(followed.store, origin, charter(origin, 2))
    assert caught.value.reason is Reason.CHARTER_ROLLBACK
    assert contents(followed) == before
    held = followed.record(origin)
    assert held.charter_version == 3
    opened = held.open_charter()
    assert opened is not None
    assert opened.allows("v3.example")


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        (charter(Origin.parse("hotline.example/main"), 1, "thief"), SignatureError),
        (charter(Origin.parse("hotline.example/other"), 1), SequenceError),
        (b"no envelope", MalformedError),
        (b"", PeerError),
    ],
)
def test_a_charter_that_is_not_the_owners_for_this_list_is_refused(
    followed: FollowedLists, publisher: Publisher, envelope: bytes, error: type[PeerError]
) -> None:
    with pytest.raises(error):
        deltas.accept_charter(followed.store, publisher.origin, envelope)
    assert followed.record(publisher.origin).charter is None
