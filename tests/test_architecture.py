"""The map of the code: every module has its line, every function on the way of a delta exists."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_PAGE: Final = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def _chapter(title: str) -> str:
    pattern = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, _PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def test_every_module_has_one_line_and_every_line_a_module() -> None:
    modules = {
        ".".join(path.relative_to(_ROOT).with_suffix("").parts)
        for package in ("federation", "node")
        for path in (_ROOT / package).rglob("*.py")
        # Packages have the modules in them; generated code has a sentence of its own.
        if path.name != "__init__.py" and not {"v1", "_grpc"} & set(path.parts)
    }

    lines = re.findall(r"^\| `([a-z_.]+)` \| .+ \|$", _chapter("Rooms"), re.MULTILINE)

    assert len(lines) == len(set(lines))
    assert set(lines) == modules


def test_every_name_on_the_way_of_a_delta_exists() -> None:
    names = re.findall(r"`((?:federation|node)\.[\w.]+)`", _chapter("The way of one delta"))

    assert len(names) > 20
    for name in names:
        resolve_name(name)
