"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scripts.benchmarks.results import Results, milliseconds, short, spread


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; no lines if it has no rows."""
    lines = [list(headers), ["---"] * len(headers), *(list(row) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] if len(lines) > 2 else []


def section(title: str, *blocks: list[str]) -> list[str]:
    """Return the lines of a section; no lines if it is empty."""
    filled = [block for block in blocks if block]
    if not filled:
        return []
    lines = [f"### {title}", ""]
    for block in filled:
        lines += [*block, ""]
    return lines


def rate(results: Results, name: str) -> str:
    """Write a figure as a number with its range."""
    return spread(results.values(name), short)


def time(results: Results, name: str) -> str:
    """Write a figure in seconds as milliseconds with its range."""
    return spread(results.values(name), milliseconds, " ms")


def ratio(results: Results, above: str, below: str) -> str:
    """Write the ratio of two figures with its range."""
    return "1" if above == below else spread(results.ratios(above, below), short)


def percentiles(results: Results, name: str) -> str:
    """Write the median and the worst of samples that are in seconds."""
    if not results.has(name):
        return "-"
    middle, worst = (milliseconds(results.percentile(name, percent)) for percent in (50, 99))
    return f"{middle} / {worst} ms"
