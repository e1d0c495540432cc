"""Kills among the buckets of a snapshot, on a list that is small but has many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import large
from tests.faults.part import Share
from tests.faults.report import Outcome

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]


def live_once(folder: Path) -> Outcome:
    share = Share(
        seed=1,
        cases=range(1),
        count=1,
        folder=folder,
        planted=("tests.faults.with_small_buckets",),
    )
    (outcome,) = large.run(share, entries=12_000)
    return outcome


def test_kills_among_the_buckets_end_in_the_same_bytes(tmp_path: Path) -> None:
    outcome = live_once(tmp_path)
    assert outcome.violations == ()
    # How many kills there are, and where, depends on the machine.
    assert outcome.tried
