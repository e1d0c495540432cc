"""Processes that are killed at any moment, in a coalition that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.trying import attempt

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("life", range(4))
def test_whatever_is_killed_what_was_acknowledged_is_everywhere_and_nothing_is_signed_twice(
    life: int, tmp_path: Path
) -> None:
    report = attempt(kills.PART, tmp_path, cases=1, first=life, seed=20)
    # The last action may kill several processes.
    assert report.tried >= kills.KILLS_A_LIFE
    assert report.violations == []


def test_a_mark_that_is_raised_after_the_release_is_found_out(tmp_path: Path) -> None:
    # It depends on the machine at which point of a publication, and so in which case, it is killed.
    report = attempt(kills.PART, tmp_path, cases=6, seed=20, planted="late_mark")
    assert [violation for violation in report.violations if "high-water mark" in violation.what]
