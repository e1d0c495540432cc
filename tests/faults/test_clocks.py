"""Wrong clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import clocks
from tests.faults.trying import attempt

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("life", range(2))
def test_nothing_is_signed_for_an_earlier_time_and_all_goes_on_once_clocks_are_right(
    life: int, tmp_path: Path
) -> None:
    report = attempt(clocks.PART, tmp_path, cases=1, first=life, seed=7)
    assert report.tried == clocks.FAULTS_A_LIFE
    assert report.violations == []


def test_who_signs_without_looking_at_the_newest_delta_is_found_out(tmp_path: Path) -> None:
    report = attempt(clocks.PART, tmp_path, cases=1, seed=7, planted="any_time")
    assert [violation for violation in report.violations if "before the one" in violation.what]
