"""Measures nodes on this machine against floors and alternatives. See `scripts/bench`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks import machine, report, smoke
from scripts.benchmarks.bench import Bench
from scripts.benchmarks.plan import PARTS, Plan, Tools
from scripts.benchmarks.processes import BenchError, run, stop_all
from scripts.benchmarks.results import Book
from scripts.benchmarks.shell import Shell
from scripts.benchmarks.signing import Signing
from scripts.benchmarks.workers import work
from tests.harness.signals import end_on_signals

_SIZES: Final = "1k,10k,100k,1M,10M"
_LEAST_SIZE: Final = 1_000
_LEAST_MAIN: Final = 20_000
_EXIT_COLLAPSED: Final = 1
_EXIT_CANNOT: Final = 2


def _parse_sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({_parse_size(part) for part in text.split(",")}))


def _parse_size(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)([kM]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number such as 100k or 1M")
    size = int(found[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[found[2]]
    if size < _LEAST_SIZE:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least {_LEAST_SIZE}")
    return size


def _parse_parts(text: str) -> frozenset[str]:
    parts = frozenset(text.split(","))
    if unknown := parts - set(PARTS):
        raise argparse.ArgumentTypeError(
            f"unknown part {min(unknown)!r}, expected some of {','.join(PARTS)}"
        )
    return parts


def _parse_arguments() -> argparse.Namespace:
    parts = "".join(f"\n  {name:10} {what}" for name, what in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog=f"parts:{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes",
        type=_parse_sizes,
        default=_parse_sizes(_SIZES),
        metavar="N,...",
        help=f"entries of the lists (default {_SIZES}); sizes above 1M are measured once, and the "
        "largest of the others in detail",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often everything is done"
    )
    parser.add_argument(
        "--only",
        type=_parse_parts,
        default=frozenset(PARTS),
        metavar="PART,...",
        help="measure only some parts",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the tables into this document"
    )
    parser.add_argument(
        "--again",
        type=Path,
        metavar="FILE",
        help="measure nothing; print the tables of the figures that --json wrote to this file",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a short run that fails when a ratio has collapsed"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: expected at least 1")
    for option, file in (("--write", arguments.write), ("--again", arguments.again)):
        if file is not None and not file.is_file():
            parser.error(f"{option}: {file} does not exist")
    return arguments


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.smoke:
        return smoke.PLAN
    plan = Plan(sizes=arguments.sizes, rounds=arguments.rounds, parts=arguments.only)
    if plan.main < _LEAST_MAIN:
        raise BenchError(
            f"the largest size up to 1M is {plan.main}, and changes of {plan.big_delta} operations "
            f"need at least {_LEAST_MAIN}: add one to --sizes"
        )
    return plan


def _say(message: str) -> None:
    print(f"scripts/bench: {message}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run: how and where it was started, how much it measures, and its figures."""

    command: str
    machine: dict[str, str]
    plan: Plan
    book: Book

    def save(self, file: Path) -> None:
        """Write every figure to a file."""
        raw = {
            "command": self.command,
            "machine": self.machine,
            "plan": self.plan.export(),
            **self.book.export(),
        }
        file.write_text(json.dumps(raw, indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> _Run:
        """Return the run whose figures are in a file."""
        raw = json.loads(file.read_text())
        return cls(
            command=raw["command"],
            machine=raw["machine"],
            plan=Plan.load(raw["plan"]),
            book=Book.load(raw),
        )


def _measure(plan: Plan, folder: Path, keep: Path | None) -> _Run:
    machine.check_disk(folder, max(plan.sizes))
    ssh_keygen = machine.find_program("ssh-keygen", "openssh-client", _say)
    tools = Tools(
        shell=Shell(machine.find_program("sqlite3", "sqlite3", _say)),
        signing=Signing.create(ssh_keygen, folder / "signing"),
        git=machine.find_program("git", "git", _say),
    )
    described = machine.describe(
        {
            **work(folder, "in_sqlite", "sqlite_versions"),
            "SQLite of the shell": tools.shell.version(),
            "git": run([tools.git, "--version"]).output.strip().removeprefix("git version "),
        }
    )
    bench = Bench(plan=plan, tools=tools, folder=folder, say=_say)
    command = " ".join(["scripts/bench", *sys.argv[1:]])
    done = _Run(command=command, machine=described, plan=plan, book=bench.book)
    try:
        bench.run()
    finally:
        # Do it even after an interruption: half of a long run is worth keeping.
        if keep is not None:
            done.save(keep)
    return done


def _measure_apart(plan: Plan, keep: Path | None) -> _Run:
    """Measure in a temporary folder."""
    machine.check_system()
    with tempfile.TemporaryDirectory(prefix="hashfed-bench-") as folder:
        try:
            return _measure(plan, Path(folder), keep)
        finally:
            # Stop them before their folder is removed.
            stop_all()


def _tell(done: _Run, document: Path | None) -> None:
    tables = report.render(done.book, done.plan, done.machine, done.command)
    print(tables)
    if document is not None:
        report.write_into(document, tables)


def main() -> int:
    """Run the benchmark and return the exit code."""
    arguments = _parse_arguments()
    end_on_signals()
    # Make snapshots only where they are measured.
    os.environ["HASHFED_PUBLISH_SNAPSHOT_OPS"] = "0"
    try:
        if arguments.again is not None:
            done = _Run.load(arguments.again)
        else:
            done = _measure_apart(_plan(arguments), arguments.json)
        _tell(done, arguments.write)
    except BenchError as error:
        _say(str(error))
        return _EXIT_CANNOT
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    failed = smoke.collapsed(done.book, done.plan) if arguments.smoke else []
    for line in failed:
        _say(f"collapsed: {line}")
    return _EXIT_COLLAPSED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
