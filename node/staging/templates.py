"""Reads many lines at a time that differ only in their hashes.

In most files, nearly all lines differ only in their hashes and ids, and in one of a few endings
(labels and the like). Such a line is read once by the parser of its format. The result is kept as a
*template*: the text around the hashes, and the meaning of each ending. A line that fits a template
to the byte says the same of other hashes, so only its hashes must be read, and the hashes of many
lines can be read as a column. All other lines go to the parser. So a template never decides
otherwise than the parser, and never reports an error.

This module does not know formats: the format says where the hashes of a line are (`Layout`).
"""

from __future__ import annotations

import re
import struct
from binascii import Error as EncodingError
from binascii import a2b_base64, unhexlify
from collections.abc import Sequence
from itertools import compress, pairwise, repeat
from operator import not_
from typing import Final

from federation.body import PackedOp, Shape, cut
from federation.errors import FederationError
from federation.fingerprint import check_column
from federation.hashtypes import HASH_TYPES
from node.formats.layout import WIDTHS, Layout
from node.staging.batches import NUMBER_BYTES
from node.staging.rows import form_of, key_prefix

MAX_ENDS: Final = 4096
"""The most endings of a template: lists have few distinct ones, or as many as lines."""

_LEAST_LINES: Final = 64
"""From this many lines on, it is worth looking for those that do not fit."""

# The common ids among those that are not the text of a fingerprint.
_PLAIN_IDS: Final = re.compile(rb"[ !#-\[\]-~]*")
_TYPE_NAMES: Final = frozenset(name.encode() for name in HASH_TYPES)


class Template:
    """The text around the hashes of similar lines, and the meaning of their endings.

    Attributes:
        layout: where the hashes are.
        ends: for each known ending, the canonical bytes of the annotation.
    """

    def __init__(self, layout: Layout, line: bytes, shape: Shape) -> None:
        """Make the template of a line; `shape` is the parser's result."""
        self.layout = layout
        bounds = [0, *(at for slot in layout.slots for at in slot[:2]), layout.end]
        pieces = list(pairwise(bounds))[::2]
        self._pieces = [(start, stop, line[start:stop]) for start, stop in pieces if start < stop]
        self._shape = shape
        self._prefix = key_prefix(shape)
        self._form = form_of(shape)
        self.ends: dict[bytes, bytes] = {}

    @classmethod
    def learn(cls, layout: Layout, line: bytes, packed: PackedOp) -> Template | None:
        """Make the template of a line, or None if the line does not match its layout.

        Args:
            layout: where its hashes are.
            line: the line.
            packed: the parser's result.
        """
        template = cls(layout, line, packed.shape)
        return template if template.remember(line, packed) else None

    def fits(self, line: bytes) -> bool:
        """Return whether a line has the text of this template around its hashes."""
        return all(line[start:stop] == piece for start, stop, piece in self._pieces)

    def remember(self, line: bytes, packed: PackedOp) -> bool:
        """Remember the meaning of a line's ending; return whether the line fits the template."""
        columns = self._cut([line])
        if packed.shape != self._shape or columns is None:
            return False
        if b"".join(column[0] for column in columns) != packed.record:
            return False
        if len(self.ends) >= MAX_ENDS:
            self.ends.clear()
        self.ends[line[self.layout.end :]] = packed.annotation.canonical()
        return True

    def take(
        self, numbers: Sequence[int], lines: Sequence[bytes], items: list[bytes]
    ) -> tuple[Sequence[int], Sequence[bytes]]:
        """Convert the lines that fit to items for a `node.staging.batches.Pile`.

        Args:
            numbers: the lines' numbers, ascending.
            lines: the lines.
            items: the list to which the items are added.

        Returns:
            Numbers and texts of the lines that do not fit.
        """
        left: tuple[list[int], list[bytes]] = [], []
        for start, stop, piece in self._pieces:
            texts = [line[start:stop] for line in lines]
            if set(texts) != {piece}:
                fits = list(map(piece.__eq__, texts))
                numbers, lines = _divide(numbers, lines, fits, left)
        end = self.layout.end
        said = list(map(self.ends.get, [line[end:] for line in lines]))
        if None in said:
            fits = [each is not None for each in said]
            numbers, lines = _divide(numbers, lines, fits, left)
            said = list(compress(said, fits))
        columns = self._cut(lines)
        if columns is not None:
            encoded = cut(struct.pack(f">{len(lines)}Q", *numbers), NUMBER_BYTES)
            names, *further = columns
            parts = [repeat(self._prefix), names, encoded, repeat(self._form), *further, said]
            # Not strict, because `repeat` has no end. The columns have the same length.
            items += map(b"".join, zip(*parts, strict=False))
        elif len(lines) < _LEAST_LINES:
            _divide(numbers, lines, [False] * len(lines), left)
        else:
            # Some of the texts are not hashes. All others are taken.
            half = len(lines) // 2
            for some in (slice(half), slice(half, None)):
                unfit_numbers, unfit = self.take(numbers[some], lines[some], items)
                left[0].extend(unfit_numbers)
                left[1].extend(unfit)
        return left

    def _cut(self, lines: Sequence[bytes]) -> list[list[bytes]] | None:
        """Return the columns of the lines' records, names first.

        None if a list may not carry one of the hashes, or an id is not a plain one.
        """
        texts: dict[bytes, tuple[int, list[bytes]]] = {}
        for start, stop, type_name in self.layout.slots:
            some = [line[start:stop] for line in lines]
            if texts.setdefault(type_name, (stop - start, some))[1] != some:
                return None
        names = [b""] if not self._shape.named else []
        names += [type_name.encode() for type_name, _ in self._shape.columns]
        if texts.keys() != set(names):
            return None
        try:
            return [
                _read_digests(name, *texts[name]) if name else _read_ids(*texts[name])
                for name in names
            ]
        except (EncodingError, FederationError):
            return None


def _divide(
    numbers: Sequence[int],
    lines: Sequence[bytes],
    fits: Sequence[bool],
    left: tuple[list[int], list[bytes]],
) -> tuple[list[int], list[bytes]]:
    """Return the numbers and lines that fit; add the others to the rest."""
    unfit = list(map(not_, fits))
    left[0].extend(compress(numbers, unfit))
    left[1].extend(compress(lines, unfit))
    return list(compress(numbers, fits)), list(compress(lines, fits))


def _read_digests(type_name: bytes, text_width: int, texts: Sequence[bytes]) -> list[bytes]:
    """Read hashes of one type, in hex or in base64 without padding.

    Raises:
        EncodingError: one of them does not have that form.
        FingerprintError: no list may carry one of them.
    """
    text = b"".join(texts)
    width = WIDTHS.get(type_name, 0)
    # The total length alone does not suffice: a short text and a long one could add up.
    if not width or len(text) != text_width * len(texts):
        raise EncodingError
    if text_width == 2 * width:
        column = unhexlify(text)
    elif 3 * text_width == 4 * width:
        column = a2b_base64(text, strict_mode=True)
    else:
        raise EncodingError
    check_column(type_name.decode(), width, column)
    return cut(column, width)


def _read_ids(width: int, ids: list[bytes]) -> list[bytes]:
    """Return ids if they are plain ones.

    Raises:
        EncodingError: one is not plain: it may be the text of a fingerprint, or not an id at all.
    """
    text = b"".join(ids)
    if len(text) != width * len(ids) or _PLAIN_IDS.fullmatch(text) is None:
        raise EncodingError
    if b":" in text and any(text.partition(b":")[0].lower() in _TYPE_NAMES for text in ids):
        raise EncodingError
    if b" " in text and [text.strip() for text in ids] != ids:
        raise EncodingError
    return ids
