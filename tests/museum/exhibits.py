"""What is in the museum: bugs that can be brought back, each with what is to be known of it.

An exhibit is a TOML file; README.md in this folder describes it. It names places by module and
function, so it survives a move of files and of lines.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KINDS: Final = {"bug": ("what", "found"), "guard": ("what", "why")}
"""The sentences that an exhibit has, by kind."""

_BREAK_KEYS: Final = frozenset({"module", "replace", "with"})
_PACKAGES: Final = ("federation", "node")


class ExhibitError(ValueError):
    """An exhibit is not whole, or what it replaces is not there exactly once."""


@dataclass(frozen=True, slots=True)
class Break:
    """One text that is replaced.

    Attributes:
        module: the dotted name of the module.
        function: the qualified name of the function or class in it; empty for the whole module.
        old: the text that stands there: whole lines, exactly once.
        new: the text to put there; empty to take the lines away.
    """

    module: str
    function: str
    old: str
    new: str

    @property
    def file(self) -> Path:
        """The file of the module, from the root of a checkout."""
        return Path(*self.module.split(".")).with_suffix(".py")

    def locate(self, source: str) -> int:
        """Return at which character of the module's source the old text begins.

        Raises:
            ExhibitError: there is not exactly one such function, or one such text in it.
        """
        start, end = self._extent(source)
        part = source[start:end]
        # Whole lines: the text begins where a line begins. Two may share a line break.
        found = [at for at in _line_starts(part) if part.startswith(self.old, at)]
        if len(found) != 1:
            where = self.function or "the module"
            raise ExhibitError(
                f"{self.module}: {where} has this text {len(found)} times, "
                f"expected once:\n{self.old}"
            )
        return start + found[0]

    def _extent(self, source: str) -> tuple[int, int]:
        if not self.function:
            return 0, len(source)
        found = [node for name, node in _definitions(ast.parse(source)) if name == self.function]
        if len(found) != 1:
            raise ExhibitError(
                f"{self.module}: {self.function} is defined {len(found)} times, expected once"
            )
        (node,) = found
        lines = source.splitlines(keepends=True)
        first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
        start = len("".join(lines[: first - 1]))
        return start, start + len("".join(lines[first - 1 : node.end_lineno]))


def _line_starts(text: str) -> Iterator[int]:
    """Yield where each line of a text begins."""
    at = 0
    for line in text.splitlines(keepends=True):
        yield at
        at += len(line)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Yield functions and classes with their qualified names, outer ones first."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            name = f"{inside}{node.name}"
            yield name, node
            yield from _definitions(node, f"{name}.")


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One bug that was fixed, or one protection that is there.

    Attributes:
        name: the name of its file, without the ending.
        kind: `bug` or `guard`.
        what: what goes wrong, and what comes of it.
        origin: how a bug was found; what a guard protects from.
        catch: the command that fails with the bug, and succeeds without.
        breaks: what is replaced to bring the bug back.
    """

    name: str
    kind: str
    what: str
    origin: str
    catch: str
    breaks: tuple[Break, ...]

    def break_sources(self, root: Path) -> dict[Path, str]:
        """Return, by file, the sources of a checkout with the bug brought back.

        Every text is found in the sources as they are, not as earlier breaks have left them.

        Args:
            root: the checkout.

        Raises:
            ExhibitError: a module is not there, or a text is not there exactly once.
        """
        edits: dict[Path, list[tuple[int, Break]]] = {}
        sources: dict[Path, str] = {}
        for one in self.breaks:
            if one.file not in sources:
                try:
                    sources[one.file] = (root / one.file).read_text(encoding="utf-8")
                except FileNotFoundError as error:
                    raise ExhibitError(f"{self.name}: there is no module {one.module}") from error
            try:
                at = one.locate(sources[one.file])
            except ExhibitError as error:
                raise ExhibitError(f"{self.name}: {error}") from error
            edits.setdefault(one.file, []).append((at, one))
        for file, places in edits.items():
            # From the end, so that the places before stay where they are.
            for at, one in sorted(places, key=lambda place: place[0], reverse=True):
                source = sources[file]
                sources[file] = source[:at] + one.new + source[at + len(one.old) :]
        return sources


def read_exhibits(folder: Path) -> list[Exhibit]:
    """Return what is in a folder: bugs first, each kind by name.

    Raises:
        ExhibitError: one is not whole.
    """
    exhibits = [read_exhibit(path) for path in sorted(folder.glob("*.toml"))]
    return sorted(exhibits, key=lambda exhibit: exhibit.kind)


def read_exhibit(path: Path) -> Exhibit:
    """Return one exhibit.

    Raises:
        ExhibitError: it is not whole.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ExhibitError(f"{path.name}: {error}") from error
    kind = table.get("kind")
    if kind not in KINDS:
        raise ExhibitError(f"{path.name}: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    what, origin = KINDS[kind]
    texts = {"kind", what, origin, "catch"}
    if table.keys() != texts | {"break"}:
        raise ExhibitError(
            f"{path.name}: keys are {sorted(table)}, expected {sorted(texts | {'break'})}"
        )
    if not all(isinstance(table[key], str) for key in texts):
        raise ExhibitError(f"{path.name}: {', '.join(sorted(texts))} are texts")
    breaks = table["break"]
    if not isinstance(breaks, list) or not breaks:
        raise ExhibitError(f"{path.name}: no [[break]] says what is replaced")
    return Exhibit(
        name=path.stem,
        kind=kind,
        what=" ".join(table[what].split()),
        origin=" ".join(table[origin].split()),
        catch=table["catch"],
        breaks=tuple(_read_break(path.name, entry) for entry in breaks),
    )


def _read_break(name: str, entry: Mapping[str, object]) -> Break:
    if entry.keys() - {"function"} != _BREAK_KEYS or not all(
        isinstance(value, str) for value in entry.values()
    ):
        raise ExhibitError(
            f"{name}: a [[break]] has the texts {', '.join(sorted(_BREAK_KEYS))} and may have "
            f"function, got {', '.join(sorted(entry))}"
        )
    module, old = str(entry["module"]), str(entry["replace"])
    if not module.startswith(tuple(f"{package}." for package in _PACKAGES)):
        raise ExhibitError(f"{name}: module {module} is not one of {' or '.join(_PACKAGES)}")
    if not old.endswith("\n"):
        raise ExhibitError(f"{name}: the text to replace is not made of whole lines")
    return Break(module, str(entry.get("function", "")), old, str(entry["with"]))
