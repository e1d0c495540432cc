"""Kills among the buckets of a snapshot, on a list that is small but has many."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.faulting import large
from scripts.faulting.part import Share
from scripts.faulting.report import Outcome

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]


def live_once(folder: Path, *planted: str) -> Outcome:
    share = Share(
        seed=1,
        cases=range(1),
        count=1,
        folder=folder,
        planted=("scripts.faulting.small_buckets", *planted),
    )
    (outcome,) = large.run(share, entries=12_000)
    return outcome


def test_kills_among_the_buckets_end_in_the_same_bytes(tmp_path: Path) -> None:
    outcome = live_once(tmp_path)
    assert outcome.violations == ()
    assert outcome.hit["sync"] > 1


def test_buckets_that_are_forgotten_at_a_restart_are_found_out(tmp_path: Path) -> None:
    outcome = live_once(tmp_path, "tests.faults.forgotten_buckets")
    assert outcome.violations
