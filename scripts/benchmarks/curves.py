"""Which curves a run draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from plan import Plan
from results import Book
from svg import Chart, Curve

MEMORY_MIB: Final = 300
"""The goal for the peak memory of each process."""

_MS: Final = 1000.0


def draw(book: Book, plan: Plan, machine: dict[str, str]) -> dict[str, str]:
    """Return the pictures of a run, as SVG by name; those for which there are figures."""
    caption = f"{machine['processor']}, {machine['memory']}; {machine['date']}; scripts/bench"
    sync, publish, stage, serve, plain, other = range(6)
    sizes = partial(_by_size, book)
    fanout = partial(_by_fanout, book, plan.subscribers)
    charts = {
        "rate": (
            "Loading a list",
            "entries in the list",
            "entries a second",
            [
                sizes("sync.accept", "hashfed sync, verified", sync),
                sizes("published", "hashfed import and publish", publish),
                sizes("import_ordered", ".import sorted", plain, dashed=True),
                sizes("import_shuffled", ".import", serve, dashed=True),
                sizes("floor", "append floor", other, dashed=True),
            ],
        ),
        "memory": (
            "Peak memory of each process",
            "entries in the list",
            "MiB",
            [
                sizes("sync.peak", "hashfed sync", sync),
                sizes("publish.peak", "hashfed publish", publish),
                sizes("stage.peak", "hashfed import", stage),
                sizes("serve.peak", "hashfed serve", serve),
                sizes("import_ordered.peak", ".import", plain, dashed=True),
            ],
        ),
        "change": (
            "A change of 1,000 operations",
            "entries in the list that it lands in",
            "milliseconds",
            [
                sizes("delta.found", "publish to found", sync, scale=_MS),
                sizes("delta.publish", "publish alone", publish, scale=_MS),
                sizes("delta.stage", "import", stage, scale=_MS),
                sizes("delta.csv", "signed CSV: sign to apply", plain, scale=_MS, dashed=True),
            ],
        ),
        "fanout": (
            "From publish to where it is wanted, one operation",
            "live streams beside one full subscriber",
            "milliseconds",
            [
                fanout("found", 50, "found at the full subscriber: p50", sync),
                fanout("found", 99, "its p99", sync, dashed=True),
                fanout("last", 50, "arrived at the last stream: p50", publish),
                fanout("last", 99, "its p99", publish, dashed=True),
            ],
        ),
    }
    drawn = {}
    for name, (title, x_label, y_label, curves) in charts.items():
        shown = [curve for curve in curves if curve.points]
        if shown:
            is_memory = name == "memory"
            drawn[name] = Chart(
                title=title,
                caption=caption,
                x_label=x_label,
                y_label=y_label,
                curves=shown,
                form=_number,
                logarithmic=not is_memory,
                limit=(MEMORY_MIB, f"goal: under {MEMORY_MIB}") if is_memory else None,
            ).draw()
    return drawn


def write(folder: Path, drawn: dict[str, str]) -> None:
    """Write pictures into a folder."""
    folder.mkdir(exist_ok=True)
    for name, text in drawn.items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


def _by_size(
    book: Book, figure: str, name: str, colour: int, *, scale: float = 1.0, dashed: bool = False
) -> Curve:
    points = [
        (float(size), results.middle(figure) * scale)
        for size, results in sorted(book.sizes.items())
        if results.has(figure)
    ]
    return Curve(name, points, colour, dashed=dashed)


def _by_fanout(
    book: Book,
    counts: Sequence[int],
    what: str,
    percent: float,
    name: str,
    colour: int,
    *,
    dashed: bool = False,
) -> Curve:
    points = [
        (float(count), book.once.percentile(f"fanout.{count}.1.{what}", percent) * _MS)
        for count in counts
        if book.once.has(f"fanout.{count}.1.{what}")
    ]
    return Curve(name, points, colour, dashed=dashed)


def _number(value: float) -> str:
    """Write a number at an axis: without digits that say nothing."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
