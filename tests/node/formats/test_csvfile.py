"""What `node.formats.csvfile` promises: strict rows, cells that do nothing."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.body import pack
from federation.entry import Annotation, Operation
from federation.errors import FederationError, LimitError, MalformedError, Reason
from node.formats.csvfile import HEADER, QUOTED_HEADER, CsvReader, format_rows, merge_labels
from tests.federation.worlds import assertion, fingerprint
from tests.node.support.texts import LABELS, assertions

_HEX = "ab" * 16 + "cd" * 16

_PUZZLES = st.text("=+-@'\"; ,a\uff1d\uff0b\uff0d\uff20", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "must be the header"),
        (b"md5", "must be the header"),
        (b"type;digest;label", "separated by commas"),
        (b"type,digest,lable", "did you mean 'label'"),
        (b"type,digest,type", "twice"),
        (b"type,label", "lacks the column 'digest'"),
        (b"digest,label", "lacks the column 'type'"),
        (b"type,\xff", "not UTF-8"),
    ],
)
def test_a_file_without_its_header_is_refused(header: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        CsvReader.open(header)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (b"type,digest,label", f"sha256,{_HEX},A1"),
        (b"type,digest,label\r", f"sha256,{_HEX},A1\r"),
        (b'"label","type","digest"', f"A1,sha256,{_HEX}"),
        (b"label,type,digest", f'"A1",sha256,"{_HEX.upper()}"'),
    ],
)
def test_columns_in_any_order_say_the_same(header: bytes, row: str) -> None:
    expected = Operation.assertion(
        (CsvReader.open(header).parse_row(row.encode()).fingerprints[0],),
        Annotation(labels=("A1",)),
    )
    assert expected.entry.format() == f"sha256:{_HEX}"
    assert CsvReader.open(header).parse(row.encode()) == pack(expected)


def test_the_label_may_be_left_out() -> None:
    for header, row in ((b"type,digest", f"sha256,{_HEX}"), (HEADER.encode(), f"sha256,{_HEX},")):
        for _ in range(2):
            assert CsvReader.open(header).parse(row.encode()).annotation == Annotation()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"sha256", Reason.MALFORMED),
        (f"sha256,{_HEX}".encode(), Reason.MALFORMED),
        (f"sha256,{_HEX},a,b".encode(), Reason.MALFORMED),
        (f'sha256,{_HEX},"a'.encode(), Reason.MALFORMED),
        (f'sha256,{_HEX},"a"b'.encode(), Reason.MALFORMED),
        (f"sha256,{_HEX},\xff".encode("latin-1"), Reason.MALFORMED),
        (f"sha256,{_HEX},a\rb".encode(), Reason.MALFORMED),
        (f"sha256,{_HEX[:-2]},a".encode(), Reason.FINGERPRINT_LENGTH),
        (f"sha256, {_HEX},a".encode(), Reason.FINGERPRINT_ALPHABET),
        (f"sha256,{'zz' * 32},a".encode(), Reason.FINGERPRINT_ALPHABET),
        (f"sha-256,{_HEX},a".encode(), Reason.FINGERPRINT_TYPE),
        (f"sha256,{'00' * 32},a".encode(), Reason.DIGEST_DEGENERATE),
        (f"sha256,{_HEX},a\tb".encode(), Reason.OP_MALFORMED),
        (f"sha256,{_HEX},{'x' * 129}".encode(), Reason.LIMIT_EXCEEDED),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(row: bytes, reason: Reason) -> None:
    reader = CsvReader.open(HEADER.encode())
    for parse in (reader.parse_row, reader.parse):
        with pytest.raises(FederationError) as caught:
            parse(row)
        assert caught.value.reason is reason


@given(assertions())
def test_written_rows_are_read_back_fingerprint_by_fingerprint(operation: Operation) -> None:
    reader = CsvReader.open(HEADER.encode())
    read = [reader.parse_row(row.encode()) for row in format_rows(operation)]
    labels = set(operation.annotation.labels)
    assert {row.fingerprints[0] for row in read} == set(operation.fingerprints)
    assert {label for row in read for label in row.annotation.labels} == labels
    assert len(read) == len(operation.fingerprints) * max(1, len(labels))


@given(st.lists(LABELS, min_size=1, max_size=3))
def test_no_cell_starts_a_formula(labels: list[str]) -> None:
    # The photodna hash is one whose base64 begins with a plus sign.
    plus = bytes([0xF8]) + bytes(range(143))
    for further in (fingerprint(1), type(fingerprint(1)).from_digest("photodna", plus)):
        for row in format_rows(assertion(1, further, labels=tuple(sorted(set(labels))))):
            (cells,) = csv.reader([row])
            assert not any(_is_formula(cell) for cell in cells)
            # Where a semicolon separates cells, the row is cut there, and quotes are taken away.
            assert not any(_is_formula(cell.strip('"')) for cell in row.split(";"))


def _is_formula(cell: str) -> bool:
    return cell.lstrip(" ").startswith(tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20"))


@given(st.lists(_PUZZLES, min_size=1, max_size=3, unique=True))
def test_every_label_is_read_as_it_was(labels: list[str]) -> None:
    written = list(format_rows(assertion(1, labels=tuple(sorted(labels)))))
    reader = CsvReader.open(QUOTED_HEADER.encode())
    read = [reader.parse(row.encode()).annotation.labels for row in written]
    assert read == [(label,) for label in sorted(labels)]


def test_what_people_write_with_an_apostrophe_stays() -> None:
    reader = CsvReader.open(HEADER.encode())
    for written, label in (("'tis", "'tis"), ("a;'b", "a;'b"), ("'=1", "=1"), ("''", "'")):
        row = f"sha256,{_HEX},{written}"
        assert reader.parse_row(row.encode()).annotation.labels == (label,)


def test_a_quoted_row_is_laid_out_like_a_plain_one() -> None:
    reader = CsvReader.open(HEADER.encode())
    for row in (f"sha256,{_HEX},a", f'"sha256","{_HEX}","a"', f'"sha256","{_HEX}","a"\r'):
        layout = reader.find_layout(row.encode())
        assert layout is not None
        (slot,) = layout.slots
        assert (row[slot.start : slot.stop], slot.type, layout.end) == (_HEX, b"sha256", slot.stop)
    for row in (f'sha256,"{_HEX}",a', f'"sha256","{_HEX}","a ""b"""', f'"sha256",{_HEX},"a"'):
        assert reader.find_layout(row.encode()) is None


def test_merged_labels_are_sorted_and_distinct() -> None:
    parts = [Annotation(labels=("b",)), Annotation(), Annotation(labels=("a", "b"))]
    assert merge_labels(parts) == Annotation(labels=("a", "b"))


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(LimitError):
        merge_labels([Annotation(labels=(f"label {number}",)) for number in range(33)])
