"""Measures a pair of nodes on this machine beside floors and alternatives. See `scripts/bench`."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import machine
import report
from nodes import work
from processes import BenchError, end_on_signals, run, stop_all
from results import Results
from rounds import PARTS, Bench, Plan

_SMOKE_SIZE: Final = 20_000
_LEAST_SIZE: Final = 10_000
_EXIT_COLLAPSED: Final = 1
_EXIT_CANNOT: Final = 2


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
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--size", type=_parse_size, default=1_000_000, metavar="N", help="entries (default 1M)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often everything is done"
    )
    parser.add_argument(
        "--only",
        type=_parse_parts,
        default=frozenset(PARTS),
        metavar="PART,...",
        help=f"measure only some of {','.join(PARTS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file")
    parser.add_argument(
        "--smoke", action="store_true", help="a short run that fails when a ratio has collapsed"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: expected at least 1")
    if arguments.write is not None and not arguments.write.is_file():
        parser.error(f"--write: {arguments.write} does not exist")
    return arguments


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.smoke:
        return Plan(
            size=_SMOKE_SIZE,
            rounds=1,
            parts=frozenset(PARTS),
            single_ops=5,
            batches=2,
            deltas=1,
            lookups=500,
            starts=1,
        )
    return Plan(size=arguments.size, rounds=arguments.rounds, parts=arguments.only)


def _say(message: str) -> None:
    print(f"scripts/bench: {message}", file=sys.stderr, flush=True)


def _measure(arguments: argparse.Namespace, folder: Path) -> int:
    plan = _plan(arguments)
    machine.check_disk(folder, plan.size)
    shell = machine.find_sqlite_shell(_say)
    described = machine.describe(
        work(folder, "in_sqlite", "sqlite_version"), run([shell, "--version"]).output.strip()
    )
    results = Results()
    Bench(plan=plan, folder=folder, shell=shell, results=results, say=_say).run_all()
    command = " ".join(["scripts/bench", *sys.argv[1:]])
    tables = report.render(results, plan, described, command)
    print(tables)
    if arguments.json is not None:
        raw = {
            "command": command,
            "machine": described,
            "plan": {**asdict(plan), "parts": sorted(plan.parts)},
            "rounds": results.rounds,
            "samples": results.samples,
        }
        arguments.json.write_text(json.dumps(raw, indent=1) + "\n")
    if arguments.write is not None:
        report.write_into(arguments.write, tables)
    failed = report.collapsed(results) if arguments.smoke else []
    for line in failed:
        _say(f"collapsed: {line}")
    return _EXIT_COLLAPSED if failed else 0


def main() -> int:
    """Run the benchmark and return the exit code."""
    arguments = _parse_arguments()
    end_on_signals()
    try:
        machine.check_system()
        with tempfile.TemporaryDirectory(prefix="hashfed-bench-") as folder:
            try:
                return _measure(arguments, Path(folder))
            finally:
                # Before their folder goes.
                stop_all()
    except BenchError as error:
        _say(str(error))
        return _EXIT_CANNOT
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
