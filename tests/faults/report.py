"""The result of a run of faults: how often each fault was tried, and what did not hold."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_SHOWN: Final = 50
"""How many violations the text shows; the JSON file has all of them."""


def describe_machine() -> dict[str, str]:
    """Return facts about the machine, by name."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{model}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case, or of a piece of it.

    Attributes:
        case: its number; with the part and the seed it repeats the case.
        tried: how many faults were tried for it.
        hit: which kinds of fault happened, and how often.
        violations: what did not hold, one sentence each.
        skipped: why nothing was tried, if this machine cannot do it.
    """

    case: int
    tried: int = 1
    hit: Mapping[str, int] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class Violation:
    """Something that did not hold.

    Attributes:
        command: the command that repeats the case.
        what: what did not hold.
    """

    command: str
    what: str


@dataclass
class Report:
    """The result of one part so far.

    Attributes:
        part: its name.
        seed: determines the choices.
        tried: how many faults were tried.
        hit: which kinds of fault happened, and how often.
        violations: what did not hold.
        skipped: how many cases this machine could not run, by reason.
        machine: what it ran on.
        seconds: how long it took.
        complete: whether everything was done that was asked for.
        failure: how the harness failed, which says nothing about the program; empty if it did not.
    """

    part: str
    seed: int
    tried: int = 0
    hit: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    machine: Mapping[str, str] = field(default_factory=describe_machine)
    seconds: float = 0.0
    complete: bool = False
    failure: str = ""

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if outcome.skipped:
            self.skipped[outcome.skipped] += 1
            return
        self.tried += outcome.tried
        self.hit.update(outcome.hit)
        command = f"scripts/faults {self.part} --seed {self.seed} --case {outcome.case}"
        self.violations += [Violation(command, what) for what in outcome.violations]

    def json(self) -> dict[str, object]:
        """Return everything in a form that can be written as JSON."""
        return {
            **vars(self),
            "hit": dict(sorted(self.hit.items())),
            "violations": [asdict(violation) for violation in self.violations],
        }

    def text(self) -> str:
        """Return it for a person to read."""
        lines = [
            f"{self.part}, seed {self.seed}: {self.tried:,} tried, "
            f"{len(self.violations)} violations, {self.seconds:,.0f} s"
            + ("" if self.complete else ", INTERRUPTED")
            + (", THE HARNESS FAILED" if self.failure else "")
        ]
        width = max(map(len, self.hit), default=0)
        lines += [f"  {kind:<{width}}  {times:>8,}" for kind, times in sorted(self.hit.items())]
        lines += [f"  SKIPPED {times:,} times: {why}" for why, times in self.skipped.items()]
        for violation in self.violations[:_SHOWN]:
            lines += [f"VIOLATION: {violation.what}", f"  again: {violation.command}"]
        if len(self.violations) > _SHOWN:
            lines.append(f"... and {len(self.violations) - _SHOWN} more")
        if self.failure:
            lines.append(f"the harness failed:\n{self.failure}")
        lines.append("  " + ", ".join(f"{name} {value}" for name, value in self.machine.items()))
        return "\n".join(lines)
