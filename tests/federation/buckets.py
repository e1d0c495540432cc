"""Buckets written from docs/spec/snapshot.md alone, right ones and ones that must be refused.

Nothing here uses `federation.bucket`, so that two writers can be compared; and what no honest
writer would write can be said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from federation import limits
from federation.entry import Annotation, Cause, Operation
from federation.errors import Reason
from tests.federation.worlds import assertion, digest, fingerprint

TAG: Final = b"hashfed/bucket/v1\x00"
SNAPSHOT_AT: Final = 9
"""The position of the snapshot that the buckets of `CASES` are of."""


class Placed(NamedTuple):
    """An assertion and its place in the log."""

    operation: Operation
    position: int
    row: int


@dataclass
class RawGroup:
    """A group of a bucket, field by field."""

    named: int
    id_width: int
    columns: list[tuple[bytes, int]]
    count: int
    ids: bytes
    digests: list[bytes]
    said: list[int]
    places: list[int]
    rows: list[int]


@dataclass
class RawBucket:
    """A bucket, field by field: `None` where what is written follows from the rest."""

    said: list[bytes]
    positions: list[int]
    groups: list[RawGroup]
    tag: bytes = TAG
    counts: dict[str, int] = field(default_factory=dict)
    said_width: int | None = None
    place_width: int | None = None
    tail: bytes = b""

    def encode(self) -> bytes:
        """Write the bucket down."""
        counts = {
            "entries": sum(group.count for group in self.groups),
            "said": len(self.said),
            "positions": len(self.positions),
            "groups": len(self.groups),
            **self.counts,
        }
        said_width = self.said_width or (1 if len(self.said) <= 256 else 2)
        place_width = self.place_width or (1 if len(self.positions) <= 256 else 2)
        parts = [self.tag, counts["entries"].to_bytes(4, "big")]
        parts += [counts[what].to_bytes(2, "big") for what in ("said", "positions", "groups")]
        parts += [len(said).to_bytes(2, "big") + said for said in self.said]
        parts += [position.to_bytes(8, "big") for position in self.positions]
        for group in self.groups:
            parts.append(bytes([group.named, group.id_width, len(group.columns)]))
            parts += [
                bytes([len(name)]) + name + width.to_bytes(4, "big")
                for name, width in group.columns
            ]
            parts += [group.count.to_bytes(4, "big"), group.ids, *group.digests]
            parts += [code.to_bytes(said_width, "big") for code in group.said]
            parts += [code.to_bytes(place_width, "big") for code in group.places]
            parts += [row.to_bytes(2, "big") for row in group.rows]
        return b"".join((*parts, self.tail))


def columns_of(operation: Operation) -> tuple[list[tuple[bytes, int]], list[bytes]]:
    """Return the columns of an entry and its digests in them, the naming one first."""
    found = [(f.type.encode(), len(f.digest), f.digest) for f in operation.fingerprints]
    if operation.entry.type:
        name = (operation.entry.type.encode(), len(operation.entry.key), operation.entry.key)
        found = [name, *sorted(other for other in found if other != name)]
    else:
        found.sort()
    return [(name, width) for name, width, _ in found], [data for _, _, data in found]


def weight(entries: Sequence[Placed]) -> int:
    """Weigh entries that are to share a bucket."""
    shapes = set()
    total = 0
    for operation, _, _ in entries:
        columns, digests = columns_of(operation)
        own_id = b"" if operation.entry.type else operation.entry.key
        shapes.add((bool(operation.entry.type), len(own_id), tuple(columns)))
        said = len(operation.annotation.canonical())
        total += len(own_id) + sum(map(len, digests)) + said + 16
    return total + sum(64 + 40 * len(columns) for _, _, columns in shapes)


def raw_bucket(entries: Sequence[Placed]) -> RawBucket:
    """Arrange entries as the specification says."""
    said = sorted({operation.annotation.canonical() for operation, _, _ in entries})
    positions = sorted({position for _, position, _ in entries})
    groups: dict[tuple[bool, int, tuple[tuple[bytes, int], ...]], list[Placed]] = {}
    for entry in entries:
        own_id = b"" if entry.operation.entry.type else entry.operation.entry.key
        columns, _ = columns_of(entry.operation)
        shape = (bool(entry.operation.entry.type), len(own_id), tuple(columns))
        groups.setdefault(shape, []).append(entry)
    raw = RawBucket(said, positions, [])
    for (named, id_width, shape_columns), of_shape in sorted(groups.items()):
        of_shape.sort(key=lambda entry: entry.operation.entry.key)
        digests = [columns_of(entry.operation)[1] for entry in of_shape]
        raw.groups.append(
            RawGroup(
                named=int(named),
                id_width=id_width,
                columns=list(shape_columns),
                count=len(of_shape),
                ids=b"" if named else b"".join(e.operation.entry.key for e in of_shape),
                digests=[b"".join(column) for column in zip(*digests, strict=True)],
                said=[said.index(e.operation.annotation.canonical()) for e in of_shape],
                places=[positions.index(e.position) for e in of_shape],
                rows=[e.row for e in of_shape],
            )
        )
    return raw


# --- buckets to refuse ------------------------------------------------------------------------

MD5: Final = fingerprint(3, "md5")
ENTRIES: Final = (
    Placed(assertion(1), 0, 1),
    Placed(assertion(2, labels=("A2",)), 3, 0),
    Placed(assertion(3, MD5, fingerprint(3, "sha1")), 3, 9_999),
    Placed(assertion(4, entry="case 4"), 7, 2),
)
"""Entries of three shapes, with two annotations, from three deltas."""

OWN_ID: Final = 0
SINGLE: Final = 1
TRIPLE: Final = 2


@dataclass(frozen=True)
class Case:
    """A bucket to refuse: how it is made, and with which reason it is refused."""

    reason: Reason
    make: Callable[[], bytes]


def edited(edit: Callable[[RawBucket], object]) -> Callable[[], bytes]:
    """Write the bucket of `ENTRIES` with something changed."""

    def make() -> bytes:
        raw = deepcopy(raw_bucket(ENTRIES))
        edit(raw)
        return raw.encode()

    return make


def malformed(edit: Callable[[RawBucket], object]) -> Case:
    return Case(Reason.BUCKET_MALFORMED, edited(edit))


def op_malformed(edit: Callable[[RawBucket], object]) -> Case:
    return Case(Reason.OP_MALFORMED, edited(edit))


def op_order(edit: Callable[[RawBucket], object]) -> Case:
    return Case(Reason.OP_ORDER, edited(edit))


def set_group(number: int, **fields: object) -> Callable[[RawBucket], object]:
    return lambda raw: vars(raw.groups[number]).update(fields)


def said_by_all(said: bytes) -> Callable[[RawBucket], object]:
    """Let every entry say one thing."""

    def edit(raw: RawBucket) -> None:
        raw.said = [said]
        for group in raw.groups:
            group.said = [0] * group.count

    return edit


def swap_rows(raw: RawBucket) -> None:
    column = raw.groups[SINGLE].digests[0]
    raw.groups[SINGLE].digests = [column[32:] + column[:32]]


def repeat_row(raw: RawBucket) -> None:
    raw.groups[SINGLE].digests = [raw.groups[SINGLE].digests[0][:32] * 2]


def entry_in_two_groups(raw: RawBucket) -> None:
    raw.groups[TRIPLE].digests[0] = raw.groups[SINGLE].digests[0][:32]


def swap_columns(raw: RawBucket) -> None:
    group = raw.groups[TRIPLE]
    group.columns[1:], group.digests[1:] = group.columns[:0:-1], group.digests[:0:-1]


def one_column(name: bytes, data: bytes) -> Callable[[RawBucket], object]:
    """Give the entry that has an id of its own one digest."""
    return set_group(OWN_ID, columns=[(name, len(data))], digests=[data])


def too_many_entries() -> bytes:
    """Write one entry more than a bucket holds."""
    entries = [Placed(assertion(number), 0, number) for number in range(8_193)]
    return raw_bucket(entries).encode()


CASES: Final[dict[str, Case]] = {
    "nothing": Case(Reason.BUCKET_MALFORMED, lambda: b""),
    "another tag": malformed(lambda raw: setattr(raw, "tag", b"hashfed/bucket/v2\x00")),
    "one byte short": Case(
        Reason.BUCKET_MALFORMED, lambda: raw_bucket(ENTRIES).encode()[:-1]
    ),
    "one byte behind the end": malformed(lambda raw: setattr(raw, "tail", b"\0")),
    "larger than a bucket can be": Case(
        Reason.LIMIT_EXCEEDED, lambda: bytes(limits.MAX_BUCKET_BYTES + 1)
    ),
    "too many entries": Case(Reason.LIMIT_EXCEEDED, too_many_entries),
    "no entry": malformed(lambda raw: setattr(raw, "groups", [])),
    "fewer entries than announced": malformed(lambda raw: raw.counts.update(entries=5)),
    "more entries than announced": malformed(lambda raw: raw.counts.update(entries=3)),
    "no annotation": malformed(lambda raw: raw.counts.update(said=0)),
    "more annotations than entries": malformed(lambda raw: raw.counts.update(said=5)),
    "no position": malformed(lambda raw: raw.counts.update(positions=0)),
    "more positions than entries": malformed(lambda raw: raw.counts.update(positions=5)),
    "no group": malformed(lambda raw: raw.counts.update(groups=0)),
    "more groups than entries": malformed(lambda raw: raw.counts.update(groups=5)),
    "one group less than announced": malformed(lambda raw: raw.counts.update(groups=4)),
    "a group without entries": malformed(set_group(SINGLE, count=0)),
    "a group of more entries than there are": malformed(
        lambda raw: (raw.counts.update(entries=4), set_group(SINGLE, count=2**32 - 1)(raw))
    ),
    "annotation with a byte behind its end": malformed(
        lambda raw: raw.said.__setitem__(0, raw.said[0] + b"\0")
    ),
    "annotation of no bytes": malformed(said_by_all(b"")),
    "annotation of an unknown cause": malformed(said_by_all(b"\x09\0\0\0\0")),
    "annotation that is no text": malformed(said_by_all(b"\0\x01\x01\xff\0\0\0")),
    "annotation with a cause": op_malformed(
        said_by_all(Annotation(cause=Cause.WITHDRAWN).canonical())
    ),
    "annotation with a control character": op_malformed(
        said_by_all(Annotation(reason="a\nb").canonical())
    ),
    "annotation with labels out of order": op_malformed(
        said_by_all(Annotation(labels=("B", "A")).canonical())
    ),
    "annotation with a label too long": Case(
        Reason.LIMIT_EXCEEDED, edited(said_by_all(Annotation(labels=("A" * 129,)).canonical()))
    ),
    "annotations out of order": op_order(lambda raw: raw.said.reverse()),
    "one annotation twice": op_order(lambda raw: raw.said.__setitem__(1, raw.said[0])),
    "annotation that nothing uses": op_malformed(
        lambda raw: raw.said.append(Annotation(labels=("Z",)).canonical())
    ),
    "annotation that is not there": op_malformed(set_group(SINGLE, said=[0, 2])),
    "annotation codes of two bytes where one does": malformed(
        lambda raw: setattr(raw, "said_width", 2)
    ),
    "position codes of two bytes where one does": malformed(
        lambda raw: setattr(raw, "place_width", 2)
    ),
    "positions out of order": malformed(lambda raw: raw.positions.reverse()),
    "one position twice": malformed(lambda raw: raw.positions.__setitem__(1, 0)),
    "position that nothing uses": malformed(lambda raw: raw.positions.append(8)),
    "position that is not there": malformed(set_group(OWN_ID, places=[3])),
    "position of the snapshot itself": malformed(
        lambda raw: raw.positions.__setitem__(2, SNAPSHOT_AT)
    ),
    "row that no delta has": malformed(set_group(OWN_ID, rows=[limits.MAX_BODY_OPS])),
    "groups out of order": op_order(lambda raw: raw.groups.reverse()),
    "one shape in two groups": op_order(
        lambda raw: raw.groups.insert(TRIPLE, deepcopy(raw.groups[SINGLE]))
    ),
    "entries out of order": op_order(swap_rows),
    "one entry twice": op_order(repeat_row),
    "one entry in two groups": op_order(entry_in_two_groups),
    "columns out of order": op_order(swap_columns),
    "named in an unknown way": malformed(set_group(SINGLE, named=2)),
    "named by a column that is not there": malformed(
        set_group(SINGLE, columns=[], digests=[])
    ),
    "named by a column and by an id": op_malformed(set_group(TRIPLE, id_width=1, ids=b"x")),
    "named by nothing": op_malformed(set_group(OWN_ID, id_width=0, ids=b"")),
    "no fingerprint": op_malformed(set_group(OWN_ID, columns=[], digests=[])),
    "id with a control character": op_malformed(set_group(OWN_ID, ids=b"case\0\x34")),
    "id that is no text": op_malformed(set_group(OWN_ID, ids=b"case \xff")),
    "column of no width": malformed(one_column(b"sha256", b"")),
    "column wider than any digest": malformed(
        set_group(OWN_ID, columns=[(b"sha256", limits.MAX_DIGEST_BYTES + 1)])
    ),
    "hash type that is not ASCII": malformed(one_column(b"sha\xff56", digest(1))),
    "hash type that no hash type can have": Case(
        Reason.FINGERPRINT_TYPE, edited(one_column(b"SHA-256", digest(1)))
    ),
    "sha256 of 31 bytes": Case(
        Reason.FINGERPRINT_LENGTH, edited(one_column(b"sha256", digest(1)[:31]))
    ),
    "digest of zeroes": Case(
        Reason.DIGEST_DEGENERATE, edited(one_column(b"sha256", bytes(32)))
    ),
    "video frame of impossible quality": Case(
        Reason.FINGERPRINT_ALPHABET, edited(one_column(b"vpdq", digest(1) + b"\x65" + bytes(4)))
    ),
}  # fmt: skip
"""Buckets that must be refused in a snapshot at `SNAPSHOT_AT`."""
