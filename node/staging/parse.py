"""Reads pieces of a file of changes: pure functions, so that two processes can share a file."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from federation.body import PackedOp
from federation.errors import FederationError, LimitError
from node.formats.csvfile import CsvReader
from node.formats.jsonl import ChangeReader
from node.formats.layout import Layout
from node.staging.batches import to_item
from node.staging.source import MAX_LINE_BYTES
from node.staging.templates import Template
from node.system.external_sort import encode_run

MAX_ERRORS: Final = 100
"""Bad lines of one piece that are reported; all are counted."""

_BLOCK_LINES: Final = 4_096
"""Lines that are processed together: enough to be fast, few enough for the processor's cache."""

_FIRST_LINES: Final = 16
"""Lines of a block that are parsed before the others are compared with the templates."""

_MAX_TEMPLATES: Final = 16
"""Templates that are learnt from one piece; each scans the lines that the others have left."""

_SHOWN_BYTES: Final = 480
"""Bytes of a bad line that are kept."""


class LineError(NamedTuple):
    """A line that cannot be read.

    Attributes:
        line: its number, from 1.
        value: the text of the line, shortened.
        reason: the stable word for what is wrong.
        message: the same in a sentence.
    """

    line: int
    value: str
    reason: str
    message: str

    @classmethod
    def of(cls, number: int, line: bytes, error: FederationError) -> LineError:
        """Return the error for a line."""
        value = line[:_SHOWN_BYTES].decode(errors="replace")
        return cls(number, value, error.reason.value, str(error))


class RowReader(Protocol):
    """Reads the lines of one format."""

    def parse(self, line: bytes) -> PackedOp:
        """Parse one line.

        Raises:
            FederationError: it cannot be read.
        """

    def find_layout(self, line: bytes) -> Layout | None:
        """Return where the hashes are in a line that `parse` accepts; None for an unusual line."""


@dataclass(slots=True)
class Piece:
    """Consecutive lines of a file, and the result of reading them.

    Attributes:
        reader: reads single lines.
        rows: lines that are not empty.
        items: their operations, for a `node.staging.batches.Pile`.
        errors: errors of the first lines that cannot be read.
        error_count: how many lines cannot be read.
    """

    reader: RowReader
    rows: int = 0
    items: list[bytes] = field(default_factory=list)
    errors: list[LineError] = field(default_factory=list)
    error_count: int = 0
    _templates: list[Template] = field(default_factory=list)

    def read(self, number: int, lines: Sequence[bytes]) -> None:
        """Read lines.

        Args:
            number: the number of the first one.
            lines: the lines, without line feeds.
        """
        for start in range(0, len(lines), _BLOCK_LINES):
            self._read_block(number + start, lines[start : start + _BLOCK_LINES])

    def _read_block(self, number: int, lines: Sequence[bytes]) -> None:
        numbers: Sequence[int] = range(number, number + len(lines))
        count = 0
        while lines:
            before = len(self.items)
            for template in self._templates:
                numbers, lines = template.take(numbers, lines, self.items)
                if not lines:
                    break
            taken = len(self.items) - before
            self.rows += taken
            # More lines each time, while the rest fits no template.
            count = max(_FIRST_LINES, 4 * count if taken < count else count)
            for at, line in zip(numbers[:count], lines[:count], strict=True):
                self._read_line(at, line)
            numbers, lines = numbers[count:], lines[count:]

    def _read_line(self, number: int, line: bytes) -> None:
        if not line or line.isspace():
            return
        self.rows += 1
        try:
            if len(line) > MAX_LINE_BYTES:
                raise LimitError(f"the line is longer than {MAX_LINE_BYTES} bytes")
            packed = self.reader.parse(line)
            self.items.append(to_item(packed, number))
        except FederationError as error:
            self.error_count += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(LineError.of(number, line, error))
        else:
            self._learn(line, packed)

    def _learn(self, line: bytes, packed: PackedOp) -> None:
        layout = self.reader.find_layout(line)
        if layout is None:
            return
        for template in self._templates:
            if template.layout == layout and template.fits(line):
                template.remember(line, packed)
                return
        if len(self._templates) < _MAX_TEMPLATES:
            learnt = Template.learn(layout, line, packed)
            if learnt is not None:
                self._templates.append(learnt)


class Reading(NamedTuple):
    """The result of reading a piece, perhaps in another process.

    Attributes:
        rows: lines that are not empty.
        error_count: how many of them cannot be read.
        errors: errors of the first of these.
        run: the sorted operations, for `Sorter.add_run`; empty if there are errors.
    """

    rows: int
    error_count: int
    errors: list[LineError]
    run: list[bytes]


def encode_piece(columns: Sequence[str] | None, number: int, lines: bytes) -> bytes:
    """Return the request for `answer`.

    Args:
        columns: the columns of a CSV; None for JSON Lines.
        number: the number of the first line.
        lines: the lines, with line feeds between them.
    """
    return marshal.dumps((None if columns is None else tuple(columns), number, lines))


def answer(question: bytes) -> bytes:
    """Read the piece that `encode_piece` has encoded."""
    # This program itself has dumped what is loaded here and below.
    columns, number, lines = marshal.loads(question)  # noqa: S302
    piece = Piece(ChangeReader() if columns is None else CsvReader(columns))
    piece.read(number, lines.split(b"\n"))
    run: Iterable[bytes] = () if piece.error_count else encode_run(piece.items)
    return marshal.dumps(
        (piece.rows, piece.error_count, [tuple(error) for error in piece.errors], list(run))
    )


def decode_reading(data: bytes) -> Reading:
    """Decode what `answer` returned."""
    rows, error_count, errors, run = marshal.loads(data)  # noqa: S302
    return Reading(rows, error_count, [LineError(*error) for error in errors], run)
