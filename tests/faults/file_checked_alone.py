"""A planted bug: a check of a store asks SQLite whether the file is sound, and nothing else."""

from __future__ import annotations

from node import fsck

vars(fsck)["_inspect"] = lambda connection, *_: fsck._check_file(connection)
