"""Tries a few cases of a part in this process."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.faults.part import Part, Share
from tests.faults.report import Report


def attempt(
    part: Part, folder: Path, *, cases: int, seed: int, first: int = 0, planted: str = ""
) -> Report:
    """Try cases, with a planted bug only until it is found; return the report."""
    share = Share(
        seed=seed,
        cases=range(first, first + cases),
        count=cases,
        folder=folder,
        planted=(f"tests.faults.{planted}",) if planted else (),
    )
    report = Report(part=part.name, seed=seed)
    with closing(part.run(share)) as outcomes:
        for outcome in outcomes:
            report.add(outcome)
            if planted and report.violations:
                break
    print(report.text())
    return report
