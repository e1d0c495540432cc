"""An open edit of staged changes: rows, blocks, and the rule between them.

A staged operation is a row, or one of many in a block: a body as it will be signed. No row and no
other block has a key between the first and the last one of a block; an edit that would change that
turns the block into rows first. So an import of millions writes some hundred blocks, while a change
of what is staged costs no more than before, beyond the block that it falls into.

Knows nothing of transactions, of numbers of edits, and of what is in force in the store.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from federation import limits, wire
from federation.body import SALT_SEED_BYTES, Body
from federation.entry import OpKind
from federation.errors import FederationError, MalformedError
from node.errors import DamageError
from node.staging.rows import Row, iter_rows, to_body
from node.store.sqlite import sqlite3

RootFinder = Callable[[Iterable[bytes]], Iterable[bytes]]
"""Computes the root of the ops tree of each of some bodies, which it may read ahead."""

IF_DAMAGED: Final = "what was staged there is lost: remove the file and import again"
"""What to do about a damaged file of staged changes."""

LEAST_BLOCK: Final = 2_000
"""Operations from which on a block is made: each becomes a delta of its own."""

NUMBERS: Final = 10_000
"""Rows of the table `number`: as many keys can be cut out of one column by SQL."""

BLOCK_KINDS: Final = (OpKind.ASSERT, OpKind.RETRACT, OpKind.PURGE)
"""Kinds of operations in the order of a block's numbers of them."""

SCHEMA: Final = (
    # See `Row`. `edit` is the number of the edit that staged it: a row that was read and then
    # replaced is another row.
    """CREATE TABLE staged (
        key BLOB PRIMARY KEY,
        edit INTEGER NOT NULL,
        content BLOB NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # `body` is a serialized delta body; the rest says what is in it. `ops_root` is the root of its
    # ops tree, and `seal` is the SHA-256 of both; null in files from before they were kept.
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
)
"""The tables that an edit writes."""


class SortedRows(NamedTuple):
    """Operations on entries whose names are of one type and width.

    Attributes:
        prefix: what all keys begin with (`node.staging.rows.key_prefix`).
        names: what follows in each key, strictly ascending.
        contents: the contents of the same rows.
    """

    prefix: bytes
    names: Sequence[bytes]
    contents: Sequence[bytes]


class Block(NamedTuple):
    """Many staged operations that lie in the file as one body.

    Attributes:
        first: the key of the first.
        last: the key of the last.
        edit: the number of the edit that staged them.
        data: the serialized body.
        ops_root: the root of its ops tree; None in what an earlier version has staged.
        seal: the SHA-256 of root and body; None without a root.
    """

    first: bytes
    last: bytes
    edit: int
    data: bytes
    ops_root: bytes | None = None
    seal: bytes | None = None

    def open(self) -> Body:
        """Return the body.

        Raises:
            DamageError: body or root are not what was written.
        """
        try:
            # A root is signed as it is: nothing after this would notice a wrong one.
            if self.ops_root is not None and _seal(self.data, self.ops_root) != self.seal:
                raise MalformedError("it is not what was written")
            return wire.decode_body(self.data)
        except FederationError as error:
            raise DamageError(
                f"a block of staged changes is damaged: {error}", hint=IF_DAMAGED
            ) from error


BLOCK_COLUMNS: Final = "first, last, edit, body, ops_root, seal"
"""The columns of a `Block`."""


def _seal(data: bytes, ops_root: bytes) -> bytes:
    return sha256(ops_root + data).digest()


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

    def put(self, rows: Sequence[Row]) -> None:
        """Stage operations on entries on which nothing is staged."""
        self.tally.update(row.kind for row in rows)
        self._open_blocks([row.key for row in rows])
        _insert(self._connection, rows, self.number)

    def put_runs(self, runs: Iterable[SortedRows], find_roots: RootFinder) -> None:
        """Stage operations on entries on which nothing is staged; many of them fast.

        Args:
            runs: the operations. No run has a key between the first and the last one of another.
            find_roots: computes the roots of the ops trees of bodies, given their bytes.
        """
        waiting: deque[tuple[Block, Counter[OpKind]]] = deque()

        def iter_bodies() -> Iterator[bytes]:
            for run in runs:
                made = self._make_block(run)
                if made is None:
                    self.put(list(map(Row, (run.prefix + n for n in run.names), run.contents)))
                else:
                    waiting.append(made)
                    yield made[0].data

        for root in find_roots(iter_bodies()):
            block, counts = waiting.popleft()
            self._connection.execute(
                f"""INSERT INTO block ({BLOCK_COLUMNS}, asserted, retracted, purged)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",  # noqa: S608  # column names
                (
                    *block._replace(ops_root=root, seal=_seal(block.data, root)),
                    *(counts[kind] for kind in BLOCK_KINDS),
                ),
            )
            self.tally.update(counts)

    def _make_block(self, run: SortedRows) -> tuple[Block, Counter[OpKind]] | None:
        """Return a run as a block, with how many operations it has of each kind.

        None if it has to be rows: it is short, or does not fit in a body or where it belongs.
        """
        prefix, names, contents = run
        first, last = prefix + names[0], prefix + names[-1]
        if len(names) < LEAST_BLOCK or not self._is_free(first, last):
            return None
        body = to_body(prefix, names, contents, secrets.token_bytes(SALT_SEED_BYTES))
        if body is None or body.count > limits.MAX_BODY_OPS:
            return None
        data = wire.encode_body(body)
        if len(data) > limits.MAX_BODY_BYTES:
            return None
        counts = Counter(dict.fromkeys(BLOCK_KINDS, 0))
        for group in body.groups:
            counts[group.shape.kind] += group.count
        return Block(first, last, self.number, data), counts

    def drop(self, rows: Sequence[Row]) -> None:
        """Let go of staged operations."""
        for row in rows:
            self.tally[row.kind] -= 1
        keys = [row.key for row in rows]
        self._open_blocks(keys)
        for width, some in iter_columns(keys):
            self._connection.execute(
                """DELETE FROM staged WHERE key IN (
                    SELECT substr(?1, n * ?2 + 1, ?2) FROM number WHERE n < ?3
                )""",
                (b"".join(some), width, len(some)),
            )

    def _is_free(self, first: bytes, last: bytes) -> bool:
        """Say whether nothing is staged from one key to another."""
        row = self._connection.execute(
            "SELECT 1 FROM staged WHERE key BETWEEN ? AND ? LIMIT 1", (first, last)
        ).fetchone()
        return row is None and not _overlapping(self._connection, first, last)

    def _open_blocks(self, keys: Iterable[bytes]) -> None:
        """Turn every block in which a key would lie into rows."""
        for block in blocks_with(self._connection, keys):
            self._connection.execute("DELETE FROM block WHERE first = ?", (block.first,))
            _insert(self._connection, list(iter_rows(block.open())), block.edit)


def _insert(connection: sqlite3.Connection, rows: Sequence[Row], edit: int) -> None:
    """Write rows; fast if their keys ascend."""
    alike: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        alike.setdefault((len(row.key), len(row.content)), []).append(row)
    for (key_bytes, content_bytes), of_a_kind in alike.items():
        for start in range(0, len(of_a_kind), NUMBERS):
            some = of_a_kind[start : start + NUMBERS]
            connection.execute(
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


def _overlapping(
    connection: sqlite3.Connection, first: bytes, last: bytes
) -> list[tuple[bytes, bytes]]:
    """Return (first, last) of the blocks that have a part of a range of keys, ascending."""
    found = connection.execute(
        """SELECT first, last FROM block WHERE first <= ?2
        AND first >= coalesce((SELECT max(first) FROM block WHERE first <= ?1), x'')
        ORDER BY first""",
        (first, last),
    ).fetchall()
    return [block for block in found if block[1] >= first]


def blocks_with(connection: sqlite3.Connection, keys: Iterable[bytes]) -> Iterator[Block]:
    """Yield the blocks in which at least one of these keys would lie."""
    ordered = sorted(keys)
    ranges = _overlapping(connection, ordered[0], ordered[-1]) if ordered else []
    starts = [first for first, _ in ranges]
    hit = set()
    for key in ordered if ranges else ():
        index = bisect_right(starts, key) - 1
        if index >= 0 and key <= ranges[index][1]:
            hit.add(index)
    for index in sorted(hit):
        yield Block(
            *connection.execute(
                f"SELECT {BLOCK_COLUMNS} FROM block WHERE first = ?",  # noqa: S608  # column names
                (starts[index],),
            ).fetchone()
        )


def iter_columns(keys: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield keys by their width, as many at a time as there are numbers."""
    by_width: dict[int, list[bytes]] = {}
    for key in keys:
        by_width.setdefault(len(key), []).append(key)
    for width, alike in by_width.items():
        for start in range(0, len(alike), NUMBERS):
            yield width, alike[start : start + NUMBERS]
