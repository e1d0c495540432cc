"""Operations on their way to staging, ordered by entry.

On the way an operation is an item: its row's key, its number (8 bytes), its row's content. Items
sort by entry, and for one entry by number, which is their order in the input. This module does not
know what is staged and what is in force.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby, takewhile
from operator import itemgetter, lt, methodcaller
from pathlib import Path
from typing import Final, Self

from federation import limits
from federation.body import PackedOp
from federation.errors import LimitError
from node.staging.rows import Row, prefix_width, to_row
from node.system.external_sort import Sorter

NUMBER_BYTES: Final = 8
"""Bytes of an operation's number."""

BATCH_OPS: Final = limits.MAX_BODY_OPS
"""Entries in one batch: as many as in one delta."""

BATCH_BYTES: Final = limits.MAX_BODY_BYTES
"""Bytes of the items of one batch. A body of them is smaller."""

_MAX_RECORD_BYTES: Final = limits.MAX_BODY_BYTES - 32 * 1024
"""Largest size of one operation, so that it fits in a body with the parts around it."""


def to_item(packed: PackedOp, number: int) -> bytes:
    """Return the item of an operation.

    Args:
        packed: the operation, well formed.
        number: greater for a later operation.

    Raises:
        LimitError: the operation alone is too large for a body.
    """
    width = packed.shape.record_width
    if width > _MAX_RECORD_BYTES:
        raise LimitError(
            f"the fingerprints of one entry have {width} bytes, "
            f"at most {_MAX_RECORD_BYTES} can be published"
        )
    key, content = to_row(packed)
    return key + number.to_bytes(NUMBER_BYTES) + content


@dataclass(frozen=True, slots=True)
class PileBatch:
    """All operations on some entries whose names are of one type and width.

    Attributes:
        prefix: what the entries' keys begin with (`node.staging.rows.key_prefix`).
        names: the rest of the keys, ascending; repeated if an entry has several operations.
        items: the operations, in the same order.
        is_distinct: whether no name is repeated.
    """

    prefix: bytes
    names: list[bytes]
    items: list[bytes]
    is_distinct: bool

    @property
    def keys(self) -> list[bytes]:
        """The entries' keys."""
        return [self.prefix + name for name in self.names]

    @property
    def contents(self) -> list[bytes]:
        """The contents of the operations' rows."""
        at = self._number_at + NUMBER_BYTES
        return [item[at:] for item in self.items]

    @property
    def kinds(self) -> bytes:
        """The kinds of the operations, a byte for each."""
        at = self._number_at + NUMBER_BYTES
        return bytes([item[at] for item in self.items])

    @property
    def type_name(self) -> str:
        """The hash type of the names; empty for ids."""
        return self.prefix[: self.prefix.index(0)].decode()

    def with_items(self, items: list[bytes]) -> PileBatch:
        """Return a batch with some of these operations, at most one for each entry."""
        if items is self.items:
            return self
        start, stop = len(self.prefix), self._number_at
        return PileBatch(self.prefix, [item[start:stop] for item in items], items, is_distinct=True)

    def iter_entries(self) -> Iterator[tuple[bytes, list[tuple[int, Row]]]]:
        """Yield (key, operations as number and row) of each entry."""
        at = self._number_at
        content_at = at + NUMBER_BYTES
        for name, group in groupby(zip(self.names, self.items, strict=True), key=itemgetter(0)):
            key = self.prefix + name
            yield (
                key,
                [
                    (int.from_bytes(item[at:content_at]), Row(key, item[content_at:]))
                    for _, item in group
                ],
            )

    @property
    def _number_at(self) -> int:
        return len(self.prefix) + len(self.names[0])


class Pile:
    """Operations that are collected and then staged together.

    Use it in a `with` statement, which frees its temporary file.

    Attributes:
        directory: the folder of its temporary file, if it becomes large.
        merge_repeats: whether the labels of one entry's assertions are merged.
        sorter: sorts their items.
        collapsed: how many of the operations read so far repeat the one before.
    """

    def __init__(self, directory: Path, *, merge_repeats: bool = False) -> None:
        """Start with nothing.

        Args:
            directory: the folder of its temporary file, if it becomes large.
            merge_repeats: whether the labels of one entry's assertions are merged, as for a CSV.
        """
        self.directory = directory
        self.merge_repeats = merge_repeats
        self.collapsed = 0
        self.sorter = Sorter(directory)
        self._clear(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.sorter.close()

    def iter_batches(self) -> Iterator[PileBatch]:
        """Yield the operations by ascending key.

        All operations of one entry are in one batch. An operation that repeats the one before it on
        that entry is left out, and counted in `collapsed`.
        """
        for block in self.sorter.iter_blocks():
            for prefix, items in _by_prefix(block):
                if prefix != self._prefix:
                    yield from self._take_all()
                    self._clear(prefix)
                self._gather(items)
                yield from self._take_full()
        yield from self._take_all()

    def _clear(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._names: list[bytes] = []
        self._items: list[bytes] = []
        self._size = 0
        self._is_distinct = True

    def _gather(self, items: list[bytes]) -> None:
        """Add items with the same prefix as the collected ones."""
        start = len(self._prefix)
        stop = start + int.from_bytes(self._prefix[-4:])
        before = self._names[-1:]
        names = [item[start:stop] for item in items]
        if not all(map(lt, before + names, names if before else names[1:])):
            self._is_distinct = False
            names, items = self._collapse(names, items, stop + NUMBER_BYTES)
        self._names += names
        self._items += items
        self._size += sum(map(len, items))

    def _collapse(
        self, names: list[bytes], items: list[bytes], at: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Leave out operations that repeat the one before on the same entry."""
        kept_names: list[bytes] = []
        kept: list[bytes] = []
        name, content = (self._names[-1], self._items[-1][at:]) if self._names else (None, b"")
        for each, item in zip(names, items, strict=True):
            if each == name and item[at:] == content:
                self.collapsed += 1
                continue
            name, content = each, item[at:]
            kept_names.append(each)
            kept.append(item)
        return kept_names, kept

    def _take_full(self) -> Iterator[PileBatch]:
        """Yield batches while there is more than one."""
        while len(self._names) > BATCH_OPS or self._size > BATCH_BYTES:
            count = min(len(self._names), BATCH_OPS)
            if self._size > BATCH_BYTES:
                sizes = list(accumulate(map(len, self._items[:count])))
                count = max(1, bisect_right(sizes, BATCH_BYTES))
            if not self._is_distinct:
                # The end of the last entry, or its start if the end is not known yet.
                name = self._names[count - 1]
                count = bisect_right(self._names, name)
                if count == len(self._names):
                    count = bisect_left(self._names, name)
            if not 0 < count < len(self._names):
                return
            yield self._take(count)

    def _take_all(self) -> Iterator[PileBatch]:
        """Yield everything that is left."""
        yield from self._take_full()
        if self._names:
            yield self._take(len(self._names))

    def _take(self, count: int) -> PileBatch:
        names, items = self._names[:count], self._items[:count]
        del self._names[:count], self._items[:count]
        is_distinct = self._is_distinct or all(map(lt, names, names[1:]))
        self._size -= sum(map(len, items))
        if not self._names:
            self._is_distinct = True
        return PileBatch(self._prefix, names, items, is_distinct)


def _by_prefix(items: list[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield (prefix, items) for sorted items whose keys begin alike."""
    rest = items
    while rest:
        prefix = rest[0][: prefix_width(rest[0])]
        if rest[-1].startswith(prefix):
            yield prefix, rest
            return
        alike = list(takewhile(methodcaller("startswith", prefix), rest))
        yield prefix, alike
        rest = rest[len(alike) :]
