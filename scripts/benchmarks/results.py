"""The figures of all rounds, and their statistics: medians with ranges, ratios, percentiles.

The rates of one machine drift by a factor of two within hours, so only ratios of figures of the
same round mean anything: a ratio here is the median of the rounds' ratios, not a ratio of medians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from scripts.benchmarks.processes import Usage


@dataclass(slots=True)
class Results:
    """Values by name, one for each round; samples by name, many for each round.

    Attributes:
        rounds: values of each round.
        samples: values of all rounds together.
    """

    rounds: list[dict[str, float]] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def start_round(self) -> None:
        """Begin a round."""
        self.rounds.append({})

    def put(self, name: str, value: float) -> None:
        """Record a value of the current round."""
        self.rounds[-1][name] = value

    def put_usage(self, name: str, used: Usage, entries: int = 0) -> None:
        """Record what a process cost.

        Args:
            name: the name of the figure, which is a rate in entries per second, or else seconds.
                Its `cpu` in seconds and its `peak` in MiB are recorded as well.
            used: what the process cost.
            entries: how many entries it has processed, for a rate.
        """
        self.put(name, entries / used.wall_s if entries else used.wall_s)
        self.put(f"{name}.cpu", used.cpu_s)
        self.put(f"{name}.peak", used.peak_mib)

    def extend(self, name: str, values: list[float]) -> None:
        """Record samples."""
        self.samples.setdefault(name, []).extend(values)

    def values(self, name: str) -> list[float]:
        """Return the values of a figure, one for each round that has it."""
        return [values[name] for values in self.rounds if name in values]

    def ratios(self, above: str, below: str) -> list[float]:
        """Return the ratios of two figures, one for each round that has both."""
        return [
            values[above] / values[below]
            for values in self.rounds
            if above in values and below in values
        ]

    def has(self, *names: str) -> bool:
        """Whether there is any figure or sample of each name."""
        return all(
            name in self.samples or any(name in values for values in self.rounds) for name in names
        )

    def middle(self, name: str) -> float:
        """Return the median of a figure over the rounds."""
        return median(self.values(name))

    def percentile(self, name: str, percent: float) -> float:
        """Return a percentile of samples: the least sample that this share does not exceed."""
        ordered = sorted(self.samples[name])
        # Use the nearest rank, which is always one of the samples.
        return ordered[max(0, -int(-percent * len(ordered) // 100) - 1)]


@dataclass(slots=True)
class Book:
    """All figures of a run.

    Attributes:
        sizes: figures of lists of single SHA-256 hashes, by their number of entries.
        kinds: figures of lists of other hashes, by kind.
        once: figures that are taken only once.
        skipped: what could not be measured, and why.
    """

    sizes: dict[int, Results] = field(default_factory=dict)
    kinds: dict[str, Results] = field(default_factory=dict)
    once: Results = field(default_factory=Results)
    skipped: list[str] = field(default_factory=list)

    def at(self, size: int) -> Results:
        """Return the figures of a size."""
        return self.sizes.setdefault(size, Results())

    def of(self, kind: str) -> Results:
        """Return the figures of a kind."""
        return self.kinds.setdefault(kind, Results())

    def export(self) -> dict[str, object]:
        """Return all figures for a file."""
        return {
            "sizes": {str(size): asdict(results) for size, results in self.sizes.items()},
            "kinds": {kind: asdict(results) for kind, results in self.kinds.items()},
            "once": asdict(self.once),
            "skipped": self.skipped,
        }

    @classmethod
    def load(cls, exported: Any) -> Book:  # noqa: ANN401  # JSON
        """Return the figures that were exported."""
        return cls(
            sizes={int(size): Results(**found) for size, found in exported["sizes"].items()},
            kinds={kind: Results(**found) for kind, found in exported["kinds"].items()},
            once=Results(**exported["once"]),
            skipped=exported["skipped"],
        )


def spread(values: list[float], form: Callable[[float], str], unit: str = "") -> str:
    """Write the median, and the range if there was more than one round."""
    if not values:
        return "-"
    text = form(median(values))
    if len(values) > 1:
        text += f" ({form(min(values))}-{form(max(values))})"
    return text + unit


def short(value: float) -> str:
    """Write a number in about three digits."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}{letter}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def milliseconds(seconds: float) -> str:
    """Write a time as a number of milliseconds."""
    value = seconds * 1000
    return f"{value:.{0 if value >= 100 else 1 if value >= 1 else 3}f}"
