"""Snapshot buckets so small that short lists have many; the maker of a snapshot decides that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from unittest import mock

from federation import limits

PLANTED: Final = "tests.faults.with_small_buckets"
"""The module that the fork server imports to let all nodes make such buckets."""

_ENTRIES: Final = 64


@contextmanager
def small_buckets() -> Iterator[None]:
    """Let this process make such buckets too: `fsck` compares with what the nodes have made."""
    with mock.patch.object(limits, "MAX_BUCKET_ENTRIES", _ENTRIES):
        yield
