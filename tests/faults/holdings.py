"""What a node's folder holds, in a form for comparison: only the content counts, not the files.

Databases are opened by SQLite, which recovers what was committed and discards the rest, as at the
first start after a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Final

from node.home import Home
from node.store.sqlite import sqlite3

NOTHING: Final = "nothing"
"""Stands for a missing file, or for a database without tables."""


@dataclass(frozen=True)
class Holdings:
    """What a node's folder holds.

    Attributes:
        store: the store's content.
        aside: the content of each store that was replaced.
        staged: what is staged, for each list.
        mark: the high-water mark.
        settings: configuration and keys.
        backups: each backup.
        released: the hash of the header of each released position, by list and position.
    """

    store: str
    aside: tuple[str, ...]
    staged: tuple[tuple[str, str], ...]
    mark: str
    settings: tuple[tuple[str, str], ...]
    backups: tuple[tuple[str, str], ...]
    released: frozenset[tuple[str, int, str]]

    def losses(self, before: Holdings, after: Holdings) -> Iterator[str]:
        """Yield what is neither as before nor as after the interrupted operation."""
        for name in (field.name for field in fields(self)):
            found, was = getattr(self, name), getattr(before, name)
            if name != "released" and found not in (was, getattr(after, name)):
                yield f"{name}: {_shorten(found, was)}, was {_shorten(was, found)}"


def _shorten(value: object, other: object) -> str:
    """Describe a value, without the parts that it shares with the other one."""
    if isinstance(value, tuple) and isinstance(other, tuple):
        value = [item for item in value if item not in other]
    return str(value)


def read_holdings(home: Home, backups: Path) -> Holdings:
    """Return what a node's folder and the folder of its backups hold."""
    store, released = NOTHING, frozenset[tuple[str, int, str]]()
    if home.store.exists():
        with _opened(home.store) as connection:
            store = digest(connection)
            if store != NOTHING:
                released = _released(connection)
    aside = []
    for path in sorted(home.path.glob(f"{home.store.name}.*-*")):
        if not path.name.endswith(("-wal", "-shm")):
            with _opened(path) as connection:
                aside.append(digest(connection))
    staged = []
    for path in sorted(home.staging.glob("*.staged")):
        with _opened(path) as connection:
            staged.append((path.name, digest(connection)))
    return Holdings(
        store=store,
        aside=tuple(aside),
        staged=tuple(item for item in staged if item[1] != NOTHING),
        mark=_file(home.mark / "high-water"),
        settings=tuple(
            (path.name, _file(path))
            for path in (home.config, *sorted(home.keys.glob("[!.]*")))
            if path.exists()
        ),
        backups=tuple((path.name, _file(path)) for path in sorted(backups.glob("[!.]*"))),
        released=released,
    )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def digest(connection: sqlite3.Connection) -> str:
    """Return a digest of the rows of all tables, or what is wrong with the file."""
    content = sha256()
    try:
        tables = connection.execute(
            # The numbers 0, 1, 2 ... never change.
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'number' ORDER BY name"
        ).fetchall()
        for (table,) in tables:
            content.update(f"{table}\n".encode())
            for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608
                content.update(f"{row!r}\n".encode())
    except sqlite3.DatabaseError as error:
        return f"unreadable: {error}"
    return content.hexdigest()[:16] if tables else NOTHING


def _released(connection: sqlite3.Connection) -> frozenset[tuple[str, int, str]]:
    try:
        rows = connection.execute(
            "SELECT l.name, d.id & 0xFFFFFFFF, d.header FROM released AS r JOIN list AS l "
            "USING (list) JOIN delta AS d ON d.id >> 32 = l.list AND d.id & 0xFFFFFFFF < r.size"
        ).fetchall()
    except sqlite3.DatabaseError:
        # Tables are still being made, or there is damage, which another check finds.
        return frozenset()
    return frozenset((name, at, sha256(header).hexdigest()[:16]) for name, at, header in rows)


def _file(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else NOTHING
