"""The setting of a wrong clock, in a file that a running process reads again and again."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

VARIABLE: Final = "FAULTS_CLOCK"
"""The environment variable that names the file."""


def real_ms() -> int:
    """Return the machine's time, in milliseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Setting:
    """The setting of a clock.

    Attributes:
        offset_ms: how far it is ahead of the machine's clock.
        frozen_ms: the time at which it stands still, if it does.
        jump_ms: how far it jumps back or forth whenever it is read.
    """

    offset_ms: int = 0
    frozen_ms: int | None = None
    jump_ms: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `write` has written."""
        offset, frozen, jump = text.split()
        return cls(int(offset), None if frozen == "-" else int(frozen), int(jump))

    def write(self, path: Path) -> None:
        """Apply this setting from now on."""
        frozen = "-" if self.frozen_ms is None else self.frozen_ms
        # A process that reads meanwhile gets the old or the new setting.
        new = path.with_suffix(".new")
        new.write_text(f"{self.offset_ms} {frozen} {self.jump_ms}", encoding="ascii")
        new.replace(path)

    def now_ms(self) -> int:
        """Return the time."""
        if self.frozen_ms is not None:
            return self.frozen_ms
        jump = random.randint(-self.jump_ms, self.jump_ms)  # no secret
        return real_ms() + self.offset_ms + jump
