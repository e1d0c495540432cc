"""What `node.fsck.check` and `node.fsck.scrub` promise of checks that are interrupted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from federation.entry import Operation
from node.errors import LockedError
from node.fsck import scrub as fsck_scrub
from node.fsck.check import fsck
from node.fsck.journal import Journal
from node.fsck.scrub import Scrub, Slice
from node.home import Home
from node.store import damage as store_damage
from node.store.damage import Damage, DamageKind
from node.system import locks
from tests.federation.worlds import Publisher, assertion
from tests.node.support.damage_in_sql import damage, flip_bit
from tests.node.support.followed_lists import FollowedLists

MAIN = "hotline.example/main"
OTHER = "ngo.example/other"
LEAVES = 12


def _publisher(origin: str) -> Publisher:
    made = Publisher(origin)
    for at in range(LEAVES):
        before = [Operation.purge(assertion(f"{at - 1}").entry)] if at else []
        made.publish(assertion(f"{at}"), assertion(f"{at} too"), *before)
    return made


@pytest.fixture
def publishers() -> list[Publisher]:
    return [_publisher(MAIN), _publisher(OTHER)]


@pytest.fixture
def followed(tmp_path: Path, publishers: list[Publisher]) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node", *publishers)
    yield made
    made.close()


@pytest.fixture
def home(followed: FollowedLists) -> Home:
    return Home(followed.path.parent)


class Interrupted(Exception):  # noqa: N818  # as a person does it
    """Stands for Ctrl-C."""


def _check(
    followed: FollowedLists, home: Home, stop_after: int | None = None
) -> tuple[list[Damage], list[tuple[str, int]]]:
    """Check, and stop after so many leaves; return what was found and which leaves were told."""
    told: list[tuple[str, int]] = []

    def progress(origin: str, done: int, _total: int) -> None:
        told.append((origin, done))
        if len(told) == stop_after:
            raise Interrupted

    found: list[Damage] = []
    steps = fsck(followed.store, on_progress=progress, journal=home.fsck_journal, now_ms=7)
    try:
        found.extend(steps)
    except Interrupted:
        assert stop_after is not None
    return found, told


@pytest.mark.parametrize("stop_after", [1, 5, LEAVES, LEAVES + 1, 2 * LEAVES])
def test_an_interrupted_check_goes_on_where_it_was(
    followed: FollowedLists, home: Home, stop_after: int
) -> None:
    assert _check(followed, home, stop_after) == ([], _expected()[:stop_after])
    held = Journal.load(home.fsck_journal)
    assert held is not None
    assert held.began_ms == 7
    assert _check(followed, home) == ([], _expected()[stop_after:])
    assert not home.fsck_journal.exists()
    # The next one starts from the beginning.
    assert _check(followed, home) == ([], _expected())


def _expected() -> list[tuple[str, int]]:
    return [(origin, done) for origin in (MAIN, OTHER) for done in range(1, LEAVES + 1)]


def test_what_others_commit_between_two_parts_is_checked_and_no_damage(
    followed: FollowedLists, home: Home, publishers: list[Publisher]
) -> None:
    _check(followed, home, LEAVES + 3)
    for publisher in publishers:
        publisher.publish(assertion("later"), Operation.purge(assertion("3 too").entry))
        followed.take(publisher)
    found, told = _check(followed, home)
    assert found == []
    assert told[0] == (MAIN, LEAVES + 1)
    assert told[-1] == (OTHER, LEAVES + 1)


def test_damage_to_what_comes_later_is_found_and_what_was_found_is_not_forgotten(
    followed: FollowedLists, home: Home
) -> None:
    flip_bit(followed.store, "body", "bytes", "id = 4294967296 + 2", 0)
    first, _ = _check(followed, home, LEAVES)
    assert {(item.kind, item.origin, item.position) for item in first} == {
        (DamageKind.BODY, MAIN, 2)
    }
    damage(followed.store, "DELETE FROM posting WHERE span = 2 AND position = 9")
    second, _ = _check(followed, home)
    assert {(item.kind, item.origin, item.position) for item in second} >= {
        (DamageKind.BODY, MAIN, 2),
        (DamageKind.INDEX, OTHER, 9),
    }


def test_a_journal_of_another_store_or_of_a_later_version_is_not_gone_on_with(
    followed: FollowedLists, home: Home, tmp_path: Path
) -> None:
    _check(followed, home, LEAVES)
    kept = home.fsck_journal.read_bytes()
    other = FollowedLists(tmp_path / "other", _publisher(MAIN), _publisher(OTHER))
    theirs = Home(other.path.parent)
    theirs.fsck_journal.write_bytes(kept)
    assert _check(other, theirs) == ([], _expected())
    other.close()
    for harm in (b"", b"{}", kept[: len(kept) // 2], kept.replace(b'"version":', b'"version":9')):
        home.fsck_journal.write_bytes(harm)
        assert _check(followed, home) == ([], _expected())


def test_every_damage_of_a_list_is_named_and_not_the_first_alone(followed: FollowedLists) -> None:
    one = "id = 4294967296 + "
    flip_bit(followed.store, "delta", "header", f"{one}1", 60)
    flip_bit(followed.store, "delta", "checkpoint", f"{one}4", 0)
    flip_bit(followed.store, "body", "bytes", f"{one}6", 5)
    flip_bit(followed.store, "delta", "header", f"{one}8", -1)
    flip_bit(followed.store, "delta", "header", f"{one}9", -1)
    flip_bit(followed.store, "body", "bytes", f"{one}11", 5)
    damage(
        followed.store,
        "UPDATE posting SET op = op + 1 WHERE span = 1 AND position = 10 AND row = 2",
    )
    found = {(item.kind, item.position) for item in fsck(followed.store) if item.origin == MAIN}
    assert found >= {
        (DamageKind.HEADER, 1),
        (DamageKind.CHECKPOINT, 4),
        (DamageKind.BODY, 6),
        (DamageKind.HEADER, 8),
        (DamageKind.HEADER, 9),
        (DamageKind.BODY, 11),
        (DamageKind.INDEX, 10),
    }
    assert {item.origin for item in fsck(followed.store)} == {MAIN}


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    peaks = []
    for deltas in (20, 200):
        publisher = Publisher(MAIN)
        for at in range(deltas):
            publisher.publish(*(assertion(f"{at} {row}") for row in range(100)))
        followed = FollowedLists(tmp_path / str(deltas), publisher)
        tracemalloc.start()
        assert list(fsck(followed.store)) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        followed.close()
    assert peaks[1] < 2 * peaks[0] + 500_000


# --- the scrub --------------------------------------------------------------------------------


def _scrub_all(home: Home, followed: FollowedLists) -> list[Slice]:
    """Scrub to the end of a pass, each slice as another process would."""
    slices: list[Slice] = []
    while not slices or not slices[-1].ended:
        done = Scrub(home, followed.clock).step()
        assert done is not None
        slices.append(done)
    return slices


@pytest.fixture
def short_slices() -> Iterator[None]:
    with mock.patch.object(fsck_scrub, "_SLICE_SECONDS", 0.0):
        yield


@pytest.mark.usefixtures("short_slices")
def test_a_scrub_goes_on_slice_by_slice_and_finds_what_a_check_finds(
    followed: FollowedLists, home: Home, publishers: list[Publisher]
) -> None:
    slices = _scrub_all(home, followed)
    assert len(slices) > 2 * LEAVES
    parts = [done.part for done in slices]
    assert parts == sorted(parts)
    assert not any(done.found for done in slices)
    ended_ms = store_damage.load(followed.path).ended_ms
    assert ended_ms is not None

    flip_bit(followed.store, "body", "bytes", "id = 2 * 4294967296 + 3", 0)
    publishers[0].publish(assertion("meanwhile"))
    followed.take(publishers[0])
    slices = _scrub_all(home, followed)
    assert DamageKind.BODY in {item.kind for done in slices for item in done.found}
    known = store_damage.load(followed.path)
    assert {item.origin for item in known.damages} == {OTHER}
    assert set(known.damages) == set(fsck(followed.store))
    assert known.ended_ms is not None
    assert known.ended_ms > ended_ms
    assert not home.scrub_journal.exists()


def test_a_finding_of_the_scrub_goes_when_a_whole_pass_finds_nothing(
    followed: FollowedLists, home: Home
) -> None:
    (row,) = followed.store.connection.execute("SELECT rows FROM run WHERE run = 1").fetchall()
    damage(followed.store, "UPDATE run SET rows = 1 WHERE run = 1")
    _scrub_all(home, followed)
    assert store_damage.load(followed.path).of(MAIN) is not None
    damage(followed.store, "UPDATE run SET rows = ? WHERE run = 1", *row)
    _scrub_all(home, followed)
    assert store_damage.load(followed.path).damages == ()


def test_a_scrub_keeps_out_of_the_way_of_a_check(followed: FollowedLists, home: Home) -> None:
    with locks.hold(home.lock_file("fsck"), "hashfed fsck"), pytest.raises(LockedError):
        Scrub(home, followed.clock).step()


def test_a_stopped_scrub_notes_nothing(followed: FollowedLists, home: Home) -> None:
    flip_bit(followed.store, "body", "bytes", "id = 4294967296", 0)
    scrub = Scrub(home, followed.clock)
    scrub.stop()
    assert scrub.step() is None
    assert store_damage.load(followed.path) == store_damage.Findings()
    assert not home.scrub_journal.exists()


def test_a_store_that_cannot_be_opened_is_a_finding(followed: FollowedLists, home: Home) -> None:
    followed.store.close()
    data = bytearray(followed.path.read_bytes())
    data[3] ^= 1
    followed.path.write_bytes(data)
    for end in ("-wal", "-shm"):
        Path(f"{followed.path}{end}").unlink(missing_ok=True)
    done = Scrub(home, followed.clock).step()
    assert done is not None
    assert [item.kind for item in done.found] == [DamageKind.FILE]
    assert store_damage.load(followed.path).of(MAIN) is not None
