"""A planted bug: what had arrived of a snapshot is not found again after a kill."""

from __future__ import annotations

import sqlite3

from federation.snapshot import SnapshotOffer
from node import joining


def _take_up(connection: sqlite3.Connection, list_number: int, offer: SnapshotOffer) -> int | None:
    del connection, list_number, offer
    return None


joining._take_up = _take_up
