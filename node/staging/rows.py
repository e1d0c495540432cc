"""Staged operations: one as a row, many as the body of a delta, and the conversion between both.

A row has a key, which sorts by entry, and content, which has everything else:

    key      hash type of the name || NUL || length of the name u32 || digest or id
    content  form || digests that do not name the entry || canonical bytes of the annotation
    form     kind u8 || number of those digests u8 || for each: length u8 || hash type || bytes u32

Rows are equal exactly when operations are. No form is the start of another one, so contents that
begin with the same form can be decoded together. These are pure functions of bytes, which do not
know the file of the rows and bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import compress, islice
from operator import not_
from typing import Final, NamedTuple

from federation.body import Body, Group, PackedOp, Shape
from federation.entry import Annotation, OpKind

_MAX_FORMS: Final = 32
"""The most forms that `to_body` handles: each needs a scan of every row."""


class Row(NamedTuple):
    """An operation in the form in which it is compared and stored.

    Attributes:
        key: the entry's name.
        content: the rest of the operation.
    """

    key: bytes
    content: bytes

    @property
    def kind(self) -> OpKind:
        """What the operation does."""
        return OpKind(self.content[0])


def key_prefix(shape: Shape) -> bytes:
    """Return the part of the keys of a shape's entries before the digest or id."""
    return shape.key_type.encode() + b"\0" + shape.key_width.to_bytes(4)


def form_of(shape: Shape) -> bytes:
    """Return the start of the contents of a shape's operations."""
    further = shape.columns[1:] if shape.named else shape.columns
    parts = [shape.kind.to_bytes(), len(further).to_bytes()]
    for type_name, width in further:
        parts += (len(type_name).to_bytes(), type_name.encode(), width.to_bytes(4))
    return b"".join(parts)


def form_width(content: bytes) -> int:
    """Return the width of the form at the start of `content`, in bytes."""
    at = 2
    for _ in range(content[1]):
        at += 1 + content[at] + 4
    return at


@lru_cache(maxsize=1024)
def shape_of(prefix: bytes, form: bytes) -> Shape:
    """Return the shape of operations, given the starts of their keys and contents."""
    key_type, width = prefix[:-5].decode(), int.from_bytes(prefix[-4:])
    columns = [(key_type, width)] if key_type else []
    at = 2
    for _ in range(form[1]):
        end = at + 1 + form[at]
        columns.append((form[at + 1 : end].decode(), int.from_bytes(form[end : end + 4])))
        at = end + 4
    return Shape(OpKind(form[0]), bool(key_type), 0 if key_type else width, tuple(columns))


def prefix_width(data: bytes) -> int:
    """Return the width of the part of a key before the digest or id, at the start of `data`."""
    return data.index(0) + 5


def key_width(data: bytes) -> int:
    """Return the width of the key at the start of `data`, in bytes."""
    start = prefix_width(data)
    return start + int.from_bytes(data[start - 4 : start])


def key_of(packed: PackedOp) -> bytes:
    """Return the key of an operation's entry."""
    shape = packed.shape
    return key_prefix(shape) + packed.record[: shape.key_width]


def to_row(packed: PackedOp) -> Row:
    """Return the row of an operation."""
    shape, record, annotation = packed
    width = shape.key_width
    return Row(
        key_prefix(shape) + record[:width],
        form_of(shape) + record[width:] + annotation.canonical(),
    )


def from_row(row: Row) -> PackedOp:
    """Return the operation of a row."""
    key, content = row
    start, at = prefix_width(key), form_width(content)
    shape = shape_of(key[:start], content[:at])
    stop = at + shape.record_width - shape.key_width
    return PackedOp(shape, key[start:] + content[at:stop], parse_annotation(content[stop:]))


def contents_of(packed: Sequence[PackedOp]) -> list[bytes]:
    """Return the contents of the rows of operations; fast if they share shapes and annotations."""
    # Distinguished by identity: hashing them for each row would be the largest cost here.
    shapes = {id(each.shape): each.shape for each in packed}
    annotations = {id(each.annotation): each.annotation for each in packed}
    forms = {at: (form_of(shape), shape.key_width) for at, shape in shapes.items()}
    said = {at: annotation.canonical() for at, annotation in annotations.items()}
    contents = []
    for shape, record, annotation in packed:
        form, width = forms[id(shape)]
        contents.append(form + record[width:] + said[id(annotation)])
    return contents


@lru_cache(maxsize=4096)
def parse_annotation(data: bytes) -> Annotation:
    """Parse what `Annotation.canonical` returned; most lists have few, which recur all the time."""
    return Annotation.parse(data)


# --- many at a time ---------------------------------------------------------------------------


def to_body(
    prefix: bytes, names: Sequence[bytes], contents: Sequence[bytes], salt_seed: bytes
) -> Body | None:
    """Make a body from rows: the same as `federation.body.build_body` makes, but many times faster.

    It checks nothing, as the signer does that.

    Args:
        prefix: the start of all keys (`key_prefix`).
        names: the rest of each key, strictly ascending.
        contents: the contents of the same rows.
        salt_seed: the seed of the body's salts.

    Returns:
        The body; None if the rows have too many forms to be columns.
    """
    parts = list(islice(_by_form(names, contents), _MAX_FORMS + 1))
    if len(parts) > _MAX_FORMS:
        return None
    columns = sorted(
        (_Columns(shape_of(prefix, form), *part) for form, *part in parts),
        key=lambda each: each.shape,
    )
    distinct = sorted(set().union(*(each.annotations for each in columns)))
    code_of = {annotation: code for code, annotation in enumerate(distinct)}
    groups: list[Group] = []
    for each in columns:
        groups.append(each.group(sum(group.count for group in groups), code_of))
    return Body(salt_seed, tuple(map(parse_annotation, distinct)), tuple(groups))


def _by_form(
    names: Sequence[bytes], contents: Sequence[bytes]
) -> Iterator[tuple[bytes, Sequence[bytes], Sequence[bytes]]]:
    """Yield (form, names, contents) of the rows of each form."""
    while contents:
        width = form_width(contents[0])
        form = contents[0][:width]
        if {content[:width] for content in contents} == {form}:
            yield form, names, contents
            return
        alike = [content.startswith(form) for content in contents]
        yield form, list(compress(names, alike)), list(compress(contents, alike))
        others = list(map(not_, alike))
        names, contents = list(compress(names, others)), list(compress(contents, others))


class _Columns:
    """The columns of rows of one form.

    Attributes:
        shape: their shape.
        annotations: the canonical bytes of their annotations.
    """

    def __init__(self, shape: Shape, names: Sequence[bytes], contents: Sequence[bytes]) -> None:
        self.shape = shape
        self._count = len(names)
        joined = b"".join(names)
        self._ids = b"" if shape.named else joined
        self._columns = [joined] if shape.named else []
        at = form_width(contents[0])
        for _, width in shape.columns[len(self._columns) :]:
            self._columns.append(b"".join([content[at : at + width] for content in contents]))
            at += width
        self.annotations = [content[at:] for content in contents]

    def group(self, first_row: int, code_of: Mapping[bytes, int]) -> Group:
        """Return their group in a body."""
        codes = list(map(code_of.__getitem__, self.annotations))
        return Group(self.shape, first_row, self._count, self._ids, tuple(self._columns), codes)


def iter_rows(body: Body) -> Iterator[Row]:
    """Yield the rows of a body's operations, by shape and then by key."""
    annotations = body.canonical_annotations
    for group in body.groups:
        prefix, form = key_prefix(group.shape), form_of(group.shape)
        width = group.shape.key_width
        for record, code in zip(group.records(), group.codes, strict=True):
            yield Row(prefix + record[:width], form + record[width:] + annotations[code])
