"""The map of the code: floors, packages, rooms and names on the page are those of the code."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[1]
_PAGE: Final = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
_SQL_ROOMS: Final = ("node/store", "node/staging/file.py", "node/repair/salvage.py")
"""Of the store's tables, of the file of staged changes, of a damaged file."""
_SQL_CALLS: Final = {"execute", "executemany", "executescript"}
_STATEMENT: Final = re.compile(
    r"\s*(SELECT .*\bFROM|INSERT (OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM|PRAGMA|CREATE TABLE)\b",
    re.DOTALL,
)
_GENERATED: Final = {"v1", "_grpc"}
_PACKAGES: Final = sorted(
    ".".join(path.parent.relative_to(_ROOT).parts)
    for top in ("federation", "node")
    for path in (_ROOT / top).rglob("__init__.py")
    if not _GENERATED & set(path.parts)
)


def _chapter(title: str) -> str:
    pattern = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, _PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def test_the_picture_shows_the_floors_that_are_checked() -> None:
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    # A name in parentheses is generated code, which the picture leaves out.
    floors = [re.sub(r"\s*\| \(\w+\)", "", floor) for floor in contract["layers"]]

    picture = re.findall(r"^(?:node)?\s+(\w+(?: \| \w+)*)", _chapter("Floors"), re.MULTILINE)

    assert picture[: len(floors)] == floors
    assert contract["exhaustive"]
    # A colon would let packages of one floor import each other.
    assert not any(":" in floor for floor in contract["layers"])


def test_every_package_has_one_line_and_every_line_a_package() -> None:
    lines = re.findall(r"^\| `([a-z_.]+)` \| .+ \|$", _chapter("Packages"), re.MULTILINE)

    assert len(lines) == len(set(lines))
    assert sorted([*lines, "node"]) == _PACKAGES


@pytest.mark.parametrize("package", _PACKAGES)
def test_the_docstring_of_a_package_names_each_of_its_rooms_once(package: str) -> None:
    text = importlib.import_module(package).__doc__ or ""
    listed = re.findall(r"^    (\w+)  +\S", text.partition("\nRooms:\n")[2], re.MULTILINE)

    modules = {
        path.stem
        for path in _ROOT.joinpath(*package.split(".")).glob("*.py")
        if path.name != "__init__.py"
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == modules


def _sql_in(path: Path) -> Iterator[int]:
    """Yield the lines of a module with a statement, or with a call that runs one."""
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match found:
            case ast.Attribute(attr=name) if name in _SQL_CALLS:
                yield found.lineno
            case ast.Constant(value=str(text)) if _STATEMENT.match(text):
                yield found.lineno


def test_sql_stands_in_its_rooms_alone() -> None:
    outside = {
        f"{path.relative_to(_ROOT)}:{line}"
        for path in (_ROOT / "node").rglob("*.py")
        if not any(path.is_relative_to(_ROOT / room) for room in _SQL_ROOMS)
        for line in _sql_in(path)
    }

    assert outside == set()


def test_every_name_on_the_way_of_a_delta_exists() -> None:
    names = re.findall(r"`((?:federation|node)\.[\w.]+)`", _chapter("The way of one delta"))

    assert len(names) > 20
    for name in names:
        resolve_name(name)
