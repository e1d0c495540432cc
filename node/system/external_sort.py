"""Sorting more byte strings than fit in memory.

Sorted runs go to one unnamed temporary file and are merged as they are read, so that memory does
not grow with what is sorted, and nothing is left behind by a process that is killed. Knows nothing
of what the byte strings mean; the caller puts the key in front.
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
"""Memory of the items that are gathered before they are sorted and written."""

_ITEM_OVERHEAD: Final = 56
"""Bytes that one item costs beside its own: the object's header and its place in a list."""

_BLOCK_BYTES: Final = 128 * 1024
"""Memory of one block, the piece of a run that is read at a time; twice as much at most."""

_MAX_RUNS: Final = 192
"""Runs that are merged at a time: a block of each is in memory."""

_MARSHAL_VERSION: Final = 2
"""Later versions look for objects that stand twice in a list, which takes most of the time."""


class Sorter:
    """Takes byte strings in any order and gives them back in ascending order.

    Use it in a `with` statement, which frees the temporary file.
    """

    def __init__(self, directory: Path | None = None, *, run_bytes: int = RUN_BYTES) -> None:
        """Start with nothing.

        Args:
            directory: where the temporary file goes; the system's choice when None.
            run_bytes: memory to gather items in.
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
        """Add items that `encode_run` has sorted, here or in another process.

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
            # The file has no name: this very program wrote what it reads here.
            block: list[bytes] = marshal.loads(self._scratch.read(size, start))  # noqa: S302
            yield block


def encode_run(items: list[bytes]) -> Iterator[bytes]:
    """Sort items in place, and yield them in serialized blocks, to be added to a `Sorter`."""
    items.sort()
    return (marshal.dumps(block, _MARSHAL_VERSION) for block in _split(items))


class _Cursor:
    """Where the merge stands in one run."""

    __slots__ = ("_reader", "block", "start")

    def __init__(self, reader: Iterator[list[bytes]]) -> None:
        self._reader = reader
        self.block: list[bytes] = []
        self.start = 0

    def advance(self) -> bool:
        """Go to the run's next block; tell whether there is one."""
        self.block = next(self._reader, [])
        self.start = 0
        return bool(self.block)


def _merge(cursors: list[_Cursor]) -> Iterator[list[bytes]]:
    """Merge runs block by block: a sort of presorted pieces is much faster than a heap of items."""
    while cursors:
        # Whatever is not read yet is at least as great as the end of its run's block.
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
    # As if all were of one size. Where they are not, what is still too large is split again.
    step = max(1, len(items) * _BLOCK_BYTES // size)
    for start in range(0, len(items), step):
        yield from _split(items[start : start + step])
