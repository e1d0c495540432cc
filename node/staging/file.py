"""The staged changes of one of our own lists, which the next publish will sign.

They are in a file of their own, so that a big import never blocks the store. An entry has at most
one staged operation. An edit is kept as a whole or not at all, even if the process is killed.
Operations are read in the order of their entries' names, so that the deltas of a big import have
disjoint, ascending ranges of keys. This module does not know what is in force in the store.

All SQL for this file is here, which makes the module long; `node.staging.edit` has the rules.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from federation.body import Body, PackedOp
from federation.entry import Annotation, OpKind
from node.errors import DamageError, StoreError
from node.staging.edit import (
    BLOCK_KINDS,
    IF_DAMAGED,
    Block,
    Edit,
    blocks_with,
)
from node.staging.rows import Row, from_row, iter_rows
from node.store.sqlite import sqlite3, sqlite_errors

_BUSY_SECONDS: Final = 30.0
_FORMAT: Final = 3
_BEFORE: Final = 2
"""The older format that is converted to this one: its blocks have no roots."""

_PAGE_ROWS: Final = 1_000
_PAGE_BYTES: Final = 4 * 1024 * 1024
_CODE_BYTES: Final = 2
"""Bytes that each operation needs in a body to refer to its annotation."""

_ANNOTATION_OVERHEAD: Final = 16
"""Bytes that an annotation needs in a body besides its canonical form."""

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA cache_size = -16384",
    "PRAGMA journal_size_limit = 4194304",
)
_NUMBERS: Final = 10_000
"""Rows of the table `number`: SQL can cut this many keys out of one column."""

_BLOCK_COLUMNS: Final = "first, last, edit, body, ops_root, seal"
"""The columns of a `Block`."""

_SCHEMA: Final = (
    # See `Row`. `edit` is the number of the edit that staged it, so a row that was replaced after
    # it was read can be told from the one that was read.
    """CREATE TABLE staged (
        key BLOB PRIMARY KEY,
        edit INTEGER NOT NULL,
        content BLOB NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # `body` is a serialized delta body; other columns describe its content. `ops_root` is the root
    # of its ops tree, and `seal` is the SHA-256 of both; null in files of the older format.
    """CREATE TABLE block (
        first BLOB PRIMARY KEY,
        last BLOB NOT NULL,
        edit INTEGER NOT NULL,
        asserted INTEGER NOT NULL,
        retracted INTEGER NOT NULL,
        purged INTEGER NOT NULL,
        body BLOB NOT NULL,
        ops_root BLOB,
        seal BLOB
    ) STRICT, WITHOUT ROWID""",
    # 0, 1, 2 ...: lets SQL cut columns into rows, several times faster than binding each row.
    "CREATE TABLE number (n INTEGER PRIMARY KEY) STRICT",
    # The number of staged operations by kind, as counting them would read all of them.
    "CREATE TABLE tally (kind INTEGER PRIMARY KEY, staged INTEGER NOT NULL) STRICT",
    "CREATE TABLE edit (edit INTEGER PRIMARY KEY) STRICT",
    # Tells this file from one that replaced it, as edits are numbered from 1 in each.
    "CREATE TABLE identity (identity BLOB NOT NULL) STRICT",
)
_IDENTITY_BYTES: Final = 16
_TAKEN_ROWS: Final = "FROM staged WHERE key BETWEEN ? AND ? AND edit <= ?"
_TAKEN_BLOCKS: Final = "FROM block WHERE first >= ? AND last <= ? AND edit <= ?"
_INSERT_NUMBERS: Final = (
    "WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted "
    "WHERE n + 1 < ?) INSERT INTO number (n) SELECT n FROM counted"
)


@dataclass(frozen=True, slots=True)
class StagedRange:
    """A range of staged operations: all between two keys that were staged by edits up to some edit.

    Operations that were staged later, or replaced one of these, do not belong to it.

    Attributes:
        staging: the identity of the file of staged changes (`Staging.identity`).
        first: the key of the first.
        last: the key of the last.
        edit: the number of the newest edit that counts.
    """

    staging: bytes
    first: bytes
    last: bytes
    edit: int

    def through(self, later: StagedRange) -> StagedRange:
        """Return the range from the start of this one to the end of a later one."""
        return StagedRange(self.staging, self.first, later.last, self.edit)


@dataclass(frozen=True, slots=True)
class Batch:
    """Staged operations that were read to be signed.

    Attributes:
        operations: a body of them, or the operations by ascending key.
        extent: the range that they are.
        ops_root: the root of the body's ops tree, if known.
    """

    operations: Body | list[PackedOp]
    extent: StagedRange
    ops_root: bytes | None = None

    @property
    def count(self) -> int:
        """The number of operations."""
        taken = self.operations
        return taken.count if isinstance(taken, Body) else len(taken)


class _Tables:
    """The statements of an edit: `node.staging.edit.Tables` of an open file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def insert_rows(self, rows: Sequence[Row], edit: int) -> None:
        alike: dict[tuple[int, int], list[Row]] = {}
        for row in rows:
            alike.setdefault((len(row.key), len(row.content)), []).append(row)
        for (key_bytes, content_bytes), of_a_kind in alike.items():
            for start in range(0, len(of_a_kind), _NUMBERS):
                some = of_a_kind[start : start + _NUMBERS]
                self._connection.execute(
                    """INSERT INTO staged (key, edit, content)
                    SELECT substr(?1, n * ?2 + 1, ?2), ?3, substr(?4, n * ?5 + 1, ?5)
                    FROM number WHERE n < ?6""",
                    (
                        b"".join([row.key for row in some]),
                        key_bytes,
                        edit,
                        b"".join([row.content for row in some]),
                        content_bytes,
                        len(some),
                    ),
                )

    def delete_rows(self, keys: Iterable[bytes]) -> None:
        for width, some in _iter_columns(keys):
            self._connection.execute(
                """DELETE FROM staged WHERE key IN (
                    SELECT substr(?1, n * ?2 + 1, ?2) FROM number WHERE n < ?3
                )""",
                (b"".join(some), width, len(some)),
            )

    def has_rows(self, first: bytes, last: bytes) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM staged WHERE key BETWEEN ? AND ? LIMIT 1", (first, last)
        ).fetchone()
        return row is not None

    def insert_block(self, block: Block, counts: Mapping[OpKind, int]) -> None:
        self._connection.execute(
            f"""INSERT INTO block ({_BLOCK_COLUMNS}, asserted, retracted, purged)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",  # noqa: S608  # column names
            (*block, *(counts[kind] for kind in BLOCK_KINDS)),
        )

    def delete_block(self, first: bytes) -> None:
        self._connection.execute("DELETE FROM block WHERE first = ?", (first,))

    def load_block(self, first: bytes) -> Block:
        return Block(
            *self._connection.execute(
                f"SELECT {_BLOCK_COLUMNS} FROM block WHERE first = ?",  # noqa: S608  # column names
                (first,),
            ).fetchone()
        )

    def overlapping(self, first: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
        found = self._connection.execute(
            """SELECT first, last FROM block WHERE first <= ?2
            AND first >= coalesce((SELECT max(first) FROM block WHERE first <= ?1), x'')
            ORDER BY first""",
            (first, last),
        ).fetchall()
        return [block for block in found if block[1] >= first]


class Staging:
    """The staged changes of one list. One connection, used by one thread at a time.

    Attributes:
        path: the file.
        identity: random bytes that no other file of staged changes has.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        (self.identity,) = connection.execute("SELECT identity FROM identity").fetchone()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file of a list's staged changes; create it if there is none.

        Raises:
            DamageError: the file is not a file of staged changes.
            StoreError: it is from a newer version, or cannot be opened.
            LockedError: another process is writing to it and does not come to an end.
        """
        with sqlite_errors(path, IF_DAMAGED):
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rwc",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_SECONDS,
                check_same_thread=False,
            )
            try:
                for pragma in _PRAGMAS:
                    connection.execute(pragma)
                _ensure_schema(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def claim(self, origin: str) -> None:
        """Reserve the file for the changes of one list; from then on it belongs to that list.

        Raises:
            StoreError: FOREIGN, it belongs to another list.
        """
        connection = self._connection
        with sqlite_errors(self.path, IF_DAMAGED):
            connection.execute("CREATE TABLE IF NOT EXISTS owner (origin TEXT NOT NULL) STRICT")
            connection.execute(
                "INSERT INTO owner (origin) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM owner)",
                (origin,),
            )
            (owner,) = connection.execute("SELECT origin FROM owner").fetchone()
        if owner != origin:
            raise StoreError(
                f"{self.path}: its changes were staged for {owner}, not for {origin}",
                hint="nothing was changed; put the right file back, or move it away",
                reason="FOREIGN",
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is staged."""
        with sqlite_errors(self.path, IF_DAMAGED):
            return (
                self._connection.execute(
                    "SELECT 1 FROM (SELECT 1 FROM staged LIMIT 1) UNION ALL SELECT 1 FROM block"
                ).fetchone()
                is None
            )

    def count_by_kind(self) -> dict[OpKind, int]:
        """Return how many operations of each kind are staged, without kinds that have none."""
        with sqlite_errors(self.path, IF_DAMAGED):
            rows = self._connection.execute("SELECT kind, staged FROM tally WHERE staged > 0")
            return {OpKind(kind): count for kind, count in rows}

    def load(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """Return the staged operations on the entries with these keys, by key."""
        found = {}
        wanted = set(keys)
        with sqlite_errors(self.path, IF_DAMAGED):
            for width, some in _iter_columns(wanted):
                for key, content in self._connection.execute(
                    """SELECT s.key, s.content FROM number AS n CROSS JOIN staged AS s
                    ON s.key = substr(?1, n.n * ?2 + 1, ?2) WHERE n.n < ?3""",
                    (b"".join(some), width, len(some)),
                ):
                    found[key] = Row(key, content)
            for block in blocks_with(_Tables(self._connection), wanted):
                found.update((row.key, row) for row in iter_rows(block.open()) if row.key in wanted)
        return found

    def iter_batches(self, max_ops: int, max_bytes: int) -> Iterator[Batch]:
        """Yield staged operations by ascending key, in batches; they stay staged.

        Yielded operations may be removed during the iteration. Operations staged during the
        iteration are left for the next one; otherwise a range could not identify a batch.

        Args:
            max_ops: the most operations in one batch of rows. A block is a batch by itself.
            max_bytes: the most bytes of a batch, counted as in a body: records, annotation codes,
                and each annotation once. A batch has at least one operation, even a larger one.
        """
        with sqlite_errors(self.path, IF_DAMAGED):
            (newest,) = self._connection.execute("SELECT max(edit) FROM edit").fetchone()
        newest = newest or 0
        filling = _Filling(max_ops, max_bytes, self.identity, newest)
        after: bytes | None = b""
        while after is not None:
            block = self._next_block(after, newest)
            for page in self._iter_pages(after, None if block is None else block.first, newest):
                for row in page:
                    yield from filling.add(row)
            yield from filling.take()
            after = None
            if block is not None:
                extent = StagedRange(self.identity, block.first, block.last, newest)
                yield Batch(block.open(), extent, block.ops_root)
                after = block.last

    def remove(self, extent: StagedRange) -> int:
        """Remove operations that were read; return how many there were.

        An operation that was replaced since it was read stays, because its edit is later. The range
        of another file removes nothing.
        """
        if extent.staging != self.identity:
            return 0
        with self.edit() as edit:
            taken = (extent.first, extent.last, extent.edit)
            for kind, count in self._connection.execute(
                f"SELECT substr(content, 1, 1), count(*) {_TAKEN_ROWS} GROUP BY 1", taken
            ):
                edit.tally[OpKind(kind[0])] -= count
            for counts in self._connection.execute(
                f"SELECT asserted, retracted, purged {_TAKEN_BLOCKS}", taken
            ):
                edit.tally.subtract(dict(zip(BLOCK_KINDS, counts, strict=True)))
            self._connection.execute(f"DELETE {_TAKEN_ROWS}", taken)
            self._connection.execute(f"DELETE {_TAKEN_BLOCKS}", taken)
            # Usually all of them are gone already, and then nothing has to be synced.
            edit.keep = bool(edit.tally.total())
        return -edit.tally.total()

    def clear(self) -> int:
        """Remove everything; return how many operations there were."""
        with self.edit() as edit:
            before = self.count_by_kind()
            self._connection.execute("DELETE FROM staged")
            self._connection.execute("DELETE FROM block")
            edit.tally.subtract(before)
        return sum(before.values())

    @contextmanager
    def edit(self) -> Iterator[Edit]:
        """Run a block as one edit: all of it is kept, or nothing after an exception.

        Raises:
            LockedError: another process is writing and does not come to an end.
            StoreFullError: no room left.
            StoreError: the file could not be written.
        """
        connection = self._connection
        with sqlite_errors(self.path, IF_DAMAGED):
            connection.execute("BEGIN IMMEDIATE")
            try:
                (number,) = connection.execute("SELECT max(edit) FROM edit").fetchone()
                edit = Edit(_Tables(connection), (number or 0) + 1)
                yield edit
                if not edit.keep:
                    connection.execute("ROLLBACK")
                    return
                connection.execute("DELETE FROM edit")
                connection.execute("INSERT INTO edit (edit) VALUES (?)", (edit.number,))
                for kind, change in edit.tally.items():
                    connection.execute(
                        "INSERT INTO tally (kind, staged) VALUES (?1, ?2) "
                        "ON CONFLICT (kind) DO UPDATE SET staged = staged + ?2",
                        (kind, change),
                    )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _next_block(self, after: bytes, newest: int) -> Block | None:
        """Return the first block after a key, from edits up to `newest`."""
        with sqlite_errors(self.path, IF_DAMAGED):
            found = self._connection.execute(
                f"""SELECT {_BLOCK_COLUMNS} FROM block WHERE first > ? AND edit <= ?
                ORDER BY first LIMIT 1""",  # noqa: S608  # column names
                (after, newest),
            ).fetchone()
        return None if found is None else Block(*found)

    def _iter_pages(self, after: bytes, before: bytes | None, newest: int) -> Iterator[list[Row]]:
        """Yield the rows of edits up to `newest`, in pages; no lock is held between pages.

        Args:
            after: rows after this key.
            before: rows before this key; None for all.
            newest: the last edit that counts.
        """
        while page := self._read_page(after, before, newest):
            yield page
            after = page[-1].key

    def _read_page(self, after: bytes, before: bytes | None, newest: int) -> list[Row]:
        page: list[Row] = []
        size = 0
        with sqlite_errors(self.path, IF_DAMAGED):
            cursor = self._connection.execute(
                "SELECT key, content FROM staged WHERE key > ?1 AND (?2 IS NULL OR key < ?2) "
                "AND edit <= ?3 ORDER BY key LIMIT ?4",
                (after, before, newest, _PAGE_ROWS),
            )
            for key, content in cursor:
                page.append(Row(key, content))
                size += len(key) + len(content)
                if size >= _PAGE_BYTES:
                    break
            cursor.close()
        return page


class _Filling:
    """A batch of rows that is being filled."""

    def __init__(self, max_ops: int, max_bytes: int, staging: bytes, edit: int) -> None:
        self._staging = staging
        self._edit = edit
        self._max_ops = max_ops
        self._max_bytes = max_bytes
        self._clear()

    def _clear(self) -> None:
        self._packed: list[PackedOp] = []
        self._annotations: set[Annotation] = set()
        self._size = 0
        self._first = self._last = b""

    def take(self) -> Iterator[Batch]:
        """Yield the batch, if it has operations, and begin another."""
        if self._packed:
            extent = StagedRange(self._staging, self._first, self._last, self._edit)
            yield Batch(self._packed, extent)
            self._clear()

    def add(self, row: Row) -> Iterator[Batch]:
        """Add a row; yield the batch before it if that is full."""
        packed = from_row(row)
        record = len(packed.record) + _CODE_BYTES
        annotation = len(packed.annotation.canonical()) + _ANNOTATION_OVERHEAD
        more = 0 if packed.annotation in self._annotations else annotation
        if len(self._packed) == self._max_ops or self._size + record + more > self._max_bytes:
            yield from self.take()
            more = annotation
        self._first = self._first or row.key
        self._last = row.key
        self._packed.append(packed)
        self._annotations.add(packed.annotation)
        self._size += record + more


def _ensure_schema(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _FORMAT:
        return
    if version not in (0, _BEFORE):
        raise StoreError(
            f"{path} is from another hashfed (format {version})",
            hint="update hashfed on this machine",
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        _make_schema(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _FORMAT:  # Another process was first.
        return
    if version == _BEFORE:
        for column in ("ops_root", "seal"):
            connection.execute(f"ALTER TABLE block ADD COLUMN {column} BLOB")
        connection.execute(f"PRAGMA user_version = {_FORMAT}")
        return
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
        raise DamageError(f"{path} is not a file of staged changes")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(_INSERT_NUMBERS, (_NUMBERS,))
    connection.execute(
        "INSERT INTO identity (identity) VALUES (?)", (secrets.token_bytes(_IDENTITY_BYTES),)
    )
    connection.execute(f"PRAGMA user_version = {_FORMAT}")


def _iter_columns(keys: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield keys by their width, at most as many at a time as there are numbers."""
    by_width: dict[int, list[bytes]] = {}
    for key in keys:
        by_width.setdefault(len(key), []).append(key)
    for width, alike in by_width.items():
        for start in range(0, len(alike), _NUMBERS):
            yield width, alike[start : start + _NUMBERS]
