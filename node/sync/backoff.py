"""How long to wait before trying again: exponential, with full jitter.

Full jitter, so that the peers of a node that was away do not all come back in the same moment.
"""

from __future__ import annotations

from random import Random
from typing import Final

BASE_SECONDS: Final = 1.0


class Backoff:
    """Waits that double at each failure, up to a cap."""

    def __init__(self, random: Random, cap_seconds: float) -> None:
        self._random = random
        self._cap_seconds = cap_seconds
        self._failures = 0

    def reset(self) -> None:
        """Start again: it worked."""
        self._failures = 0

    def draw(self, at_least: float = 0.0) -> float:
        """Count one more failure and return how long to wait, in seconds."""
        # The exponent is bounded: 2**10 s is longer than any cap that makes sense, and floats end.
        bound = min(self._cap_seconds, BASE_SECONDS * 2 ** min(self._failures, 20))
        self._failures += 1
        return max(at_least, self._random.uniform(0.0, bound))
