"""Breaks what a node stands on, and counts what it survives. See `scripts/faults`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Final

from tests.faults.parts import PARTS
from tests.faults.report import Report
from tests.faults.running import ENDLESS, run

_EXIT_BROKEN: Final = 1
_EXIT_HARNESS: Final = 70
_EXIT_INTERRUPTED: Final = 130
_TELL_SECONDS: Final = 10.0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description=__doc__,
        epilog="parts: " + "; ".join(f"{part.name}: {part.summary}" for part in PARTS.values()),
    )
    parser.add_argument("part", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--count", type=int, metavar="N", help="how many (default: as many as the part has)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="default 1")
    parser.add_argument("--case", type=int, metavar="N", help="only this case")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this case")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave the files of violations in this new folder"
    )
    arguments = parser.parse_args()
    if arguments.jobs < 1 or (arguments.count is not None and arguments.count < 1):
        parser.error("--jobs and --count: expected 1 or more")
    if arguments.keep is not None and arguments.keep.exists():
        parser.error(f"--keep: {arguments.keep} exists already")
    return arguments


def _cases(arguments: argparse.Namespace, count: int | None) -> range:
    """Return the numbers of the cases that were asked for."""
    if arguments.case is not None:
        return range(arguments.case, arguments.case + 1)
    return range(arguments.first, ENDLESS if count is None else count)


class _Progress:
    """Reports at once what did not hold, and from time to time how far the run is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _TELL_SECONDS
        self._told = 0

    def __call__(self, report: Report) -> None:
        for violation in report.violations[self._told :]:
            print(f"{violation.command}\n{violation.what}", file=sys.stderr, flush=True)
        self._told = len(report.violations)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_SECONDS
            print(
                f"scripts/faults: {report.part}: {report.tried:,} tried, "
                f"{len(report.violations)} violations, {report.seconds:,.0f} s",
                file=sys.stderr,
                flush=True,
            )


def main() -> int:
    """Run one part and return the exit code: 1 when a promise was broken."""
    arguments = _parse_arguments()
    part = PARTS[arguments.part]
    # A signal that ends it must also end what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    count = part.count if arguments.count is None else arguments.count
    report = run(
        part,
        seed=arguments.seed,
        count=count,
        cases=_cases(arguments, count),
        jobs=arguments.jobs,
        keep=arguments.keep,
        tell=_Progress(),
    )
    print(report.text())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.json(), indent=1) + "\n", encoding="utf-8")
    if report.failure:
        return _EXIT_HARNESS
    if report.violations:
        return _EXIT_BROKEN
    return 0 if report.complete else _EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
