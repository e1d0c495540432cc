"""Many changes one after the other, as in real use: each published, synced, and sent as CSV."""

from __future__ import annotations

from statistics import median
from typing import Final

from scripts.benchmarks import lookups
from scripts.benchmarks.lists import Changes, write_list
from scripts.benchmarks.live import session
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.results import Book, short
from scripts.benchmarks.signed_csv import hand_over
from scripts.benchmarks.tables import percentiles, section, table

_END: Final = 0.2
"""The share of a series at each end; the medians of the two ends are compared."""


# --- measuring --------------------------------------------------------------------------------


def measure(stage: Stage) -> None:
    """Measure a series of changes."""
    plan, results = stage.plan, stage.results
    files = write_list(stage.folder / "list", plan.main)
    coalition = stage.make_nodes()
    coalition.publish([files.changes])
    subscriber = coalition.join("subscriber")
    stage.tools.shell.load(files.ordered, stage.table, files.count)
    coalition.sync(subscriber)
    changes = Changes(stage.folder / "changes", files.count)
    with session(coalition.publisher, subscriber) as now:
        # Take turns, so that a slow minute affects both.
        for delta in (changes.mixed(plan.big_delta) for _ in range(plan.series)):
            taken = now.publish(delta)
            by_csv = hand_over(stage.tools, delta, stage.table)
            for step in ("stage", "publish", "after"):
                results.extend(f"series.{step}", [taken[step]])
            results.extend("series.all", [taken["stage"] + taken["found"]])
            results.extend("series.csv", [by_csv.wall_s])
        for who, running in (("publisher", now.publisher), ("subscriber", now.subscriber)):
            results.put(f"series.{who}.peak", running.peak_mib)
            results.put(f"series.{who}.cpu", running.cpu_s)
    coalition.check_complete(subscriber, changes.live)
    lookups.measure_history(stage, subscriber, delta)


# --- telling ----------------------------------------------------------------------------------


def render(book: Book, plan: Plan) -> list[str]:
    """Return the table on a series of changes."""
    results = book.once
    if not results.has("series.all"):
        return []
    names = ("stage", "publish", "after", "all")
    rows = [
        ("one change, p50 / p99", *(percentiles(results, f"series.{name}") for name in names)),
        ("the same as signed CSV", "-", "-", "-", percentiles(results, "series.csv")),
    ]
    ours, by_csv = (results.samples[f"series.{name}"] for name in ("all", "csv"))
    end = max(1, round(len(ours) * _END))
    peaks = ", ".join(
        f"{who} {short(results.middle(f'series.{who}.peak'))} MiB"
        for who in ("publisher", "subscriber")
    )
    summary = (
        f"All of it: {short(sum(ours))} s, and {short(sum(by_csv))} s as signed CSV: "
        f"{short(sum(by_csv) / sum(ours))} x its speed. The last {end} changes took "
        f"{short(median(ours[-end:]) / median(ours[:end]))} x the time of the first {end}. "
        f"Peak memory of `serve`: {peaks}. Every version of an entry that the last change has "
        f"revised, with its provenance: p50 / p99 {percentiles(results, 'series.provenance')}."
    )
    return section(
        f"{plan.series} changes of {short(plan.big_delta)} operations in a list of "
        f"{short(plan.main)}",
        table(("", "`import`", "`publish`", "from there to found", "from the file to found"), rows),
        [summary],
    )
