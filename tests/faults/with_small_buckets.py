"""Imported by the fork server: snapshot buckets stay small as long as the process runs."""

from __future__ import annotations

from contextlib import ExitStack

from tests.faults.small_buckets import small_buckets

_held = ExitStack()
_held.enter_context(small_buckets())
