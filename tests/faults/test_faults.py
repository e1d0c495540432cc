"""The program `scripts/faults` itself: shares, reports, exit codes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults.invariants import Ledger, require_documented
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome, Report
from tests.faults.running import run

_PROGRAM = Path(__file__).parents[2] / "scripts" / "faults"


def _some_break(share: Share) -> Generator[Outcome, None, None]:
    for case in share.cases:
        with share.scratch(case) as folder:
            assert folder.exists()
        if case == 9:
            yield Outcome(case, 0, skipped="no such thing here")
        else:
            violations = (f"{share.random(case).random()}",) if case % 5 == 0 else ()
            yield Outcome(case, 2, {"even": 1 - case % 2, "odd": case % 2}, violations)


def _fails(share: Share) -> Generator[Outcome, None, None]:
    yield Outcome(share.cases[0])
    raise RuntimeError("the harness itself")


_PART = Part(name="some", summary="some break", count=10, run=_some_break)


@pytest.mark.slow
def test_what_is_found_follows_from_the_seed_and_not_from_how_the_work_is_shared() -> None:
    one, two = (run(_PART, seed=3, count=10, cases=range(10), jobs=jobs) for jobs in (1, 2))
    assert one.complete
    assert one.tried == two.tried == 18
    assert one.hit == two.hit == {"even": 5, "odd": 4}
    assert one.skipped == {"no such thing here": 1}
    assert set(one.violations) == set(two.violations)
    (again,) = run(_PART, seed=3, count=10, cases=range(5, 6)).violations
    assert again in one.violations
    assert again.command == "scripts/faults some --seed 3 --case 5"
    other = run(_PART, seed=4, count=10, cases=range(10))
    assert set(other.violations).isdisjoint(one.violations)


@pytest.mark.slow
def test_a_harness_that_fails_says_nothing_about_the_program() -> None:
    report = run(Part("bad", "fails", 1, _fails), seed=1, count=1, cases=range(1))
    assert not report.complete
    assert "the harness itself" in report.failure
    assert "THE HARNESS FAILED" in report.text()


def test_a_report_names_what_repeats_a_violation_and_what_was_skipped() -> None:
    report = Report(part="some", seed=3)
    report.add(Outcome(7, 1, {"EIO": 1}, ("all is lost",)))
    report.add(Outcome(8, skipped="needs strace"))
    text = report.text()
    assert "1 tried, 1 violations" in text
    assert "VIOLATION: all is lost\n  again: scripts/faults some --seed 3 --case 7" in text
    assert "SKIPPED 1 times: needs strace" in text
    assert json.loads(json.dumps(report.json()))["violations"][0]["what"] == "all is lost"


def test_the_ledger_knows_what_was_signed_twice_and_what_is_gone() -> None:
    ledger = Ledger("a.example/x")
    ledger.see("a", {0: "00", 1: "11"})
    ledger.acknowledge("a", 2)
    with pytest.raises(Broken, match="position 1 was signed twice"):
        ledger.see("b", {1: "22"})
    with pytest.raises(Broken, match=r"a has 1 positions .* and had 2"):
        ledger.see("a", {0: "00"})


def test_an_exit_code_that_is_not_documented_and_a_traceback_are_broken_promises() -> None:
    require_documented(74, "error: the disk", of="publish")
    require_documented(-9, "", of="publish", killed=True)
    for code, text in ((-9, ""), (-11, ""), (5, ""), (1, "Traceback (most recent call last)")):
        with pytest.raises(Broken):
            require_documented(code, text, of="publish")
    assert judged(lambda: require_documented(5, "", of="x"))
    assert judged(lambda: require_documented(0, "", of="x")) == ()


@pytest.mark.slow
def test_the_program_says_what_it_does_not_know() -> None:
    done = subprocess.run([_PROGRAM, "earthquakes"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "kills" in done.stderr
