"""The list that is measured: single SHA-256 hashes with one label each, and changes to it.

Everything follows from the number of an entry, so every run has the same list. In the order of the
numbers, the hashes are in random order, as in the list of an owner who adds to it over years.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from scripts.benchmarks.processes import BenchError, run

_LABELS: Final = tuple(f"category-{number:02}" for number in range(12))
_BLOCK: Final = 1_000

REVISED: Final = "revised-"
"""The beginning of the labels that a revision gives."""

NEW_SHARE: Final = 0.5
REVISED_SHARE: Final = 0.4
"""The rest of a change is retracted."""


def digest(number: int) -> str:
    """Return the hash of an entry."""
    return sha256(b"hashfed benchmark %d" % number).hexdigest()


def label(hash_text: str) -> str:
    """Return the label of an entry; some labels are much more frequent than others."""
    return _LABELS[min(int(hash_text[0:2], 16) % 12, int(hash_text[2:4], 16) % 12)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFiles:
    """One list as files.

    Attributes:
        count: how many entries it has.
        changes: for `hashfed import`, in the owner's order.
        shuffled: for the `sqlite3` shell, in the owner's order.
        ordered: for the `sqlite3` shell, in the order of the hashes.
    """

    count: int
    changes: Path
    shuffled: Path
    ordered: Path


def write_list(folder: Path, count: int, first: int = 0) -> ListFiles:
    """Write a list of `count` entries, starting with a number."""
    folder.mkdir()
    files = ListFiles(
        count=count,
        changes=folder / "changes.csv",
        shuffled=folder / "shuffled.csv",
        ordered=folder / "ordered.csv",
    )
    with files.changes.open("w") as changes, files.shuffled.open("w") as shuffled:
        changes.write("type,digest,label\n")
        for start in range(first, first + count, _BLOCK):
            rows = [
                f"{text},{label(text)}\n"
                for text in map(digest, range(start, min(start + _BLOCK, first + count)))
            ]
            shuffled.writelines(rows)
            changes.writelines(["sha256," + row for row in rows])
    sort_lines(files.shuffled, files.ordered)
    return files


def sort_lines(source: Path, target: Path) -> None:
    """Sort a file's lines by their bytes, and sync it, so as not to slow the next measurement."""
    run(["sort", "-S", "64M", "-T", target.parent, "-o", target, source], env={"LC_ALL": "C"})
    os.sync()


def write_wanted(path: Path, numbers: Iterable[int], prefix: str = "sha256:") -> None:
    """Write hashes to look up, one per line."""
    with path.open("w") as file:
        file.writelines(f"{prefix}{digest(number)}\n" for number in numbers)


def spread_numbers(size: int, count: int) -> range:
    """Return the numbers of up to `count` entries, spread over a list: their hashes are random."""
    step = max(1, size // count)
    return range(0, step * min(size, count), step)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFiles:
    """One change of a list as files.

    Attributes:
        ops: how many operations it has.
        asserted: how many of them are not retractions.
        changes: for `hashfed import`.
        plain: for the `sqlite3` shell: `+` or `-`, hash, label.
        probes: hashes that are found only when the change is in force.
        gone: hashes that are found until the change is in force.
    """

    ops: int
    asserted: int
    changes: Path
    plain: Path
    probes: list[str]
    gone: list[str]


@dataclass(slots=True)
class Changes:
    """Makes changes of a list, each of which can follow the one before.

    Attributes:
        folder: where their files go.
        count: how many entries the list has at the start.
    """

    folder: Path
    count: int
    _made: int = 0
    _next: int = 0
    _retracted: set[int] = field(default_factory=set)
    _random: random.Random = field(default_factory=lambda: random.Random(4))  # noqa: S311  # a list

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._next = self.count

    @property
    def live(self) -> int:
        """How many entries are in force after all changes."""
        return self._next - len(self._retracted)

    def is_live(self, number: int) -> bool:
        """Return whether an entry is in force after all changes."""
        return number < self._next and number not in self._retracted

    def additions(self, ops: int) -> DeltaFiles:
        """Make a change that only adds entries."""
        return self._write(self._take_new(ops), [], [])

    def retractions(self, ops: int) -> DeltaFiles:
        """Make a change that only retracts entries."""
        return self._write([], [], self._draw(ops))

    def revisions(self, ops: int) -> DeltaFiles:
        """Make a change that only revises entries."""
        return self._write([], self._draw(ops), [])

    def mixed(self, ops: int) -> DeltaFiles:
        """Make a change of new, revised and retracted entries, spread over the list."""
        new, revised = round(ops * NEW_SHARE), round(ops * REVISED_SHARE)
        touched = self._draw(ops - new)
        return self._write(self._take_new(new), touched[:revised], touched[revised:])

    def _take_new(self, count: int) -> list[int]:
        self._next += count
        return list(range(self._next - count, self._next))

    def _draw(self, count: int) -> list[int]:
        """Draw entries in force."""
        if count > self.live:
            raise BenchError(f"cannot change {count} entries at once of a list of {self.live}")
        drawn: dict[int, None] = {}
        while len(drawn) < count:
            number = self._random.randrange(self._next)
            if number not in self._retracted:
                drawn[number] = None
        return list(drawn)

    def _write(self, new: list[int], revised: list[int], retracted: list[int]) -> DeltaFiles:
        self._made += 1
        self._retracted.update(retracted)
        rows = [("+", text, label(text)) for text in map(digest, new)]
        rows += [("+", digest(number), f"{REVISED}{self._made}") for number in revised]
        rows += [("-", digest(number), "") for number in retracted]
        # Nobody keeps changes sorted by hash or by kind.
        self._random.shuffle(rows)
        files = DeltaFiles(
            ops=len(rows),
            asserted=len(new) + len(revised),
            changes=self.folder / f"{self._made}.jsonl",
            plain=self.folder / f"{self._made}.csv",
            probes=_ends(new),
            gone=_ends(retracted),
        )
        with files.changes.open("w") as changes, files.plain.open("w") as plain:
            for op, text, name in rows:
                plain.write(f"{op},{text},{name}\n")
                line: dict[str, object]
                if op == "+":
                    line = {"op": "assert", "fingerprints": {"sha256": text}, "labels": [name]}
                else:
                    line = {"op": "retract", "id": f"sha256:{text}", "cause": "withdrawn"}
                changes.write(json.dumps(line) + "\n")
        return files


def _ends(numbers: list[int]) -> list[str]:
    """Return the first and the last hash, which are in the first and the last delta of a change."""
    texts = [f"sha256:{text}" for text in map(digest, numbers)]
    return [] if not texts else sorted({min(texts), max(texts)})
