"""The tables of docs/scale.md, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.simulation.scale import costs
from tests.simulation.scale.bounds import Profile, line_ops, most_deltas, serving_seconds
from tests.simulation.scale.network import iter_way
from tests.simulation.scale.stories import Outcome, Plan

_BEGIN = "<!-- tables: begin (written by scripts/simulate, do not edit) -->"
_END = "<!-- tables: end -->"
_FAN_OUTS = (8, 32, 200, 999)


def render(outcomes: Sequence[Outcome], plan: Plan, command: str) -> str:
    """Return all tables of a run."""
    profile = Profile()
    verified = sum(outcome.verified for outcome in outcomes)
    summary = (
        f"`{command}`: {plan.members} members, {plan.lists} lists, seed {plan.seed}; "
        f"{verified:,} deltas verified by production replicas."
    )
    parts = [summary]
    for title, lines in (
        ("A retraction, from its owner's commit to a member's (simulated)", _spread(outcomes)),
        ("One retraction, at the busiest member and on average (simulated)", _load(outcomes)),
        (f"One member with {_count(profile.entries)} entries (derived)", member_table(profile)),
        (f"Serving {_count(profile.entries)} entries to others (derived)", serving_table(profile)),
        ("What the simulation and these tables take from elsewhere", cost_table()),
    ):
        parts += ["", f"### {title}", "", *lines]
    return "\n".join(parts) + "\n"


def has_place(path: Path) -> bool:
    """Say whether a file is a document with a place for the tables."""
    return path.is_file() and _BEGIN in (text := path.read_text(encoding="utf-8")) and _END in text


def write_into(path: Path, tables: str) -> None:
    """Put the tables into their place in a document."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    path.write_text(f"{before}{begin}\n\n{tables}\n{end}{after}", encoding="utf-8")


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (headers, ["---"] * len(headers), *rows)]


def _spread(outcomes: Sequence[Outcome]) -> list[str]:
    headers = [
        "network",
        "hops",
        "quiet: p50 / p99 / last",
        "during an import of another list",
        "some members down: the others",
        "some members down: after their way is whole again",
    ]
    return _table(
        headers,
        (
            [
                outcome.network.name,
                str(_depth(outcome)),
                *(
                    _percentiles(outcome.spreads[name].seconds)
                    for name in ("quiet", "loaded", "down")
                ),
                _percentiles(outcome.spreads["down"].healed),
            ]
            for outcome in outcomes
        ),
    )


def _depth(outcome: Outcome) -> int:
    """Return over how many hops a list comes to the member farthest from its owner."""
    ways = map(outcome.network.routes, {log.owner for log in outcome.logs})
    return max(len(list(iter_way(via, at))) - 1 for via in ways for at in range(len(via)))


def _load(outcomes: Sequence[Outcome]) -> list[str]:
    headers = ["network", "bytes sent: most / mean", "processor time: most / mean"]
    rows = []
    for outcome in outcomes:
        sent, worked = outcome.quiet_bytes, outcome.quiet_seconds
        rows.append(
            [
                outcome.network.name,
                f"{_bytes(max(sent))} / {_bytes(sum(sent) / len(sent))}",
                f"{_time(max(worked))} / {_time(sum(worked) / len(worked))}",
            ]
        )
    return _table(headers, rows)


def member_table(profile: Profile) -> list[str]:
    """Return what one member needs that serves nobody."""
    entries, ops = profile.entries, profile.ops_per_day
    line_seconds = profile.first_sync_bytes / (100e6 / 8)
    changes = f"{_count(ops)} operations in {_count(profile.deltas_per_day)} deltas"
    # To the log and to the database; every operation falls on a page of its own.
    pages_bytes = 2 * costs.PAGE * ops
    return _table(
        ["what", "how much"],
        [
            ["database", _bytes(entries * costs.DISK_ENTRY.value)],
            ["memory of a process at its peak", str(costs.MEMORY)],
            ["first sync: bytes", _bytes(profile.first_sync_bytes)],
            ["first sync: a line of 100 Mbit/s", _time(line_seconds)],
            [
                "first sync: processor, until all is found",
                _time(entries * costs.BULK_ACCEPT_ENTRY.value),
            ],
            ["checks behind it, or one `fsck`", _time(entries * costs.CHECK_ENTRY.value)],
            [f"a day, {changes}: bytes", _bytes(profile.day_bytes)],
            ["a day: processor", _time(profile.day_seconds)],
            [
                "all owners together, once: import and publish",
                _time(entries * costs.PUBLISH_ENTRY.value),
            ],
            ["a day: pages of the index written, at most", _bytes(pages_bytes)],
        ],
    )


def serving_table(profile: Profile) -> list[str]:
    """Return what it takes to serve others."""
    rows = []
    for subscribers in _FAN_OUTS:
        seconds = serving_seconds(profile, subscribers)
        join_seconds = subscribers * profile.entries * costs.BULK_SEND_ENTRY.value
        rows.append(
            [
                str(subscribers),
                _bytes(subscribers * profile.day_bytes),
                f"{_time(seconds)} ({seconds / 864:.2g} % of a core)",
                f"{most_deltas(subscribers):.3g}",
                _time(join_seconds),
                _time(subscribers * profile.first_sync_bytes / profile.uplink),
            ]
        )
    headers = [
        "subscribers",
        "sent in a day",
        "processor in a day",
        "small deltas a second, at most",
        "all of them join: processor",
        "all of them join: 1 Gbit/s",
    ]
    slow, fast = (f"{line_ops(bits / 8):,.0f}" for bits in (100e6, 1e9))
    limit = (
        f"Sending a delta keeps the line busy longer than a core from {fast} operations "
        f"at 1 Gbit/s, and from {slow} at 100 Mbit/s."
    )
    return [*_table(headers, rows), "", limit]


def cost_table() -> list[str]:
    """Return every cost with its source."""
    return _table(
        ["cost", "value", "source"],
        ([cost.what, str(cost), cost.source] for cost in costs.COSTS),
    )


# --- numbers ----------------------------------------------------------------------------------


def _percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    picked = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return " / ".join(_time(value) for value in (*picked, ordered[-1]))


def _time(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"


def _count(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
