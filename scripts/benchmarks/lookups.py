"""Lookups: one by one, a file of many, and while a list is being loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks.lists import (
    REVISED,
    Changes,
    DeltaFiles,
    spread_numbers,
    write_list,
    write_wanted,
)
from scripts.benchmarks.loading import FLOOR_ROWS
from scripts.benchmarks.nodes import ORIGIN, PUBLISHER, Coalition, Party, start_time
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.results import Book, short
from scripts.benchmarks.tables import percentiles, rate, section, table, time
from scripts.benchmarks.workers import Conversation, conversing

_LEAST_S: Final = 0.001
"""The time left for a short command if, under load, its start alone takes longer than that."""

_PASTED: Final = 1_000
_LOADED: Final = "loaded"
_FAR: Final = 1_000_000_000
"""A number larger than those of all entries in a run."""


# --- measuring --------------------------------------------------------------------------------


def measure(stage: Stage, subscriber: Party, size: int) -> None:
    """Measure lookups one by one, hits and misses, and provenance."""
    hits, misses = stage.folder / "hits", stage.folder / "misses"
    count = stage.plan.lookups
    write_wanted(hits, spread_numbers(size, count))
    write_wanted(misses, range(_FAR, _FAR + count))
    numbers = stage.folder / "numbers"
    rows = min(size, FLOOR_ROWS)
    numbers.write_text("".join(f"{rows - number}\n" for number in spread_numbers(rows, count)))
    for who, path, there in (
        ("floor", stage.floor_table, numbers),
        ("table", stage.table, hits),
        ("node", subscriber.store, hits),
        ("provenance", subscriber.store, hits),
    ):
        with _looking(who, path) as looking:
            seconds = looking.ask("each", wanted=str(there), found=True)
            stage.results.extend(f"lookup.{who}.hit", seconds)
            if who in {"table", "node"}:
                seconds = looking.ask("each", wanted=str(misses), found=False)
                stage.results.extend(f"lookup.{who}.miss", seconds)


def measure_history(stage: Stage, subscriber: Party, delta: DeltaFiles) -> None:
    """Measure provenance of entries that have several versions."""
    wanted = stage.folder / "revised"
    with delta.plain.open() as lines, wanted.open("w") as file:
        rows = (line.rstrip("\n").split(",") for line in lines)
        revised = (text for op, text, name in rows if op == "+" and name.startswith(REVISED))
        file.writelines(f"sha256:{text}\n" for text in islice(revised, stage.plan.lookups))
    with _looking("provenance", subscriber.store) as looking:
        seconds = looking.ask("each", wanted=str(wanted), found=True)
    stage.results.extend("series.provenance", seconds)


def measure_bulk(stage: Stage, subscriber: Party, size: int) -> None:
    """Measure a file of many hashes on stdin, and the same in the shell."""
    results = stage.results
    numbers = spread_numbers(size, stage.plan.bulk)
    wanted, plain = stage.folder / "bulk", stage.folder / "bulk.csv"
    write_wanted(wanted, numbers)
    write_wanted(plain, numbers, prefix="")
    used = subscriber.run("lookup", "--file", "-", stdin=wanted, discard_output=True)
    start = median(start_time("lookup") for _ in range(stage.plan.starts))
    results.put_usage("bulk", used, len(numbers))
    results.put("bulk.net", len(numbers) / max(used.wall_s - start, _LEAST_S))
    write_wanted(wanted, spread_numbers(size, _PASTED))
    used = subscriber.run("lookup", "--file", "-", stdin=wanted, discard_output=True)
    results.put("paste", used.wall_s)
    used = stage.tools.shell.find(plain, stage.table)
    results.put_usage("bulk.plain", used, len(numbers))


def measure_busy(
    stage: Stage, coalition: Coalition, subscriber: Party, size: int, changes: Changes
) -> None:
    """Measure lookups while another list is fetched, and while `.import` adds to the table.

    Args:
        stage: where this takes place.
        coalition: the nodes.
        subscriber: the node that fetches, and in which hashes are looked up.
        size: how many entries each of the two lists has.
        changes: the changes of the list in which hashes are looked up.
    """
    files = write_list(stage.folder / "busy-list", size, first=2 * _FAR)
    coalition.add_list(_LOADED, subscriber)
    coalition.publish([files.changes], _LOADED)
    wanted = stage.folder / "busy"
    write_wanted(wanted, filter(changes.is_live, spread_numbers(size, stage.plan.lookups)))
    with coalition.publisher.serving(), _looking("node", subscriber.store) as looking:
        looking.ask("start", wanted=str(wanted))
        subscriber.run("sync", f"{PUBLISHER}/{_LOADED}")
        stage.results.extend("busy.node", looking.ask("stop"))
    coalition.check_complete(subscriber, size, _LOADED)
    stage.tools.shell.let_read(stage.table)
    with _looking("table", stage.table) as looking:
        looking.ask("start", wanted=str(wanted))
        stage.tools.shell.add(files.ordered, stage.table)
        stage.results.extend("busy.table", looking.ask("stop"))


def _looking(who: str, path: Path) -> AbstractContextManager[Conversation]:
    return conversing("in_lookups", who=who, path=str(path), origin=ORIGIN)


# --- telling ----------------------------------------------------------------------------------

_SINGLE: Final = (
    ("lookup.node.hit", "node: hash to its assertions, checked against the signed body, hit"),
    ("lookup.node.miss", "node, miss"),
    ("lookup.provenance.hit", "node: provenance of every version of an entry"),
    ("lookup.table.hit", "the table of `.import`: hash to label, hit"),
    ("lookup.table.miss", "the table of `.import`, miss"),
    ("lookup.floor.hit", "the table of the append floor: number to hash"),
)
_BUSY: Final = (
    ("busy.node", "node, hits, while `hashfed sync` fetches another list of this size"),
    ("busy.table", "the table of `.import`, hits, while `.import` adds another list to it"),
)
_BULK: Final = (
    ("bulk", "`hashfed lookup --file -`"),
    ("bulk.net", "the same, start of Python and imports not counted"),
    ("bulk.plain", "`sqlite3` shell: `.import` and join of the same"),
)


def render(book: Book, plan: Plan) -> list[str]:
    """Return the tables on lookups."""
    sizes = [size for size in sorted(book.sizes) if book.at(size).has("lookup.node.hit")]
    single = table(
        ("p50 / p99", *(f"among {short(size)}" for size in sizes)),
        (
            (title, *(percentiles(book.at(size), name) for size in sizes))
            for name, title in (*_SINGLE, *_BUSY)
            if any(book.at(size).has(name) for size in sizes)
        ),
    )
    bulk_sizes = [size for size in sizes if book.at(size).has("bulk")]
    bulk = table(
        (
            "hashes/s",
            *(f"{short(min(size, plan.bulk))} hits among {short(size)}" for size in bulk_sizes),
        ),
        (
            (title, *(rate(book.at(size), name) for size in bulk_sizes))
            for name, title in _BULK
            if bulk_sizes
        ),
    )
    pasted = ", ".join(f"{time(book.at(size), 'paste')} among {short(size)}" for size in bulk_sizes)
    remark = [f"A pasted thousand, with the start of Python: {pasted}."] if bulk_sizes else []
    return section("Exact lookup", single if sizes else [], bulk, remark)
