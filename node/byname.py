"""Brings live entries into the order of their names, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from federation.body import PackedOp, Shape
from federation.bucket import LiveEntry, name_of
from federation.entry import Annotation
from node.sorting import Sorter

_SORTED_ITEMS: Final = 4_096
_MAX_CACHED_ANNOTATIONS: Final = 4_096
_POSITION_BYTES: Final = 8
_ROW_BYTES: Final = 2
_SHAPE_BYTES: Final = 4


def iter_by_name(entries: Iterable[LiveEntry], directory: Path) -> Iterator[LiveEntry]:
    """Yield entries by ascending name.

    Args:
        entries: in any order, each name once.
        directory: where a temporary file goes if they are many.

    Raises:
        OSError: the temporary file cannot be written or read.
    """
    with Sorter(directory) as sorter:
        shapes = _fill(sorter, entries)
        said: dict[bytes, Annotation] = {}
        for block in sorter.iter_blocks():
            for item in block:
                yield _decode(item, shapes, said)


def _fill(sorter: Sorter, entries: Iterable[LiveEntry]) -> list[Shape]:
    """Put entries into a sorter; return the shapes that its items refer to by number."""
    shapes: list[Shape] = []
    codes: dict[Shape, bytes] = {}
    said: dict[Annotation, bytes] = {}
    items: list[bytes] = []
    shape: Shape | None = None
    code, prefix, width = b"", b"", 0
    for packed, position, row in entries:
        if packed.shape is not shape:
            shape = packed.shape
            if shape not in codes:
                codes[shape] = len(shapes).to_bytes(_SHAPE_BYTES)
                shapes.append(shape)
            code, prefix, width = codes[shape], name_of(shape, b""), shape.key_width
        tail = said.get(packed.annotation)
        if tail is None:
            if len(said) >= _MAX_CACHED_ANNOTATIONS:
                said.clear()
            tail = said[packed.annotation] = packed.annotation.canonical()
        items.append(
            b"".join(
                (
                    prefix,
                    packed.record[:width],
                    position.to_bytes(_POSITION_BYTES),
                    row.to_bytes(_ROW_BYTES),
                    code,
                    packed.record[width:],
                    tail,
                )
            )
        )
        if len(items) == _SORTED_ITEMS:
            sorter.extend(items)
            items = []
    sorter.extend(items)
    return shapes


def _decode(item: bytes, shapes: list[Shape], said: dict[bytes, Annotation]) -> LiveEntry:
    # A name begins with its type, a NUL and the width of its key (`name_of`).
    start = item.index(0) + 5
    at = start + int.from_bytes(item[start - 4 : start])
    row_at = at + _POSITION_BYTES
    shape_at = row_at + _ROW_BYTES
    rest_at = shape_at + _SHAPE_BYTES
    shape = shapes[int.from_bytes(item[shape_at:rest_at])]
    said_at = rest_at + shape.record_width - shape.key_width
    tail = item[said_at:]
    annotation = said.get(tail)
    if annotation is None:
        if len(said) >= _MAX_CACHED_ANNOTATIONS:
            said.clear()
        annotation = said[tail] = Annotation.parse(tail)
    return LiveEntry(
        PackedOp(shape, item[start:at] + item[rest_at:said_at], annotation),
        int.from_bytes(item[at:row_at]),
        int.from_bytes(item[row_at:shape_at]),
    )
