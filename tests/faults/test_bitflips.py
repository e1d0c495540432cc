"""Bits that flip in a database file."""

from __future__ import annotations

import pytest

from tests.faults import bitflips
from tests.faults.running import run

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_flip_in_list_data_is_found_and_a_peer_repairs_it() -> None:
    report = run(bitflips.PART, seed=3, count=40, cases=range(40))
    print(report.text())
    assert report.tried == 40
    assert report.violations == []


def test_a_check_that_believes_the_file_is_found_out() -> None:
    report = run(
        bitflips.PART,
        seed=3,
        count=40,
        cases=range(40),
        planted=("tests.faults.file_checked_alone",),
    )
    assert [broken for broken in report.violations if "does not find" in broken.what]
