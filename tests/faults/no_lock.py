"""A planted bug: a lock that does not keep anybody out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.system import locks


@contextmanager
def _hold(path: Path, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    yield


locks.hold = _hold
