"""Brings live entries into the order of their names, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from federation.body import PackedOp, Shape
from federation.bucket import LiveEntry, name_of
from federation.entry import Annotation
from node.system.external_sort import Sorter

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
        yield from _decode(sorter, shapes)


def _fill(sorter: Sorter, entries: Iterable[LiveEntry]) -> list[Shape]:
    """Put entries into a sorter; return the shapes that its items refer to by number."""
    shapes: list[Shape] = []
    codes: dict[Shape, bytes] = {}
    said: dict[Annotation, bytes] = {}
    items: list[bytes] = []
    shape: Shape | None = None
    annotation: Annotation | None = None
    tail = b""
    code, prefix, width = b"", b"", 0
    for packed, position, row in entries:
        if packed.shape is not shape:
            shape = packed.shape
            if shape not in codes:
                codes[shape] = len(shapes).to_bytes(_SHAPE_BYTES)
                shapes.append(shape)
            code, prefix, width = codes[shape], name_of(shape, b""), shape.key_width
        if packed.annotation is not annotation:
            annotation = packed.annotation
            known = said.get(annotation)
            if known is None:
                if len(said) >= _MAX_CACHED_ANNOTATIONS:
                    said.clear()
                known = said[annotation] = annotation.canonical()
            tail = known
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


def _decode(sorter: Sorter, shapes: list[Shape]) -> Iterator[LiveEntry]:
    said: dict[bytes, Annotation] = {}
    rest_widths = [shape.record_width - shape.key_width for shape in shapes]
    for block in sorter.iter_blocks():
        for item in block:
            # A name begins with its type, a NUL and the width of its key (`name_of`).
            start = item.index(0) + 5
            at = start + int.from_bytes(item[start - 4 : start])
            row_at = at + _POSITION_BYTES
            shape_at = row_at + _ROW_BYTES
            rest_at = shape_at + _SHAPE_BYTES
            number = int.from_bytes(item[shape_at:rest_at])
            said_at = rest_at + rest_widths[number]
            tail = item[said_at:]
            annotation = said.get(tail)
            if annotation is None:
                if len(said) >= _MAX_CACHED_ANNOTATIONS:
                    said.clear()
                annotation = said[tail] = Annotation.parse(tail)
            yield LiveEntry(
                PackedOp(shapes[number], item[start:at] + item[rest_at:said_at], annotation),
                int.from_bytes(item[at:row_at]),
                int.from_bytes(item[row_at:shape_at]),
            )
