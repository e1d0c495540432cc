"""A live set has one cut and every bucket one encoding; whatever else arrives is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits, state
from federation.body import PackedOp, pack, unpack
from federation.bucket import (
    Bucket,
    LiveEntry,
    cut_buckets,
    decode_bucket,
    encode_bucket,
    name_of,
)
from federation.entry import Annotation, EntryId, Operation
from federation.errors import PeerError, Reason, UsageError
from federation.fingerprint import Fingerprint
from tests.federation.buckets import (
    CASES,
    ENTRIES,
    SNAPSHOT_AT,
    Placed,
    raw_bucket,
    weight,
)
from tests.federation.worlds import (
    assertion,
    digest,
    fingerprint,
    name_of_entry,
    slow_state_digest,
)

FURTHER = [
    (),
    (fingerprint(1, "md5"),),
    (fingerprint(1, "md5"), fingerprint(2, "md5"), fingerprint(3, "pdq")),
    (fingerprint(1, "acme-2031", 7),),
]
SAID = [
    Annotation(),
    Annotation(labels=("A1",), vocabulary="industry"),
    Annotation(labels=("A1", "ünïcödé"), reason="séen twice"),
]
NAMES = [None, "case 4", "case 40", "https://hotline.example/Fälle/9"]


def placed(number: int, name: int, further: int, said: int, position: int, row: int) -> Placed:
    """Return one of few entries, asserted in one of many ways."""
    own = NAMES[name]
    operation = Operation.assertion(
        (fingerprint(number), *FURTHER[further]),
        SAID[said],
        None if own is None else EntryId.parse(f"{own}{number % 10}"),
    )
    return Placed(operation, position, row)


LIVE_SETS = st.lists(
    st.builds(
        placed,
        number=st.integers(0, 60),
        name=st.integers(0, len(NAMES) - 1),
        further=st.integers(0, len(FURTHER) - 1),
        said=st.integers(0, len(SAID) - 1),
        position=st.integers(0, 2**62) | st.integers(0, 300),
        row=st.integers(0, limits.MAX_BODY_OPS - 1),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda entry: entry.operation.entry,
)


def live(entries: Sequence[Placed]) -> list[LiveEntry]:
    """Return entries by ascending name."""
    found = [LiveEntry(pack(entry.operation), entry.position, entry.row) for entry in entries]
    return sorted(found, key=name_of_entry)


def copied(entry: LiveEntry) -> LiveEntry:
    """Return an equal entry, no part of which is the same object."""
    shape, record, said = entry.packed
    packed = PackedOp(replace(shape), bytes(bytearray(record)), replace(said))
    return LiveEntry(packed, entry.position, entry.row)


def opened(data: bytes, position: int = 2**62 + 1) -> Bucket:
    bucket = decode_bucket(data)
    bucket.check(position)
    return bucket


# --- names ------------------------------------------------------------------------------------


@given(LIVE_SETS)
def test_names_sort_by_hash_type_then_width_then_key(entries: list[Placed]) -> None:
    def readable(entry: LiveEntry) -> tuple[str, int, bytes]:
        named = unpack(entry.packed).entry
        return named.type, len(named.key), named.key

    found = live(entries)
    assert found == sorted(found, key=readable)
    assert len({name_of_entry(entry) for entry in found}) == len(entries)


def test_ids_of_their_own_come_before_every_hash_type() -> None:
    own, named = assertion(1, entry="zzz"), assertion(1)
    assert live([Placed(named, 0, 0), Placed(own, 0, 1)])[0].packed == pack(own)
    assert name_of(pack(own).shape, b"zzz") == b"\0\0\0\0\x03zzz"
    assert name_of(pack(named).shape, digest(1)) == b"sha256\0\0\0\0\x20" + digest(1)


# --- bytes ------------------------------------------------------------------------------------


@given(LIVE_SETS)
def test_the_bytes_are_those_of_the_specification(entries: list[Placed]) -> None:
    assert encode_bucket(live(entries)) == raw_bucket(entries).encode()


@given(LIVE_SETS)
def test_a_bucket_says_what_was_put_into_it(entries: list[Placed]) -> None:
    found = live(entries)
    bucket = opened(encode_bucket(found))
    assert bucket.count == len(entries)
    assert sorted(bucket.entries(), key=name_of_entry) == found
    assert [bucket.entry(index) for index in range(bucket.count)] == list(bucket.entries())
    names = [name_of_entry(entry) for entry in found]
    assert bucket.extent() == (len(entries), names[0], names[-1])


@given(LIVE_SETS)
def test_an_entry_is_found_by_its_place(entries: list[Placed]) -> None:
    bucket = opened(encode_bucket(live(entries)))
    for index, entry in enumerate(bucket.entries()):
        found = bucket.find(entry.position, entry.row)
        assert found is not None
        assert found <= index
        assert bucket.entry(found)[1:] == entry[1:]
    assert bucket.find(2**62 + 1, 0) is None
    with pytest.raises(UsageError):
        bucket.entry(bucket.count)


@given(LIVE_SETS, st.data())
def test_the_state_digest_is_the_sum_over_buckets_in_any_order(
    entries: list[Placed], data: st.DataObject
) -> None:
    found = live(entries)
    cut = data.draw(st.integers(0, len(found)))
    total = state.EMPTY
    for some in data.draw(st.permutations([found[:cut], found[cut:]])):
        if some:
            total = state.add_bucket(total, opened(encode_bucket(some)))
    places = {entry.operation.entry: (entry.position, entry.row) for entry in entries}
    assert total == slow_state_digest(places)


@pytest.mark.parametrize("count", [256, 257])
def test_codes_have_one_byte_while_it_tells_them_apart(count: int) -> None:
    entries = [Placed(assertion(n, labels=(f"{n:04}",)), n, n) for n in range(count)]
    data = encode_bucket(live(entries))
    assert data == raw_bucket(entries).encode()
    assert sorted(opened(data).entries(), key=name_of_entry) == live(entries)


# --- refusals ---------------------------------------------------------------------------------


def test_the_bucket_that_the_cases_change_is_accepted_as_it_is() -> None:
    assert opened(raw_bucket(ENTRIES).encode(), SNAPSHOT_AT).count == len(ENTRIES)


@pytest.mark.parametrize("name", CASES)
def test_refuses_what_is_no_bucket(name: str) -> None:
    case = CASES[name]
    with pytest.raises(PeerError) as caught:
        opened(case.make(), SNAPSHOT_AT)
    assert caught.value.reason is case.reason, str(caught.value)


def test_every_cut_of_a_bucket_is_refused() -> None:
    data = raw_bucket(ENTRIES).encode()
    for size in range(len(data)):
        with pytest.raises(PeerError):
            opened(data[:size], SNAPSHOT_AT)


def accepted_in_one_form(data: bytes) -> bool:
    """Tell whether bytes are accepted as a bucket; they are then what their entries encode to."""
    try:
        bucket = opened(data, SNAPSHOT_AT)
    except PeerError:
        return False
    assert encode_bucket(list(bucket.entries())) == data
    return True


def test_no_changed_byte_gives_one_bucket_two_forms() -> None:
    data = raw_bucket(ENTRIES).encode()
    accepted = 0
    for at in range(len(data)):
        for byte in {*range(9), data[at] ^ 1, data[at] ^ 0x80, (data[at] + 1) % 256, 0xFF}:
            changed = data[:at] + bytes([byte]) + data[at + 1 :]
            accepted += changed != data and accepted_in_one_form(changed)
    # Other digests, rows and labels are other buckets.
    assert accepted


@given(st.data())
def test_whatever_bytes_are_accepted_as_a_bucket_have_one_form(data: st.DataObject) -> None:
    changed = bytearray(raw_bucket(ENTRIES).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        stop = at + data.draw(st.integers(0, 9))
        changed[at:stop] = data.draw(st.binary(max_size=9))
    accepted_in_one_form(bytes(changed))


@given(st.binary(max_size=400))
def test_any_bytes_behind_the_tag_are_refused_or_have_one_form(data: bytes) -> None:
    accepted_in_one_form(b"hashfed/bucket/v1\x00" + data)


def test_every_reason_of_the_check_of_a_bucket_has_a_case() -> None:
    assert {case.reason for case in CASES.values()} == {
        Reason.BUCKET_MALFORMED,
        Reason.LIMIT_EXCEEDED,
        Reason.OP_MALFORMED,
        Reason.OP_ORDER,
        Reason.DIGEST_DEGENERATE,
        Reason.FINGERPRINT_ALPHABET,
        Reason.FINGERPRINT_LENGTH,
        Reason.FINGERPRINT_TYPE,
    }


# --- cutting ----------------------------------------------------------------------------------


def slow_cut(entries: Sequence[LiveEntry]) -> list[list[LiveEntry]]:
    """Cut as the specification says, computing every size again for each entry."""
    buckets: list[list[LiveEntry]] = []
    for entry in entries:
        if not buckets or not fits([*buckets[-1], entry]):
            buckets.append([])
        buckets[-1].append(entry)
    return buckets


def fits(entries: Sequence[LiveEntry]) -> bool:
    shapes = {entry.packed.shape for entry in entries}
    placed_entries = [Placed(unpack(packed), position, row) for packed, position, row in entries]
    return (
        len(entries) <= limits.MAX_BUCKET_ENTRIES
        and weight(placed_entries) <= limits.MAX_BUCKET_WEIGHT
        and len(shapes) <= limits.MAX_BODY_GROUPS
        and sum(len(shape.columns) for shape in shapes) <= limits.MAX_BODY_COLUMNS
    )


@given(
    entries=LIVE_SETS,
    bounds=st.fixed_dictionaries(
        {
            "MAX_BUCKET_ENTRIES": st.integers(1, 12),
            "MAX_BUCKET_WEIGHT": st.integers(100, 3_000),
            "MAX_BODY_GROUPS": st.integers(1, 6),
            "MAX_BODY_COLUMNS": st.integers(1, 12),
        }
    ),
)
def test_a_bucket_is_closed_before_the_first_entry_that_would_break_a_bound(
    entries: list[Placed], bounds: dict[str, int]
) -> None:
    found = live(entries)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            patch.setattr(limits, name, value)
        expected = slow_cut(found)
        assert list(cut_buckets(found)) == expected
        # Neither how they are handed over nor which objects are shared makes a difference.
        assert list(cut_buckets(map(copied, found))) == expected
    assert [entry for some in expected for entry in some] == found
    for some in expected:
        assert encode_bucket(list(map(copied, some))) == encode_bucket(some)


def test_nothing_is_cut_into_nothing() -> None:
    assert list(cut_buckets([])) == []


def opaque(name: str, width: int, number: int) -> Fingerprint:
    return fingerprint(number, name, width)


def many_types(shapes: int, columns: int) -> list[LiveEntry]:
    """Return entries each of which has a shape of its own, of so many columns."""
    return live(
        [
            Placed(
                Operation.assertion(
                    tuple(opaque(f"t{shape}-{column}", 1, 1) for column in range(columns)),
                    Annotation(),
                    EntryId.parse(f"{shape:04}"),
                ),
                0,
                shape,
            )
            for shape in range(shapes)
        ]
    )


@pytest.mark.parametrize(
    ("entries", "sizes"),
    [
        (live([Placed(assertion(n), 0, n) for n in range(8_193)]), [8_192, 1]),
        (many_types(4_097, 1), [4_096, 1]),
        (many_types(130, 64), [128, 2]),
    ],
    ids=["entries", "shapes", "columns"],
)
def test_the_bounds_are_those_of_the_specification(
    entries: list[LiveEntry], sizes: list[int]
) -> None:
    buckets = list(cut_buckets(entries))
    assert list(map(len, buckets)) == sizes
    for some in buckets:
        bucket = opened(encode_bucket(some))
        assert sorted(bucket.entries(), key=name_of_entry) == some


def test_entries_are_weighed_as_the_specification_says() -> None:
    # A shape of three columns, and 32 + 16 + 20 bytes of digests, 7 + 900 of text and 16 each.
    text = Annotation(reason="r" * 900)
    assert len(text.canonical()) == 905
    each = 32 + 16 + 20 + 905 + 16
    further = (fingerprint(1, "md5"), fingerprint(1, "sha1"))
    entries = live(
        [Placed(Operation.assertion((fingerprint(n), *further), text), 0, n) for n in range(1_000)]
    )
    sizes = list(map(len, cut_buckets(entries)))
    assert sizes[0] == (limits.MAX_BUCKET_WEIGHT - 64 - 3 * 40) // each


def large(number: int) -> Operation:
    """Return an entry that alone weighs more than a bucket, and fits a delta."""
    frames = tuple(fingerprint(3 * number + n, "vpdq", 37 * 8_100) for n in range(3))
    return Operation.assertion((fingerprint(number), *frames), Annotation())


def test_an_entry_that_alone_weighs_too_much_has_a_bucket_of_its_own() -> None:
    heavy = Placed(large(1), 0, 0)
    assert weight([heavy]) > limits.MAX_BUCKET_WEIGHT
    light = [Placed(assertion(f"light {n}"), 1, n) for n in range(20)]
    buckets = list(cut_buckets(live([heavy, *light])))
    (alone,) = [some for some in buckets if len(some) == 1 and some[0].packed == pack(large(1))]
    assert len(buckets) == 3
    data = encode_bucket(alone)
    assert len(data) <= limits.MAX_BUCKET_BYTES
    assert list(opened(data).entries()) == alone


@given(LIVE_SETS)
def test_a_bucket_has_no_more_bytes_than_it_weighs_and_its_start(entries: list[Placed]) -> None:
    # So neither a bucket at its bound nor an entry as large as a delta exceeds MAX_BUCKET_BYTES.
    assert len(encode_bucket(live(entries))) <= weight(entries) + 28
    assert limits.MAX_BUCKET_BYTES > limits.MAX_BODY_BYTES + limits.MAX_BUCKET_WEIGHT
