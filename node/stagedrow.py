"""A staged operation as a row: a key that sorts by entry, and content that equals if all is said.

Pure functions of bytes; knows nothing of the file that the rows lie in.
"""

from __future__ import annotations

from typing import NamedTuple

from federation.body import PackedOp, Shape
from federation.entry import Annotation, Cause


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
