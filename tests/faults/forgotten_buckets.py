"""A planted bug: what had arrived of a snapshot is not found again after a kill."""

from __future__ import annotations

import sqlite3

from federation.snapshot import SnapshotOffer
from node import joining


def _take_up(_connection: sqlite3.Connection, _list: int, _offer: SnapshotOffer) -> int | None:
    return None


joining._take_up = _take_up
