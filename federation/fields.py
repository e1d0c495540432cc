"""Parses protobuf messages, after counting their fields.

An element of a repeated field can have two bytes, but protobuf makes an object of some hundred
bytes for it: a message within `limits.MAX_MESSAGE_BYTES` could take a gigabyte and seconds. So the
fields of a message are counted before any object is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar, cast

from google.protobuf.message import DecodeError

from federation import limits
from federation.errors import LimitError, MalformedError

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

_M = TypeVar("_M", bound="Message")

BOUNDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "federation.v1.SnapshotOffer.consistency": limits.MAX_PROOF_HASHES,
        "federation.v1.DeltaBody.annotations": limits.MAX_ANNOTATIONS,
        "federation.v1.DeltaBody.groups": limits.MAX_BODY_GROUPS,
        "federation.v1.OpGroup.columns": limits.MAX_BODY_COLUMNS,
        "federation.v1.Annotation.labels": limits.MAX_LABELS,
        "federation.v1.Envelope.signatures": limits.MAX_DOCUMENT_SIGNATURES,
        "federation.v1.OrgRoot.roles": limits.MAX_ROLES,
        "federation.v1.OrgRoot.tls_certificates": limits.MAX_CERTIFICATES,
        "federation.v1.Role.public_keys": limits.MAX_ROLE_KEYS,
        "federation.v1.Audience.orgs": limits.MAX_AUDIENCE_ORGS,
        "federation.v1.ListLogsResponse.logs": limits.MAX_PAGE_LISTS,
        "federation.v1.FollowRequest.cursors": limits.MAX_FOLLOWED_LISTS,
        "federation.v1.Frame.deltas": limits.MAX_FRAME_DELTAS,
        "federation.v1.FetchBucketsRequest.numbers": limits.MAX_BUCKETS_ASKED,
        "federation.v1.FetchLeafResponse.inclusion": limits.MAX_PROOF_HASHES,
    }
)
"""The most elements of each repeated field of the protocol, by its full name."""

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}
"""How a field is written (protobuf.dev/programming-guides/encoding), with the width of a fixed one.
3 and 4 are the ends of a group and have no value."""

_CONTINUED: Final = bytes(range(0x80, 0x100))


def parse(message: _M, data: bytes, what: str) -> _M:
    """Parse the bytes of a message into it.

    Args:
        message: an empty message.
        data: the bytes.
        what: its name in errors.

    Raises:
        LimitError: it has more fields than a message of its type can have.
        MalformedError: the bytes are not a message of its type.
    """
    check(cast("Descriptor", message.DESCRIPTOR), data, what)
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedError(f"{what} is not a protobuf message of its type") from error
    return message


def check(descriptor: Descriptor, data: bytes, what: str) -> None:
    """Count the fields of a serialized message; bytes that are not a message may pass.

    Args:
        descriptor: its type.
        data: its bytes.
        what: its name in errors.

    Raises:
        LimitError: it has more fields than a message of its type can have.
    """
    _Counter(_shape_of(descriptor), what).read(data, 0, len(data))


@dataclass(frozen=True, slots=True)
class _Field:
    """A repeated field, or a message that has some; other fields need no look.

    Attributes:
        name: its name.
        bound: the most elements; 0 if it is not repeated.
        inner: the shape of its messages; None if these have no repeated fields.
        is_number: whether its elements are numbers, which may be packed.
    """

    name: str
    bound: int
    inner: _Shape | None
    is_number: bool


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is counted in messages of one type.

    Attributes:
        fields: by number.
        most: the most fields that a message may have.
        least: the smallest bound: a message with fewer than twice as many bytes exceeds none.
    """

    fields: Mapping[int, _Field]
    most: int
    least: int


class _Counter:
    """Counts the fields of one message. All parts of a message are counted together."""

    __slots__ = ("_elements", "_inner", "_shape", "_total", "_what")

    def __init__(self, shape: _Shape, what: str) -> None:
        self._shape = shape
        self._what = what
        self._total = 0
        self._elements: dict[int, int] = {}
        self._inner: dict[int, _Counter] = {}

    def read(self, data: bytes, at: int, stop: int) -> None:
        """Count the fields from `at` to `stop`."""
        while at < stop:
            tag, at = _read_varint(data, at, stop)
            self._total += 1
            if self._total > self._shape.most:
                raise LimitError(f"{self._what} has more than {self._shape.most} fields")
            end = at
            kind = tag & 7
            if kind == _BYTES:
                size, at = _read_varint(data, at, stop)
                end = min(at + size, stop)
            elif kind == _VARINT:
                end = _read_varint(data, at, stop)[1]
            elif kind in _FIXED:
                end = at + _FIXED[kind]
            field = self._shape.fields.get(tag >> 3)
            if field is not None:
                self._add(field, tag, data, (at, end))
            at = end

    def _add(self, field: _Field, tag: int, data: bytes, place: tuple[int, int]) -> None:
        """Count one field that is written at a place in the data."""
        (at, end), number, is_bytes = place, tag >> 3, tag & 7 == _BYTES
        if field.bound:
            # Each packed number ends with a byte whose highest bit is 0.
            packed = field.is_number and is_bytes
            added = len(data[at:end].translate(None, _CONTINUED)) if packed else 1
            found = self._elements[number] = self._elements.get(number, 0) + added
            if found > field.bound:
                raise LimitError(f"{self._what} has more than {field.bound} {field.name}")
        if field.inner is None or not is_bytes:
            return
        if not field.bound:
            inner = self._inner.setdefault(number, _Counter(field.inner, self._what))
        elif end - at < 2 * field.inner.least:
            return
        else:
            inner = _Counter(field.inner, self._what)
        inner.read(data, at, end)


@cache
def _shape_of(descriptor: Descriptor) -> _Shape:
    fields: dict[int, _Field] = {}
    for field in descriptor.fields:
        inner = None if field.message_type is None else _shape_of(field.message_type)
        if inner is not None and not inner.fields:
            inner = None
        bound = BOUNDS[field.full_name] if field.is_repeated else 0
        if bound or inner is not None:
            fields[field.number] = _Field(field.name, bound, inner, _is_number(field))
    # A packed number may have one byte only.
    bounds = [field.bound // (1 + field.is_number) for field in fields.values() if field.bound]
    bounds += [field.inner.least for field in fields.values() if field.inner is not None]
    most = limits.MAX_OTHER_FIELDS + sum(field.bound for field in fields.values())
    return _Shape(fields, most, min([*bounds, limits.MAX_OTHER_FIELDS]))


def _is_number(field: FieldDescriptor) -> bool:
    return field.cpp_type not in {field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE}


def _read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Return a number and the offset after it; the end of the message if it does not end."""
    value = shift = 0
    while at < stop and shift < 64:  # bits of a number
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # no further byte
            return value, at
        shift += 7
    return 0, stop
