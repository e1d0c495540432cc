"""Lists as CSV: what spreadsheets and other programs exchange. JSON Lines is the faithful form.

A row is a fingerprint and at most one label; it asserts an entry that this fingerprint names. All
rows with one fingerprint make one entry with all their labels. So CSV cannot say that several
fingerprints belong to one item, and has no ids, reasons, vocabularies or retractions.

Reading accepts the columns in any order, a missing `label` column, CR LF, and quotes as in RFC
4180. One row is one line, since no cell of a valid row contains a line break.

A spreadsheet takes a cell for a formula if it begins with one of a few characters (CWE-1236). So
writing quotes every cell and puts an apostrophe before such a character at the start of a label.
Reading takes the apostrophe away again. A label that begins with an apostrophe gets another one, so
that every label is read as it was. The same is done after each semicolon, since where a semicolon
separates cells, what follows it is a cell.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Final

from federation.body import PackedOp, pack
from federation.entry import Annotation, Operation, OpKind
from federation.errors import MalformedError
from federation.fingerprint import Fingerprint
from node.formats.jsonl import suggest
from node.formats.layout import Layout, Slot

COLUMNS: Final = ("type", "digest", "label")
"""The columns, in the order in which they are written."""

HEADER: Final = ",".join(COLUMNS)
"""The first line of a file, without quotes."""

QUOTED_HEADER: Final = ",".join(f'"{column}"' for column in COLUMNS)
"""The first line as it is written."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula; the last four are full-width forms of the first four."""

_BEFORE: Final = re.compile(rf"((?:^|;)\s*)(?=['{re.escape(''.join(_FORMULA))}])")
_ESCAPED: Final = re.compile(rf"((?:^|;)\s*)'(?=['{re.escape(''.join(_FORMULA))}])")


class CsvReader:
    """Reads the rows below one header.

    Attributes:
        columns: the columns' names, in order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._type, self._digest = columns.index("type"), columns.index("digest")
        self._label = columns.index("label") if "label" in columns else None

    @classmethod
    def open(cls, line: bytes) -> CsvReader:
        """Start with the header.

        Raises:
            MalformedError: it is not the header of such a file.
        """
        try:
            columns = _split(line)
        except MalformedError as error:
            raise MalformedError(
                f"the first line must be the header {HEADER!r}: {error}"
            ) from error
        if not set(columns) & set(COLUMNS):
            other = " (columns are separated by commas)" if b";" in line or b"\t" in line else ""
            raise MalformedError(f"the first line must be the header {HEADER!r}{other}")
        for column in columns:
            if column not in COLUMNS:
                raise MalformedError(f"unknown column {column[:40]!a}{suggest(column, COLUMNS)}")
        if len(set(columns)) != len(columns):
            raise MalformedError("the header names a column twice")
        for column in ("type", "digest"):
            if column not in columns:
                raise MalformedError(f"the header lacks the column {column!r}")
        return cls(columns)

    def parse_row(self, line: bytes) -> Operation:
        """Parse one row, without its line end.

        Raises:
            MalformedError: not UTF-8, quotes out of place, or a wrong number of cells.
            FingerprintError: a hash that no list may carry, or a text that is not a hash of its
                type.
            OperationError: a label with control characters.
            LimitError: a label is too long.
        """
        cells = _split(line)
        if len(cells) != len(self.columns):
            raise MalformedError(f"got {len(cells)} cells, expected {len(self.columns)}")
        label = cells[self._label] if self._label is not None else ""
        label = _ESCAPED.sub(r"\1", label)
        return Operation.assertion(
            (Fingerprint.parse(cells[self._type], cells[self._digest]),),
            Annotation(labels=(label,) if label else ()),
        )

    def parse(self, line: bytes) -> PackedOp:
        """Parse one row into its packed form.

        Raises:
            MalformedError, FingerprintError, OperationError, LimitError: as `parse_row`.
        """
        return pack(self.parse_row(line))

    def find_layout(self, line: bytes) -> Layout | None:
        """Say where the hash is in a row that `parse` accepts; None if the row is unusual."""
        row, quote, comma = line.removesuffix(b"\r"), 0, b","
        if b'"' in row:
            # The other usual form: every cell is quoted, and no quote is in a cell.
            if row[:1] + row[-1:] != b'""':
                return None
            row, quote, comma = row[1:-1], 1, b'","'
        cells = row.split(comma)
        if len(cells) != len(self.columns) or any(b'"' in cell for cell in cells):
            return None
        start = quote + sum(len(cell) + len(comma) for cell in cells[: self._digest])
        stop = start + len(cells[self._digest])
        # Whatever the order of the columns, all rows of a template have the same text before the
        # hash, and the text behind it is remembered.
        return Layout((Slot(start, stop, cells[self._type]),), stop)


def _split(line: bytes) -> list[str]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 at byte {error.start + 1}") from error
    text = text.removesuffix("\r")
    if "\r" in text or "\x00" in text:
        raise MalformedError("there is a carriage return or a NUL within the row")
    if '"' not in text:
        return text.split(",")
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise MalformedError(f"quotes are out of place: {error}") from error
    return rows[0]


def merge_labels(annotations: Sequence[Annotation]) -> Annotation:
    """Return the annotation of the entry that several rows of one fingerprint make.

    Raises:
        LimitError: there are too many labels.
    """
    labels = sorted({label for annotation in annotations for label in annotation.labels})
    merged = Annotation(labels=tuple(labels))
    merged.check(OpKind.ASSERT)
    return merged


def format_rows(operation: Operation) -> Iterator[str]:
    """Yield the rows of a live entry, without line ends: one for each fingerprint and label."""
    for fingerprint in operation.fingerprints:
        digest = fingerprint.format_digest()
        if digest.startswith(_FORMULA):
            # A base64 text can start with a plus sign. Hex cannot, and is read as well.
            digest = fingerprint.digest.hex()
        for label in operation.annotation.labels or ("",):
            cell = _BEFORE.sub(r"\1'", label).replace('"', '""')
            yield f'"{fingerprint.type}","{digest}","{cell}"'
