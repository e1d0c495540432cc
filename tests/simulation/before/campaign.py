"""Many runs, and what to say of one that fails."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.simulation.before.member import Parts
from tests.simulation.before.oracle import ViolationError
from tests.simulation.before.remembering import remembered
from tests.simulation.before.schedule import Event, Scenario, draw
from tests.simulation.before.world import World

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A promise that was broken.

    Attributes:
        seed: in which run.
        promise: which one.
        detail: how.
        events: the fewest events that break it, as far as they were found.
    """

    seed: int
    promise: str
    detail: str
    events: tuple[Event, ...]


def try_seed(seed: int, hits: Counter[str], parts: Parts | None = None) -> ViolationError | None:
    """Run one seed; add what happened to `hits`, and return the promise that was broken."""
    world = World(draw(seed), parts)
    error = _try(world)
    hits.update(world.hits)
    return error


def _try(world: World) -> ViolationError | None:
    try:
        with remembered(world.seed):
            world.run()
    except ViolationError as error:
        return error
    except Exception as error:  # noqa: BLE001  # whatever a node raises is a finding
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return ViolationError("no unforeseen error", f"{type(error).__name__} at {where}: {error}")
    return None


def trace(
    scenario: Scenario, parts: Parts | None = None
) -> tuple[list[str], ViolationError | None]:
    """Run a scenario; return a line for each thing that happened, and the promise broken."""
    lines: list[str] = []
    world = World(scenario, parts, lines.append)
    return lines, _try(world)


def explain(seed: int, parts: Parts | None = None) -> Failure | None:
    """Return how a seed fails, with as few of its events as break the same promise."""
    scenario = draw(seed)
    error = _try(World(scenario, parts))
    if error is None:
        return None

    def fails(events: Sequence[Event]) -> bool:
        found = _try(World(scenario.with_events(events), parts))
        return found is not None and found.promise == error.promise

    events = minimize(scenario.events, fails)
    last = _try(World(scenario.with_events(events), parts)) or error
    return Failure(seed, error.promise, str(last), tuple(events))


def minimize(events: Sequence[_T], fails: Callable[[Sequence[_T]], bool]) -> list[_T]:
    """Return a part of the events that still fails and does not without any one of them.

    Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
    2002), with complements only.
    """
    kept = list(events)
    parts = 2
    while kept:
        size = max(1, -(-len(kept) // parts))
        for at in range(0, len(kept), size):
            fewer = kept[:at] + kept[at + size :]
            if fails(fewer):
                kept, parts = fewer, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return kept


def run_seeds(seeds: Iterable[int], parts: Parts | None = None) -> tuple[Counter[str], list[int]]:
    """Run seeds; return what happened in all of them, and which ones fail."""
    hits: Counter[str] = Counter()
    failed = [seed for seed in seeds if try_seed(seed, hits, parts) is not None]
    return hits, failed
