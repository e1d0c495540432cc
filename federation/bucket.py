"""Buckets: the live set of a list in the order of its entries' names, cut into pieces.

The end and the bytes of each bucket follow from the live set alone. So a node that has the live set
can make the buckets and their root again (docs/spec/snapshot.md). Therefore the encoding is fixed
here byte by byte, and is not protobuf, whose encoding is not canonical. This module does not know
logs and signatures.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from federation import limits
from federation.body import Body, Group, PackedOp, Shape, code_width, decode_codes, encode_codes
from federation.entry import Annotation, OpKind
from federation.errors import LimitError, MalformedError, OperationError, Reason

_TAG: Final = b"hashfed/bucket/v1\x00"
_ENTRY_OVERHEAD: Final = 16
_SHAPE_OVERHEAD: Final = 64
_COLUMN_OVERHEAD: Final = 40
_POSITION_BYTES: Final = 8
_ROW_BYTES: Final = 2
_COUNTS: Final = struct.Struct(">IHHH")
_SHAPE: Final = struct.Struct(">BBB")


class LiveEntry(NamedTuple):
    """One live entry: the assertion in force on it, and its place in the log.

    Attributes:
        packed: the assertion.
        position: the position of its delta.
        row: its row in that delta's body.
    """

    packed: PackedOp
    position: int
    row: int


def name_of(shape: Shape, key: bytes) -> bytes:
    """Return the name of an entry as bytes that sort like names: by type, width and key."""
    return shape.key_type.encode() + b"\0" + shape.key_width.to_bytes(4) + key


class Extent(NamedTuple):
    """The size and range of a bucket, which show whether it fits the others.

    Attributes:
        size: how many entries it has.
        least: the first name (`name_of`).
        greatest: the last name.
    """

    size: int
    least: bytes
    greatest: bytes


@dataclass(frozen=True, slots=True)
class Bucket:
    """Live entries with neighbouring names.

    Attributes:
        body: the assertions as a body without salts, by shape and within a shape by key.
        positions: distinct positions, ascending.
        codes: for each row of `body` the index of its position in `positions`.
        rows: for each row of `body` the row in the delta that asserted it.
    """

    body: Body
    positions: tuple[int, ...]
    codes: Sequence[int]
    rows: Sequence[int]

    @property
    def count(self) -> int:
        """How many entries there are."""
        return len(self.rows)

    def entry(self, index: int) -> LiveEntry:
        """Return one entry.

        Raises:
            UsageError: there is no such row.
        """
        return LiveEntry(
            self.body.packed(index), self.positions[self.codes[index]], self.rows[index]
        )

    def find(self, position: int, row: int) -> int | None:
        """Return the index of the entry that was asserted at a place, or None."""
        at = bisect_left(self.positions, position)
        if self.positions[at : at + 1] != (position,):
            return None
        rows, index = self.rows, -1
        # The same row occurs at other positions, so usually a few have to be skipped.
        while True:
            try:
                index = rows.index(row, index + 1)
            except ValueError:
                return None
            if self.codes[index] == at:
                return index

    def entries(self) -> Iterator[LiveEntry]:
        """Yield every entry, by shape and key."""
        for group in self.body.groups:
            span = slice(group.first_row, group.first_row + group.count)
            for record, said, code, row in zip(
                group.records(), group.codes, self.codes[span], self.rows[span], strict=True
            ):
                packed = PackedOp(group.shape, record, self.body.annotations[said])
                yield LiveEntry(packed, self.positions[code], row)

    def extent(self) -> Extent:
        """Return the number of entries, and their first and last name."""
        ends = [
            name_of(group.shape, group.key_column[at : at + group.shape.key_width])
            for group in self.body.groups
            for at in (0, (group.count - 1) * group.shape.key_width)
        ]
        return Extent(self.count, min(ends), max(ends))

    def check(self, position: int) -> None:
        """Raise an error unless this can be a bucket of a snapshot at a position.

        Raises:
            PeerError: an entry is malformed, names are out of order or repeated, places are
                impossible, or there is more than one bucket can hold.
        """
        if self.count > limits.MAX_BUCKET_ENTRIES:
            raise LimitError(f"entries: got {self.count}, at most {limits.MAX_BUCKET_ENTRIES}")
        self.body.check()
        if any(a >= b for a, b in pairwise(self.positions)) or self.positions[-1] >= position:
            raise _malformed("positions are not ascending and before the snapshot")
        if set(self.codes) != set(range(len(self.positions))):
            raise _malformed("a position is missing or is not used")
        if max(self.rows) >= limits.MAX_BODY_OPS:
            raise _malformed("a row that no delta has")


def _malformed(problem: str) -> MalformedError:
    return MalformedError(f"bucket: {problem}", reason=Reason.BUCKET_MALFORMED)


# --- cutting ----------------------------------------------------------------------------------


class _Filling:
    """A bucket that is being filled, and its size by the counts of the specification."""

    def __init__(self) -> None:
        self.entries: list[LiveEntry] = []
        self._shapes: set[Shape] = set()
        self._columns = 0
        self._weight = 0
        # By identity, since hashing them would be the largest cost here. The values hold the
        # objects, so that no other one gets their identity.
        self._record_widths: dict[int, tuple[Shape, int]] = {}
        self._said_widths: dict[int, tuple[Annotation, int]] = {}

    def takes(self, entry: LiveEntry) -> bool:
        """Add an entry and return True; return False if the bucket is full without it."""
        shape, _, said = entry.packed
        record = self._record_widths.get(id(shape))
        if record is None:
            record = self._record_widths[id(shape)] = (shape, shape.record_width)
            if shape not in self._shapes:
                self._shapes.add(shape)
                self._columns += len(shape.columns)
                self._weight += _SHAPE_OVERHEAD + _COLUMN_OVERHEAD * len(shape.columns)
        text = self._said_widths.get(id(said))
        if text is None:
            text = self._said_widths[id(said)] = (said, len(said.canonical()))
        self._weight += record[1] + text[1] + _ENTRY_OVERHEAD
        if self.entries and (
            self._weight > limits.MAX_BUCKET_WEIGHT
            or len(self.entries) >= limits.MAX_BUCKET_ENTRIES
            or len(self._shapes) > limits.MAX_BODY_GROUPS
            or self._columns > limits.MAX_BODY_COLUMNS
        ):
            return False
        self.entries.append(entry)
        return True


def cut_buckets(entries: Iterable[LiveEntry]) -> Iterator[list[LiveEntry]]:
    """Cut a live set, in ascending order of names, into the entries of its buckets.

    A bucket is closed before the first entry that would make it hold more than the bounds in
    `federation.limits` allow.
    """
    filling = _Filling()
    for entry in entries:
        if not filling.takes(entry):
            yield filling.entries
            filling = _Filling()
            filling.takes(entry)
    if filling.entries:
        yield filling.entries


# --- bytes ------------------------------------------------------------------------------------


def encode_bucket(entries: Sequence[LiveEntry]) -> bytes:
    """Encode the entries of one bucket, in ascending order of names."""
    said = _canonical_by_identity([entry.packed.annotation for entry in entries])
    said_bytes = sorted(set(said.values()))
    positions = sorted({entry.position for entry in entries})
    code_of = {data: code for code, data in enumerate(said_bytes)}
    said_code = {identity: code_of[data] for identity, data in said.items()}
    position_code = {position: code for code, position in enumerate(positions)}
    said_width, position_width = code_width(len(said_bytes)), code_width(len(positions))
    groups = _by_shape(entries)
    parts = [_TAG, _COUNTS.pack(len(entries), len(said_bytes), len(positions), len(groups))]
    parts += [len(data).to_bytes(2) + data for data in said_bytes]
    parts += [position.to_bytes(_POSITION_BYTES) for position in positions]
    for shape, of_shape in sorted(groups.items()):
        parts.append(_encode_shape(shape) + len(of_shape).to_bytes(4))
        parts += _columns(shape, [entry.packed.record for entry in of_shape])
        codes = [said_code[id(entry.packed.annotation)] for entry in of_shape]
        parts.append(encode_codes(codes, said_width))
        codes = [position_code[entry.position] for entry in of_shape]
        parts.append(encode_codes(codes, position_width))
        parts.append(encode_codes([entry.row for entry in of_shape], _ROW_BYTES))
    return b"".join(parts)


# Shapes and annotations are first distinguished by identity, as hashing one for each entry
# would be the largest cost here.


def _canonical_by_identity(annotations: Sequence[Annotation]) -> dict[int, bytes]:
    distinct = {id(annotation): annotation for annotation in annotations}
    return {identity: annotation.canonical() for identity, annotation in distinct.items()}


def _by_shape(entries: Sequence[LiveEntry]) -> dict[Shape, list[LiveEntry]]:
    by_shape: dict[Shape, list[LiveEntry]] = {}
    by_identity: dict[int, list[LiveEntry]] = {}
    for entry in entries:
        shape = entry.packed.shape
        of_shape = by_identity.get(id(shape))
        if of_shape is None:
            of_shape = by_identity[id(shape)] = by_shape.setdefault(shape, [])
        of_shape.append(entry)
    return by_shape


def _columns(shape: Shape, records: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the ids, then each column, of records end to end."""
    widths = [width for width in (shape.id_width, *(width for _, width in shape.columns)) if width]
    if len(widths) == 1:
        yield b"".join(records)
        return
    at = 0
    for width in widths:
        yield b"".join([record[at : at + width] for record in records])
        at += width


def _encode_shape(shape: Shape) -> bytes:
    parts = [_SHAPE.pack(shape.named, shape.id_width, len(shape.columns))]
    for type_name, width in shape.columns:
        name = type_name.encode()
        parts.append(len(name).to_bytes() + name + width.to_bytes(4))
    return b"".join(parts)


class _Reader:
    """Takes fields from bytes, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            MalformedError: there are fewer bytes.
        """
        stop = self._at + size
        if stop > len(self._data):
            raise _malformed("it ends early")
        taken, self._at = self._data[self._at : stop], stop
        return taken

    def number(self, size: int) -> int:
        """Return the next `size` bytes as an unsigned integer."""
        return int.from_bytes(self.take(size))

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)


def decode_bucket(data: bytes) -> Bucket:
    """Decode a bucket; `Bucket.check` must still check the entries.

    Raises:
        LimitError: it is larger than a bucket can be.
        MalformedError: BUCKET_MALFORMED, these are not the bytes of a bucket.
    """
    if len(data) > limits.MAX_BUCKET_BYTES:
        raise LimitError(f"bucket: got {len(data)} bytes, at most {limits.MAX_BUCKET_BYTES}")
    reader = _Reader(data)
    if reader.take(len(_TAG)) != _TAG:
        raise _malformed("it does not begin as one")
    count, said_count, position_count, group_count = _COUNTS.unpack(reader.take(_COUNTS.size))
    if not (0 < said_count <= count and 0 < position_count <= count and 0 < group_count <= count):
        raise _malformed("its counts do not fit each other")
    try:
        said = tuple(Annotation.parse(reader.take(reader.number(2))) for _ in range(said_count))
    except OperationError as error:
        raise _malformed(str(error)) from error
    positions = tuple(reader.number(_POSITION_BYTES) for _ in range(position_count))
    said_width, position_width = code_width(said_count), code_width(position_count)
    groups: list[Group] = []
    codes: list[bytes] = []
    rows: list[bytes] = []
    first_row = 0
    for _ in range(group_count):
        shape = _decode_shape(reader)
        size = reader.number(4)
        if not 0 < size <= count - first_row:
            raise _malformed("its groups do not add up to its entries")
        ids = reader.take(size * shape.id_width)
        columns = tuple(reader.take(size * width) for _, width in shape.columns)
        said_codes = decode_codes(reader.take(size * said_width), said_width)
        groups.append(Group(shape, first_row, size, ids, columns, said_codes))
        codes.append(reader.take(size * position_width))
        rows.append(reader.take(size * _ROW_BYTES))
        first_row += size
    if first_row != count or not reader.is_at_end:
        raise _malformed("it continues after its last entry, or lacks entries")
    return Bucket(
        Body(b"", said, tuple(groups)),
        positions,
        decode_codes(b"".join(codes), position_width),
        decode_codes(b"".join(rows), _ROW_BYTES),
    )


def _decode_shape(reader: _Reader) -> Shape:
    named, id_width, column_count = _SHAPE.unpack(reader.take(_SHAPE.size))
    if named > 1 or (named and not column_count):
        raise _malformed("a group names its entries in an unknown way")
    columns = []
    for _ in range(column_count):
        try:
            name = reader.take(reader.number(1)).decode("ascii")
        except UnicodeDecodeError as error:
            raise _malformed("a hash type has an invalid name") from error
        width = reader.number(4)
        if not 0 < width <= limits.MAX_DIGEST_BYTES:
            raise _malformed(f"a column of {width} bytes a digest")
        columns.append((name, width))
    return Shape(OpKind.ASSERT, bool(named), id_width, tuple(columns))
