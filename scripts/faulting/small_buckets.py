"""Imported by the fork server: buckets of snapshots are small, so that short lists have many."""

from __future__ import annotations

from federation import limits

limits.MAX_BUCKET_ENTRIES = 64  # type: ignore[misc]  # who makes buckets decides where they are cut
