"""Sorts more byte strings than fit in memory.

Sorted runs go to one unnamed temporary file and are merged while they are read. So memory does not
grow with the input, and a killed process leaves nothing behind. This module does not know the
meaning of the byte strings; the caller puts the key first.
"""

from __future__ import annotations

import marshal
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from node.system.scratch import Scratch

RUN_BYTES: Final = 40 * 1024 * 1024
"""Memory of the items that are collected before they are sorted and written."""

_ITEM_OVERHEAD: Final = 56
"""Memory of one item beyond its bytes: the object's header and its slot in a list."""

_BLOCK_BYTES: Final = 128 * 1024
"""Memory of one block, the piece of a run that is read at a time; twice as much at most."""

_MAX_RUNS: Final = 192
"""Runs that are merged at a time; a block of each is in memory."""

_MARSHAL_VERSION: Final = 2
"""Later versions of marshal look for repeated objects, which takes most of the time."""


class Sorter:
    """Takes byte strings in any order and gives them back in ascending order.

    Use it in a `with` statement, which frees the temporary file.
    """

    def __init__(self, directory: Path | None = None, *, run_bytes: int = RUN_BYTES) -> None:
        """Start with nothing.

        Args:
            directory: the folder of the temporary file; the system's choice if None.
            run_bytes: the memory for collecting items.
        """
        self._directory = directory
        self._run_bytes = run_bytes
        self._items: list[bytes] = []
        self._size = 0
        self._runs: list[list[tuple[int, int]]] = []
        self._scratch: Scratch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything and free the temporary file."""
        self._items = []
        self._runs = []
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def extend(self, items: Sequence[bytes]) -> None:
        """Add items.

        Raises:
            StoreError: the temporary file cannot be written.
        """
        self._items += items
        self._size += sum(map(len, items)) + _ITEM_OVERHEAD * len(items)
        if self._size >= self._run_bytes:
            self._write_run()

    def add_run(self, run: Iterable[bytes]) -> None:
        """Add items that `encode_run` has sorted, in this process or another one.

        Raises:
            StoreError: the temporary file cannot be written.
        """
        if self._scratch is None:
            self._scratch = Scratch(self._directory)
        blocks = []
        for block in run:
            blocks.append((self._scratch.size, len(block)))
            self._scratch.append(block)
        if blocks:
            self._runs.append(blocks)

    def iter_blocks(self) -> Iterator[list[bytes]]:
        """Yield everything that was added, ascending, as lists of some thousand items.

        Raises:
            StoreError: the temporary file cannot be written or read.
        """
        if not self._runs:
            self._items.sort()
            yield from _split(self._items)
            return
        self._write_run()
        while len(self._runs) > _MAX_RUNS:
            some, self._runs = self._runs[:_MAX_RUNS], self._runs[_MAX_RUNS:]
            self.add_run(marshal.dumps(block, _MARSHAL_VERSION) for block in self._merge(some))
        yield from self._merge(self._runs)

    def _merge(self, runs: list[list[tuple[int, int]]]) -> Iterator[list[bytes]]:
        readers = [self._iter_run(run) for run in runs]
        return _merge([cursor for cursor in map(_Cursor, readers) if cursor.advance()])

    def _write_run(self) -> None:
        items, self._items, self._size = self._items, [], 0
        self.add_run(encode_run(items))

    def _iter_run(self, run: list[tuple[int, int]]) -> Iterator[list[bytes]]:
        assert self._scratch is not None  # noqa: S101  # there is a run, so there is a file
        for start, size in run:
            # The file has no name, so this program itself wrote what it reads here.
            block: list[bytes] = marshal.loads(self._scratch.read(size, start))  # noqa: S302
            yield block


def encode_run(items: list[bytes]) -> Iterator[bytes]:
    """Sort items in place, and yield them in serialized blocks, to be added to a `Sorter`."""
    items.sort()
    return (marshal.dumps(block, _MARSHAL_VERSION) for block in _split(items))


class _Cursor:
    """The progress of the merge in one run."""

    __slots__ = ("_reader", "block", "start")

    def __init__(self, reader: Iterator[list[bytes]]) -> None:
        self._reader = reader
        self.block: list[bytes] = []
        self.start = 0

    def advance(self) -> bool:
        """Go to the run's next block; return whether there is one."""
        self.block = next(self._reader, [])
        self.start = 0
        return bool(self.block)


def _merge(cursors: list[_Cursor]) -> Iterator[list[bytes]]:
    """Merge runs block by block: sorting presorted pieces is much faster than a heap of items."""
    while cursors:
        # Items that are not read yet are not less than the last item of their run's block.
        bound = min(cursor.block[-1] for cursor in cursors)
        merged: list[bytes] = []
        left = []
        for cursor in cursors:
            stop = bisect_right(cursor.block, bound, cursor.start)
            merged += cursor.block[cursor.start : stop]
            cursor.start = stop
            if stop < len(cursor.block) or cursor.advance():
                left.append(cursor)
        cursors = left
        merged.sort()
        yield merged


def _split(items: list[bytes]) -> Iterator[list[bytes]]:
    """Split a list into blocks of bounded memory, each with at least one item."""
    size = sum(map(len, items)) + _ITEM_OVERHEAD * len(items)
    if size <= 2 * _BLOCK_BYTES or len(items) == 1:
        if items:
            yield items
        return
    # As if all items had the same size. Otherwise blocks that are still too large are split again.
    step = max(1, len(items) * _BLOCK_BYTES // size)
    for start in range(0, len(items), step):
        yield from _split(items[start : start + step])
