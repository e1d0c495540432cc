"""A list on its way from publisher to subscriber, and the cost of loading it in other ways."""

from __future__ import annotations

import json
from statistics import median
from typing import Final

from scripts.benchmarks.git import Git
from scripts.benchmarks.lists import ListFiles, spread_numbers, write_wanted
from scripts.benchmarks.nodes import LIST, ORIGIN, Coalition, Party, start_time
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.processes import total
from scripts.benchmarks.results import Book, Results, short, spread
from scripts.benchmarks.tables import rate, ratio, section, table, time
from scripts.benchmarks.workers import work

FLOOR_ROWS: Final = 1_000_000
"""The most rows of the append floor, whose rate does not depend on their number."""

_SHA256_BYTES: Final = 32
_CHECKED_DELTAS: Final = 20
_FOUND: Final = 1_000
_MICRO: Final = 1e6


# --- measuring --------------------------------------------------------------------------------


def load_otherwise(stage: Stage, files: ListFiles) -> None:
    """Measure the append floor, `.import`, and signed CSV."""
    results, count = stage.results, files.count
    append_rows(stage, count, _SHA256_BYTES)
    ordered = stage.folder / "ordered.db"
    used = {}
    for name, source, database in (
        ("import_shuffled", files.shuffled, stage.table),
        ("import_ordered", files.ordered, ordered),
    ):
        used[name] = stage.tools.shell.load(source, database, count)
        results.put_usage(name, used[name], count)
        results.put(f"{name}.bytes", database.stat().st_size / count)
    # This one is not needed any more, and would take up page cache.
    ordered.unlink()
    signed = stage.tools.signing.sign(files.ordered)
    verified = stage.tools.signing.verify(files.ordered)
    loaded = total([verified, used["import_ordered"]])
    results.put("csv.publish", signed.wall_s)
    results.put("csv.load", loaded.wall_s)
    results.put("csv.whole", signed.wall_s + loaded.wall_s)
    results.put_usage("csv", loaded, count)
    results.put("csv.bytes", files.ordered.stat().st_size / count)


def append_rows(stage: Stage, count: int, width: int) -> None:
    """Measure the append floor for entries whose hashes have this many bytes."""
    rows, path = min(count, FLOOR_ROWS), str(stage.floor_table)
    done = work(stage.folder, "in_sqlite", "append_floor", path=path, rows=rows, width=width)
    stage.results.put("floor", rows / done["seconds"])
    stage.results.put("floor.bytes", done["bytes"] / rows)


def load_by_git(stage: Stage, files: ListFiles) -> Git:
    """Measure git from the publisher's work tree to a table at the subscriber."""
    git = Git.create(stage.tools.git, stage.tools.signing, stage.folder / "git")
    # The files are in the order in which git keeps them; writing them is not counted.
    git.write_shards(files.ordered)
    published = total(git.publish())
    loaded = total(git.load(stage.tools.shell, stage.git_table, files.count))
    stage.results.put_usage("git.publish", published)
    stage.results.put_usage("git.load", loaded)
    stage.results.put("git.whole", published.wall_s + loaded.wall_s)
    stage.results.put("git.bytes", git.transferred_bytes() / files.count)
    return git


def publish(stage: Stage, publisher: Party, files: ListFiles) -> None:
    """Measure import and publish."""
    used = []
    for name, arguments in (
        ("stage", ("import", LIST, files.changes)),
        ("publish", ("publish", LIST)),
    ):
        used.append(publisher.run(*arguments))
        stage.results.put_usage(name, used[-1], files.count)
    stage.results.put("published", files.count / total(used).wall_s)
    stage.results.put("published.wall", total(used).wall_s)


def sync(stage: Stage, coalition: Coalition, subscriber: Party, count: int) -> None:
    """Measure the first sync of a subscriber, and check that everything came."""
    results = stage.results
    with coalition.publisher.serving() as server:
        served = server.cpu_s
        used = subscriber.run("sync", "--json")
        results.put("serve.cpu", server.cpu_s - served)
        results.put("serve.peak", server.peak_mib)
        results.put("sync.idle", subscriber.run("sync").wall_s)
    accepted_s = json.loads(used.output)["seconds"]
    results.put_usage("sync", used, count)
    results.put("sync.wall", used.wall_s)
    results.put("sync.accept.wall", accepted_s)
    results.put("sync.accept", count / accepted_s)
    if count == stage.plan.main:
        results.put("start", median(start_time("sync") for _ in range(stage.plan.starts)))
    results.put("whole", results.rounds[-1]["published.wall"] + used.wall_s)
    coalition.check_complete(subscriber, count)
    wanted = stage.folder / "check"
    write_wanted(wanted, spread_numbers(count, _FOUND))
    stage.commands.ask("find_all", home=str(subscriber.home), wanted=str(wanted))
    checked = stage.commands.ask(
        "check_behind", home=str(subscriber.home), origin=ORIGIN, most=_CHECKED_DELTAS
    )
    results.put("check", checked["ops"] / checked["seconds"])
    results.put("sync.all", 1 / (accepted_s / count + checked["seconds"] / checked["ops"]))
    for who, party in (("publisher", coalition.publisher), ("subscriber", subscriber)):
        results.put(f"{who}.bytes", coalition.database_bytes(party) / count)


# --- telling ----------------------------------------------------------------------------------

_BY_GIT: Final = "256 files; add, signed commit, push; clone, `verify-commit`, checkout, `.import`"
_RATES: Final = (
    ("floor", "append floor: ready rows, integer key, no check"),
    ("import_shuffled", "`sqlite3` `.import`, the list in its owner's order"),
    ("import_ordered", "`sqlite3` `.import`, the list sorted beforehand"),
    ("csv", "signed CSV: verified with `ssh-keygen`, then `.import` sorted"),
    ("stage", "`hashfed import` at the publisher, owner's order"),
    ("publish", "`hashfed publish`"),
    ("published", "both: from a file to signed deltas"),
    ("sync.accept", "**`hashfed sync`: fetched, verified, durable, found by lookup**"),
    ("check", "checks behind acceptance: operations trees and state digests"),
    ("sync.all", "`hashfed sync` and those checks of all of it, one after the other"),
    ("sync", "`hashfed sync`: whole process, with the start of Python"),
)
_REFERENCES: Final = ("floor", "import_shuffled", "import_ordered")


def render(book: Book, plan: Plan) -> list[str]:
    """Return the tables on loading."""
    results = book.at(plan.main)
    rates = table(
        ("what", "entries/s", "/ append floor", "/ `.import`", "/ `.import` sorted"),
        (
            (title, rate(results, name), *(ratio(results, name, other) for other in _REFERENCES))
            for name, title in _RATES
            if results.has(name)
        ),
    )
    return [
        *section(f"Loading {short(plan.main)} entries", rates),
        *section("From the publisher's file to the subscriber's table", _ways(results)),
        *section("By size", _by_size(book)),
        *section("Time of one command", _fixed(results)),
        *section("Processor time and memory", _memory(book, plan)),
        *section("Bytes per entry", _bytes(results)),
    ]


def _ways(results: Results) -> list[str]:
    return table(
        ("way", "publish", "receive", "both", "time of this program / time of that way"),
        (
            (
                title,
                *(time(results, name) for name in names),
                ratio(results, "whole", names[-1]),
            )
            for title, names in (
                (
                    "`hashfed import`, `publish`; `hashfed sync`",
                    ("published.wall", "sync.wall", "whole"),
                ),
                (
                    "signed CSV: `ssh-keygen` signs; it verifies, `.import` of the sorted file",
                    ("csv.publish", "csv.load", "csv.whole"),
                ),
                (f"git: {_BY_GIT}", ("git.publish", "git.load", "git.whole")),
            )
            if results.has(*names)
        ),
    )


def _by_size(book: Book) -> list[str]:
    names = ("floor", "import_shuffled", "import_ordered", "published", "sync.accept")
    return table(
        (
            "entries",
            "append floor",
            "`.import`",
            "`.import` sorted",
            "import and publish",
            "**sync**",
            "sync / floor",
            "sync / `.import`",
            "sync / `.import` sorted",
        ),
        (
            (
                short(size),
                *(short(results.middle(name)) for name in names),
                *(ratio(results, "sync.accept", other) for other in _REFERENCES),
            )
            for size, results in sorted(book.sizes.items())
            if results.has(*names)
        ),
    )


def _fixed(results: Results) -> list[str]:
    return table(
        ("what", "time"),
        (
            (title, time(results, name))
            for name, title in (
                ("start", "`hashfed sync --help`: start of Python and imports"),
                (
                    "sync.idle",
                    "`hashfed sync` with nothing new: start, TLS, answer, a second of checks",
                ),
                ("sync.accept.wall", "`hashfed sync`, first sync: until all is durable and found"),
                ("sync.wall", "`hashfed sync`, first sync: whole process"),
            )
            if results.has(name)
        ),
    )


PROCESSES: Final = (
    ("stage", "`hashfed import`"),
    ("publish", "`hashfed publish`"),
    ("serve", "`hashfed serve` at the publisher, during the sync"),
    ("sync", "`hashfed sync`"),
    ("delta.publisher", "`hashfed serve` at the publisher, while changes are published"),
    ("delta.subscriber", "`hashfed serve` at the subscriber, while changes come"),
    ("bulk", "`hashfed lookup --file -`"),
)
"""The processes of the program whose memory is measured at sizes, by the names of their figures."""


def _memory(book: Book, plan: Plan) -> list[str]:
    sizes = sorted(size for size in book.sizes if book.at(size).has("sync.peak"))
    main = book.at(plan.main)
    rows = []
    for name, title in (
        ("import_shuffled", "`.import`"),
        ("import_ordered", "`.import` sorted"),
        ("git.publish", "git: add, commit, push"),
        ("git.load", "git: clone, verify, checkout, `.import`"),
        *PROCESSES,
    ):
        if main.has(f"{name}.peak"):
            cpu = [seconds / plan.main * _MICRO for seconds in main.values(f"{name}.cpu")]
            peaks = (spread(book.at(size).values(f"{name}.peak"), short) for size in sizes)
            rows.append((title, spread(cpu, short), *peaks))
    return table(
        ("process", "CPU, us per entry", *(f"peak MiB at {short(size)}" for size in sizes)), rows
    )


def _bytes(results: Results) -> list[str]:
    return table(
        ("what", "bytes"),
        (
            (title, f"{results.middle(name):.1f}")
            for name, title in (
                ("subscriber.bytes", "database of the subscriber, log and index"),
                ("publisher.bytes", "database of the publisher, log and index"),
                ("import_shuffled.bytes", "database of `.import`, hash and label alone"),
                ("import_ordered.bytes", "database of `.import` sorted"),
                ("floor.bytes", "database of the append floor: hash and three small numbers"),
                ("csv.bytes", "the list as CSV, which would be sent"),
                ("git.bytes", "packs of git, which are sent"),
            )
            if results.has(name)
        ),
    )
