"""Staged changes of one of our own lists: what the next publish will sign.

They lie in a file of their own, so that a big import never blocks the store. An entry has at most
one staged operation. An edit comes as a whole or not at all, also when the process is killed.
Operations come out in the order of their entries' names, so that the deltas of a big import have
disjoint, ascending ranges of keys. Knows nothing of what is in force in the store.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, Self

from federation.body import PackedOp, Shape
from federation.entry import Annotation, OpKind
from node.errors import DamageError, StoreError
from node.stagedrow import Row, key_prefix, parse_annotation
from node.store.sqlite import sqlite3, sqlite_errors

_DAMAGED: Final = "what was staged there is lost: remove the file and import again"
_BUSY_SECONDS: Final = 30.0
_FORMAT: Final = 1
_PAGE_ROWS: Final = 1_000
_PAGE_BYTES: Final = 4 * 1024 * 1024
_CODE_BYTES: Final = 2
"""Bytes that each operation takes in a body to name its annotation."""

_ANNOTATION_OVERHEAD: Final = 16
"""Bytes that an annotation takes in a body beside its canonical ones."""

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA cache_size = -16384",
    "PRAGMA journal_size_limit = 4194304",
)
_SCHEMA: Final = (
    # Shapes are few and are repeated in each operation.
    "CREATE TABLE shape (shape INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",
    # `key` is the entry's name and `content` what else the operation says (see `Row`). `edit` is
    # the number of the edit that staged it: a row that was read and then replaced is another row.
    """CREATE TABLE staged (
        key BLOB PRIMARY KEY,
        edit INTEGER NOT NULL,
        shape INTEGER NOT NULL REFERENCES shape,
        content BLOB NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # How many operations are staged, by kind: counting them would read them all.
    "CREATE TABLE tally (kind INTEGER PRIMARY KEY, staged INTEGER NOT NULL) STRICT",
    "CREATE TABLE edit (edit INTEGER PRIMARY KEY) STRICT",
    # Tells this file from one that took its place: edits are numbered anew in each.
    "CREATE TABLE identity (identity BLOB NOT NULL) STRICT",
    # 0, 1, 2 ...: lets SQL cut columns into rows, several times faster than binding each row.
    "CREATE TABLE number (n INTEGER PRIMARY KEY) STRICT",
)
_NUMBERS: Final = 10_000
_IDENTITY_BYTES: Final = 16
_INSERT_NUMBERS: Final = (
    "WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted "
    "WHERE n + 1 < ?) INSERT INTO number (n) SELECT n FROM counted"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """Names staged operations: all between two keys that edits up to one had staged.

    What was staged later, or took the place of one of them, is not among them.

    Attributes:
        staging: which file of staged changes it is about (`Staging.identity`).
        first: the key of the first.
        last: the key of the last.
        edit: the number of the newest edit that counts.
    """

    staging: bytes
    first: bytes
    last: bytes
    edit: int

    def through(self, later: Extent) -> Extent:
        """Return the extent from the start of this one to the end of a later one."""
        return Extent(self.staging, self.first, later.last, self.edit)


@dataclass(frozen=True, slots=True)
class Batch:
    """Staged operations that were taken.

    Attributes:
        packed: the operations, by ascending key.
        extent: what they are called.
    """

    packed: list[PackedOp]
    extent: Extent


_StagedRow = tuple[bytes, int, bytes]
"""Key, shape, content, as they are stored."""


class Staging:
    """The staged changes of one list. One connection, used by one thread at a time.

    Attributes:
        path: the file.
        identity: random bytes that tell it from any other file of staged changes.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._shapes: dict[int, Shape] = {}
        (self.identity,) = connection.execute("SELECT identity FROM identity").fetchone()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file of a list's staged changes; make it if there is none.

        Raises:
            DamageError: the file is no such file.
            StoreError: it is from a newer version, or cannot be opened.
            LockedError: another process is writing to it and does not come to an end.
        """
        with sqlite_errors(path, _DAMAGED):
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

    @property
    def is_empty(self) -> bool:
        """Whether nothing is staged."""
        with sqlite_errors(self.path, _DAMAGED):
            return self._connection.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is None

    def count_by_kind(self) -> dict[OpKind, int]:
        """Return how many operations of each kind are staged; kinds without any are left out."""
        with sqlite_errors(self.path, _DAMAGED):
            rows = self._connection.execute("SELECT kind, staged FROM tally WHERE staged > 0")
            return {OpKind(kind): count for kind, count in rows}

    def load(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """Return the staged operations on the entries of these keys, by key."""
        found = {}
        with sqlite_errors(self.path, _DAMAGED):
            for width, some in _columns(keys):
                for key, code, content in self._connection.execute(
                    """SELECT s.key, s.shape, s.content FROM number AS n CROSS JOIN staged AS s
                    ON s.key = substr(?1, n.n * ?2 + 1, ?2) WHERE n.n < ?3""",
                    (b"".join(some), width, len(some)),
                ):
                    found[key] = Row(key, self._shape(code), content)
        return found

    def iter_batches(self, max_ops: int, max_bytes: int) -> Iterator[Batch]:
        """Yield staged operations by ascending key, in batches; they stay staged.

        What was yielded may be removed while this goes on. What is staged while this goes on waits
        for the next time: else a batch could not be named by where it begins and ends.

        Args:
            max_ops: at most so many in one batch.
            max_bytes: at most so many bytes as a body has them: records, annotation codes and each
                annotation once. A batch has at least one operation, whatever its size.
        """
        with sqlite_errors(self.path, _DAMAGED):
            (newest,) = self._connection.execute("SELECT max(edit) FROM edit").fetchone()
        filling = _Filling(max_ops, max_bytes, self.identity, newest or 0)
        for page in self._iter_pages(newest or 0):
            for code, run in groupby(page, key=itemgetter(1)):
                yield from filling.add(self._shape(code), list(run))
        if filling.packed:
            yield filling.take()

    def remove(self, extent: Extent) -> int:
        """Let go of operations that were taken; return how many there were.

        One that was replaced since it was taken stays: its edit is a later one. Of another file's
        extent, there are none.
        """
        if extent.staging != self.identity:
            return 0
        with self.edit() as edit:
            taken = (extent.first, extent.last, extent.edit)
            for code, count in self._connection.execute(
                "SELECT shape, count(*) FROM staged WHERE key BETWEEN ? AND ? AND edit <= ? "
                "GROUP BY shape",
                taken,
            ):
                edit.tally[self._shape(code).kind] -= count
            self._connection.execute(
                "DELETE FROM staged WHERE key BETWEEN ? AND ? AND edit <= ?", taken
            )
        return -edit.tally.total()

    def clear(self) -> int:
        """Let go of everything; return how many operations there were."""
        with self.edit() as edit:
            before = self.count_by_kind()
            self._connection.execute("DELETE FROM staged")
            edit.tally.subtract(before)
        return sum(before.values())

    @contextmanager
    def edit(self) -> Iterator[Edit]:
        """Run a block as one edit: all of it is kept, or, after an exception, nothing.

        Raises:
            LockedError: another process is writing and does not come to an end.
            StoreFullError: no room left.
            StoreError: the file could not be written.
        """
        connection = self._connection
        with sqlite_errors(self.path, _DAMAGED):
            connection.execute("BEGIN IMMEDIATE")
            try:
                (number,) = connection.execute("SELECT max(edit) FROM edit").fetchone()
                edit = Edit(connection, (number or 0) + 1)
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

    def _iter_pages(self, newest: int) -> Iterator[list[_StagedRow]]:
        """Yield the rows of edits up to `newest`, in pages: no lock is held between."""
        after = b""
        while page := self._read_page(after, newest):
            yield page
            after = page[-1][0]

    def _read_page(self, after: bytes, newest: int) -> list[_StagedRow]:
        page: list[_StagedRow] = []
        size = 0
        with sqlite_errors(self.path, _DAMAGED):
            cursor = self._connection.execute(
                "SELECT key, shape, content FROM staged WHERE key > ? AND edit <= ? "
                "ORDER BY key LIMIT ?",
                (after, newest, _PAGE_ROWS),
            )
            for row in cursor:
                page.append(row)
                size += len(row[0]) + len(row[2])
                if size >= _PAGE_BYTES:
                    break
            cursor.close()
        return page

    def _shape(self, code: int) -> Shape:
        shape = self._shapes.get(code)
        if shape is None:
            (text,) = self._connection.execute(
                "SELECT text FROM shape WHERE shape = ?", (code,)
            ).fetchone()
            kind, named, id_width, columns = json.loads(text)
            shape = Shape(
                OpKind(kind), named, id_width, tuple((name, width) for name, width in columns)
            )
            self._shapes[code] = shape
        return shape


class _Filling:
    """A batch that is being filled.

    Attributes:
        packed: what is in it so far.
    """

    def __init__(self, max_ops: int, max_bytes: int, staging: bytes, edit: int) -> None:
        self._staging = staging
        self._edit = edit
        self._max_ops = max_ops
        self._max_bytes = max_bytes
        self._clear()

    def _clear(self) -> None:
        self.packed: list[PackedOp] = []
        self._annotations: dict[bytes, Annotation] = {}
        self._size = 0
        self._first = self._last = b""

    def take(self) -> Batch:
        """Return the batch, and begin another."""
        extent = Extent(self._staging, self._first, self._last, self._edit)
        batch = Batch(self.packed, extent)
        self._clear()
        return batch

    def add(self, shape: Shape, run: list[_StagedRow]) -> Iterator[Batch]:
        """Add rows of one shape; yield each batch that is full before one of them."""
        if self.packed and self._cost(shape, run) is None and len(run) < self._max_ops:
            # Rather a batch that is not quite full than rows one by one.
            yield self.take()
        if self._cost(shape, run) is not None:
            self._append(shape, run)
            return
        for row in run:
            if self.packed and self._cost(shape, [row]) is None:
                yield self.take()
            self._append(shape, [row])

    def _cost(self, shape: Shape, run: list[_StagedRow]) -> int | None:
        """Return the bytes of the batch with these rows in it; None if they do not fit."""
        further = shape.record_width - shape.key_width
        said = {content[further:] for _, _, content in run}
        size = self._size + len(run) * (shape.record_width + _CODE_BYTES)
        size += sum(len(a) + _ANNOTATION_OVERHEAD for a in said if a not in self._annotations)
        fits = len(self.packed) + len(run) <= self._max_ops and size <= self._max_bytes
        return size if fits else None

    def _append(self, shape: Shape, run: list[_StagedRow]) -> None:
        start = len(key_prefix(shape))
        further = shape.record_width - shape.key_width
        saids = [content[further:] for _, _, content in run]
        for said in set(saids).difference(self._annotations):
            self._annotations[said] = parse_annotation(said)
            self._size += len(said) + _ANNOTATION_OVERHEAD
        self._size += len(run) * (shape.record_width + _CODE_BYTES)
        annotations = self._annotations
        self.packed += [
            PackedOp(shape, key[start:] + content[:further], annotations[said])
            for (key, _, content), said in zip(run, saids, strict=True)
        ]
        self._first = self._first or run[0][0]
        self._last = run[-1][0]


class Edit:
    """An open edit of staged changes.

    Attributes:
        number: its number.
        tally: by how many it changes the number of staged operations of each kind.
        keep: whether it is kept at the end; set it to False to undo it all.
    """

    def __init__(self, connection: sqlite3.Connection, number: int) -> None:
        self.number = number
        self.keep = True
        self.tally: Counter[OpKind] = Counter()
        self._connection = connection
        self._codes: dict[Shape, int] = {}

    def put(self, rows: Sequence[Row], replaced: Iterable[Row] = ()) -> None:
        """Stage operations; fast if their keys ascend.

        Args:
            rows: what to stage, at most one on an entry.
            replaced: what was staged on the same entries before.
        """
        for row in replaced:
            self.tally[row.shape.kind] -= 1
        self.tally.update(row.shape.kind for row in rows)
        alike: dict[tuple[int, int, int], list[Row]] = {}
        shape, code = None, 0
        for row in rows:
            if row.shape is not shape:
                shape = row.shape
                code = self._code(shape)
            alike.setdefault((code, len(row.key), len(row.content)), []).append(row)
        for (code, key_bytes, content_bytes), of_a_kind in alike.items():
            for start in range(0, len(of_a_kind), _NUMBERS):
                some = of_a_kind[start : start + _NUMBERS]
                self._connection.execute(
                    """INSERT OR REPLACE INTO staged (key, edit, shape, content)
                    SELECT substr(?1, n * ?2 + 1, ?2), ?3, ?4, substr(?5, n * ?6 + 1, ?6)
                    FROM number WHERE n < ?7""",
                    (
                        b"".join([row.key for row in some]),
                        key_bytes,
                        self.number,
                        code,
                        b"".join([row.content for row in some]),
                        content_bytes,
                        len(some),
                    ),
                )

    def drop(self, rows: Sequence[Row]) -> None:
        """Let go of staged operations."""
        for row in rows:
            self.tally[row.shape.kind] -= 1
        _delete(self._connection, [row.key for row in rows])

    def _code(self, shape: Shape) -> int:
        code = self._codes.get(shape)
        if code is None:
            text = json.dumps([shape.kind, shape.named, shape.id_width, shape.columns])
            self._connection.execute("INSERT OR IGNORE INTO shape (text) VALUES (?)", (text,))
            (code,) = self._connection.execute(
                "SELECT shape FROM shape WHERE text = ?", (text,)
            ).fetchone()
            self._codes[shape] = int(code)
        return int(code)


def _columns(keys: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield keys by their width, as many at a time as there are numbers."""
    by_width: dict[int, list[bytes]] = {}
    for key in keys:
        by_width.setdefault(len(key), []).append(key)
    for width, alike in by_width.items():
        for start in range(0, len(alike), _NUMBERS):
            yield width, alike[start : start + _NUMBERS]


def _delete(connection: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """Delete staged operations."""
    for width, some in _columns(keys):
        connection.execute(
            """DELETE FROM staged WHERE key IN (
                SELECT substr(?1, n * ?2 + 1, ?2) FROM number WHERE n < ?3
            )""",
            (b"".join(some), width, len(some)),
        )


def _ensure_schema(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _FORMAT:
        return
    if version not in (0, _FORMAT):
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
    if version:  # Another process was first.
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
