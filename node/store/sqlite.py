"""The SQLite library in use: the one that sqlite-utils picked, which is the `pysqlite3` wheel.

The standard library's is not used: SQLite before 3.51.3 can lose committed data in WAL mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
else:
    from sqlite_utils.utils import sqlite3

__all__ = ["sqlite3"]
