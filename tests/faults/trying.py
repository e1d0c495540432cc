"""Tries a few cases of a part in this process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from scripts.faulting.part import Part, Share
from scripts.faulting.report import Report


def attempt(
    part: Part, folder: Path, *, cases: int, seed: int, first: int = 0, planted: str = ""
) -> Report:
    """Try cases; return what they have come to."""
    share = Share(
        seed=seed,
        cases=range(first, first + cases),
        count=cases,
        folder=folder,
        planted=(f"tests.faults.{planted}",) if planted else (),
    )
    report = Report(part=part.name, seed=seed)
    for outcome in part.run(share):
        report.add(outcome)
    print(report.text())
    return report


def found(report: Report) -> Counter[str]:
    """Return the first words of each violation."""
    return Counter(" ".join(violation.what.split()[:4]) for violation in report.violations)
