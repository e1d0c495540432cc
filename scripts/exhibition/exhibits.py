"""What is in the museum: patches that bring a bug back, each with what is to be known of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KINDS: Final = {"bug": ("What", "Found"), "guard": ("What", "Why")}
"""The fields that a header has besides `Kind` and `Catch`, by kind."""

_FIELD: Final = re.compile(r"([A-Z][a-z]+): (.+)")


class HeaderError(ValueError):
    """The header of a patch is not whole."""


@dataclass(frozen=True)
class Exhibit:
    """One bug that was fixed, or one protection that is there.

    Attributes:
        path: the patch that brings the bug back, or takes the protection away.
        fields: what its header says, by field.
    """

    path: Path
    fields: dict[str, str]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """`bug` or `guard`."""
        return self.fields["Kind"]

    @property
    def catch(self) -> str:
        """The command that fails with the patch, and succeeds without."""
        return self.fields["Catch"]


def read_exhibits(folder: Path) -> Iterator[Exhibit]:
    """Yield what is in a folder: bugs first, each kind by name.

    Raises:
        HeaderError: a header is not whole.
    """
    exhibits = [Exhibit(path, read_header(path)) for path in sorted(folder.glob("*.patch"))]
    yield from sorted(exhibits, key=lambda exhibit: exhibit.kind)


def read_header(path: Path) -> dict[str, str]:
    """Return the fields of a patch's header, which ends with an empty line.

    Raises:
        HeaderError: it is not whole.
    """
    header, _, diff = path.read_text(encoding="utf-8").partition("\n\n")
    fields: dict[str, str] = {}
    field = ""
    for line in header.splitlines():
        if found := _FIELD.fullmatch(line):
            field = found[1]
            fields[field] = found[2].strip()
        elif field and line.startswith("  "):
            fields[field] += f" {line.strip()}"
        else:
            raise HeaderError(f"{path.name}: {line!r} is no field, nor the rest of one")
    kind = fields.get("Kind", "")
    if kind not in KINDS:
        raise HeaderError(f"{path.name}: Kind is {kind!r}, one of {', '.join(KINDS)} is expected")
    expected = {"Kind", *KINDS[kind], "Catch"}
    if fields.keys() != expected:
        raise HeaderError(f"{path.name}: fields are {sorted(fields)}, expected {sorted(expected)}")
    if not diff.startswith("diff --git "):
        raise HeaderError(f"{path.name}: no diff follows the header's empty line")
    return fields
