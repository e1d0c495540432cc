"""What `publish.high_water` promises: a mark is raised on the disk or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.checkpoint import Checkpoint
from federation.names import Origin, parse_org
from federation.recovery import Mark, Obstacle
from node.errors import DiskError, StoreError, StoreFullError
from node.publish import high_water as marks
from node.publish.high_water import HighWater, MarkMovedError
from node.system import durable

ORIGIN = Origin.parse("hotline.example/main")
SECOND = Origin.parse("hotline.example/second")
TOKEN = b"t" * 16


def at(size: int, origin: Origin = ORIGIN) -> Checkpoint:
    return Checkpoint(str(origin), size, bytes([size]) * 32)


@pytest.fixture
def mark(tmp_path: Path) -> HighWater:
    made = HighWater(tmp_path / "mark", ORIGIN.org)
    made.create()
    for origin in (ORIGIN, SECOND):
        made.begin(origin, TOKEN)
    return made


def held(mark: HighWater, origin: Origin = ORIGIN) -> Mark:
    found = mark.load(origin)
    assert isinstance(found, Mark), found
    return found


def raise_to(mark: HighWater, size: int, origin: Origin = ORIGIN) -> None:
    mark.prepare(origin, held(mark, origin), at(size, origin)).complete()


def test_a_mark_is_raised_for_one_list_and_stays_known(mark: HighWater) -> None:
    raise_to(mark, 3)
    raise_to(mark, 1, SECOND)
    raise_to(mark, 4)
    assert held(mark) == Mark(checkpoint=at(4), incarnation=TOKEN, fresh=True)
    assert held(mark, SECOND) == Mark(checkpoint=at(1, SECOND), incarnation=TOKEN, fresh=True)
    again = HighWater(mark.path.parent, mark.org)
    assert held(again) == held(mark)
    assert mark.path.stat().st_mode & 0o777 == 0o600


def test_a_prepared_raise_changes_nothing_before_it_is_completed(mark: HighWater) -> None:
    before = mark.path.read_bytes()
    prepared = mark.prepare(ORIGIN, held(mark), at(1))
    assert mark.path.read_bytes() == before
    prepared.cancel()
    assert sorted(path.name for path in mark.path.parent.iterdir()) == ["high-water", "known"]


@pytest.mark.parametrize("late", [False, True])
def test_a_raise_from_a_mark_that_is_not_there_any_more_is_refused(
    mark: HighWater, late: bool
) -> None:
    old = held(mark)
    raising = mark.prepare(ORIGIN, old, at(2)).complete
    raise_to(mark, 1)
    with pytest.raises(MarkMovedError):
        raising() if late else mark.prepare(ORIGIN, old, at(2))
    assert held(mark).checkpoint == at(1)


def test_a_new_list_never_takes_the_place_of_a_mark_that_is_there(mark: HighWater) -> None:
    raise_to(mark, 3)
    mark.begin(ORIGIN, b"u" * 16)
    assert held(mark).checkpoint == at(3)
    assert held(mark).incarnation == TOKEN


def test_a_mark_is_never_made_over_another(mark: HighWater) -> None:
    with pytest.raises(StoreError, match="File exists"):
        mark.create()


def _bytes(mark: HighWater) -> bytes:
    raise_to(mark, 3)
    return mark.path.read_bytes()


def test_a_mark_that_is_missing_or_cut_off_says_so(mark: HighWater) -> None:
    data = _bytes(mark)
    for size in range(len(data)):
        mark.path.write_bytes(data[:size])
        assert mark.load(ORIGIN) is Obstacle.MARK_DAMAGED
    mark.path.unlink()
    assert mark.load(ORIGIN) is Obstacle.MARK_MISSING
    assert mark.load(Origin.parse("hotline.example/other")) is Obstacle.MARK_MISSING
    shutil.rmtree(mark.path.parent)
    assert mark.load(ORIGIN) is Obstacle.MARK_MISSING


def test_no_flipped_bit_goes_unnoticed(mark: HighWater) -> None:
    data = _bytes(mark)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        mark.path.write_bytes(flipped)
        assert mark.load(ORIGIN) is Obstacle.MARK_DAMAGED, bit


@given(st.binary(max_size=300))
def test_whatever_stands_in_the_file_is_no_traceback(tmp_path_factory: object, data: bytes) -> None:
    mark = HighWater(Path("/nonexistent"), ORIGIN.org)
    assert mark._parse(data) is Obstacle.MARK_DAMAGED


def test_the_mark_of_another_organization_is_foreign(mark: HighWater) -> None:
    other = HighWater(mark.path.parent, parse_org("ngo.example"))
    assert other.load(Origin.parse("ngo.example/main")) is Obstacle.MARK_FOREIGN
    # And is kept when the operator decides to go on.
    data = mark.path.read_bytes()
    other.adopt(
        Origin.parse("ngo.example/main"), Checkpoint("ngo.example/main", 1, TOKEN * 2), TOKEN
    )
    (aside,) = mark.path.parent.glob("high-water.foreign-*")
    assert aside.read_bytes() == data


@pytest.mark.parametrize("copied", ["file", "folder", "touched"])
def test_a_mark_that_was_put_back_is_not_known_to_be_the_newest(
    mark: HighWater, tmp_path: Path, copied: str
) -> None:
    assert held(mark).fresh
    aside = tmp_path / "aside"
    shutil.copytree(mark.path.parent, aside)
    match copied:
        case "file":
            shutil.copy2(aside / "high-water", mark.path)
        case "folder":
            shutil.rmtree(mark.path.parent)
            shutil.copytree(aside, mark.path.parent)
        case _:
            mark.path.touch()
    assert not held(mark).fresh
    # And raising it from there makes it no more so.
    raise_to(mark, 1)
    assert not held(mark).fresh


def test_a_start_of_the_machine_makes_nothing_known(
    mark: HighWater, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(marks, "_BOOT_ID", boot_id)
    assert not held(mark).fresh
    mark.adopt(ORIGIN, held(mark).checkpoint, TOKEN)
    assert held(mark).fresh
    assert not held(mark, SECOND).fresh
    monkeypatch.setattr(marks, "_BOOT_ID", tmp_path / "missing")
    assert not held(mark).fresh
    mark.adopt(ORIGIN, held(mark).checkpoint, TOKEN)
    assert not held(mark).fresh


def test_what_was_said_of_the_clock_holds_until_the_mark_is_doubted(
    mark: HighWater, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark.adopt(ORIGIN, held(mark).checkpoint, TOKEN, accepted_lead_ms=7)
    mark.adopt(ORIGIN, held(mark).checkpoint, TOKEN)
    raise_to(mark, 1)
    assert (held(mark).accepted_lead_ms, held(mark, SECOND).accepted_lead_ms) == (7, 0)
    with monkeypatch.context() as patch:
        (tmp_path / "boot_id").write_text("another\n")
        patch.setattr(marks, "_BOOT_ID", tmp_path / "boot_id")
        assert held(mark).accepted_lead_ms == 0
    mark.doubt(ORIGIN)
    assert held(mark).accepted_lead_ms == 0


def test_what_is_doubted_is_not_known(mark: HighWater) -> None:
    mark.doubt(ORIGIN)
    assert not held(mark).fresh
    assert held(mark, SECOND).fresh


def test_a_mark_that_is_found_in_place_is_synced_before_anything_relies_on_it(
    mark: HighWater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a process that was killed between the rename and the sync of the folder."""
    raise_to(mark, 3)
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync", synced.append)
    mark.adopt(ORIGIN, at(3), TOKEN)
    assert synced == [mark.path.parent]
    assert held(mark).fresh


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EIO, DiskError), (errno.ENOSPC, StoreFullError), (errno.EACCES, StoreError)],
)
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_an_error_of_the_disk_leaves_the_mark_as_it_was_and_is_named(
    mark: HighWater,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StoreError],
    call: str,
) -> None:
    def fail(*_args: object, **_more: object) -> Never:
        raise OSError(number, os.strerror(number))

    old = held(mark)
    before = mark.path.read_bytes()
    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(os, call, fail)
        with pytest.raises(kind) as caught:
            mark.prepare(ORIGIN, old, at(1)).complete()
    assert type(caught.value) is kind
    assert mark.path.read_bytes() == before
    assert held(mark) == old
