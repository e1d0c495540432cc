"""Committed vectors: JSON files that this code makes, for other implementations to read.

`scripts/gen-vectors` writes them; tests compare them, and check that they say what is true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]

# What JSON holds has no narrower type.
Read = dict[str, Any]

FOLDER: Final = Path(__file__).parents[1] / "vectors"


def read(name: str) -> Read:
    """Read one committed file, `<folder>/<name>`."""
    return dict(json.loads((FOLDER / name).read_text(encoding="ascii")))


def write(files: Mapping[str, Json]) -> list[str]:
    """Write what differs from the committed files; return the names."""
    changed = stale(files)
    for name in changed:
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(_text(files[name]), encoding="ascii")
    return changed


def stale(files: Mapping[str, Json]) -> list[str]:
    """Return the names of the committed files that are not what this code makes."""
    return [
        name
        for name, value in files.items()
        if not (FOLDER / name).exists()
        or (FOLDER / name).read_text(encoding="ascii") != _text(value)
    ]


def _text(value: Json) -> str:
    return json.dumps(value, indent=1, ensure_ascii=True) + "\n"
