"""What `node.store.runs` promises: where a row of the index stands shows in no answer."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from unittest import mock

import pytest

from federation.entry import Annotation, Cause, EntryId, Operation
from federation.fingerprint import Fingerprint
from node.fsck.check import fsck
from node.query import lookup
from node.store import index, runs
from node.store.runs import MAIN
from tests.federation.worlds import Publisher, assertion, fingerprint
from tests.node.support.followed_lists import FollowedLists
from tests.node.support.tiny_runs import tiny_runs

BASE = 200
"""Entries of the first delta, which is the main run: a few more are sparse among them."""


def _own_id(number: int, *, label: str = "A") -> Operation:
    """Return an assertion all of whose fingerprints stand at random places of the index."""
    return Operation.assertion(
        (fingerprint(number), fingerprint(number, "md5")),
        Annotation(labels=(label,)),
        EntryId.parse(sha256(b"%d" % number).hexdigest()),
    )


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher()
    made.publish(*(_own_id(number) for number in range(BASE)))
    return made


@pytest.fixture
def followed(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node")
    with tiny_runs():
        made.follow(publisher)
        yield made
    made.close()


def _rows(followed: FollowedLists) -> dict[int, int]:
    return dict(followed.store.connection.execute("SELECT run, count(*) FROM posting GROUP BY run"))


def _answers(followed: FollowedLists, numbers: range) -> list[object]:
    """Return all that is said of entries, by every function that reads the index."""
    connection = followed.store.connection
    asked = [fingerprint(number, kind) for number in numbers for kind in ("sha256", "md5")]
    texts = [item.format() for item in asked]
    record = followed.record(Publisher().origin)
    return [
        [lookup.lookup(followed.store, text) for text in texts],
        list(lookup.lookup_many(followed.store, texts)),
        [index.find_entries(connection, record.list, item) for item in asked],
        [index.load_versions(connection, record.list, _own_id(number).entry) for number in numbers],
    ]


def _waiting(followed: FollowedLists) -> int:
    return sum(run.rows for run in runs.load_runs(followed.store.connection)[:-1])


def _pile_up(followed: FollowedLists, publisher: Publisher) -> None:
    """Accept what is new, with room for all of it to wait."""
    with mock.patch.multiple(runs, _LEAST_ROWS=1_000, _ALIKE=1_000):
        followed.take(publisher)


def test_a_small_change_leaves_the_main_run_alone(
    followed: FollowedLists, publisher: Publisher
) -> None:
    main = _rows(followed)[MAIN]
    publisher.publish(*(_own_id(number) for number in range(BASE, BASE + 3)))
    followed.take(publisher)
    rows = _rows(followed)
    assert rows.pop(MAIN) == main
    assert sum(rows.values()) == 9
    for number in range(BASE, BASE + 3):
        (match,) = lookup.lookup(followed.store, fingerprint(number, "md5").format())
        assert match.operation == _own_id(number)


def test_each_transaction_of_a_merge_moves_a_part_and_changes_no_answer(
    followed: FollowedLists, publisher: Publisher
) -> None:
    publisher.publish(*(_own_id(number, label="B") for number in range(0, 30, 2)))
    publisher.publish(*(Operation.retraction(_own_id(n).entry, Cause.WITHDRAWN) for n in (1, 3)))
    _pile_up(followed, publisher)
    asked = range(31)
    before, version = _answers(followed, asked), followed.store.version
    waiting = [_waiting(followed)]
    while moved := runs.merge_behind(followed.store, 0.0):
        waiting.append(_waiting(followed))
        assert waiting[-2] - waiting[-1] == moved
        # As a crash would leave it now.
        assert _answers(followed, asked) == before
        assert list(fsck(followed.store)) == []
    assert len(waiting) > 5
    assert waiting[-1] == 0
    assert set(_rows(followed)) == {MAIN}
    # No content has changed.
    assert followed.store.version == version


def test_what_comes_during_a_merge_waits_for_the_next_one(
    followed: FollowedLists, publisher: Publisher
) -> None:
    publisher.publish(*(_own_id(number, label="B") for number in range(0, 30, 2)))
    _pile_up(followed, publisher)
    assert runs.merge_behind(followed.store, 0.0)
    merging = {run for run in _rows(followed) if run != MAIN}
    publisher.publish(*(_own_id(number, label="C") for number in range(3)))
    followed.take(publisher)
    later = {run for run in _rows(followed) if run != MAIN} - merging
    assert later
    before = _answers(followed, range(31))
    while runs.merge_behind(followed.store, 0.0):
        pass
    assert _answers(followed, range(31)) == before
    assert list(fsck(followed.store)) == []


def test_what_waits_is_bounded_though_nobody_merges_behind(
    followed: FollowedLists, publisher: Publisher
) -> None:
    most = 0
    trees = 0
    for start in range(BASE, BASE + 120, 4):
        publisher.publish(*(_own_id(number) for number in range(start, start + 4)))
        followed.take(publisher)
        most = max(most, _waiting(followed))
        trees = max(trees, len(_rows(followed)))
    limit = runs._LEAST_ROWS
    assert limit < most <= 2 * limit + 12
    assert 2 < trees < 9
    assert list(fsck(followed.store)) == []


def test_an_ascending_load_goes_straight_into_the_main_run(tmp_path: Path) -> None:
    digests = sorted(fingerprint(number).digest for number in range(60))
    publisher = Publisher()
    for start in range(0, 60, 10):
        publisher.publish(
            *(
                Operation.assertion((Fingerprint("sha256", digest),), Annotation())
                for digest in digests[start : start + 10]
            )
        )
    followed = FollowedLists(tmp_path / "other")
    with tiny_runs():
        followed.follow(publisher)
    assert _rows(followed) == {MAIN: 60}
    followed.close()


_REST = "digest, kind, span, position, row, op, bucket FROM posting"
_PLACE = "run = 1 AND position = 0 AND row = 7"


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO posting SELECT 0, {_REST} WHERE {_PLACE}",
        f"INSERT INTO posting SELECT 5, {_REST} WHERE {_PLACE}",
        f"UPDATE posting SET run = -9 WHERE {_PLACE}",  # noqa: S608
        "UPDATE run SET rows = rows - 1 WHERE run = 1",
        "UPDATE run SET rows = rows + 1 WHERE run = (SELECT min(run) FROM run)",
        "DELETE FROM run WHERE run = (SELECT min(run) FROM run)",
    ],
)
def test_a_row_in_two_runs_or_in_none_is_found(
    followed: FollowedLists, publisher: Publisher, statement: str
) -> None:
    publisher.publish(*(_own_id(number) for number in range(BASE, BASE + 3)))
    followed.take(publisher)
    assert list(fsck(followed.store)) == []
    followed.store.connection.execute(statement)
    assert any("run" in damage.message for damage in fsck(followed.store))


def test_one_operation_costs_no_run(followed: FollowedLists, publisher: Publisher) -> None:
    publisher.publish(assertion("alone"))
    followed.take(publisher)
    assert set(_rows(followed)) == {MAIN}
