"""The list that is measured: single SHA-256 hashes with one label each, and changes to it.

Everything follows from the number of an entry, so every run has the same list. The numbers' order
is random order of hashes: the order in which an owner, who adds to a list over years, keeps it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from processes import run

_LABELS: Final = tuple(f"category-{number:02}" for number in range(12))
_BLOCK: Final = 1_000
_POOL: Final = 20_000

NEW_SHARE: Final = 0.5
REVISED_SHARE: Final = 0.4
"""The rest of a delta is retracted."""


def digest(number: int) -> str:
    """Return the hash of an entry."""
    return sha256(b"hashfed benchmark %d" % number).hexdigest()


def _label(hash_text: str) -> str:
    # Skewed, as labels are: the smaller of two draws.
    return _LABELS[min(int(hash_text[0:2], 16) % 12, int(hash_text[2:4], 16) % 12)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFiles:
    """One list as files.

    Attributes:
        count: its entries.
        changes: for `hashfed import`, in the owner's order.
        shuffled: for the `sqlite3` shell, in the owner's order.
        ordered: for the `sqlite3` shell, in the order of the hashes.
    """

    count: int
    changes: Path
    shuffled: Path
    ordered: Path


def write_list(folder: Path, count: int) -> ListFiles:
    """Write a list of the first `count` entries."""
    folder.mkdir()
    files = ListFiles(
        count=count,
        changes=folder / "changes.csv",
        shuffled=folder / "shuffled.csv",
        ordered=folder / "ordered.csv",
    )
    with files.changes.open("w") as changes, files.shuffled.open("w") as shuffled:
        changes.write("type,digest,label\n")
        for start in range(0, count, _BLOCK):
            rows = [
                f"{text},{_label(text)}\n"
                for text in map(digest, range(start, min(start + _BLOCK, count)))
            ]
            shuffled.writelines(rows)
            changes.writelines(["sha256," + row for row in rows])
    run(
        ["sort", "-S", "64M", "-T", folder, "-o", files.ordered, files.shuffled],
        env={"LC_ALL": "C"},
    )
    # What is measured next must not pay for writing these back.
    os.sync()
    return files


def write_wanted(path: Path, numbers: Sequence[int], prefix: str = "sha256:") -> None:
    """Write hashes to look up, one a line."""
    with path.open("w") as file:
        file.writelines(f"{prefix}{digest(number)}\n" for number in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFiles:
    """One change of a list as files.

    Attributes:
        ops: its operations.
        changes: for `hashfed import`.
        plain: for the `sqlite3` shell: operation, hash, label.
        probes: hashes that are found when, and only when, the change is in force.
    """

    ops: int
    changes: Path
    plain: Path
    probes: list[str]


@dataclass(slots=True)
class Changes:
    """Makes changes of a list, each fit to follow the one before.

    Attributes:
        folder: where their files go.
        count: entries of the list that they start from.
    """

    folder: Path
    count: int
    _made: int = 0
    _next: int = 0
    _live: list[int] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(4))  # noqa: S311  # a list

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._next = self.count
        self._live = self._random.sample(range(self.count), min(self.count, _POOL))

    def additions(self, ops: int) -> DeltaFiles:
        """Make a change of new entries alone."""
        return self._write(self._take_new(ops), [], [])

    def mixed(self, ops: int) -> DeltaFiles:
        """Make a change of new, revised and retracted entries."""
        new, revised = round(ops * NEW_SHARE), round(ops * REVISED_SHARE)
        self._random.shuffle(self._live)
        touched = self._live[: ops - new]
        retracted = touched[revised:]
        del self._live[revised : ops - new]
        return self._write(self._take_new(new), touched[:revised], retracted)

    def _take_new(self, count: int) -> list[int]:
        numbers = list(range(self._next, self._next + count))
        self._next += count
        self._live += numbers
        return numbers

    def _write(self, new: list[int], revised: list[int], retracted: list[int]) -> DeltaFiles:
        self._made += 1
        rows = [("assert", text, _label(text)) for text in map(digest, new)]
        rows += [("assert", digest(number), f"revised-{self._made}") for number in revised]
        rows += [("retract", digest(number), "") for number in retracted]
        # Nobody keeps changes sorted by hash, nor by what they do.
        self._random.shuffle(rows)
        files = DeltaFiles(
            ops=len(rows),
            changes=self.folder / f"{self._made}.jsonl",
            plain=self.folder / f"{self._made}.csv",
            probes=[f"sha256:{min(map(digest, new))}", f"sha256:{max(map(digest, new))}"],
        )
        with files.changes.open("w") as changes, files.plain.open("w") as plain:
            for op, text, label in rows:
                plain.write(f"{op},{text},{label}\n")
                line: dict[str, object]
                if op == "assert":
                    line = {"op": op, "fingerprints": {"sha256": text}, "labels": [label]}
                else:
                    line = {"op": op, "id": f"sha256:{text}", "cause": "withdrawn"}
                changes.write(json.dumps(line) + "\n")
        return files
