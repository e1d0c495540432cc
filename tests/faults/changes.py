"""Random changes of a list, and what has to be in force after them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

from tests.harness.node import assertion, digest


def entry_id(number: int) -> str:
    """Return the id of an entry."""
    return f"sha256:{digest(number)}"


@dataclass
class Model:
    """What is in force in a list, as far as a publication was acknowledged.

    Attributes:
        random: where choices come from.
        live: the label of each live entry.
    """

    random: random.Random
    live: dict[int, str] = field(default_factory=dict)
    _next: int = 0

    def draw(
        self, sizes: tuple[int, ...] = (1, 2, 10, 10, 100, 3_000)
    ) -> tuple[dict[int, str], str]:
        """Draw a change set; return what is in force after it, and its lines."""
        live = dict(self.live)
        lines = []
        known = sorted(live)
        for number in self.random.sample(known, min(len(known), self.random.randrange(6))):
            if self.random.random() < 0.5:
                del live[number]
                lines.append(
                    json.dumps({"op": "retract", "id": entry_id(number), "cause": "withdrawn"})
                )
            else:
                live[number] = f"B{self._next}"
                lines.append(assertion(number, live[number]))
        size = self.random.choice(sizes)
        for number in range(self._next, self._next + size):
            live[number] = "A1"
            lines.append(assertion(number))
        self._next += size
        return live, "".join(f"{line}\n" for line in lines)

    def skip(self, numbers: int) -> None:
        """Draw new entries only after the first `numbers`, which somebody else has used."""
        self._next = max(self._next, numbers)

    def expected(self) -> dict[str, str]:
        """Return the label of each entry in force, by id."""
        return {entry_id(number): label for number, label in self.live.items()}


def exported(text: str) -> dict[str, str]:
    """Return the label of each entry of an export, by id."""
    entries = map(json.loads, text.splitlines())
    return {entry["id"]: entry["labels"][0] for entry in entries}
