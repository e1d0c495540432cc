"""Reads single operations of a serialized body without decoding the rest of it.

It reads slices of a body in the one layout that protobuf encoders write: fields in the order of
their numbers, and each field that is not repeated once. Protobuf allows other layouts; for these it
raises an error, and `federation.wire.decode_body` reads any layout. It verifies nothing, as it is
for accepted bodies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from federation import limits, wire
from federation.body import PackedOp, Shape, code_width
from federation.entry import Annotation, OpKind
from federation.errors import MalformedError, UsageError

_WINDOW: Final = 512
"""Bytes of one read while searching fields."""

_LONGEST_VARINT: Final = 5

# The tags before the fields of DeltaBody, OpGroup and Column (delta.proto): the number of the field
# and its wire type, a number (0) or bytes (2).
_SALT_SEED, _ANNOTATION, _GROUP = 0o12, 0o22, 0o32
_KIND, _NAMED, _COUNT, _IDS, _ID_WIDTH, _COLUMN, _CODES = 0o10, 0o20, 0o30, 0o42, 0o50, 0o62, 0o72
_HASH_TYPE, _WIDTH, _DIGESTS = 0o12, 0o20, 0o32
_GROUP_TAGS: Final = frozenset((_KIND, _NAMED, _COUNT, _IDS, _ID_WIDTH, _COLUMN, _CODES))
_IS_BYTES: Final = 0o2


@dataclass(frozen=True, slots=True)
class _Group:
    """The offsets of the columns of a group.

    Attributes:
        shape: the common shape of its operations.
        first_row: the row of its first operation.
        count: the number of operations.
        columns: offset and width of the ids, if there are any, and of each column of digests.
        codes: offset of the annotations' codes.
    """

    shape: Shape
    first_row: int
    count: int
    columns: tuple[tuple[int, int], ...]
    codes: int


class RowReader:
    """Reads operations of one body. It searches the groups as far as rows are requested.

    Args:
        read: returns bytes of the body: `read(offset, count)`.
        size: the size of the body in bytes.

    Raises:
        MalformedError: the body is not laid out as encoders do.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._window = b""
        self._window_at = 0
        self._groups: list[_Group] = []
        self._first_rows: list[int] = []
        self._annotations: list[tuple[int, int]] = []
        self._decoded: dict[int, Annotation] = {}
        self._next = self._look_through_head()
        self._code_width = code_width(len(self._annotations))

    def packed(self, row: int) -> PackedOp:
        """Return one operation as it was packed.

        Raises:
            MalformedError: the body is not laid out as encoders do.
            UsageError: there is no such row.
        """
        (packed,) = self.iter_packed([row])
        return packed

    def iter_packed(self, rows: Iterable[int]) -> Iterator[PackedOp]:
        """Yield operations as they were packed.

        Raises:
            MalformedError, UsageError: as `packed`.
        """
        read, width, decoded = self._read, self._code_width, self._decoded
        group = _Group(Shape(OpKind.ASSERT, named=False, id_width=0, columns=()), 0, 0, (), 0)
        for row in rows:
            if not 0 <= row - group.first_row < group.count:
                group = self._group_of(row)
            index = row - group.first_row
            record = b""
            for at, size in group.columns:
                record += read(at + index * size, size)
            code = int.from_bytes(read(group.codes + index * width, width))
            yield PackedOp(group.shape, record, decoded.get(code) or self._annotation(code))

    def _group_of(self, row: int) -> _Group:
        while not self._groups or row >= self._groups[-1].first_row + self._groups[-1].count:
            if self._next >= self._size:
                raise UsageError(f"row {row} of a body of fewer")
            self._look_through_group()
        return self._groups[bisect_right(self._first_rows, row) - 1]

    def _annotation(self, code: int) -> Annotation:
        if code >= len(self._annotations):
            raise MalformedError(f"rows: annotation {code} is referred to, but does not exist")
        # The row is before a group, and not beyond the end.
        at, size = self._annotations[code]
        annotation = self._decoded[code] = wire.decode_annotation(self._read(at, size))
        return annotation

    # --- looking through ----------------------------------------------------------------------

    def _look_through_head(self) -> int:
        """Store the offsets of the annotations; return the offset of the first group."""
        tag, size, at = self._field(0)
        if tag != _SALT_SEED:
            raise MalformedError("rows: a body that does not begin with its seed")
        at += size
        while True:
            here = at
            tag, size, at = self._field(at)
            if tag != _ANNOTATION:
                return here
            self._annotations.append((at, size))
            at += size

    def _look_through_group(self) -> None:
        """Store the offsets of the columns of the next group."""
        tag, size, at = self._field(self._next)
        if tag != _GROUP:
            raise MalformedError("rows: fields of a body in another order")
        end = at + size
        if end > self._size:
            raise MalformedError("rows: a group beyond the end")
        # Numbers, and (offset, size) of bytes.
        numbers: dict[int, int] = {}
        spans: dict[int, tuple[int, int]] = {}
        columns: list[tuple[str, int, tuple[int, int]]] = []
        last = 0
        while at < end:
            tag, value, at = self._field(at)
            if tag not in _GROUP_TAGS or tag < last or (tag == last and tag != _COLUMN):
                raise MalformedError("rows: fields of a group in another order")
            last = tag
            if not tag & _IS_BYTES:
                numbers[tag] = value
                continue
            spans[tag] = at, value
            at += value
            if tag == _COLUMN:
                columns.append(self._column(*spans[tag]))
        try:
            shape = Shape(
                OpKind(numbers.get(_KIND, 0)),
                bool(numbers.get(_NAMED)),
                numbers.get(_ID_WIDTH, 0),
                tuple((hash_type, width) for hash_type, width, _ in columns),
            )
        except ValueError as error:
            raise MalformedError("rows: operations of an unknown kind") from error
        count = numbers.get(_COUNT, 0)
        places = [(span, width) for _, width, span in columns]
        if shape.id_width:
            places.insert(0, (spans.get(_IDS, (0, 0)), shape.id_width))
        codes, codes_size = spans.get(_CODES, (0, 0))
        fits = codes_size == count * self._code_width and all(
            size == count * width for (_, size), width in places
        )
        if at != end or not count or not fits:
            raise MalformedError("rows: columns that do not fit their group")
        first_row = self._groups[-1].first_row + self._groups[-1].count if self._groups else 0
        offsets = tuple((offset, width) for (offset, _), width in places)
        self._groups.append(_Group(shape, first_row, count, offsets, codes))
        self._first_rows.append(first_row)
        self._next = end

    def _column(self, at: int, size: int) -> tuple[str, int, tuple[int, int]]:
        """Return a column's hash type and width, and the offset of its digests."""
        end = at + size
        type_tag, size, at = self._field(at)
        name = self._take(at, min(size, limits.MAX_HASH_TYPE_BYTES))
        width_tag, width, at = self._field(at + size)
        digests_tag, size, at = self._field(at)
        if (type_tag, width_tag, digests_tag) != (_HASH_TYPE, _WIDTH, _DIGESTS) or at + size != end:
            raise MalformedError("rows: fields of a column in another order")
        return name.decode(errors="replace"), width, (at, size)

    # --- fields -------------------------------------------------------------------------------

    def _field(self, at: int) -> tuple[int, int, int]:
        """Return a field's tag, its number or size in bytes, and the offset of the value."""
        tag, at = self._varint(at)
        value, at = self._varint(at)
        return tag, value, at

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        ahead = max(0, min(_LONGEST_VARINT, self._size - at))
        for shift, byte in enumerate(self._take(at, ahead)):
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80 and value < 1 << 32:  # the last one
                return value, at + shift + 1
        raise MalformedError("rows: a number without an end")

    def _take(self, at: int, count: int) -> bytes:
        if at + count > self._size:
            raise MalformedError("rows: a field beyond the end")
        start = at - self._window_at
        if start < 0 or start + count > len(self._window):
            self._window = self._read(at, max(count, min(_WINDOW, self._size - at)))
            self._window_at, start = at, 0
        return self._window[start : start + count]
