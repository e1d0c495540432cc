"""Rows read one by one are those of the whole body, in whatever form it was signed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import wire
from federation.body import Body, build_body, pack
from federation.entry import Annotation, Cause, EntryId, Operation
from federation.errors import FederationError, MalformedError, UsageError
from federation.rows import RowReader
from tests.federation.test_wire import ANNOTATION, FORMS, GROUP, PLAIN, SEED, field
from tests.federation.worlds import assertion, fingerprint, salt_seed


class _Slices:
    """Bytes that are read by slices, and how many were."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read_bytes = 0

    def read(self, offset: int, count: int) -> bytes:
        assert offset >= 0
        assert count >= 0
        assert offset + count <= len(self.data)
        self.read_bytes += count
        return self.data[offset : offset + count]


def _reader(data: bytes) -> RowReader:
    return RowReader(_Slices(data).read, len(data))


@st.composite
def _bodies(draw: st.DrawFn) -> Body:
    labels = st.sampled_from(["A1", "B", "C" * 100])
    operations: dict[EntryId, Operation] = {}
    for number in range(draw(st.integers(1, 40))):
        further = [fingerprint(number, name) for name in draw(st.sets(st.sampled_from(_TYPES)))]
        name = draw(st.sampled_from([None, f"case {number}", f"ü{number}" * 20]))
        said = assertion(number, *further, labels=(draw(labels),), entry=name)
        match draw(st.sampled_from(["assert", "assert", "retract", "purge"])):
            case "retract":
                said = Operation.retraction(said.entry, draw(st.sampled_from(list(Cause)[1:])))
            case "purge":
                said = Operation.purge(said.entry)
        operations[said.entry] = said
    return build_body(map(pack, operations.values()), salt_seed(1))


_TYPES = ("md5", "sha1", "pdq", "ssvh", "sha512")


@given(_bodies(), st.data())
def test_every_row_is_the_one_of_the_decoded_body(body: Body, data: st.DataObject) -> None:
    reader = _reader(wire.encode_body(body))
    for row in data.draw(st.permutations(range(body.count))):
        assert reader.packed(row) == body.packed(row)
    for row in (body.count, body.count + 10_000):
        with pytest.raises(UsageError):
            reader.packed(row)


def test_many_annotations_have_codes_of_two_bytes() -> None:
    operations = [assertion(number, labels=(f"label {number}",)) for number in range(300)]
    body = build_body(map(pack, operations), salt_seed(1))
    reader = _reader(wire.encode_body(body))
    for row in range(body.count):
        assert reader.packed(row) == body.packed(row)


def test_one_row_of_a_large_body_is_read_without_the_rest() -> None:
    body = build_body((pack(assertion(number)) for number in range(5_000)), salt_seed(1))
    data = _Slices(wire.encode_body(body))
    assert RowReader(data.read, len(data.data)).packed(4_321) == body.packed(4_321)
    assert data.read_bytes < 2_000 < len(data.data)


LATER = {
    "an annotation after the groups": PLAIN + field(2, field(1, b"later")),
    "a seed after the groups": PLAIN + field(1, SEED),
    "column's fields in another order": field(1, SEED)
    + field(2, ANNOTATION)
    + field(3, b"".join([*GROUP[:3], field(6, field(2, 32) + field(1, b"sha256")), GROUP[4]])),
    "more annotations than a byte can tell apart, most of them later": field(1, SEED)
    + field(2, ANNOTATION) * 255
    + field(3, b"".join([*GROUP[:4], field(7, b"\0\1\0\2")]))
    + field(2, ANNOTATION) * 2,
}


@pytest.mark.parametrize("form", [*FORMS, *LATER])
def test_another_form_of_a_body_gives_the_same_rows_or_none(form: str) -> None:
    data = (FORMS | LATER)[form]
    expected = None
    with suppress(MalformedError):
        expected = wire.decode_body(data)
    try:
        reader = _reader(data)
        rows = [reader.packed(row) for row in range(2)]
    except MalformedError:
        assert form not in {"as this library writes it", "a seed after the groups"}
        return
    assert expected is not None
    assert rows == [expected.packed(row) for row in range(2)]


@given(_bodies(), st.data())
def test_damage_is_told_and_never_runs_off_the_end(body: Body, data: st.DataObject) -> None:
    damaged = bytearray(wire.encode_body(body))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.integers(0, len(damaged)))
    cut = bytes(damaged[:stop]) if data.draw(st.booleans()) else bytes(damaged)
    with suppress(FederationError):
        _reader(cut).packed(data.draw(st.integers(0, body.count)))


@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_refused(data: bytes) -> None:
    with suppress(FederationError):
        _reader(data).packed(0)


def test_an_annotation_is_decoded_by_itself() -> None:
    assert wire.decode_annotation(ANNOTATION) == Annotation(labels=("A1",), vocabulary="industry")
