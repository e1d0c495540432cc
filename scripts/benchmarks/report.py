"""The tables that a person reads, in Markdown, and the place where they stand in a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from processes import BenchError
from results import Results, milliseconds, short, spread
from rounds import Plan

_BEGIN: Final = "<!-- benchmark tables: begin (written by scripts/bench, do not edit) -->"
_END: Final = "<!-- benchmark tables: end -->"

_REFERENCES: Final = ("floor", "import_shuffled", "import_ordered")
_DELTA_STEPS: Final = ("publish", "after")
_MICRO: Final = 1e6


def render(results: Results, plan: Plan, machine: dict[str, str], command: str) -> str:
    """Return all tables of a run."""
    parts = [
        f"`{command}`",
        "",
        *_table(("", ""), machine.items()),
        "",
    ]
    for title, lines in (
        (f"Loading {short(plan.size)} entries", _loading(results)),
        ("Time of one command", _fixed(results)),
        ("Processor time and memory", _memory(results, plan)),
        ("Bytes per entry", _bytes(results, plan)),
        (f"Changes of a list of {short(plan.size)}", _deltas(results, plan)),
        ("From `publish` to found by `lookup` at a connected peer", _latency(results, plan)),
        (f"Exact lookup among {short(plan.size)}", _lookups(results, plan)),
    ):
        if lines:
            parts += [f"### {title}", "", *lines, ""]
    return "\n".join(parts).rstrip() + "\n"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(headers), ["---"] * len(headers), *(list(row) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] if len(lines) > 2 else []


def _ratio(results: Results, above: str, below: str) -> str:
    if above == below or not results.has(above, below):
        return "-" if above != below else "1"
    return spread(results.ratios(above, below), short)


def _loading(results: Results) -> list[str]:
    rows = []
    for name, title in (
        ("floor", "append floor: ready rows, integer key, no check"),
        ("import_shuffled", "`sqlite3` `.import`, the list in its owner's order"),
        ("import_ordered", "`sqlite3` `.import`, the list sorted beforehand"),
        ("stage", "`hashfed import` at the publisher, owner's order"),
        ("publish", "`hashfed publish`"),
        ("sync.accept", "**`hashfed sync`: fetched, verified, durable, found by lookup**"),
        ("check", "checks behind acceptance: operations trees and state digests"),
        ("sync.all", "`hashfed sync` and those checks of all of it, one after the other"),
        ("sync", "`hashfed sync`: whole process, with the start of Python"),
    ):
        if results.has(name):
            rate = spread(results.values(name), short)
            rows.append((title, rate, *(_ratio(results, name, other) for other in _REFERENCES)))
    return _table(
        ("what", "entries/s", "/ append floor", "/ `.import`", "/ `.import` sorted"), rows
    )


def _fixed(results: Results) -> list[str]:
    rows = [
        (title, spread(results.values(name), milliseconds, " ms"))
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
    ]
    return _table(("what", "time"), rows)


def _memory(results: Results, plan: Plan) -> list[str]:
    rows = []
    for name, title in (
        ("import_shuffled", "`.import`"),
        ("import_ordered", "`.import` sorted"),
        ("stage", "`hashfed import`"),
        ("publish", "`hashfed publish`"),
        ("serve", "`hashfed serve` at the publisher, during the sync"),
        ("sync", "`hashfed sync`"),
    ):
        if results.has(f"{name}.cpu"):
            cpu = [seconds / plan.size * _MICRO for seconds in results.values(f"{name}.cpu")]
            peak = results.values(f"{name}.peak")
            row = [title, spread(cpu, short), spread(peak, short), "-", "-"]
            if results.has(f"{name}.peak.tenth"):
                small = results.middle(f"{name}.peak.tenth")
                row[3:] = short(small), f"{median(peak) / small:.2f}"
            rows.append(row)
    here, tenth = short(plan.size), short(plan.size // 10)
    return _table(
        ("process", "CPU, us per entry", f"peak MiB at {here}", f"at {tenth}", "ratio"), rows
    )


def _bytes(results: Results, plan: Plan) -> list[str]:
    rows = []
    if results.has("wire"):
        idle = short(results.middle("wire.idle"))
        title = (
            f"on the wire, both directions, TLS included (list of {short(plan.size // 10)}), "
            f"beside {idle} bytes for any contact"
        )
        rows.append((title, f"{results.middle('wire'):.1f}"))
    for name, title in (
        ("subscriber.bytes", "database of the subscriber, log and index"),
        ("publisher.bytes", "database of the publisher, log and index"),
        ("import_shuffled.bytes", "database of `.import`, hash and label alone"),
        ("import_ordered.bytes", "database of `.import` sorted"),
    ):
        if results.has(name):
            rows.append((title, f"{results.middle(name):.1f}"))
    return _table(("what", "bytes"), rows)


def _deltas(results: Results, plan: Plan) -> list[str]:
    if not results.has("big_delta.after"):
        return []
    big = short(plan.big_delta)
    rows = []
    for title, prefix, suffix in (
        (f"{big} operations", "big_delta", ""),
        ("1,000 operations", "delta", ""),
        ("1,000 operations, into a list of 1,000", "delta", ".small"),
    ):
        times = (results.values(f"{prefix}.{name}{suffix}") for name in ("stage", *_DELTA_STEPS))
        rows.append((title, *(spread(seconds, milliseconds, " ms") for seconds in times)))
    plain = spread(results.values("apply_plain"), milliseconds, " ms")
    rows.append((f"`sqlite3` shell applies {big} operations, unverified", "-", "-", plain))
    if results.has("floor"):
        floor = spread(
            [plan.big_delta / rate for rate in results.values("floor")], milliseconds, " ms"
        )
        rows.append((f"append floor of {big} rows", "-", "-", floor))
    against = spread(results.ratios("apply_plain", "big_delta.after"), short)
    publish, after = (
        spread(results.ratios(f"delta.{name}", f"delta.{name}.small"), short)
        for name in _DELTA_STEPS
    )
    summary = (
        f"{big} operations at the peer: {against} x the speed of the shell. 1,000 operations into "
        f"{short(plan.size)} cost {publish} x (`publish`) and {after} x (at the peer) what they "
        "cost into 1,000."
    )
    return [
        *_table(("change", "`import`", "`publish`", "from there to found at the peer"), rows),
        "",
        summary,
    ]


def _latency(results: Results, plan: Plan) -> list[str]:
    rows = [
        (
            f"{title}, {count * plan.rounds} times",
            *(_percentiles(results, f"{name}.{what}") for what in ("publish", "found", "after")),
        )
        for name, title, count in (
            ("live.1", "1 operation", plan.single_ops),
            ("live.1000", "1,000 operations", plan.batches),
        )
        if results.has(f"{name}.found")
    ]
    return _table(
        (
            "p50 / p99",
            "`publish` itself",
            "start of `publish` to found",
            "end of `publish` to found",
        ),
        rows,
    )


def _percentiles(results: Results, name: str) -> str:
    middle, worst = (milliseconds(results.percentile(name, percent)) for percent in (50, 99))
    return f"{middle} / {worst} ms"


def _lookups(results: Results, plan: Plan) -> list[str]:
    rows = [
        (f"{title}, {what}", _percentiles(results, f"lookup.{who}.{what}"))
        for who, title in (
            ("node", "node: hash to its assertions, checked against the signed body"),
            ("table", "the table of `.import`: hash to label"),
        )
        for what in ("hit", "miss")
        if results.has(f"lookup.{who}.{what}")
    ]
    rows += [
        (title, f"{spread(results.values(name), short)} hashes/s")
        for name, title in (
            ("bulk", f"`hashfed lookup --file -`, {short(min(plan.bulk, plan.size))} hits"),
            ("bulk.net", "the same, start of Python and imports not counted"),
            ("bulk_plain", "`sqlite3` shell: `.import` and join of the same"),
        )
        if results.has(name)
    ]
    return _table(("what", "p50 / p99, or rate"), rows)


def collapsed(results: Results) -> list[str]:
    """Return what is slower than any noise explains, for a small run that must not fail by chance.

    The bounds are several times below what is usual: they catch work that has become quadratic,
    and a network path that waits, not a slow machine.
    """
    found = []
    for title, value, least in (
        ("sync against .import", _middle(results, "sync.accept", "import_shuffled"), 0.1),
        ("publish against .import", _middle(results, "publish", "import_shuffled"), 0.01),
        (
            "10,000 operations at the peer against the shell",
            _middle(results, "apply_plain", "big_delta.after"),
            0.02,
        ),
        (
            "1,000 operations into 1,000 entries against the whole list",
            _middle(results, "delta.after.small", "delta.after"),
            0.1,
        ),
        (
            "latency, against a second",
            1.0 / results.percentile("live.1.found", 50),
            1.0,
        ),
        ("bytes on the wire, against 60", 60 / results.middle("wire"), 1.0),
        ("memory of the sync, against 400 MiB", 400 / results.middle("sync.peak"), 1.0),
    ):
        if value < least:
            found.append(f"{title}: got {short(value)}, expected at least {least}")
    return found


def _middle(results: Results, above: str, below: str) -> float:
    return median(results.ratios(above, below))


def write_into(path: Path, tables: str) -> None:
    """Put tables into their place in a document.

    Raises:
        BenchError: it has no such place.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise BenchError(f"{path} has no place for tables: the lines {_BEGIN!r} and {_END!r}")
    path.write_text(f"{before}{begin}\n\n{tables}\n{end}{after}", encoding="utf-8")
