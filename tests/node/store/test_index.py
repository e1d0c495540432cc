"""What `node.store.index` promises: one entry is never taken for another."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from federation.entry import Annotation, Cause, Operation
from federation.fingerprint import Fingerprint
from node.fsck.check import fsck
from node.query import lookup
from node.store import history
from tests.federation.worlds import Publisher, fingerprint
from tests.node.support.followed_lists import FollowedLists

LONG = fingerprint(1, "ssvh", 200)
# A digest of its own that happens to be what a longer one is hashed to.
SHORT = Fingerprint.from_digest("ssvh", sha256(LONG.digest).digest())


def _entry(item: Fingerprint) -> Operation:
    return Operation.assertion((item,), Annotation())


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node")
    yield made
    made.close()


@pytest.mark.parametrize("pair", [(LONG, SHORT), (SHORT, LONG)], ids=["long first", "short first"])
def test_a_long_digest_and_the_hash_of_it_are_two_entries(
    followed: FollowedLists, pair: tuple[Fingerprint, Fingerprint]
) -> None:
    publisher = Publisher()
    publisher.publish(_entry(pair[0]))
    publisher.publish(_entry(pair[1]))
    publisher.publish(Operation.retraction(_entry(pair[0]).entry, Cause.WITHDRAWN))
    followed.follow(publisher)
    record = followed.record(publisher.origin)
    live = [op for _, _, op in history.iter_live(followed.store.connection, record.list, 3)]
    assert live == [_entry(pair[1])]
    assert lookup.lookup(followed.store, pair[0].format()) == []
    assert len(lookup.lookup(followed.store, pair[1].format())) == 1
    assert list(fsck(followed.store)) == []


def test_two_entries_whose_digests_hash_alike_cannot_stop_a_follower(
    followed: FollowedLists,
) -> None:
    publisher = Publisher()
    publisher.publish(_entry(LONG), _entry(SHORT))
    publisher.publish(*(Operation.purge(_entry(item).entry) for item in (LONG, SHORT)))
    followed.follow(publisher)
    assert followed.record(publisher.origin).log.live_count == 0
