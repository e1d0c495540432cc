"""Fields are counted before protobuf makes objects of them: nothing that parses exceeds a bound."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from federation import fields, limits
from federation.errors import LimitError, MalformedError
from federation.v1 import delta_pb2, document_pb2, log_service_pb2

_FILES = (delta_pb2.DESCRIPTOR, document_pb2.DESCRIPTOR, log_service_pb2.DESCRIPTOR)
_TYPES: dict[str, Descriptor] = {
    found.full_name: found for file in _FILES for found in file.message_types_by_name.values()
}
_REPEATED = {
    field.full_name: field
    for found in _TYPES.values()
    for field in found.fields
    if field.is_repeated
}


def varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def part(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def empty(name: str) -> Message:
    made: Message = message_factory.GetMessageClass(_TYPES[name])()
    return made


def test_every_repeated_field_of_the_protocol_has_a_bound() -> None:
    assert fields.BOUNDS.keys() == _REPEATED.keys()


@pytest.mark.parametrize("name", _REPEATED)
def test_as_many_elements_as_the_bound_are_parsed_and_one_more_is_not(name: str) -> None:
    field, bound = _REPEATED[name], fields.BOUNDS[name]
    of = name.rpartition(".")[0]
    elements = part(field.number, b"")
    if field.cpp_type not in {field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE}:
        elements = varint(field.number << 3) + b"\x01"
    parsed = fields.parse(empty(of), elements * bound, "it")
    assert len(getattr(parsed, field.name)) == bound
    with pytest.raises(LimitError, match=f"it has more than {bound} {field.name}"):
        fields.parse(empty(of), elements * (bound + 1), "it")


def test_packed_numbers_count_one_by_one() -> None:
    of, most = log_service_pb2.FetchBucketsRequest, limits.MAX_BUCKETS_ASKED
    packed = [varint(number) for number in range(most + 1)]
    parsed = fields.parse(of(), part(3, b"".join(packed[:most])), "it")
    assert list(parsed.numbers) == list(range(most))
    with pytest.raises(LimitError):
        fields.parse(of(), part(3, b"".join(packed[:700])) + part(3, b"".join(packed[700:])), "it")


def test_parts_of_one_message_are_counted_together() -> None:
    # protobuf merges the parts of a message that is not repeated.
    half = part(2, part(2, b"") * (limits.MAX_FRAME_DELTAS // 2))
    parsed = fields.parse(log_service_pb2.FollowResponse(), half * 2, "it")
    assert len(parsed.frame.deltas) == limits.MAX_FRAME_DELTAS
    with pytest.raises(LimitError):
        fields.parse(log_service_pb2.FollowResponse(), half * 2 + part(2, part(2, b"")), "it")


@pytest.mark.parametrize(
    "flood",
    [
        part(1, b"") * 2_000_000,
        varint(99 << 3) + b"\x00",
        part(2, b"") * 2_000_000,
        part(99, b"") * 1_000_000,
        b"\x83\x0c" * 2_000_000,
    ],
    ids=["empty lists", "a field of a later version", "page tokens", "unknown fields", "groups"],
)
def test_a_flood_of_fields_is_refused_before_it_costs_anything(flood: bytes) -> None:
    began = time.process_time()
    try:
        fields.parse(log_service_pb2.ListLogsResponse(), flood, "page")
    except (LimitError, MalformedError):
        assert len(flood) > 100
    else:
        assert len(flood) < 100
    assert time.process_time() - began < 0.2


def test_bytes_that_are_no_message_are_named() -> None:
    with pytest.raises(MalformedError, match="the page is not a protobuf message of its type"):
        fields.parse(log_service_pb2.ListLogsResponse(), b"\xff", "the page")


def wire_bytes(depth: int = 2) -> st.SearchStrategy[bytes]:
    """Bytes that are often messages: fields of small numbers, nested in each other."""
    values = st.binary(max_size=6)
    if depth:
        values = st.one_of(values, wire_bytes(depth - 1))
    parts = st.builds(part, st.integers(1, 8), values)
    numbers = st.builds(
        lambda number, value: varint(number << 3) + varint(value),
        st.integers(1, 8),
        st.integers(0, 300),
    )
    return st.lists(st.one_of(parts, parts, numbers, values), max_size=6).map(b"".join)


def walk(message: Message) -> Iterator[tuple[str, int]]:
    for field, value in message.ListFields():
        if field.is_repeated:
            yield field.full_name, len(value)
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from walk(inner)


@given(
    st.sampled_from(sorted(_TYPES)),
    wire_bytes(),
    st.lists(st.integers(0, 3), max_size=4),
    st.data(),
)
def test_nothing_that_passes_has_more_elements_than_a_bound(
    name: str, data: bytes, cuts: list[int], drawn: st.DataObject
) -> None:
    bounds = {known: drawn.draw(st.integers(1, 3)) for known in sorted(_REPEATED)}
    before = dict(fields.BOUNDS)
    for cut in cuts:
        data = data[:cut] + data + data[cut:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "BOUNDS", bounds)
        fields._shape_of.cache_clear()
        try:
            parsed = fields.parse(empty(name), data, "it")
        except (LimitError, MalformedError, DecodeError):
            return
        finally:
            fields._shape_of.cache_clear()
    assert all(found <= bounds[known] for known, found in walk(parsed))
    assert before == dict(fields.BOUNDS)
