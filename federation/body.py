"""Delta bodies: many operations as fixed-width columns, and the Merkle tree over them.

Objects for rows cost ten times more to decode than columns, so nothing here makes an object for a
row unless asked for that row. This module does not know headers, logs, signatures or the serialized
form (`federation.wire`). It is long because shape, column and tree are one invariant: the values
cut out of the columns are what the leaves of the tree commit to.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256, shake_256
from itertools import pairwise, repeat
from operator import itemgetter, lt
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from federation import limits, merkle
from federation.entry import Annotation, EntryId, Operation, OpKind
from federation.errors import LimitError, OperationError, Reason, UsageError
from federation.fingerprint import Fingerprint, check_column

SALT_SEED_BYTES: Final = 32
SALT_BYTES: Final = 16

# Canonical bytes of an op: this tag, kind, entry name, fingerprints, annotation
# (docs/spec/delta.md).
_OP_TAG: Final = b"hashfed/op/v1\x00"
_SALT_TAG: Final = b"hashfed/op-salts/v1\x00"

_CUT_VALUES: Final = 1_000
"""Values of a column that one call cuts out: enough to make the cost of calls negligible."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """The common properties of the operations of one group.

    Attributes:
        kind: what they do.
        named: whether the first column names the entry; otherwise it has an id of its own.
        id_width: bytes of the id; 0 when `named`.
        columns: (hash type, bytes of one digest) of each column, the naming one first.
    """

    kind: OpKind
    named: bool
    id_width: int
    columns: tuple[tuple[str, int], ...]

    @property
    def key_type(self) -> str:
        """The hash type that names the entries; empty for ids of their own."""
        return self.columns[0][0] if self.named else ""

    @property
    def key_width(self) -> int:
        """Bytes of an entry's key."""
        return self.columns[0][1] if self.named else self.id_width

    @property
    def record_width(self) -> int:
        """Bytes of one packed operation without its annotation."""
        return self.id_width + sum(width for _, width in self.columns)

    def offsets(self, type_name: str, width: int) -> list[int]:
        """Return the offsets of digests of a type and width in a packed operation's record."""
        found = []
        at = self.id_width
        for column_type, column_width in self.columns:
            if (column_type, column_width) == (type_name, width):
                found.append(at)
            at += column_width
        return found

    def check(self) -> None:
        """Raise an error unless operations can have this shape.

        Raises:
            OperationError: columns are missing, superfluous or out of order, or a width is 0.
            LimitError: an id or a digest is too wide, or there are too many columns.
        """
        if len(self.columns) > limits.MAX_ENTRY_FINGERPRINTS:
            raise LimitError(f"columns: got {len(self.columns)}")
        if self.named is (self.id_width > 0):
            raise OperationError("an entry is named by its first column or by an id, not by both")
        if self.id_width > limits.MAX_ENTRY_ID_BYTES:
            raise LimitError(f"entry id: got {self.id_width} bytes")
        columns = len(self.columns)
        if self.kind is OpKind.ASSERT:
            if not columns:
                raise OperationError("an assertion has no fingerprint")
        elif columns != int(self.named):
            raise OperationError("a retraction or purge carries only the entry's name")
        rest = self.columns[1:] if self.named else self.columns
        if list(rest) != sorted(rest):
            raise OperationError(
                "columns are not sorted by hash type and width", reason=Reason.OP_ORDER
            )


class PackedOp(NamedTuple):
    """One operation ready for a body. Its record is the id, if any, and the digests, end to end."""

    shape: Shape
    record: bytes
    annotation: Annotation

    @property
    def entry(self) -> EntryId:
        """The entry that it names."""
        shape = self.shape
        key_type, width = shape.columns[0] if shape.named else ("", shape.id_width)
        return EntryId(key_type, self.record[:width])


def pack(operation: Operation) -> PackedOp:
    """Pack an operation into a record, from which a body's columns are cut."""
    entry = operation.entry
    columns = [(f.type, len(f.digest), f.digest) for f in operation.fingerprints]
    if entry.type:
        name = (entry.type, len(entry.key), entry.key)
        columns = [name, *sorted(column for column in columns if column != name)]
    else:
        columns.sort()
    shape = Shape(
        operation.kind,
        bool(entry.type),
        0 if entry.type else len(entry.key),
        tuple((type_name, width) for type_name, width, _ in columns),
    )
    record = b"".join((b"" if entry.type else entry.key, *(digest for _, _, digest in columns)))
    return PackedOp(shape, record, operation.annotation)


def unpack(packed: PackedOp) -> Operation:
    """Return the operation that `pack` packed."""
    shape, record, annotation = packed
    fingerprints = []
    if shape.kind is OpKind.ASSERT:
        at = shape.id_width
        for type_name, width in shape.columns:
            fingerprints.append(Fingerprint(type_name, record[at : at + width]))
            at += width
    return Operation(
        kind=shape.kind,
        entry=packed.entry,
        fingerprints=tuple(sorted(fingerprints)),
        annotation=annotation,
    )


def cut(column: bytes, width: int) -> list[bytes]:
    """Cut a column into its values.

    Every row of every delta passes through this function. One call for many values takes a quarter
    of the time of a slice for each.
    """
    values: list[bytes] = []
    step = width * _CUT_VALUES
    whole = len(column) - len(column) % step
    for at in range(0, whole, step):
        values += _cutter(width).unpack_from(column, at)
    values += [column[at : at + width] for at in range(whole, len(column), width)]
    return values


@lru_cache(maxsize=64)
def _cutter(width: int) -> Struct:
    return Struct(f"{width}s" * _CUT_VALUES)


@dataclass(frozen=True)
class Group:
    """Operations of one shape, by ascending key.

    Attributes:
        shape: their common shape.
        first_row: the row number, within the body, of the group's first operation.
        count: the number of operations.
        ids: `count` ids of `shape.id_width` bytes end to end.
        columns: for each column of the shape, `count` digests end to end.
        codes: for each operation the index of its annotation in the body.
    """

    shape: Shape
    first_row: int
    count: int
    ids: bytes
    columns: tuple[bytes, ...]
    codes: Sequence[int]

    @property
    def key_column(self) -> bytes:
        """The keys of the entries, end to end."""
        return self.columns[0] if self.shape.named else self.ids

    @cached_property
    def keys(self) -> list[bytes]:
        """The keys of the entries, ascending."""
        return cut(self.key_column, self.shape.key_width)

    def record(self, index: int) -> bytes:
        """Return the record of the group's operation number `index`."""
        width = self.shape.id_width
        parts = [self.ids[index * width : (index + 1) * width]]
        for (_, width), column in zip(self.shape.columns, self.columns, strict=True):
            parts.append(column[index * width : (index + 1) * width])
        return b"".join(parts)

    def records(self) -> Iterator[bytes]:
        """Yield every record of the group, by ascending key."""
        columns = self.cut_columns()
        if len(columns) == 1:
            return iter(columns[0])
        return map(b"".join, zip(*columns, strict=True))

    def cut_columns(self) -> list[list[bytes]]:
        """Return the parts of the records: the values of each column, keys first."""
        columns = [
            cut(column, width)
            for (_, width), column in zip(self.shape.columns, self.columns, strict=True)
        ]
        return columns if self.shape.named else [self.keys, *columns]

    def check(self) -> None:
        """Raise an error unless every operation of the group is well formed.

        Raises:
            OperationError: keys are out of order or repeated, ids are not plain text, or
            fingerprints
                of one type are out of order within an entry.
            FingerprintError: a digest has the wrong width, or no list may carry it.
            LimitError: a digest is too wide.
        """
        self.shape.check()
        keys = self.keys
        if not all(map(lt, keys, keys[1:])):
            raise OperationError("keys are not strictly ascending", reason=Reason.OP_ORDER)
        for (type_name, width), column in zip(self.shape.columns, self.columns, strict=True):
            check_column(type_name, width, column)
        named = int(self.shape.named)
        for at, (left, right) in enumerate(pairwise(self.shape.columns)):
            # Digests of one type ascend within an entry. The naming one is not part of that order,
            # but must not be repeated.
            if left == right and at >= named:
                lower, higher = cut(self.columns[at], left[1]), cut(self.columns[at + 1], left[1])
                if not all(map(lt, lower, higher)):
                    raise OperationError(
                        "an entry's fingerprints are not strictly ascending", reason=Reason.OP_ORDER
                    )
        if named:
            for column_shape, column in zip(self.shape.columns[1:], self.columns[1:], strict=True):
                if column_shape == self.shape.columns[0] and any(
                    key == digest
                    for key, digest in zip(keys, cut(column, column_shape[1]), strict=True)
                ):
                    raise OperationError(
                        "an entry repeats its naming fingerprint", reason=Reason.OP_ORDER
                    )
        else:
            for key in keys:
                _check_id(key)


def _check_id(key: bytes) -> None:
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        raise OperationError("an entry id is not UTF-8") from error
    entry = EntryId.parse(text)
    if entry.type:
        raise OperationError(
            "an entry id is the text of a fingerprint, which names an entry itself"
        )


@dataclass(frozen=True)
class Body:
    """The operations of one delta.

    Attributes:
        salt_seed: 32 random bytes; anyone who has them can check guesses at every operation.
        annotations: the annotations of the operations, distinct and sorted by canonical bytes.
        groups: operations by shape, ascending, each shape once.
    """

    salt_seed: bytes
    annotations: tuple[Annotation, ...]
    groups: tuple[Group, ...]

    @property
    def count(self) -> int:
        """The number of operations."""
        return sum(group.count for group in self.groups)

    def check(self) -> None:
        """Raise an error unless every operation is well formed and each entry is named once.

        Raises:
            OperationError: operations, groups or annotations are malformed or out of order.
            FingerprintError: no list may carry one of the digests.
            LimitError: there are too many operations, groups or labels, or a text is too long.
        """
        if not 0 < self.count <= limits.MAX_BODY_OPS:
            raise LimitError(f"operations: got {self.count}, 1 to {limits.MAX_BODY_OPS} allowed")
        if len(self.groups) > limits.MAX_BODY_GROUPS:
            raise LimitError(f"groups: got {len(self.groups)}, at most {limits.MAX_BODY_GROUPS}")
        columns = sum(len(group.columns) for group in self.groups)
        if columns > limits.MAX_BODY_COLUMNS:
            raise LimitError(f"columns: got {columns}, at most {limits.MAX_BODY_COLUMNS}")
        shapes = [group.shape for group in self.groups]
        if any(a >= b for a, b in pairwise(shapes)):
            raise OperationError(
                "groups are not strictly ascending by shape", reason=Reason.OP_ORDER
            )
        used: set[int] = set()
        for group in self.groups:
            group.check()
            codes = set(group.codes)
            for code in codes:
                if code >= len(self.annotations):
                    raise OperationError(f"annotation {code} is named, but does not exist")
                self.annotations[code].check(group.shape.kind)
            used |= codes
        if len(used) != len(self.annotations):
            raise OperationError(
                f"annotations: got {len(self.annotations)}, of which {len(used)} are used"
            )
        # Only now, because an annotation that is too long has no canonical bytes.
        if any(a >= b for a, b in pairwise(self.canonical_annotations)):
            raise OperationError("annotations are not sorted and distinct", reason=Reason.OP_ORDER)
        self._check_entries_once()

    def _check_entries_once(self) -> None:
        by_type: dict[tuple[str, int], list[Group]] = {}
        for group in self.groups:
            by_type.setdefault((group.shape.key_type, group.shape.key_width), []).append(group)
        for groups in by_type.values():
            if len(groups) > 1:
                distinct = set().union(*(group.keys for group in groups))
                if len(distinct) != sum(group.count for group in groups):
                    raise OperationError(
                        "one entry is named by two operations", reason=Reason.OP_ORDER
                    )

    @cached_property
    def canonical_annotations(self) -> list[bytes]:
        """Each annotation's canonical bytes, in order."""
        return [annotation.canonical() for annotation in self.annotations]

    @property
    def has_all_annotations(self) -> bool:
        """Whether every annotation to which its operations refer exists."""
        have = len(self.annotations)
        return all(max(group.codes, default=-1) < have for group in self.groups)

    def locate(self, row: int) -> tuple[Group, int]:
        """Return the group of a row and the row's index in it.

        Raises:
            UsageError: there is no such row.
        """
        for group in self.groups:
            if 0 <= row - group.first_row < group.count:
                return group, row - group.first_row
        raise UsageError(f"row {row} of a body of {self.count}")

    def packed(self, row: int) -> PackedOp:
        """Return one operation as it was packed.

        Raises:
            UsageError: there is no such row.
        """
        group, index = self.locate(row)
        annotation = self.annotations[group.codes[index]]
        return PackedOp(group.shape, group.record(index), annotation)

    def operation(self, row: int) -> Operation:
        """Return one operation.

        Raises:
            UsageError: there is no such row.
        """
        return unpack(self.packed(row))

    def operations(self) -> Iterator[tuple[int, Operation]]:
        """Yield every (row, operation), in order of rows."""
        for group in self.groups:
            for row, (record, code) in enumerate(
                zip(group.records(), group.codes, strict=True), group.first_row
            ):
                yield row, unpack(PackedOp(group.shape, record, self.annotations[code]))

    def leaf_hashes(self) -> list[bytes]:
        """Return the hashes of the leaves of the ops tree, in order of rows.

        Leaf i is SHA-256(0x00 || salt i || canonical bytes of op i), as in RFC 6962, with a salt so
        that a proof of one operation reveals nothing checkable about its neighbours.
        """
        salts = self._salts()
        annotations = self.canonical_annotations
        leaves: list[bytes] = []
        for group in self.groups:
            head, *between = _canonical_frame(group.shape)
            values = group.cut_columns()
            # The parts of what one leaf hashes; each part for all rows.
            parts: list[Iterable[bytes]] = [
                repeat(b"\x00"),
                salts[group.first_row : group.first_row + group.count],
                repeat(head),
                values[0],
            ]
            for separator, column in zip(between, values[1:], strict=True):
                parts += (repeat(separator), column)
            parts.append(map(annotations.__getitem__, group.codes))
            # Not strict, because `repeat` has no end. The columns have the same length (`Group`).
            messages = map(b"".join, zip(*parts, strict=False))
            leaves += [leaf.digest() for leaf in map(sha256, messages)]
        return leaves

    def ops_root(self) -> bytes:
        """Return the root of the ops tree."""
        return merkle.root_hash(self.leaf_hashes())

    def _salts(self) -> list[bytes]:
        # An XOF is a pseudo-random generator, so one salt reveals nothing about the others.
        stream = shake_256(_SALT_TAG + self.salt_seed).digest(SALT_BYTES * self.count)
        return cut(stream, SALT_BYTES)


NO_OPERATIONS: Final = Body(b"", (), ())
"""The operations of the leaf of a snapshot, which changes no entry."""


def _canonical_frame(shape: Shape) -> list[bytes]:
    """Return the bytes before each part of a record in an op's canonical bytes.

    The canonical bytes of an op are: tag, kind, type of the entry's name, number of further
    fingerprints, length and bytes of the name, the further fingerprints, each as (type, length,
    digest), and the annotation. The naming fingerprint is not repeated among the further ones.
    """
    key_type = shape.key_type.encode()
    further = shape.columns[1:] if shape.named else shape.columns
    head = b"".join(
        (
            _OP_TAG,
            shape.kind.to_bytes(),
            len(key_type).to_bytes(),
            key_type,
            len(further).to_bytes(),
            shape.key_width.to_bytes(4),
        )
    )
    frame = [head]
    for type_name, width in further:
        name = type_name.encode()
        frame.append(len(name).to_bytes() + name + width.to_bytes(4))
    return frame


def code_width(annotations: int) -> int:
    """Return the width of an annotation code, in bytes, in a body with that many annotations."""
    return 1 if annotations <= 256 else 2  # what one byte can tell apart


def encode_codes(codes: Sequence[int], width: int) -> bytes:
    """Encode annotation codes as big-endian integers of `width` bytes (1 or 2)."""
    if width == 1:
        return bytes(codes)
    wide = array("H", codes)
    if byteorder == "little":
        wide.byteswap()
    return wide.tobytes()


def decode_codes(data: bytes, width: int) -> Sequence[int]:
    """Decode what `encode_codes` encoded; `data` must be a multiple of `width`."""
    if width == 1:
        return data
    wide = array("H", data)
    if byteorder == "little":
        wide.byteswap()
    return wide


def build_body(packed: Iterable[PackedOp], salt_seed: bytes) -> Body:
    """Build a body from operations in any order.

    Raises:
        UsageError: the seed is not 32 bytes.
        OperationError, FingerprintError, LimitError: as `Body.check`.
    """
    if len(salt_seed) != SALT_SEED_BYTES:
        raise UsageError(f"salt seed: got {len(salt_seed)} bytes, need {SALT_SEED_BYTES}")
    by_shape: dict[Shape, list[tuple[bytes, Annotation]]] = {}
    # Runs of one shape are common, and hashing a shape for each row would be the largest cost here.
    # The same holds for annotations, which are first distinguished by identity.
    current: Shape | None = None
    rows: list[tuple[bytes, Annotation]] = []
    for shape, record, annotation in packed:
        if shape is not current:
            current, rows = shape, by_shape.setdefault(shape, [])
        rows.append((record, annotation))
    by_identity = {id(said): said for rows in by_shape.values() for _, said in rows}
    annotations = tuple(sorted(set(by_identity.values()), key=Annotation.canonical))
    code_of_equal = {said: code for code, said in enumerate(annotations)}
    code_of = {identity: code_of_equal[said] for identity, said in by_identity.items()}
    groups: list[Group] = []
    row = 0
    for shape in sorted(by_shape):
        rows = by_shape[shape]
        # The key is the start of the record, so records sort in the order of their keys.
        rows.sort(key=itemgetter(0))
        records = [record for record, _ in rows]
        at = shape.id_width
        columns = []
        for _, width in shape.columns:
            columns.append(b"".join([record[at : at + width] for record in records]))
            at += width
        groups.append(
            Group(
                shape,
                row,
                len(rows),
                b"".join([record[: shape.id_width] for record in records]),
                tuple(columns),
                [code_of[id(said)] for _, said in rows],
            )
        )
        row += len(rows)
    body = Body(salt_seed, annotations, tuple(groups))
    body.check()
    return body
