"""Staged changes of one of our own lists: what the next publish will sign.

They lie in a file of their own, so that a big import never blocks the store. An entry has at most
one staged operation. An edit comes as a whole or not at all, also when the process is killed.
Operations come out in the order of their entries' names, so that the deltas of a big import have
disjoint, ascending ranges of keys. Knows nothing of what is in force in the store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from federation.body import PackedOp, Shape
from federation.entry import Annotation, Cause, OpKind
from node.errors import DamageError, LockedError, StoreError, StoreFullError
from node.store.sqlite import sqlite3

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
    # 0, 1, 2 ...: lets SQL cut columns into rows, several times faster than binding each row.
    "CREATE TABLE number (n INTEGER PRIMARY KEY) STRICT",
)
_NUMBERS: Final = 10_000
_INSERT_NUMBERS: Final = (
    "WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted "
    "WHERE n + 1 < ?) INSERT INTO number (n) SELECT n FROM counted"
)


class Row(NamedTuple):
    """An operation as rows are compared and kept: equal rows are equal operations.

    Attributes:
        key: the entry's name (`key_of`).
        shape: the operation's shape.
        content: the record behind the entry's key, then the canonical bytes of the annotation.
    """

    key: bytes
    shape: Shape
    content: bytes


class Token(NamedTuple):
    """Names a staged operation that was taken, and no other that took its place since."""

    key: bytes
    edit: int
    kind: OpKind


def key_prefix(shape: Shape) -> bytes:
    """Return what stands before the digest or id in the keys of a shape's entries."""
    return shape.key_type.encode() + b"\0" + shape.key_width.to_bytes(4)


def key_of(packed: PackedOp) -> bytes:
    """Return the key of an operation's entry: hash type, NUL, length (4 bytes), digest or id."""
    shape = packed.shape
    return key_prefix(shape) + packed.record[: shape.key_width]


def prefix_width(data: bytes) -> int:
    """Return how many bytes, at the start of `data`, are a key's part before the digest or id."""
    return data.index(0) + 5


def key_width(data: bytes) -> int:
    """Return how many bytes, at the start of `data`, are a key."""
    start = prefix_width(data)
    return start + int.from_bytes(data[start - 4 : start])


def to_row(packed: PackedOp) -> Row:
    """Return the row of an operation."""
    shape, record, annotation = packed
    return Row(key_of(packed), shape, record[shape.key_width :] + annotation.canonical())


def from_row(row: Row) -> PackedOp:
    """Return the operation of a row."""
    key, shape, content = row
    width = shape.record_width - shape.key_width
    record = key[len(key) - shape.key_width :] + content[:width]
    return PackedOp(shape, record, parse_annotation(content[width:]))


def parse_annotation(data: bytes) -> Annotation:
    """Parse what `Annotation.canonical` returned."""
    at = 2
    labels = []
    for _ in range(data[1]):
        labels.append(data[at + 1 : at + 1 + data[at]].decode())
        at += 1 + data[at]
    stop = at + 2 + int.from_bytes(data[at : at + 2])
    reason = data[at + 2 : stop].decode()
    vocabulary = data[stop + 1 :].decode()
    return Annotation(
        labels=tuple(labels), reason=reason, vocabulary=vocabulary, cause=Cause(data[0])
    )


class Staging:
    """The staged changes of one list. One connection, used by one thread at a time.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._shapes: dict[int, Shape] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file of a list's staged changes; make it if there is none.

        Raises:
            DamageError: the file is no such file.
            StoreError: it is from a newer version, or cannot be opened.
            LockedError: another process is writing to it and does not come to an end.
        """
        with _errors(path):
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
        with _errors(self.path):
            return self._connection.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is None

    def count_by_kind(self) -> dict[OpKind, int]:
        """Return how many operations of each kind are staged; kinds without any are left out."""
        with _errors(self.path):
            rows = self._connection.execute("SELECT kind, staged FROM tally WHERE staged > 0")
            return {OpKind(kind): count for kind, count in rows}

    def load(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """Return the staged operations on the entries of these keys, by key."""
        found = {}
        with _errors(self.path):
            for width, some in _columns(keys):
                for key, code, content in self._connection.execute(
                    """SELECT s.key, s.shape, s.content FROM number AS n CROSS JOIN staged AS s
                    ON s.key = substr(?1, n.n * ?2 + 1, ?2) WHERE n.n < ?3""",
                    (b"".join(some), width, len(some)),
                ):
                    found[key] = Row(key, self._shape(code), content)
        return found

    def iter_packed(self) -> Iterator[PackedOp]:
        """Yield every staged operation, by ascending key."""
        for _, row in self._iter_rows():
            yield from_row(row)

    def iter_batches(self, max_ops: int, max_bytes: int) -> Iterator[list[tuple[Token, PackedOp]]]:
        """Yield staged operations by ascending key, in batches; they stay staged.

        What was yielded may be removed while this goes on.

        Args:
            max_ops: at most so many in one batch.
            max_bytes: at most so many bytes as a body has them: records, annotation codes and each
                annotation once. A batch has at least one operation, whatever its size.
        """
        batch: list[tuple[Token, PackedOp]] = []
        annotations: dict[bytes, Annotation] = {}
        size = key_size = further = fixed = 0
        last: Shape | None = None
        for edit, (key, shape, content) in self._iter_rows():
            if shape is not last:
                last, key_size = shape, shape.key_width
                further, fixed = shape.record_width - key_size, shape.record_width + _CODE_BYTES
            said = content[further:]
            annotation = annotations.get(said)
            more = fixed + (0 if annotation is not None else len(said) + _ANNOTATION_OVERHEAD)
            if batch and (len(batch) >= max_ops or size + more > max_bytes):
                yield batch
                more = fixed + len(said) + _ANNOTATION_OVERHEAD
                batch, annotations, annotation, size = [], {}, None, 0
            if annotation is None:
                annotation = annotations[said] = parse_annotation(said)
            size += more
            record = key[len(key) - key_size :] + content[:further]
            batch.append((Token(key, edit, shape.kind), PackedOp(shape, record, annotation)))
        if batch:
            yield batch

    def remove(self, tokens: Iterable[Token]) -> int:
        """Let go of operations that were taken; return how many there were.

        One that was replaced since it was taken stays.
        """
        alike: dict[tuple[OpKind, int], list[bytes]] = {}
        for token in tokens:
            alike.setdefault((token.kind, token.edit), []).append(token.key)
        with self.edit() as edit:
            for (kind, number), keys in alike.items():
                edit.tally[kind] -= _delete(self._connection, keys, number)
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
        with _errors(self.path):
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

    def _iter_rows(self) -> Iterator[tuple[int, Row]]:
        """Yield every (edit, row) by ascending key, in pages: a reader holds no lock between."""
        after = b""
        while True:
            page = self._read_page(after)
            for key, edit, shape, content in page:
                yield edit, Row(key, self._shape(shape), content)
            if not page:
                return
            after = page[-1][0]

    def _read_page(self, after: bytes) -> list[tuple[bytes, int, int, bytes]]:
        page: list[tuple[bytes, int, int, bytes]] = []
        size = 0
        with _errors(self.path):
            cursor = self._connection.execute(
                "SELECT key, edit, shape, content FROM staged WHERE key > ? ORDER BY key LIMIT ?",
                (after, _PAGE_ROWS),
            )
            for row in cursor:
                page.append(row)
                size += len(row[0]) + len(row[3])
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


def _delete(connection: sqlite3.Connection, keys: Iterable[bytes], edit: int | None = None) -> int:
    """Delete staged operations, of one edit or of any; return how many there were."""
    deleted = 0
    for width, some in _columns(keys):
        cursor = connection.execute(
            """DELETE FROM staged WHERE key IN (
                SELECT substr(?1, n * ?2 + 1, ?2) FROM number WHERE n < ?3
            ) AND (?4 IS NULL OR edit = ?4)""",
            (b"".join(some), width, len(some), edit),
        )
        deleted += cursor.rowcount
    return deleted


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
    connection.execute(f"PRAGMA user_version = {_FORMAT}")


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with what to do about them."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise LockedError(
                f"{path} is being written by another process", hint="try again when it is done"
            ) from error
        if "full" in text:
            raise StoreFullError(
                f"no room left for {path}: nothing of this change was kept",
                hint="make room on that disk and run the command again",
            ) from error
        raise StoreError(
            f"{path}: {text}", hint="check the disk and who may write there"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DamageError(
            f"{path}: {error}",
            hint="what was staged there is lost: remove the file and import again",
        ) from error
