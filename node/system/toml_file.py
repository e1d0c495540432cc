"""Reads a TOML file of known sections and keys strictly, and says where a key is.

An unknown section or key is refused, and the probably intended one is named. Otherwise a misspelt
key would silently do nothing.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from node.errors import ConfigError

Known = Mapping[str, Collection[str]]
"""Names of keys by section."""


class TomlFile:
    """A parsed file whose keys are all known.

    Attributes:
        path: its path.
        document: its sections.
    """

    def __init__(self, path: Path, known: Known) -> None:
        """Read it.

        Raises:
            ConfigError: it is missing or invalid, or a section or key is unknown.
        """
        self.path = path
        try:
            self._text = path.read_bytes().decode()
            raw = tomllib.loads(self._text)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path} does not exist",
                hint="create the node with 'hashfed init', or name another folder with --home",
            ) from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not text in UTF-8") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is not valid TOML: {error}",
                hint="nothing was changed; correct the line, or restore your copy of the file",
            ) from error
        self.document: dict[str, Mapping[str, object]] = {}
        for section, table in raw.items():
            self.document[section] = self._check(section, table, known)

    def where(self, section: str, key: str) -> str:
        """Return where a key is, with its line if that is easy to find."""
        line = _find_line(self._text, section, key)
        return f"{self.path}, line {line}" if line else str(self.path)

    def _check(self, section: str, table: object, known: Known) -> Mapping[str, object]:
        where = self.where("", section)
        if section not in known:
            meant = [f"{name}.{section}" for name, keys in known.items() if section in keys]
            if meant and not isinstance(table, dict):
                raise ConfigError(
                    f"{where}: the key {section!r} is outside of any section",
                    hint=f"did you mean {' or '.join(meant)}?",
                )
            refuse_unknown(where, "section", section, known)
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: got {type_of(table)}, expected [{section}]")
        for key in table:
            if key not in known[section]:
                bare = key.lower().replace("-", "_")
                elsewhere = [name for name, keys in known.items() if bare in keys]
                refuse_unknown(
                    self.where(section, key),
                    f"[{section}] key",
                    key,
                    known[section],
                    hint=f"it belongs into [{elsewhere[0]}]" if elsewhere else "",
                )
        return table


def refuse_unknown(
    where: str, what: str, name: str, known: Iterable[str], *, hint: str = ""
) -> NoReturn:
    """Raise the error for an unknown name.

    Raises:
        ConfigError: always; its hint names the probably intended one.
    """
    raise ConfigError(f"{where}: unknown {what} {name!r}", hint=hint or suggest(name, known))


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that was probably intended."""
    names = sorted(known)
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1)
    return f"did you mean {folded[close[0]]}?" if close else f"known are {', '.join(names)}"


def type_of(raw: object) -> str:
    """Return a description of a value of a TOML file, for a message."""
    match raw:
        case bool():
            return f"the boolean {str(raw).lower()}"
        case int() | float():
            return f"the number {raw}"
        case str():
            return f"the text {raw!r}"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _find_line(text: str, section: str, key: str) -> int | None:
    """Find the line of a key, or of a section itself when `section` is empty.

    The TOML parser does not say. This finds keys in the forms in which people write such files. In
    other forms it finds nothing, or in the worst case a similar text in a multi-line string.
    """
    name = rf"""["']?{re.escape(key)}["']?"""
    if section:
        table = rf"""["']?{re.escape(section)}["']?"""
        dotted = re.compile(rf"\s*{table}\s*(?:\.\s*{name}\s*)?=")
        plain = re.compile(rf"\s*{name}\s*[.=]")
    else:
        dotted = re.compile(rf"\s*(?:\[\s*{name}\s*[.\]]|{name}\s*[.=])")
        plain = re.compile(r"(?!)")
    current = ""
    for number, line in enumerate(text.split("\n"), start=1):
        header = re.match(r"""\s*\[\s*["']?([^\]"']*?)["']?\s*\]""", line)
        if header is not None:
            current = header[1]
        if (not current or not section) and dotted.match(line):
            return number
        if current == section and plain.match(line):
            return number
    return None
