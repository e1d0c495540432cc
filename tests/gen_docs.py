"""The program behind `scripts/gen-docs`: writes the tables of docs/operate.md, or compares them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Info

from node.config import all_settings
from node.system.settings import Setting, format_value
from node.telemetry.metrics import declared

PAGE: Final = Path(__file__).parents[1] / "docs" / "operate.md"
_SUFFIXES: Final[dict[type, str]] = {Counter: "_total", Info: "_info"}
"""What a kind of metric adds to its name."""


def _settings() -> Iterator[str]:
    yield "| key | variable | default | what |"
    yield "| --- | --- | --- | --- |"
    for setting in all_settings():
        sentence = setting.said["sentence"]
        yield f"| `{setting.name}` | `{setting.variable}` | {_default(setting)} | {sentence} |"


def _default(setting: Setting) -> str:
    if setting.is_required:
        return "required"
    if setting.same_as:
        return f"as `{setting.section}.{setting.same_as}`"
    if shown := setting.said.get("shown"):
        return str(shown)
    assert setting.default is not MISSING
    return f"`{format_value(setting.default)}`"


def _metrics() -> Iterator[str]:
    yield "| metric | labels | what |"
    yield "| --- | --- | --- |"
    for kind, said in declared().values():
        labels = ", ".join(f"`{label}`" for label in said.labels)
        yield f"| `{said.name}{_SUFFIXES.get(kind, '')}` | {labels} | {said.help} |"
    yield "| `process_*` | | Processor time, memory and open files of `serve`. |"


_TABLES: Final = {"settings": _settings, "metrics": _metrics}


def written(page: str) -> str:
    """Return a page with its tables as the code makes them."""
    for name, rows in _TABLES.items():
        begin = f"<!-- {name}: begin (written by scripts/gen-docs, do not edit) -->"
        end = f"<!-- {name}: end -->"
        table = "\n".join([begin, "", *rows(), "", end])
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        assert opened, f"{PAGE} has no place for the table of {name}"
        assert closed, f"{PAGE}: the table of {name} has no end"
        page = f"{before}{table}{after}"
    return page


def main() -> int:
    """Run the program; return its exit code."""
    page = PAGE.read_text(encoding="utf-8")
    made = written(page)
    if made == page:
        return 0
    if "--check" in sys.argv:
        print(f"{PAGE.name} differs from what the code makes: run scripts/gen-docs")
        return 1
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
