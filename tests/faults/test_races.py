"""Processes that want the same store at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import races
from tests.faults.trying import attempt

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("life", range(2))
def test_one_of_two_wins_and_the_other_says_so(life: int, tmp_path: Path) -> None:
    report = attempt(races.PART, tmp_path, cases=1, first=life, seed=6)
    assert report.tried == races.RACES_A_LIFE
    assert report.violations == []


def test_a_lock_that_keeps_nobody_out_is_found_out(tmp_path: Path) -> None:
    report = attempt(races.PART, tmp_path, cases=1, seed=6, planted="no_lock")
    assert report.violations
