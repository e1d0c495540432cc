"""A planted bug: a check of a store asks SQLite whether the file is sound, and nothing else."""

from __future__ import annotations

from node.fsck import check

vars(check)["_inspect"] = lambda connection, *_: check._check_file(connection)
