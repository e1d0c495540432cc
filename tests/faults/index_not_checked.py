"""A planted bug: that the index has what it must have is taken for granted."""

from __future__ import annotations

from collections.abc import Sequence

from federation.body import Body
from node.store import entries
from node.store.sqlite import sqlite3

_check = entries.check_index


def _trust(
    connection: sqlite3.Connection, span: int, position: int, body: Body
) -> tuple[int, Sequence[int]]:
    return _check(connection, span, position, body)[0], ()


entries.check_index = _trust  # type: ignore[assignment]
