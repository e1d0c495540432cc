"""Everything that a person reads about a run, in Markdown, and its place in a document."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from scripts.benchmarks import (
    deltas,
    fanout,
    goals,
    kinds,
    live,
    loading,
    lookups,
    series,
    snapshots,
)
from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import BenchError
from scripts.benchmarks.results import Book
from scripts.benchmarks.tables import table

_BEGIN: Final = "<!-- benchmark tables: begin (written by scripts/bench, do not edit) -->"
_END: Final = "<!-- benchmark tables: end -->"


def render(book: Book, plan: Plan, machine: dict[str, str], command: str) -> str:
    """Return all tables of a run."""
    lines = [
        f"`{command}`",
        "",
        *table(("", ""), machine.items()),
        "",
        *(f"Not measured: {reason}.\n" for reason in book.skipped),
        *goals.render(book, plan),
        *loading.render(book, plan),
        *kinds.render(book, plan),
        *deltas.render(book, plan),
        *series.render(book, plan),
        *live.render(book, plan),
        *fanout.render(book, plan),
        *snapshots.render(book),
        *lookups.render(book, plan),
    ]
    return "\n".join(lines).rstrip() + "\n"


def write_into(path: Path, tables: str) -> None:
    """Write tables to their place in a document.

    Raises:
        BenchError: it has no such place.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise BenchError(f"{path} lacks the lines around the tables: {_BEGIN!r} and {_END!r}")
    path.write_text(f"{before}{begin}\n\n{tables}\n{end}{after}", encoding="utf-8")
