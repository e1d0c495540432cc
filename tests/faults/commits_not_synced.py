"""A planted bug, imported before the program: what is committed is never synced."""

from __future__ import annotations

from node.store import connection

vars(connection)["_PRAGMAS"] = tuple(
    pragma.replace("synchronous = FULL", "synchronous = OFF") for pragma in connection._PRAGMAS
)
