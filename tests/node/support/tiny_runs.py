"""Runs of the index so small that a few operations fill, close and merge them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from node.store import index, runs


@contextmanager
def tiny_runs() -> Iterator[None]:
    """Let all stores of this process have tiny runs."""
    sizes: dict[str, Any] = {
        "_OPEN_ROWS": 2,
        "_GROUP_ROWS": 5,
        "_ALIKE": 2,
        "_LEAST_ROWS": 16,
        "_SHARE": 1_000,
        "_SLICE_ROWS": 3,
    }
    with mock.patch.multiple(runs, **sizes), mock.patch.object(index, "_SPARSE", 1):
        yield
