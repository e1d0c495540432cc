"""System calls that fail, one at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.faults import syscalls
from tests.faults.strace import why_not
from tests.faults.trying import attempt

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "strace works"),
]


@pytest.mark.parametrize("part", range(2))
def test_whichever_call_fails_the_operation_is_run_again_and_done(
    part: int, tmp_path: Path
) -> None:
    report = attempt(syscalls.PART, tmp_path, cases=20, first=20 * part, seed=4)
    assert report.tried >= 15
    assert {kind.rpartition(" ")[2] for kind in report.hit} >= {"EIO", "ENOSPC", "KILL"}
    assert report.violations == []


@pytest.mark.parametrize("operation", ["repair", "restore"])
def test_whichever_call_fails_of_what_replaces_a_store_it_is_done_when_run_again(
    operation: str, tmp_path: Path
) -> None:
    part = replace(syscalls.PART, run=partial(syscalls.run, only=f"{operation}: "))
    report = attempt(part, tmp_path, cases=20, seed=5)
    assert report.tried >= 15
    assert report.violations == []


def test_a_file_that_was_not_written_and_nobody_noticed_is_found_out(tmp_path: Path) -> None:
    writing_the_mark = replace(syscalls.PART, run=partial(syscalls.run, only=".high-water."))
    report = attempt(writing_the_mark, tmp_path, cases=60, seed=4, planted="kept_silent")
    assert [violation for violation in report.violations if "mark" in violation.what]
