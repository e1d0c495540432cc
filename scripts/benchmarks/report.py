"""All that a person reads of a run, in Markdown, and the place where it stands in a document."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import curves
import deltas
import fanout
import goals
import kinds
import live
import loading
import lookups
import profiles
import series
import snapshots
from plan import Plan
from processes import BenchError
from results import Book
from tables import table

_BEGIN: Final = "<!-- benchmark tables: begin (written by scripts/bench, do not edit) -->"
_END: Final = "<!-- benchmark tables: end -->"

_TITLES: Final = {
    "rate": "Rate of loading by size of the list",
    "memory": "Peak memory of each process by size of the list",
    "change": "Time of a change of 1,000 operations by size of the list",
    "fanout": "Time from publish to arrival by number of live subscribers",
}


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
        *profiles.render(book, plan),
    ]
    return "\n".join(lines).rstrip() + "\n"


def write_into(path: Path, tables: str, book: Book, plan: Plan, machine: dict[str, str]) -> None:
    """Put tables and curves into their place in a document.

    The pictures go into a folder beside the document that has its name.

    Raises:
        BenchError: it has no such place.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise BenchError(f"{path} has no place for tables: the lines {_BEGIN!r} and {_END!r}")
    folder = path.with_suffix("")
    drawn = curves.draw(book, plan, machine)
    curves.write(folder, drawn)
    images = "".join(f"![{_TITLES[name]}]({folder.name}/{name}.svg)\n\n" for name in drawn)
    text = f"{before}{begin}\n\n{tables}\n### Curves\n\n{images}{end}{after}"
    path.write_text(text, encoding="utf-8")
