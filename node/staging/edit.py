"""An open edit of staged changes: rows, blocks, and the rule between them.

A staged operation is a row, or one of many in a block: a body as it will be signed. No row and no
other block has a key between the first and the last key of a block. An edit that would break this
rule turns the block into rows first. So an import of millions of entries writes some hundred
blocks, and a later change costs at most one block more than a row.

This module does not know transactions, the numbers of edits, or what is in force in the store.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from federation import limits, wire
from federation.body import SALT_SEED_BYTES, Body
from federation.entry import OpKind
from federation.errors import FederationError, MalformedError
from node.errors import DamageError
from node.staging.rows import Row, iter_rows, to_body

RootFinder = Callable[[Iterable[bytes]], Iterable[bytes]]
"""Computes the root of the ops tree of each of some bodies, which it may read ahead."""

IF_DAMAGED: Final = "the changes staged there are lost: remove the file and import again"
"""What to do about a damaged file of staged changes."""

LEAST_BLOCK: Final = 2_000
"""A block has at least this many operations, since each block becomes a delta of its own."""

BLOCK_KINDS: Final = (OpKind.ASSERT, OpKind.RETRACT, OpKind.PURGE)
"""Kinds of operations, in the order in which a block counts them."""


class SortedRows(NamedTuple):
    """Operations on entries whose names are of one type and width.

    Attributes:
        prefix: the start of all keys (`node.staging.rows.key_prefix`).
        names: the rest of each key, strictly ascending.
        contents: the contents of the same rows.
    """

    prefix: bytes
    names: Sequence[bytes]
    contents: Sequence[bytes]


class Block(NamedTuple):
    """Many staged operations that are in the file as one body.

    Attributes:
        first: the key of the first.
        last: the key of the last.
        edit: the number of the edit that staged them.
        data: the serialized body.
        ops_root: the root of its ops tree; None if an earlier version staged it.
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
            DamageError: the body or the root is not what was written.
        """
        try:
            # The root is signed as it is: no later step would notice a wrong one.
            if self.ops_root is not None and _seal(self.data, self.ops_root) != self.seal:
                raise MalformedError("it is not what was written")
            return wire.decode_body(self.data)
        except FederationError as error:
            raise DamageError(
                f"a block of staged changes is damaged: {error}", hint=IF_DAMAGED
            ) from error


def _seal(data: bytes, ops_root: bytes) -> bytes:
    return sha256(ops_root + data).digest()


class Tables(Protocol):
    """The tables that an edit reads and writes."""

    def insert_rows(self, rows: Sequence[Row], edit: int) -> None:
        """Write rows of an edit; this is fast if their keys ascend."""

    def delete_rows(self, keys: Iterable[bytes]) -> None:
        """Remove the rows of these keys."""

    def has_rows(self, first: bytes, last: bytes) -> bool:
        """Return whether there is a row between two keys, including both."""

    def insert_block(self, block: Block, counts: Mapping[OpKind, int]) -> None:
        """Write a block, with its number of operations of each kind."""

    def delete_block(self, first: bytes) -> None:
        """Remove the block that begins with a key."""

    def load_block(self, first: bytes) -> Block:
        """Return the block that begins with a key, which must exist."""

    def overlapping(self, first: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
        """Return (first, last) of the blocks that overlap a range of keys, ascending."""


class Edit:
    """An open edit of staged changes.

    Attributes:
        number: its number.
        tally: the change in the number of staged operations of each kind.
        keep: whether it is kept at the end; set it to False to undo all of it.
    """

    def __init__(self, tables: Tables, number: int) -> None:
        self.number = number
        self.keep = True
        self.tally: Counter[OpKind] = Counter()
        self._tables = tables

    def put(self, rows: Sequence[Row]) -> None:
        """Stage operations on entries on which nothing is staged."""
        self.tally.update(row.kind for row in rows)
        self._open_blocks([row.key for row in rows])
        self._tables.insert_rows(rows, self.number)

    def put_runs(self, runs: Iterable[SortedRows], find_roots: RootFinder) -> None:
        """Stage operations on entries on which nothing is staged; many of them fast.

        Args:
            runs: the operations. No run has a key between the first and the last key of another.
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
            sealed = block._replace(ops_root=root, seal=_seal(block.data, root))
            self._tables.insert_block(sealed, counts)
            self.tally.update(counts)

    def _make_block(self, run: SortedRows) -> tuple[Block, Counter[OpKind]] | None:
        """Return a run as a block, with its number of operations of each kind.

        None if it has to become rows: it is short, or does not fit in a body, or overlaps others.
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
        """Remove staged operations."""
        for row in rows:
            self.tally[row.kind] -= 1
        keys = [row.key for row in rows]
        self._open_blocks(keys)
        self._tables.delete_rows(keys)

    def _is_free(self, first: bytes, last: bytes) -> bool:
        """Return whether nothing is staged between two keys, including both."""
        return not self._tables.has_rows(first, last) and not self._tables.overlapping(first, last)

    def _open_blocks(self, keys: Iterable[bytes]) -> None:
        """Turn every block whose range includes one of these keys into rows."""
        for block in blocks_with(self._tables, keys):
            self._tables.delete_block(block.first)
            self._tables.insert_rows(list(iter_rows(block.open())), block.edit)


def blocks_with(tables: Tables, keys: Iterable[bytes]) -> Iterator[Block]:
    """Yield the blocks whose range includes at least one of these keys."""
    ordered = sorted(keys)
    ranges = tables.overlapping(ordered[0], ordered[-1]) if ordered else []
    starts = [first for first, _ in ranges]
    hit = set()
    for key in ordered if ranges else ():
        index = bisect_right(starts, key) - 1
        if index >= 0 and key <= ranges[index][1]:
            hit.add(index)
    for index in sorted(hit):
        yield tables.load_block(starts[index])
