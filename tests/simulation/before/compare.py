"""Runs seeds by the old simulation and by the new one: every list has to end alike everywhere.

    python -m tests.simulation.before.compare --seeds 1000 --from 0 --jobs 2

What is compared of a run: each line of its trace, how each list stands at each node in the end, the
number of rounds, and the promise that was broken, if one was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from typing import Any

from tests.simulation import remembering, schedule, world
from tests.simulation.before import schedule as old_schedule
from tests.simulation.before import world as old_world

_BATCH = 20


def run(worlds: Any, schedules: Any, seed: int) -> list[str]:  # noqa: ANN401  # two of one shape
    """Return what happens in a seed, line by line, and how it ends."""
    lines: list[str] = []
    made = worlds.World(schedules.draw(seed), None, lines.append)
    try:
        with remembering.remembered(seed):
            made.run()
    except Exception as error:  # noqa: BLE001  # whatever it is, both have to raise it
        lines.append(f"{type(error).__name__} {error}")
    lines += [
        f"node {member.number} {held.origin}: {held.state} {held.reason}, {held.log.start} to "
        f"{held.size}, {held.log.last_leaf.hex()}"
        for member in made.members
        for held in member.store
    ]
    return [*lines, f"{made.rounds} rounds"]


def compare(seeds: range) -> list[tuple[int, str, str]]:
    """Return the seeds that differ, each with the first line that does."""
    found = []
    for seed in seeds:
        old, new = run(old_world, old_schedule, seed), run(world, schedule, seed)
        if old != new:
            pairs = zip_longest(old, new, fillvalue="nothing more")
            found.append((seed, *next(pair for pair in pairs if pair[0] != pair[1])))
    return found


def main() -> int:
    """Compare what is asked for; return 1 if a seed differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.before.compare")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    batches = [seeds[at : at + _BATCH] for at in range(0, len(seeds), _BATCH)]
    began, done, differ = time.monotonic(), 0, 0
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results: Iterator[list[tuple[int, str, str]]] = pool.map(compare, batches)
        for batch, found in zip(batches, results, strict=True):
            done, differ = done + len(batch), differ + len(found)
            for seed, old, new in found:
                print(f"seed {seed}\n  old {old}\n  new {new}", flush=True)
            if done % 200 < _BATCH:
                spent = time.monotonic() - began
                print(f"{done} seeds, {differ} differ, {spent:.0f} s", file=sys.stderr, flush=True)
    print(f"{done} seeds, {differ} differ, {time.monotonic() - began:.0f} s")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
