"""What `maintenance.backup` promises: a backup is a whole, verified copy, or is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import CommandError, DamageError, NodeError, StoreError
from node.fsck.check import fsck
from node.maintenance.backup import Backup, backup
from node.store.connection import Store
from tests.federation.worlds import Publisher, assertion
from tests.node.support.followed_lists import FollowedLists


@pytest.fixture
def publisher() -> Publisher:
    made = Publisher()
    made.publish(*(assertion(number) for number in range(3000)))
    made.publish(assertion("another"))
    return made


@pytest.fixture
def followed(tmp_path: Path, publisher: Publisher) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node", publisher)
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "copy.db"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def copied(followed: FollowedLists, target: Path) -> Backup:
    return backup(followed.store, target, clock=followed.clock)


def test_a_backup_is_a_store_of_the_same_version_in_one_private_file(
    followed: FollowedLists, publisher: Publisher, target: Path
) -> None:
    told: list[tuple[int, int]] = []
    result = backup(
        followed.store,
        target,
        clock=followed.clock,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert names(target.parent) == [target.name]
    assert target.stat().st_mode & 0o777 == 0o600
    assert result == Backup(
        path=target,
        size_bytes=target.stat().st_size,
        version=followed.store.version,
        positions={str(publisher.origin): 2},
    )
    assert told[-1][0] == told[-1][1] > 0
    copy = Store.open(target, followed.clock)
    assert list(fsck(copy)) == []
    assert copy.version == result.version
    copy.close()


def test_what_is_written_meanwhile_does_not_get_into_it_nor_wait_for_it(
    followed: FollowedLists, publisher: Publisher, target: Path
) -> None:
    publisher.publish(*(assertion(f"meanwhile {number}") for number in range(1000)))
    reader = Store.open_reader(followed.path, followed.clock)
    before = followed.store.version
    result = backup(
        reader,
        target,
        clock=followed.clock,
        on_progress=lambda _done, _all: followed.take(publisher),
    )
    reader.close()
    assert followed.store.version > before
    assert result.version == before
    assert result.positions == {str(publisher.origin): 2}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE body SET bytes = zeroblob(length(bytes))",
        "DELETE FROM posting WHERE position = 1",
        "UPDATE list SET live_count = 1",
        "UPDATE list SET frontier = x''",
        "UPDATE org SET root = x'00'",
    ],
)
def test_a_damaged_store_gives_no_backup(
    followed: FollowedLists, target: Path, statement: str
) -> None:
    followed.store.connection.execute(statement)
    with pytest.raises(DamageError, match="the copy is damaged") as caught:
        copied(followed, target)
    assert "fsck" in caught.value.hint
    assert names(target.parent) == []


def test_what_is_there_is_never_replaced(followed: FollowedLists, target: Path) -> None:
    target.write_text("another file")
    with pytest.raises(CommandError, match="exists already"):
        copied(followed, target)
    assert target.read_text() == "another file"
    assert names(target.parent) == [target.name]


def test_what_takes_the_name_meanwhile_is_not_replaced(
    followed: FollowedLists, target: Path
) -> None:
    def be_faster(_done: int, _all: int) -> None:
        target.write_text("faster")

    with pytest.raises(CommandError, match="exists already"):
        backup(followed.store, target, clock=followed.clock, on_progress=be_faster)
    assert target.read_text() == "faster"
    assert names(target.parent) == [target.name]


def test_two_backups_to_one_name_do_not_disturb_each_other(
    followed: FollowedLists, target: Path
) -> None:
    # The second runs while the first copies.
    results: list[Backup] = []
    other = Store.open_reader(followed.path, followed.clock)

    def begin_another(_done: int, _all: int) -> None:
        if not results:
            results.append(backup(other, target, clock=followed.clock))

    with pytest.raises(CommandError, match="exists already"):
        backup(followed.store, target, clock=followed.clock, on_progress=begin_another)
    other.close()
    assert names(target.parent) == [target.name]
    copy = Store.open_reader(target, followed.clock)
    assert list(fsck(copy)) == []
    copy.close()


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def test_one_that_is_interrupted_leaves_nothing(followed: FollowedLists, target: Path) -> None:
    def interrupt(_done: int, _all: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        backup(followed.store, target, clock=followed.clock, on_progress=interrupt)
    assert names(target.parent) == []
    # The store is not left in a transaction.
    assert copied(followed, target).path == target


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_file_that_cannot_be_made_is_an_error(
    followed: FollowedLists, target: Path, folder: str
) -> None:
    parent = target.parent / folder
    if folder == "file":
        parent.write_text("")
    with pytest.raises(NodeError) as caught:
        copied(followed, parent / "copy.db")
    assert isinstance(caught.value, StoreError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(
    followed: FollowedLists, target: Path
) -> None:
    target.parent.chmod(0o500)
    with pytest.raises(StoreError, match="cannot write"):
        copied(followed, target)
    target.parent.chmod(0o700)
