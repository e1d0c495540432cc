"""The model of a disk that loses its power: what was synced is kept, the rest may be lost."""

from __future__ import annotations

import random
from collections import Counter

from tests.faults.disk import (
    Disk,
    Image,
    Link,
    Make,
    Operation,
    Rename,
    Sync,
    Truncate,
    Unlink,
    Write,
)

_Seen = frozenset[tuple[str, bytes | None]]


def images(*operations: Operation, count: int = 300) -> tuple[set[_Seen], Counter[str]]:
    """Return all images that were seen after some operations, and what was lost in them."""
    disk = Disk("/d")
    for operation in operations:
        disk.apply(operation)
    losses: Counter[str] = Counter()
    seen: set[_Seen] = {
        frozenset(disk.image(random.Random(n), losses).items()) for n in range(count)
    }
    return seen, losses


def image(**files: bytes | None) -> _Seen:
    return frozenset(files.items())


NEW = (Make("/d/a"), Write("/d/a", 0, b"one"))
KEPT = (*NEW, Sync("/d/a"), Sync("/d"))


def test_what_is_synced_is_always_there() -> None:
    assert images(*KEPT) == ({image(a=b"one")}, Counter())


def test_a_file_that_is_synced_has_no_name_before_its_folder_is() -> None:
    seen, losses = images(*NEW, Sync("/d/a"))
    assert seen == {image(), image(a=b"one")}
    assert losses.keys() == {"create lost"}


def test_a_name_that_is_synced_is_of_a_file_that_may_be_empty() -> None:
    seen, losses = images(*NEW, Sync("/d"))
    assert seen == {image(a=b""), image(a=b"\0\0\0"), image(a=b"one")}
    assert losses.keys() == {"write lost", "zeros for a write"}


def test_writes_are_lost_each_by_itself() -> None:
    seen, _ = images(*KEPT, Write("/d/a", 0, b"T"), Write("/d/a", 2, b"O"))
    assert seen == {image(a=found) for found in (b"one", b"Tne", b"onO", b"TnO")}


def test_a_write_is_torn_at_sectors_alone() -> None:
    old, new = b"o" * 1024, b"n" * 1024
    seen, losses = images(Make("/d/a"), Write("/d/a", 0, old), Sync("/d/a"), Sync("/d"),
                          Write("/d/a", 0, new))  # fmt: skip
    halves = {image(a=a + b) for a in (old[:512], new[:512]) for b in (old[:512], new[:512])}
    assert seen == halves
    assert losses["write torn"]


def test_a_truncation_may_be_lost() -> None:
    assert images(*KEPT, Truncate("/d/a", 1))[0] == {image(a=b"one"), image(a=b"o")}


def test_what_is_renamed_is_at_one_of_its_names() -> None:
    seen, _ = images(*KEPT, Rename("/d/a", "/d/b"))
    assert seen == {image(a=b"one"), image(b=b"one")}


def test_names_go_and_come_each_by_itself() -> None:
    seen, _ = images(*KEPT, Link("/d/a", "/d/b"), Unlink("/d/a"))
    one = b"one"
    assert seen == {image(a=one), image(a=one, b=one), image(b=one), image()}


def test_what_lies_in_a_folder_goes_with_it() -> None:
    inside = (Make("/d/f", folder=True), Make("/d/f/a"), Write("/d/f/a", 0, b"one"))
    seen, losses = images(*inside, Sync("/d/f/a"), Sync("/d/f"))
    assert seen == {image(), frozenset({("f", None), ("f/a", b"one")})}
    assert losses.keys() == {"create lost"}


def test_two_names_of_a_file_have_one_content() -> None:
    seen, _ = images(*KEPT, Link("/d/a", "/d/b"), Sync("/d"), Write("/d/b", 0, b"T"))
    assert seen == {image(a=b"one", b=b"one"), image(a=b"Tne", b=b"Tne")}


def test_processes_see_all_of_it() -> None:
    disk = Disk("/d")
    for operation in (*NEW, Truncate("/d/a", 4), Rename("/d/a", "/d/b")):
        disk.apply(operation)
    now: Image = disk.now()
    assert now == {"b": b"one\0"}


def test_two_names_of_one_file_stay_when_one_is_renamed_to_the_other() -> None:
    seen, _ = images(*KEPT, Link("/d/a", "/d/b"), Sync("/d"), Rename("/d/a", "/d/b"))
    assert seen == {image(a=b"one", b=b"one")}
