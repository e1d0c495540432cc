"""Checks a short run for ratios that noise does not explain."""

from __future__ import annotations

from statistics import median
from typing import Final

from scripts.benchmarks.kinds import SINGLE
from scripts.benchmarks.plan import PARTS, Plan
from scripts.benchmarks.results import Book, Results, short

PLAN: Final = Plan(
    sizes=(1_000, 20_000),
    rounds=1,
    parts=frozenset(PARTS),
    single_ops=4,
    batches=1,
    deltas=1,
    lookups=500,
    starts=1,
    kinds=("sha256", "triples"),
    kind_size=1_000,
    replayed=5,
    series=2,
    subscribers=(1, 10),
    fanout_ops=5,
    fanout_batches=1,
    small_deltas=5,
    rewrites=1,
)
"""It takes seconds, and says nothing about speed."""


def collapsed(book: Book, plan: Plan) -> list[str]:
    """Return what is slower than noise explains; a small run must not fail by chance.

    The bounds are several times below the usual values: they catch work that has become quadratic
    and a network path that waits, but not a slow machine.
    """
    main, once = book.at(plan.main), book.once
    few, many = min(plan.subscribers), max(plan.subscribers)
    found = []
    for title, value, least in (
        ("sync against .import", _ratio(main, "sync.accept", "import_shuffled"), 0.1),
        ("publish against .import", _ratio(main, "published", "import_shuffled"), 0.01),
        ("publish and sync against git", _ratio(main, "git.whole", "whole"), 0.02),
        (
            "10,000 operations at the peer against signed CSV",
            _ratio(main, "big.csv", "big.all"),
            0.02,
        ),
        (
            "1,000 operations into 1,000 entries against the whole list",
            _ratio(main, "delta.small.found", "delta.found"),
            0.1,
        ),
        ("latency, against a second", 1.0 / main.percentile("live.1.found", 50), 1.0),
        ("lookups during a load, against a second", 1.0 / main.percentile("busy.node", 99), 1.0),
        (
            "found with few subscribers against many",
            once.percentile(f"fanout.{few}.1.found", 50)
            / once.percentile(f"fanout.{many}.1.found", 50),
            0.05,
        ),
        ("bytes on the wire, against 60", 60 / book.of(SINGLE).middle("wire"), 1.0),
        ("memory of the sync, against 400 MiB", 400 / main.middle("sync.peak"), 1.0),
    ):
        if value < least:
            found.append(f"{title}: got {short(value)}, expected at least {least}")
    return found


def _ratio(results: Results, above: str, below: str) -> float:
    return median(results.ratios(above, below))
