"""Joining a list that has a long history, by its deltas and by a snapshot of what is in force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from scripts.benchmarks.lists import Changes, DeltaFiles, write_list
from scripts.benchmarks.nodes import LIST, Coalition
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.results import Book, milliseconds, short
from scripts.benchmarks.tables import section, table

_LIST: Final = 100_000
_SMALL_OPS: Final = 20

_HISTORIES: Final = ("revised", "fragmented")


# --- measuring --------------------------------------------------------------------------------


def measure(stage: Stage) -> None:
    """Measure first syncs of lists with a history."""
    size = min(stage.plan.main, _LIST)
    files = write_list(stage.folder / "list", size)
    used = stage.tools.shell.load(files.ordered, stage.table, size)
    stage.results.put("snapshot.import", used.wall_s)
    for history in _HISTORIES:
        folder = stage.folder / history
        folder.mkdir()
        changes = Changes(folder / "changes", size)
        _measure_history(stage, folder, history, files.changes, changes)


def _history(plan: Plan, name: str, changes: Changes) -> list[DeltaFiles]:
    """Make a list's history of revisions only, so that `.import` of the list has as many rows."""
    if name == "revised":
        ops = plan.big_delta
        return [changes.revisions(ops) for _ in range(plan.rewrites * changes.count // ops)]
    return [changes.revisions(_SMALL_OPS) for _ in range(plan.small_deltas)]


def _measure_history(stage: Stage, folder: Path, name: str, first: Path, changes: Changes) -> None:
    coalition = Coalition(folder / "nodes", stage.commands)
    deltas = _history(stage.plan, name, changes)
    coalition.publish([first, *(delta.changes for delta in deltas)])
    results = stage.results
    results.put(f"snapshot.{name}.live", changes.live)
    results.put(f"snapshot.{name}.ops", changes.count + sum(delta.ops for delta in deltas))
    _join(stage, coalition, f"snapshot.{name}.before", changes.live)
    results.put_usage(f"snapshot.{name}.made", coalition.publisher.run("snapshot", LIST))
    _join(stage, coalition, f"snapshot.{name}.after", changes.live)


def _join(stage: Stage, coalition: Coalition, name: str, live: int) -> None:
    """Measure the first sync of a new subscriber."""
    subscriber = coalition.join(name.replace(".", "-"))
    with coalition.publisher.serving():
        used = subscriber.run("sync", "--json")
    told = json.loads(used.output)
    (listed,) = told["lists"]
    stage.results.put_usage(name, used)
    stage.results.put(f"{name}.accept", told["seconds"])
    stage.results.put(f"{name}.bytes", listed["bytes"])
    stage.results.put(f"{name}.by_snapshot", float(listed["bootstrap"] == "snapshot"))
    coalition.check_complete(subscriber, live)


# --- telling ----------------------------------------------------------------------------------


def render(book: Book) -> list[str]:
    """Return the table on joining late."""
    results = book.once
    rows = []
    for name in _HISTORIES:
        prefix = f"snapshot.{name}"
        if not results.has(f"{prefix}.after"):
            continue
        live, ops = (short(results.middle(f"{prefix}.{what}")) for what in ("live", "ops"))
        for when, title in (("before", "no snapshot"), ("after", "a snapshot at its end")):
            by = results.middle(f"{prefix}.{when}.by_snapshot")
            rows.append(
                (
                    f"{ops} operations, {live} in force, {title}",
                    "snapshot" if by else "deltas",
                    f"{milliseconds(results.middle(f'{prefix}.{when}.accept'))} ms",
                    short(results.middle(f"{prefix}.{when}.bytes")),
                    short(results.middle(f"{prefix}.{when}.peak")),
                )
            )
        made = milliseconds(results.middle(f"{prefix}.made"))
        rows.append(("`hashfed snapshot` of it, whole process", "-", f"{made} ms", "-", "-"))
    if rows:
        plain = milliseconds(results.middle("snapshot.import"))
        rows.append(("`.import` of as many, sorted", "-", f"{plain} ms", "-", "-"))
    return section(
        "Joining a list with a history",
        table(("list", "served by", "time", "bytes received", "peak MiB"), rows),
    )
