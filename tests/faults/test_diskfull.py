"""Disks and files of every size."""

from __future__ import annotations

import pytest

from tests.faults import diskfull
from tests.faults.running import run

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]


def test_without_room_every_command_says_so_changes_nothing_by_half_and_goes_on_later() -> None:
    report = run(diskfull.PART, seed=1, count=4, cases=range(4))
    print(report.text())
    assert report.violations == []
    assert report.tried >= 4 * 5
    assert {kind.partition(": ")[2] for kind in report.hit} > {"done"}


def test_a_file_that_a_command_leaves_behind_is_found_out() -> None:
    report = run(
        diskfull.PART, seed=1, count=4, cases=range(4), planted=("tests.faults.mark_left_behind",)
    )
    assert report.violations
