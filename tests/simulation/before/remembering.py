"""Remembers which signatures are true, so that nine nodes do not compute the same nine times.

The one thing that is replaced is libsodium's check of one signature, by itself with a memory: a
pure function of key, signature and message. What is false is computed again each time. One seed in
ten runs without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from nacl import bindings

EVERY: Final = 10
"""One seed in so many computes every signature."""

_open = bindings.crypto_sign_open
_remembering_open = lru_cache(maxsize=50_000)(_open)


@contextmanager
def remembered(seed: int) -> Iterator[None]:
    """Remember true signatures while a seed runs, unless it is one of those that do not."""
    bindings.crypto_sign_open = _open if seed % EVERY == 0 else _remembering_open
    try:
        yield
    finally:
        bindings.crypto_sign_open = _open
