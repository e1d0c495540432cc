"""Shows that every bug that was fixed, and every protection that is taken away, is noticed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.museum.copies import Copy, Outcome, Run
from tests.museum.exhibits import Exhibit, ExhibitError, read_exhibits

_ROOT: Final = Path(__file__).resolve().parents[2]
_SHOWN_LINES: Final = 15
_WORDS: Final = {
    Outcome.FAILED: "caught",
    Outcome.PASSED: "MISSED",
    Outcome.BROKEN: "BROKEN",
}


class Verdict(NamedTuple):
    """What became of one exhibit."""

    exhibit: Exhibit
    word: str
    seconds: float


def main() -> int:
    """Run the program; return its exit code."""
    options = _parse(sys.argv[1:])
    try:
        exhibits = read_exhibits(options.exhibits)
    except ExhibitError as error:
        print(f"scripts/museum: {error}", file=sys.stderr)
        return 2
    wanted = options.only or [exhibit.name for exhibit in exhibits]
    if unknown := set(wanted) - {exhibit.name for exhibit in exhibits}:
        print(f"scripts/museum: there is no {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    exhibits = [exhibit for exhibit in exhibits if exhibit.name in wanted]
    if options.list:
        for exhibit in exhibits:
            print(f"{exhibit.name} ({exhibit.kind})")
            print(f"    {exhibit.what}\n    {exhibit.catch}")
        return 0
    with TemporaryDirectory(prefix="museum-") as folder:
        verdicts = _show(Copy(_ROOT, Path(folder, "copy").resolve()), exhibits, options.timeout)
    _print_table(verdicts)
    return 0 if all(verdict.word == "caught" for verdict in verdicts) else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/museum", description=__doc__)
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this one; may be given more than once"
    )
    parser.add_argument(
        "--exhibits",
        type=Path,
        default=_ROOT / "tests" / "museum",
        metavar="FOLDER",
        help="the folder of the exhibits (default: tests/museum)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long one command may take (default: 1800)",
    )
    return parser.parse_args(arguments)


def _show(copy: Copy, exhibits: Iterable[Exhibit], timeout_seconds: float) -> list[Verdict]:
    """Run the command of each exhibit without its bug, and with it."""
    sound: dict[str, Run] = {}
    verdicts = []
    for exhibit in exhibits:
        command = exhibit.catch
        if command not in sound:
            sound[command] = copy.run(command, timeout_seconds)
        run = sound[command]
        if run.outcome is not Outcome.PASSED:
            word = "FAILS WITHOUT"
        else:
            try:
                with copy.broken(exhibit):
                    run = copy.run(command, timeout_seconds)
            except ExhibitError as error:
                print(error, flush=True)
                word = "DOES NOT APPLY"
            else:
                word = _WORDS[run.outcome]
        verdicts.append(Verdict(exhibit, word, run.seconds))
        print(f"{exhibit.name}: {word} ({run.seconds:.1f} s)", flush=True)
        if word != "caught":
            print("\n".join(run.output.splitlines()[-_SHOWN_LINES:]), flush=True)
    return verdicts


def _print_table(verdicts: Sequence[Verdict]) -> None:
    print("\n| exhibit | kind | verdict | seconds | command |\n| --- | --- | --- | ---: | --- |")
    for exhibit, word, seconds in verdicts:
        print(f"| {exhibit.name} | {exhibit.kind} | {word} | {seconds:.1f} | `{exhibit.catch}` |")
    caught = sum(verdict.word == "caught" for verdict in verdicts)
    print(f"\n{caught} of {len(verdicts)} are caught")


if __name__ == "__main__":
    sys.exit(main())
