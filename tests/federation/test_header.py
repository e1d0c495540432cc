"""Delta headers: one fixed layout, signed under its own type, hashed with its signature."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.dsse import pae
from federation.errors import PeerError, SignatureError
from federation.header import (
    HEADER_BYTES,
    MEDIA_TYPE,
    NO_BODY,
    NO_LEAF,
    Header,
    LeafKind,
    leaf_hash,
    verify_header,
)
from federation.keys import key_id
from tests.federation.worlds import signing_key

KEY = signing_key("header")
EXAMPLE = Header(
    origin_hash=b"\x01" * 32,
    position=0x06070809,
    previous=b"\x02" * 32,
    change_set=0x05060708,
    ends_change_set=True,
    time_ms=0x08090A0B0C0D,
    op_count=0x0B0C,
    body_size=0x0D0E0F,
    body_digest=b"\x03" * 32,
    ops_root=b"\x04" * 32,
    live_count=0x0A0B0C0D,
    state_digest=b"\x05" * 32,
    root_version=0x10111213,
    root_hash=b"\x06" * 32,
    key_id=key_id(KEY.public_key),
)
assert EXAMPLE.op_count <= limits.MAX_BODY_OPS

hashes = st.binary(min_size=32, max_size=32)
headers = st.builds(
    lambda position, back, **rest: Header(
        position=position,
        change_set=max(0, position - back),
        previous=NO_LEAF if position == 0 else b"\x01" * 32,
        **rest,
    ),
    position=st.integers(0, limits.MAX_TREE_SIZE - 1),
    back=st.integers(0, 9),
    origin_hash=hashes,
    ends_change_set=st.booleans(),
    time_ms=st.integers(0, limits.MAX_TIME_MS),
    op_count=st.integers(1, limits.MAX_BODY_OPS),
    body_size=st.integers(1, limits.MAX_BODY_BYTES),
    body_digest=hashes,
    ops_root=hashes,
    live_count=st.integers(0, limits.MAX_LIVE_ENTRIES),
    state_digest=hashes,
    root_version=st.integers(1, limits.MAX_VERSION),
    root_hash=hashes,
    key_id=st.just(key_id(KEY.public_key)),
)
snapshots = st.builds(
    lambda header, buckets: replace(
        header, kind=LeafKind.SNAPSHOT, op_count=buckets, body_size=0, body_digest=NO_BODY
    ),
    headers,
    st.integers(0, limits.MAX_SNAPSHOT_BUCKETS),
)


@given(headers | snapshots)
def test_a_header_is_parsed_as_it_was_signed(header: Header) -> None:
    record = header.sign(KEY)
    assert len(record) == HEADER_BYTES
    assert Header.parse(record) == header
    verify_header(record, KEY.public_key)


@given(st.sampled_from(LeafKind), st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_bytes_are_a_header_in_one_form_or_refused(kind: LeafKind, record: bytes) -> None:
    start = bytes([1, kind])
    try:
        header = Header.parse(start + record[2:])
    except PeerError:
        return
    assert header.encode_unsigned() == start + record[2:-64]


def test_the_signature_is_over_the_type_and_the_fields() -> None:
    record = EXAMPLE.sign(KEY)
    assert MEDIA_TYPE == "application/vnd.hashfed.delta-header.v1"
    assert record == EXAMPLE.encode_unsigned() + KEY.sign(pae(MEDIA_TYPE, record[:-64]))


@pytest.mark.parametrize("other_type", ["", "application/vnd.hashfed.org-root.v1"])
def test_a_signature_made_for_another_type_is_false(other_type: str) -> None:
    unsigned = EXAMPLE.encode_unsigned()
    with pytest.raises(SignatureError):
        verify_header(unsigned + KEY.sign(pae(other_type, unsigned)), KEY.public_key)
    with pytest.raises(SignatureError):
        verify_header(unsigned + KEY.sign(unsigned), KEY.public_key)


def test_a_header_that_names_another_key_is_refused_even_when_signed() -> None:
    record = replace(EXAMPLE, key_id=bytes(32)).sign(KEY)
    with pytest.raises(SignatureError):
        verify_header(record, KEY.public_key)


def test_the_leaf_is_the_whole_record() -> None:
    record = EXAMPLE.sign(KEY)
    assert leaf_hash(record) == sha256(b"\x00" + record).digest()
    assert leaf_hash(record) != leaf_hash(record[:-1] + bytes([record[-1] ^ 1]))


@pytest.mark.parametrize(
    "header",
    [
        replace(EXAMPLE, position=0, change_set=0),
        replace(EXAMPLE, previous=NO_LEAF),
        replace(EXAMPLE, position=limits.MAX_TREE_SIZE),
        replace(EXAMPLE, position=2 << 32 | 1),
        replace(EXAMPLE, change_set=EXAMPLE.position + 1),
        replace(EXAMPLE, time_ms=limits.MAX_TIME_MS + 1),
        replace(EXAMPLE, live_count=limits.MAX_LIVE_ENTRIES + 1),
        replace(EXAMPLE, root_version=0),
        replace(EXAMPLE, root_version=limits.MAX_VERSION + 1),
    ],
    ids=[
        *("leaf before the first", "no leaf before a later", "position too high"),
        *("another list's row", "set too late", "after the year 9999"),
        *("more than a snapshot holds", "no root", "root version too high"),
    ],
)
def test_numbers_out_of_range_are_refused(header: Header) -> None:
    with pytest.raises(PeerError):
        Header.parse(header.sign(KEY))


def test_a_header_holds_no_digest_of_an_entry_and_no_name() -> None:
    # Whoever may not have a list may have its headers: only hashes, numbers and key ids are there.
    widths = {32 if isinstance(value, bytes) else 0 for value in vars_of(EXAMPLE).values()}
    assert widths == {0, 32}
    assert not any(isinstance(value, str) for value in vars_of(EXAMPLE).values())


def vars_of(header: Header) -> dict[str, object]:
    return {name: getattr(header, name) for name in Header.__dataclass_fields__}
