"""A planted bug: a check of a store only asks SQLite whether the file is sound."""

from __future__ import annotations

from node.fsck import check

vars(check)["_inspect"] = lambda connection, *_: check._check_file(connection)
