"""Lines that are alike but for their hashes, taken apart many at a time.

Of most files, nearly all lines differ in their hashes and ids alone, and in one of a few endings
(labels and what else is said). Such a line is read by its format's own parser once. What that has
understood is remembered as a *template*: the text around the hashes, and what each ending says.
Lines that fit a template to the byte are then known to say the same of other hashes, so that only
these have to be looked at, and they can be looked at as a column. Everything else goes to the
parser. So a template never decides otherwise than the parser, nor says what is wrong with a line.

Knows nothing of formats: where the hashes of a line stand, its format says (`Layout`).
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
"""Endings that a template remembers: lists have few distinct ones, or as many as lines."""

_LEAST_LINES: Final = 64
"""Lines from which on looking for those that do not fit is worth it."""

# Of ids that are not the text of a fingerprint, those that are common.
_PLAIN_IDS: Final = re.compile(rb"[ !#-\[\]-~]*")
_TYPE_NAMES: Final = frozenset(name.encode() for name in HASH_TYPES)


class Template:
    """The text around the hashes of lines that are alike, and what their endings say.

    Attributes:
        layout: where the hashes stand.
        ends: for each ending that is known, the canonical bytes of the annotation.
    """

    def __init__(self, layout: Layout, line: bytes, shape: Shape) -> None:
        """Make the template of a line; `shape` is what the parser has understood."""
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
        """Make the template of a line, or None if it cannot be told apart as its layout says.

        Args:
            layout: where its hashes stand.
            line: the line.
            packed: what the parser has understood.
        """
        template = cls(layout, line, packed.shape)
        return template if template.remember(line, packed) else None

    def fits(self, line: bytes) -> bool:
        """Say whether a line has the text of this template around its hashes."""
        return all(line[start:stop] == piece for start, stop, piece in self._pieces)

    def remember(self, line: bytes, packed: PackedOp) -> bool:
        """Remember what the ending of a line says; say whether it was as it should be."""
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
        """Take the lines that fit, as items for a `node.staging.batches.Pile`.

        Args:
            numbers: the lines' numbers, ascending.
            lines: the lines.
            items: where the items are added.

        Returns:
            Numbers and lines of what does not fit.
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
            # Not strict: what is repeated has no end. The columns have one length.
            items += map(b"".join, zip(*parts, strict=False))
        elif len(lines) < _LEAST_LINES:
            _divide(numbers, lines, [False] * len(lines), left)
        else:
            # Some text among them is not a hash. All others are taken.
            half = len(lines) // 2
            for some in (slice(half), slice(half, None)):
                unfit_numbers, unfit = self.take(numbers[some], lines[some], items)
                left[0].extend(unfit_numbers)
                left[1].extend(unfit)
        return left

    def _cut(self, lines: Sequence[bytes]) -> list[list[bytes]] | None:
        """Return the parts of the lines' records, each for all lines: the names first.

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
    """Return the numbers and lines that fit; add the others to what is left."""
    unfit = list(map(not_, fits))
    left[0].extend(compress(numbers, unfit))
    left[1].extend(compress(lines, unfit))
    return list(compress(numbers, fits)), list(compress(lines, fits))


def _read_digests(type_name: bytes, text_width: int, texts: Sequence[bytes]) -> list[bytes]:
    """Read hashes of one type, in hex or in base64 without padding.

    Raises:
        EncodingError: one of them is not of that form.
        FingerprintError: one that no list may carry.
    """
    text = b"".join(texts)
    width = WIDTHS.get(type_name, 0)
    # A text that is too short, at the end of its line, cannot be made up for by another one.
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
        EncodingError: one is not: it may be the text of a fingerprint, or no id at all.
    """
    text = b"".join(ids)
    if len(text) != width * len(ids) or _PLAIN_IDS.fullmatch(text) is None:
        raise EncodingError
    if b":" in text and any(text.partition(b":")[0].lower() in _TYPE_NAMES for text in ids):
        raise EncodingError
    if b" " in text and [text.strip() for text in ids] != ids:
        raise EncodingError
    return ids
