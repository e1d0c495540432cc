"""How much is measured, and with which programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.nodes import Coalition
from scripts.benchmarks.results import Results
from scripts.benchmarks.shell import Shell
from scripts.benchmarks.signing import Signing
from scripts.benchmarks.workers import Conversation

PARTS: Final = {
    "load": "import, publish and first sync at every size; the others at sizes need it",
    "git": "the same by git with signed commits",
    "lookup": "lookups: one by one, in bulk, during a bulk load",
    "delta": "changes of 1,000 and 10,000 operations",
    "live": "from publish to found, one operation or 1,000",
    "kinds": "lists of other hashes, and a real list; bytes on the wire",
    "series": "50 changes of 10,000 operations",
    "fanout": "many live subscribers",
    "snapshot": "bootstrap by snapshot and by deltas",
}
"""The parts that can be measured alone."""

_ROUNDS_UP_TO: Final = 1_000_000
"""A larger list is measured only once: otherwise it would take all the time of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: how many entries the lists have, ascending.
        rounds: how often everything is measured.
        parts: which of PARTS are measured.
        single_ops: how many publications of one operation there are, for latency.
        batches: how many publications of 1,000 operations there are, for latency.
        deltas: how many changes of 1,000 operations there are, for their cost.
        big_delta: how many operations one large change has.
        lookups: how many hashes are looked up one by one.
        bulk: how many hashes are looked up in one command.
        starts: how often the start of the program is measured in a round.
        kinds: the kinds of hashes.
        kind_size: how many entries a list of each kind has.
        replayed: how many changes of the real list are replayed.
        series: how many changes follow one another.
        subscribers: how many live subscribers there are.
        fanout_ops: publications of one operation for each number of subscribers.
        fanout_batches: publications of 1,000 operations for each number of subscribers.
        small_deltas: how many changes a list of many small changes has.
        rewrites: how often every entry of a list is revised.
    """

    sizes: tuple[int, ...]
    rounds: int
    parts: frozenset[str]
    single_ops: int = 50
    batches: int = 20
    deltas: int = 5
    big_delta: int = 10_000
    lookups: int = 5_000
    bulk: int = 1_000_000
    starts: int = 3
    kinds: tuple[str, ...] = ("sha256", "triples", "pdq", "photodna")
    kind_size: int = 200_000
    replayed: int = 125
    series: int = 50
    subscribers: tuple[int, ...] = (1, 10, 50, 200)
    fanout_ops: int = 100
    fanout_batches: int = 10
    small_deltas: int = 1_000
    rewrites: int = 5

    def export(self) -> dict[str, object]:
        """Return the plan for a file."""
        return {**asdict(self), "parts": sorted(self.parts)}

    @classmethod
    def load(cls, exported: dict[str, Any]) -> Plan:
        """Return a plan that was exported."""
        lists = {key: tuple(value) for key, value in exported.items() if isinstance(value, list)}
        return cls(**{**exported, **lists, "parts": frozenset(exported["parts"])})

    @property
    def main(self) -> int:
        """The size at which everything is measured: the largest that is measured in rounds."""
        return max((size for size in self.sizes if size <= _ROUNDS_UP_TO), default=self.sizes[0])

    def has(self, *parts: str) -> bool:
        """Return whether any of these parts is measured."""
        return not self.parts.isdisjoint(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs with which this one is compared.

    Attributes:
        shell: the `sqlite3` shell.
        signing: a key for OpenSSH's signatures.
        git: `git`.
    """

    shell: Shell
    signing: Signing
    git: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything that one part of a benchmark needs.

    Attributes:
        plan: how much is measured.
        tools: the programs to compare with.
        folder: where files go; it exists, and is removed afterwards.
        results: where figures go.
        commands: runs commands that are not measured.
        say: tells the person what is going on.
    """

    plan: Plan
    tools: Tools
    folder: Path
    commands: Conversation
    results: Results
    say: Callable[[str], None]

    def make_nodes(self) -> Coalition:
        """Make a publisher with an empty list."""
        return Coalition(self.folder / "nodes", self.commands)

    @property
    def table(self) -> Path:
        """The database into which `.import` has loaded the list in its owner's order."""
        return self.folder / "shuffled.db"

    @property
    def floor_table(self) -> Path:
        """The database of the append floor."""
        return self.folder / "floor.db"

    @property
    def git_table(self) -> Path:
        """The database into which the list is loaded from git."""
        return self.folder / "git.db"
