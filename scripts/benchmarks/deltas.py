"""Changes of a list: their cost, and whether it depends on the size of the list."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Final

from scripts.benchmarks.git import Git
from scripts.benchmarks.lists import Changes, DeltaFiles, write_list
from scripts.benchmarks.live import Session, session
from scripts.benchmarks.nodes import Coalition, Party
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.processes import total
from scripts.benchmarks.results import Book, Results, short, spread
from scripts.benchmarks.signed_csv import hand_over
from scripts.benchmarks.tables import ratio, section, table, time

_OPS: Final = 1_000
_SMALL_LIST: Final = 1_000
_BY_GIT: Final = "add, signed commit, push; fetch, `verify-commit`, diff, apply with the shell"
_STEPS: Final = ("stage", "publish", "after", "found", "all")


# --- measuring --------------------------------------------------------------------------------


def measure(stage: Stage, now: Session, changes: Changes, *, beside_small: bool) -> None:
    """Measure changes of 1,000 operations.

    Args:
        stage: where this takes place.
        now: the publisher of the list and a subscriber.
        changes: makes them.
        beside_small: measure each beside one of a list of 1,000 entries.
    """
    with ExitStack() as stack:
        sides = [("delta", now, changes)]
        if beside_small:
            small, follower = _make_small(stage)
            serving = stack.enter_context(session(small.publisher, follower))
            sides.append(("delta.small", serving, Changes(small.folder / "changes", _SMALL_LIST)))
        times: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in sides}
        made: dict[str, list[DeltaFiles]] = {name: [] for name, _, _ in sides}
        for _ in range(stage.plan.deltas + 1):
            for name, side, some in sides:
                made[name].append(some.mixed(_OPS))
                times[name].append(side.publish(made[name][-1]))
    for who, running in (("publisher", now.publisher), ("subscriber", now.subscriber)):
        stage.results.put(f"delta.{who}.peak", running.peak_mib)
    for name, taken in times.items():
        # The first one meets cold caches and does not count.
        put_times(stage.results, name, taken[1:])
    applied = [hand_over(stage.tools, delta, stage.table) for delta in made["delta"]]
    stage.results.put("delta.csv", median(used.wall_s for used in applied))


def measure_big(stage: Stage, now: Session, changes: Changes, git: Git | None) -> None:
    """Measure one large change, beside the same as signed CSV and by git."""
    delta = changes.mixed(stage.plan.big_delta)
    put_times(stage.results, "big", [now.publish(delta)])
    applied = hand_over(stage.tools, delta, stage.table)
    stage.results.put("big.csv", applied.wall_s)
    if git is not None:
        # The work tree of git has missed the changes before; this one has the same size there.
        git.change_shards(delta.plain)
        used = total(
            [*git.publish(), *git.update(stage.tools.shell, stage.git_table, delta.asserted)]
        )
        stage.results.put("big.git", used.wall_s)


def put_times(results: Results, name: str, taken: list[dict[str, float]]) -> None:
    """Record the medians of what the changes cost."""
    for one in taken:
        one["all"] = one["stage"] + one["found"]
    for step in _STEPS:
        results.put(f"{name}.{step}", median(one[step] for one in taken))


def _make_small(stage: Stage) -> tuple[Coalition, Party]:
    files = write_list(stage.folder / "small-list", _SMALL_LIST)
    coalition = Coalition(stage.folder / "small", stage.commands)
    follower = coalition.join("follower")
    coalition.publish([files.changes])
    coalition.sync(follower)
    return coalition, follower


# --- telling ----------------------------------------------------------------------------------


def render(book: Book, plan: Plan) -> list[str]:
    """Return the tables on changes."""
    results = book.at(plan.main)
    return [
        *section(f"Changes of a list of {short(plan.main)}", _costs(results, plan)),
        *section("A change of 1,000 operations, by size of the list", _by_size(book)),
    ]


def _costs(results: Results, plan: Plan) -> list[str]:
    if not results.has("big.all"):
        return []
    big = short(plan.big_delta)
    rows = [
        (title, *(time(results, f"{name}.{step}") for step in ("stage", "publish", "after", "all")))
        for title, name in (
            (f"{big} operations", "big"),
            ("1,000 operations", "delta"),
            ("1,000 operations, into a list of 1,000", "delta.small"),
        )
        if results.has(f"{name}.all")
    ]
    rows += [
        (title, "-", "-", "-", time(results, name))
        for title, name in (
            (f"{big} operations as signed CSV: sign, verify, apply with the shell", "big.csv"),
            (f"{big} operations by git: {_BY_GIT}", "big.git"),
            ("1,000 operations as signed CSV", "delta.csv"),
        )
        if results.has(name)
    ]
    floor = [plan.big_delta / rate for rate in results.values("floor")]
    rows.append((f"append floor of {big} rows", "-", "-", "-", spread(floor, _milliseconds, " ms")))
    return table(
        (
            "change",
            "`import`",
            "`publish`",
            "from there to found at the peer",
            "from the file to found",
        ),
        rows,
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _by_size(book: Book) -> list[str]:
    rows = []
    for size, results in sorted(book.sizes.items()):
        if results.has("delta.all"):
            steps = (time(results, f"delta.{step}") for step in ("stage", "publish", "after"))
            small = ratio(results, "delta.found", "delta.small.found")
            rows.append((short(size), *steps, time(results, "delta.csv"), small))
    return table(
        (
            "entries",
            "`import`",
            "`publish`",
            "from there to found",
            "signed CSV: sign, verify, apply",
            "start of `publish` to found / the same into 1,000",
        ),
        rows,
    )
