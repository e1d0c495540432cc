"""What `staging.parse` promises: many lines at a time are read as one by one, and much faster."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from federation.body import PackedOp, pack, unpack
from federation.entry import Annotation, Cause, Operation
from federation.errors import FederationError
from federation.fingerprint import Fingerprint
from node.formats.csvfile import CsvReader
from node.formats.jsonl import ChangeReader, format_change
from node.formats.layout import Layout, Slot
from node.staging import parse as staging_parse
from node.staging.batches import to_item
from node.staging.parse import LineError, Piece, RowReader, answer, decode_reading, encode_piece
from node.staging.rows import Row, from_row, key_width
from node.staging.templates import Template
from node.system.external_sort import Sorter
from tests.federation.worlds import assertion, digest, fingerprint
from tests.node.support.texts import operations

_GOOD, _OTHER = digest(1), digest(2)
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_PHOTODNA = digest(1, "photodna", 144)
_TEXTS = {
    "sha256": [
        *(_GOOD.hex(), _OTHER.hex(), _OTHER.hex().upper(), "00" * 32, "ff" * 32, _EMPTY),
        *(_GOOD.hex()[:-1], _GOOD.hex()[:-2] + "g0", _GOOD.hex()[:-2] + " 0", _GOOD.hex() + "00"),
        *(b64encode(_GOOD).decode(), ""),
    ],
    "md5": [digest(1, "md5", 16).hex(), digest(2, "md5", 16).hex(), "00" * 16, "zz" * 16],
    "pdq": [digest(1, "pdq").hex(), digest(2, "pdq").hex(), "0123456789abcdef" * 4],
    "photodna": [
        *(_PHOTODNA.hex(), b64encode(_PHOTODNA).decode()),
        *(b64encode(digest(2, "photodna", 144)).decode(), b64encode(bytes(144)).decode()),
        *(b64encode(_PHOTODNA[:-3]).decode(), "-" + b64encode(_PHOTODNA).decode()[1:]),
        ",".join(map(str, _PHOTODNA)),
    ],
    "ssvh": ["0102", "0304", "010203"],
    "SHA256": [_GOOD.hex(), _OTHER.hex()],
    "foo": ["0102"],
}
_OWN = [
    "case-1",
    "case-2",
    "case 3",
    "x1",
    " x",
    "x ",
    "",
    "urn:a",
    "ab:cd",
    "md5:a1",
    "MD5:a1",
    "ü",
    "a\\u00",
]


def read_slowly(
    reader: RowReader, lines: Sequence[bytes]
) -> tuple[int, list[bytes], list[LineError]]:
    """Read line by line, with the parser alone."""
    items: list[bytes] = []
    errors: list[LineError] = []
    rows = 0
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            rows += 1
            try:
                items.append(to_item(reader.parse(line), number))
            except FederationError as error:
                errors.append(LineError.of(number, line, error))
    return rows, sorted(items), errors


def read_fast(
    reader: RowReader, lines: Sequence[bytes]
) -> tuple[int, list[bytes], list[LineError]]:
    piece = Piece(reader)
    piece.read(1, lines)
    assert piece.error_count == len(piece.errors)
    return piece.rows, sorted(piece.items), sorted(piece.errors)


@pytest.fixture
def learning_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few lines be enough for what is meant for many."""
    monkeypatch.setattr(staging_parse, "_FIRST_LINES", 1)
    monkeypatch.setattr(staging_parse, "_BLOCK_LINES", 16)
    monkeypatch.setattr("node.staging.templates._LEAST_LINES", 2)


# --- as one by one ----------------------------------------------------------------------------


@st.composite
def _json_lines(draw: st.DrawFn) -> list[bytes]:
    """Draw lines of few kinds, each with different hashes: good ones, bad ones, other widths."""
    kinds = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["assert", "assert", "assert", "retract", "purge"]),
                st.lists(st.sampled_from(sorted(_TEXTS)), min_size=1, max_size=3),
                st.sampled_from(["none", "none", "own", "same", "lower", "behind", "escaped"]),
                st.sampled_from(["", " "]),
                st.sampled_from(
                    [
                        *(
                            '"labels":["A"]',
                            '"labels":["A","B"],"reason":"r"',
                            '"cause":"withdrawn"',
                        ),
                        *('"labels":["\\u0041"]', '"x":1', '"labels":["\\ud800"]', ""),
                    ]
                ),
                st.sampled_from(["", "", "\r", " ", "}", "x"]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    lines = []
    for op, types, id_kind, space, said, end in draw(
        st.lists(st.sampled_from(kinds), min_size=1, max_size=24)
    ):
        texts = {name: draw(st.sampled_from(_TEXTS[name])) for name in types}
        shown = ",".join(f'"{name}":{space}"{texts[name]}"' for name in types)
        named = f"{types[0]}:{texts[types[0]]}"
        entry = {
            "own": draw(st.sampled_from(_OWN)),
            "lower": named.lower(),
            "none": "" if op == "assert" else named,
        }.get(id_kind, named)
        parts = [f'"op":{space}"{op}"']
        if entry and id_kind not in {"behind", "escaped"}:
            parts.append(f'"id":{space}"{entry}"')
        if op == "assert":
            parts.append(f'"fingerprints":{space}{{{shown}}}')
        if id_kind in {"behind", "escaped"}:
            parts.append(f'"{"id" if id_kind == "behind" else "i" + chr(92) + "u0064"}":"{entry}"')
        if said:
            parts.append(said)
        lines.append(f"{{{(',' + space).join(parts)}}}{end}".encode())
    return lines


def _line(text: str, entry: str = "", end: str = "") -> bytes:
    shown = f'"id":"{entry}",' if entry else ""
    return f'{{"op":"assert",{shown}"fingerprints":{{"sha256":"{text}"}}{end}}}'.encode()


@pytest.mark.usefixtures("learning_early")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(_json_lines())
# The id behind the hashes is one of them: of another hash, it is no entry's own.
@example([_line(text, end=f',"id":"sha256:{_GOOD.hex()}"') for text in _TEXTS["sha256"]])
@example([_line(text, end=f',"\\u0069d":"sha256:{_GOOD.hex()}"') for text in _TEXTS["sha256"]])
@example([_line(text, f"sha256:{text}") for text in _TEXTS["sha256"]])
@example([_line(text, f"sha256:{_GOOD.hex()}") for text in _TEXTS["sha256"]])
@example([_line(_GOOD.hex(), entry) for entry in [*_OWN, *_OWN]])
@example([_line(_GOOD.hex()), b"", b" \t", _line(_OTHER.hex()), b"\r"])
def test_changes_are_read_as_one_by_one(lines: list[bytes]) -> None:
    assert read_fast(ChangeReader(), lines) == read_slowly(ChangeReader(), lines)


@st.composite
def _csv_lines(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    columns = draw(st.permutations(["type", "digest", "label"]))
    if draw(st.booleans()):
        columns.remove("label")
    types = draw(st.lists(st.sampled_from(sorted(_TEXTS)), min_size=1, max_size=2))
    labels = st.sampled_from(["A1", "A1", "A2", "", '"q"', "a\rb", "ü", "=1", "a,b", "x" * 129])
    lines = []
    for _ in range(draw(st.integers(1, 24))):
        name = draw(st.sampled_from(types))
        cells = {
            "type": name,
            "digest": draw(st.sampled_from(_TEXTS[name])),
            "label": draw(labels),
        }
        row = ",".join(cells[column] for column in columns) + draw(st.sampled_from(["", "", "\r"]))
        lines.append(row.encode())
    return columns, lines


@pytest.mark.usefixtures("learning_early")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(_csv_lines())
# Rows that end where another one's hash goes on.
@example((["type", "digest"], [f"photodna,{text}".encode() for text in _TEXTS["photodna"]]))
@example((["type", "digest"], [f"sha256,{text}".encode() for text in _TEXTS["sha256"]]))
@example((["digest", "type"], [f"{text},sha256".encode() for text in _TEXTS["sha256"]]))
def test_rows_are_read_as_one_by_one(drawn: tuple[list[str], list[bytes]]) -> None:
    columns, lines = drawn
    reader = CsvReader.open(",".join(columns).encode())
    assert read_fast(reader, lines) == read_slowly(reader, lines)


@pytest.mark.usefixtures("learning_early")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(operations(), min_size=1, max_size=6))
def test_nothing_is_lost(drawn: list[Operation]) -> None:
    lines = [format_change(operation).encode() for operation in drawn * 3]
    piece = Piece(ChangeReader())
    piece.read(1, lines)
    read = []
    for item in piece.items:
        at = key_width(item)
        row = Row(item[:at], item[at + 8 :])
        read.append((int.from_bytes(item[at : at + 8]), unpack(from_row(row))))
    assert [operation for _, operation in sorted(read)] == drawn * 3


def test_a_template_refuses_a_line_that_was_understood_otherwise_than_it_looks() -> None:
    line = _line(_GOOD.hex())
    start = line.index(_GOOD.hex().encode())
    layout = Layout((Slot(start, start + 64, b"sha256"),), start + 64)
    packed = ChangeReader.parse(line)
    assert Template.learn(layout, line, packed) is not None
    for wrong in (pack(assertion(2)), pack(assertion(1, fingerprint(1, "md5")))):
        assert Template.learn(layout, line, wrong) is None


# --- much faster ------------------------------------------------------------------------------


@dataclass
class Counting:
    """A reader that counts the lines that it has to parse."""

    inner: RowReader
    parsed: int = 0
    find_layout: Callable[[bytes], Layout | None] = field(init=False)

    def __post_init__(self) -> None:
        self.find_layout = self.inner.find_layout

    def parse(self, line: bytes) -> PackedOp:
        self.parsed += 1
        return self.inner.parse(line)


def _bench_line(number: int) -> str:
    return json.dumps(
        {
            "op": "assert",
            "fingerprints": {"sha256": digest(number).hex()},
            "labels": [f"category-{number % 12:02}"],
        }
    )


def _several(number: int, entry: str | None = None) -> Operation:
    further = [fingerprint(number, name) for name in ("md5", "sha1")]
    return assertion(number, *further, labels=(f"A{number % 12}",), entry=entry)


def _exported(number: int) -> str:
    return format_change(assertion(number, labels=(f"A{number % 12}",)))


def _photodna_line(number: int) -> str:
    hashed = Fingerprint("photodna", digest(number, "photodna", 144))
    return format_change(Operation.assertion((hashed,), Annotation()))


_COMMON: dict[str, Callable[[int], str]] = {
    "single": _bench_line,
    "exported": _exported,
    "several": lambda number: format_change(_several(number)),
    "own ids": lambda number: format_change(_several(number, f"case-17/{number}")),
    "photodna": _photodna_line,
    "mixed": lambda number: (_bench_line, _photodna_line, _exported)[number % 3](number),
    "retractions": lambda number: format_change(
        Operation.retraction(assertion(number).entry, Cause.WITHDRAWN)
    ),
}


@pytest.mark.parametrize("kind", _COMMON)
def test_of_many_common_lines_few_are_parsed(kind: str) -> None:
    lines = [_COMMON[kind](number).encode() for number in range(5_000)]
    reader = Counting(ChangeReader())
    assert read_fast(reader, lines) == read_slowly(ChangeReader(), lines)
    assert reader.parsed < 400


@pytest.mark.parametrize("columns", ["type,digest,label", "digest,label,type", "label,type,digest"])
def test_of_many_rows_few_are_parsed(columns: str) -> None:
    lines = []
    for number in range(5_000):
        cells = {"type": "sha256", "digest": digest(number).hex(), "label": f"A{number % 12}"}
        lines.append(",".join(cells[column] for column in columns.split(",")).encode())
    reader = Counting(CsvReader.open(columns.encode()))
    assert read_fast(reader, lines)[2] == []
    assert reader.parsed < 250


def test_one_bad_hash_sends_few_others_to_the_parser() -> None:
    lines = [_bench_line(number).encode() for number in range(5_000)]
    lines[3_000] = lines[3_000].replace(digest(3_000).hex().encode(), b"00" * 32)
    reader = Counting(ChangeReader())
    assert read_fast(reader, lines) == read_slowly(ChangeReader(), lines)
    assert reader.parsed < 350


# --- in two processes -------------------------------------------------------------------------


def test_a_piece_that_was_read_elsewhere_says_the_same() -> None:
    lines = [format_change(assertion(number)).encode() for number in range(3_000)]
    read = decode_reading(answer(encode_piece(None, 1, b"\n".join(lines))))
    assert (read.rows, read.error_count, read.errors) == (3_000, 0, [])
    with Sorter() as sorter:
        sorter.add_run(read.run)
        items = [item for block in sorter.iter_blocks() for item in block]
    assert items == read_slowly(ChangeReader(), lines)[1]


def test_lines_are_numbered_from_where_the_piece_starts_and_errors_are_bounded() -> None:
    lines = b"\n".join([b"{"] * 250)
    read = decode_reading(answer(encode_piece(("type", "digest"), 1_001, lines)))
    assert (read.rows, read.error_count, len(read.errors)) == (250, 250, 100)
    assert [error.line for error in read.errors] == list(range(1_001, 1_101))
    assert read.run == []


def test_lines_with_common_endings_are_parsed_a_few_times() -> None:
    parsed: list[bytes] = []

    class Counting(ChangeReader):
        @staticmethod
        def parse(line: bytes) -> PackedOp:
            parsed.append(line)
            return ChangeReader.parse(line)

    # Of twelve labels, the last has one line in a hundred and forty.
    labels = [f"label-{min(first, second)}" for first in range(12) for second in range(12)]
    drawn = [assertion(at, labels=(labels[at * 89 % 144],)) for at in range(2_000)]
    lines = [format_change(operation).encode() for operation in drawn]
    piece = Piece(Counting())
    piece.read(1, lines)
    assert (piece.rows, piece.error_count) == (2_000, 0)
    assert len(parsed) < 80
