"""The command: which profile and seeds to run, and what to say of them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.campaign import Failure, explain, run_seeds, trace
from tests.simulation.faults import FAULTS
from tests.simulation.scale import profile
from tests.simulation.schedule import draw

_DESCRIPTION = "Runs nodes in virtual time: a few under seeded faults, or very many."
_BATCH = 50
_EXPLAINED = 5
"""Failures that are minimized; more of them would say the same."""


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=_DESCRIPTION)
    parser.add_argument(
        "--seed", type=int, metavar="S", help="run one seed; with --members, 1 if left out"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    faults = parser.add_argument_group("faults", "few nodes with every kind of fault")
    faults.add_argument("--seeds", type=int, metavar="N", help="run this many seeds")
    faults.add_argument(
        "--from", type=int, default=0, dest="first", metavar="S", help="the first seed"
    )
    faults.add_argument(
        "--trace", action="store_true", help="with --seed: show everything that happens"
    )
    faults.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (1)")
    members = parser.add_argument_group("members", "a coalition of many, and docs/scale.md")
    profile.add_options(members)
    arguments = parser.parse_args()
    is_scale = arguments.members is not None
    _refuse_others(parser, faults if is_scale else members, arguments, is_scale=is_scale)
    if is_scale:
        profile.check(parser, arguments)
        return arguments
    if (arguments.seeds is None) == (arguments.seed is None):
        parser.error("expected --seeds, --seed or --members")
    if arguments.trace and arguments.seed is None:
        parser.error("--trace needs --seed")
    if (arguments.seeds is not None and arguments.seeds < 1) or arguments.jobs < 1:
        parser.error("--seeds and --jobs: expected at least 1")
    return arguments


def _refuse_others(
    parser: argparse.ArgumentParser,
    others: argparse._ArgumentGroup,
    arguments: argparse.Namespace,
    *,
    is_scale: bool,
) -> None:
    """Exit with an error if an option of the other profile is given."""
    for option in others._group_actions:
        if getattr(arguments, option.dest) != option.default:
            name = option.option_strings[0]
            parser.error(f"{name} {'does not go with' if is_scale else 'needs'} --members")


def main() -> int:
    """Run what is asked for and return the exit code: 1 when a promise was broken."""
    arguments = _parse_arguments()
    if arguments.members is not None:
        return profile.simulate(arguments, " ".join(["scripts/simulate", *sys.argv[1:]]))
    # Of what runs: the checkout may go on meanwhile.
    commit = _commit()
    if arguments.seed is not None:
        return _run_one(arguments.seed, commit, show=arguments.trace)
    began = time.monotonic()
    hits: Counter[str] = Counter()
    failures: list[Failure] = []
    failed: list[int] = []
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    done = 0
    for some, bad in _run(seeds, arguments.jobs):
        done = min(done + _BATCH, len(seeds))
        hits.update(some)
        failed += bad
        found = (explain(seed) for seed in bad[: _EXPLAINED - len(failures)])
        failures += [failure for failure in found if failure is not None]
        print(f"\r{done} of {len(seeds)} seeds, {len(failed)} failed", end="", file=sys.stderr)
        if arguments.json is not None:
            # After each batch: a long run that is interrupted has counted for something.
            figures = {
                "commit": commit,
                "seeds": [seeds.start, seeds.start + done],
                "seconds": round(time.monotonic() - began, 1),
                "jobs": arguments.jobs,
                "failed": failed,
                "failures": [_describe(failure) for failure in failures],
                "kinds": sorted(name for name in FAULTS if hits[f"event {name}"]),
                "counts": dict(sorted(hits.items())),
            }
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(file=sys.stderr)
    _report(hits, len(seeds), failed, time.monotonic() - began)
    for failure in failures:
        _show(failure, commit)
    return 1 if failed else 0


def _describe(failure: Failure) -> dict[str, object]:
    return {
        "seed": failure.seed,
        "promise": failure.promise,
        "detail": failure.detail,
        "events": list(map(str, failure.events)),
    }


def _run(seeds: range, jobs: int) -> Iterator[tuple[Counter[str], list[int]]]:
    batches = [seeds[at : at + _BATCH] for at in range(0, len(seeds), _BATCH)]
    if jobs == 1:
        yield from map(run_seeds, batches)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_seeds, batches)


def _run_one(seed: int, commit: str, *, show: bool) -> int:
    lines, error = trace(draw(seed))
    if show:
        print("\n".join(lines))
    if error is None:
        print(f"seed {seed}: every promise was kept")
        return 0
    failure = explain(seed)
    if failure is not None:
        _show(failure, commit)
    return 1


def _show(failure: Failure, commit: str) -> None:
    print(f"seed {failure.seed} at commit {commit} breaks a promise\n  {failure.detail}")
    print("  with as few events as were found to do it:")
    for event in failure.events:
        print(f"  {event}")


def _report(hits: Counter[str], seeds: int, failed: list[int], seconds: float) -> None:
    kinds = [name for name in FAULTS if hits[f"event {name}"]]
    print(f"{seeds} seeds in {seconds:.0f} s, {len(kinds)} kinds of fault")
    for name, count in sorted(hits.items()):
        print(f"{count:10}  {name}")
    print(f"{len(failed)} seeds failed{': ' if failed else ''}{', '.join(map(str, failed[:20]))}")


def _commit() -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
