"""Figures of all rounds, and what is said of them: medians with their range, ratios, percentiles.

Rates of one machine drift by a factor of two within hours, so that only ratios of figures of the
same round say anything: a ratio here is the median of the rounds' ratios, not a ratio of medians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median


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
        """Record a value of the present round."""
        self.rounds[-1][name] = value

    def extend(self, name: str, values: list[float]) -> None:
        """Record samples."""
        self.samples.setdefault(name, []).extend(values)

    def values(self, name: str) -> list[float]:
        """Return a figure of each round that has it."""
        return [values[name] for values in self.rounds if name in values]

    def ratios(self, above: str, below: str) -> list[float]:
        """Return the ratio of two figures of each round that has both."""
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
        """Return a percentile of samples: the least that so many of them do not exceed."""
        ordered = sorted(self.samples[name])
        # The nearest rank, which is always one of the samples.
        return ordered[max(0, -int(-percent * len(ordered) // 100) - 1)]


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
