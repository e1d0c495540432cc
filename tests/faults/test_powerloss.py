"""The power is cut at any moment of real commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults import powerloss
from tests.faults.part import Share
from tests.faults.strace import why_not
from tests.faults.trying import attempt

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "strace works"),
]

IMAGES = int(os.environ.get("HASHFED_IMAGES", "200"))


def test_what_was_said_is_there_after_a_power_cut_and_no_position_is_signed_twice(
    tmp_path: Path,
) -> None:
    report = attempt(powerloss.PART, tmp_path, cases=IMAGES, seed=7)
    assert report.tried == IMAGES
    assert report.violations == []
    assert {"write lost", "write torn", "create lost", "rename lost"} <= report.hit.keys()


def cut_at_the_end_of(command: str, folder: Path, *, images: int) -> list[str]:
    """Cut the power at each of the last operations of the first such command; return violations."""
    share = Share(seed=7, cases=range(images), count=images, folder=folder)
    with powerloss.recorded(share, "publisher") as (life,):
        step = next(step for step in life.steps if step.name == command)
        cuts = [(step.stop - case % 12, case) for case in range(images)]
        outcomes = list(life.cut(share, sorted(cuts)))
    assert len(outcomes) == images
    return [broken for outcome in outcomes for broken in outcome.violations]


def test_a_store_that_is_put_aside_is_never_without_its_log(tmp_path: Path) -> None:
    assert cut_at_the_end_of("restore", tmp_path, images=120) == []


def test_what_a_first_import_has_staged_is_there(tmp_path: Path) -> None:
    assert cut_at_the_end_of("import", tmp_path, images=60) == []


@pytest.mark.parametrize(
    ("planted", "images"),
    [("commits_not_synced", 60), ("commits_synced_late", 300), ("mark_not_synced", 300)],
)
def test_what_is_not_synced_when_it_should_be_is_found_out(
    planted: str, images: int, tmp_path: Path
) -> None:
    report = attempt(powerloss.PART, tmp_path, cases=images, seed=7, planted=planted)
    assert report.violations
