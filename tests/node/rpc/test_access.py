"""What `node.rpc.access` promises: every node serves a list to its audience, and to nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation import limits, wire
from federation.follow import Cursor, Outcome
from federation.header import leaf_hash
from federation.merkle import CompactRange
from federation.names import Origin
from node.admin import lists as admin_lists
from node.errors import DamageError
from node.ingest import deltas
from node.rpc import access
from tests.federation.worlds import Publisher, assertion, make_charter, seal_charter
from tests.node.support.followed_lists import FollowedLists

MAIN, OTHER = "hotline.example/main", "hotline.example/other"
MEMBER, OWNER, STRANGER = "ngo.example", "hotline.example", "stranger.example"


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher(MAIN)
    for number in range(3):
        made.publish(assertion(number))
    return made


@pytest.fixture
def relay(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node", publisher, Publisher(OTHER))
    charter(made, publisher, MEMBER)
    yield made
    made.close()


def charter(relay: FollowedLists, publisher: Publisher, *orgs: str, version: int = 1) -> None:
    made = make_charter(publisher.origin, orgs=orgs, version=version)
    envelope = wire.encode_envelope(seal_charter(made))
    deltas.accept_charter(relay.store, publisher.origin, envelope)


def root(publisher: Publisher, size: int) -> bytes:
    tree = CompactRange()
    for delta in publisher.log[:size]:
        tree = tree.append(leaf_hash(delta.header))
    return tree.root() if size else b""


def cursor(size: int = 0, root_hash: bytes = b"", origin: str = MAIN, version: int = 0) -> Cursor:
    return Cursor(origin=origin, size=size, root_hash=root_hash, charter_version=version)


def test_a_list_is_offered_to_its_audience_and_its_owner_alone(relay: FollowedLists) -> None:
    for caller in (MEMBER, OWNER):
        offered = [str(item.origin) for item in access.iter_available(relay.store, caller)]
        assert offered == [MAIN]
    # The relay itself is not in the audience: what it holds says who may have it, not who has it.
    for caller in (STRANGER, "platform.example", "", "relay.example"):
        assert list(access.iter_available(relay.store, caller)) == []


def test_where_a_caller_stands_is_said_by_size_and_root(
    relay: FollowedLists, publisher: Publisher
) -> None:
    expected = [Outcome.DELTAS] * 3 + [Outcome.UP_TO_DATE]
    for size, outcome in enumerate(expected):
        answer = access.answer(relay.store, MEMBER, cursor(size, root(publisher, size)))
        assert (answer.outcome, answer.head) == (outcome, 3)
        assert answer.checkpoint == publisher.log[-1].checkpoint
    for size in (1, 2, 3):
        answer = access.answer(relay.store, MEMBER, cursor(size, bytes(32)))
        assert answer.outcome is Outcome.DIVERGED
    for size in (4, limits.MAX_TREE_SIZE):
        answer = access.answer(relay.store, MEMBER, cursor(size, bytes(32)))
        assert answer.outcome is Outcome.CURSOR_AHEAD


def test_a_list_that_is_not_for_the_caller_is_as_one_that_is_not_here(
    relay: FollowedLists,
) -> None:
    nothing = access.answer(relay.store, STRANGER, cursor(origin="hotline.example/none"))
    assert nothing == access.CursorAnswer(outcome=Outcome.UNAVAILABLE)
    # Not in the audience; without a charter; no name of a list at all.
    for caller, origin in (
        (STRANGER, MAIN),
        (OWNER, OTHER),
        (MEMBER, OTHER),
        (MEMBER, ""),
        (MEMBER, "\x00/../" * 1000),
        (MEMBER, "HOTLINE.example/main"),
    ):
        assert access.answer(relay.store, caller, cursor(origin=origin)) == nothing
        assert access.find_available(relay.store, caller, origin) is None


def test_a_charter_is_sent_when_the_callers_is_older(
    relay: FollowedLists, publisher: Publisher
) -> None:
    charter(relay, publisher, MEMBER, version=2)
    held = relay.record(publisher.origin).charter
    for version, sent in ((0, held), (1, held), (2, b""), (3, b"")):
        assert access.answer(relay.store, MEMBER, cursor(version=version)).charter == sent


def test_an_audience_that_shrinks_ends_what_was_served(
    relay: FollowedLists, publisher: Publisher
) -> None:
    assert access.find_available(relay.store, MEMBER, MAIN)
    charter(relay, publisher, "other.example", version=2)
    assert access.find_available(relay.store, MEMBER, MAIN) is None
    assert access.answer(relay.store, MEMBER, cursor()).outcome is Outcome.UNAVAILABLE


def test_a_relay_that_no_longer_follows_a_list_serves_it_to_its_owner_alone(
    relay: FollowedLists,
) -> None:
    assert access.find_available(relay.store, MEMBER, MAIN)
    admin_lists.unfollow(relay.store, Origin.parse(MAIN))
    assert access.find_available(relay.store, MEMBER, MAIN) is None
    assert list(access.iter_available(relay.store, MEMBER)) == []
    assert access.read_lone_leaf(relay.store, MEMBER, MAIN, 0) is None
    assert access.find_available(relay.store, OWNER, MAIN)


def test_a_checkpoint_that_is_gone_is_damage_and_no_other_history(
    relay: FollowedLists, publisher: Publisher
) -> None:
    relay.store.connection.execute("DELETE FROM delta WHERE id % 4294967296 = 0")
    with pytest.raises(DamageError, match="position 0"):
        access.answer(relay.store, MEMBER, cursor(1, root(publisher, 1)))
