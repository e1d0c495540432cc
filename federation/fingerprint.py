"""Fingerprints: a hash type and a digest, parsed strictly, and the digests no list may carry.

It does not know images, files and matching distance beyond what the refusals below need. The same
rules hold for a text that a person types, for an imported file and for the columns of a peer's
delta; `check_column` is the fast path of `check_digest` and decides the same.

For every registered type, a digest whose bits are all equal is refused: a failed hasher or an
uninitialised buffer leaves it behind. For md5, sha1, sha256 and sha512, the digest of the empty
input is refused, as it names every empty file. For pdq, flat values are refused (`is_flat_pdq`).
For a type that this node does not know, only the size is checked.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from federation.errors import FingerprintError, Reason, UsageError
from federation.hashtypes import (
    HASH_TYPES,
    VPDQ_FRAME_BYTES,
    VPDQ_MAX_QUALITY,
    HashType,
    Kind,
    find_type,
    format_digest,
    opaque_type,
    parse_digest,
    require_type,
    types_written_like,
)

PDQ_BYTES: Final = 32
"""Bytes of a PDQ hash: sixteen rows of sixteen bits, a row for each vertical frequency."""

PDQ_MATCH_BITS: Final = 31
"""Bits by which two PDQ hashes may differ and still match, as its authors recommend."""

PDQ_FLAT_ROWS: Final = 8
"""Distinct rows, of 16, up to which an unbalanced PDQ hash is the hash of a plain surface."""

_PDQ_BALANCED_ONES: Final = 128
_PDQ_ROW_BYTES: Final = 2
_PDQ_ROWS: Final = struct.Struct(">16H")
_EMPTY_INPUT: Final = MappingProxyType(
    {
        "md5": hashlib.md5(usedforsecurity=False).digest(),
        "sha1": hashlib.sha1(usedforsecurity=False).digest(),
        "sha256": hashlib.sha256().digest(),
        "sha512": hashlib.sha512().digest(),
    }
)
_ONES: Final = bytes(byte.bit_count() for byte in range(256))
_UNBALANCED: Final = re.compile(rb"[^\x80]")
_SAME: Final = re.compile(rb"\x00")
_SAME_OR_OPPOSITE: Final = re.compile(rb"[\x00\xff]")


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """One hash of one item of material, ordered by (type, digest).

    `parse`, `parse_tagged` and `from_digest` check their input. The constructor checks nothing: it
    is for digests of a column that `check_column` accepted.

    Attributes:
        type: name of the hash type; this node need not know it.
        digest: the raw bytes.
    """

    type: str
    digest: bytes

    @classmethod
    def from_digest(cls, type_name: str, digest: bytes) -> Fingerprint:
        """Build a fingerprint from raw bytes, of any validly named type.

        Raises:
            FingerprintError: FINGERPRINT_TYPE, FINGERPRINT_LENGTH or DIGEST_DEGENERATE, as
                `check_digest` says.
        """
        check_digest(type_name, digest)
        return cls(type_name, digest)

    @classmethod
    def parse(cls, type_name: str, text: str, *, allow_unknown: bool = False) -> Fingerprint:
        """Read a hash of a named type in any text form that programs write for it.

        The length of the text determines the form, as no two forms of one type share a length.

        Args:
            type_name: name of the hash type.
            text: the hash alone, without white space.
            allow_unknown: read hex for a type that is not registered here.

        Raises:
            FingerprintError: FINGERPRINT_TYPE, no such type; FINGERPRINT_LENGTH, no form of the
                type has this length; FINGERPRINT_ALPHABET, a character or an encoding that the
                form does not have; DIGEST_DEGENERATE, a digest that no list may carry.
        """
        hash_type = HASH_TYPES.get(type_name) if allow_unknown else require_type(type_name)
        if hash_type is None:
            hash_type = opaque_type(type_name)
        return cls.from_digest(type_name, parse_digest(hash_type, text))

    @classmethod
    def parse_tagged(cls, text: str, *, allow_unknown: bool = False) -> Fingerprint:
        """Read `type:value`, the form in which hashes are shown and typed.

        Raises:
            FingerprintError: it does not begin with a type (FINGERPRINT_TYPE), or as for `parse`.
        """
        type_name, colon, value = text.partition(":")
        if not colon:
            raise FingerprintError(
                "got a hash without its type, expected type:value, such as sha256:<64 hex>",
                reason=Reason.FINGERPRINT_TYPE,
            )
        return cls.parse(type_name, value, allow_unknown=allow_unknown)

    def format_digest(self) -> str:
        """Write the digest alone, in the canonical form of its type."""
        return format_digest(self.type, self.digest)

    def format(self) -> str:
        """Write `type:value` in the canonical form, which `parse_tagged` reads back."""
        return f"{self.type}:{format_digest(self.type, self.digest)}"


def candidates(text: str) -> tuple[Fingerprint, ...]:
    """Read a pasted hash as every exact or perceptual type that it can be, strongest first.

    64 hex digits are a sha256 and a pdq; `type:value` is one fingerprint. Opaque types are left
    out unless named: any hex would be one.

    Raises:
        FingerprintError: it is a hash of no type, or a degenerate digest of an exact type, such as
            the digest of the empty input, whatever else it could be.
    """
    type_name, colon, value = text.partition(":")
    if colon:
        return (_read_hex_of(type_name, value) or Fingerprint.parse_tagged(text),)
    found = _read_hex(text) or tuple(_read_as(text, types_written_like(text))[0])
    if found:
        return found
    _, refusals = _read_as(text, HASH_TYPES.values())
    # A reading that failed late says more about the text than one that failed by its length.
    for reason in (Reason.DIGEST_DEGENERATE, Reason.FINGERPRINT_ALPHABET):
        if reason in refusals:
            raise refusals[reason]
    raise FingerprintError(
        f"got {len(text)} characters, which no hash type has; name the type, as in sha256:<64 hex>",
        reason=Reason.FINGERPRINT_LENGTH,
    )


def _read_hex_of(type_name: str, text: str) -> Fingerprint | None:
    """Read hex of a type with one width; None if this needs the full parser.

    This is a fast path for `Fingerprint.parse`, like `_read_hex`.
    """
    # `fromhex` passes over white space.
    if len(text) != _HEX_LENGTHS.get(type_name) or not text.isalnum():
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    if digest in _REFUSED_BY_HEX or (type_name == "pdq" and is_flat_pdq(digest)):
        return None
    return Fingerprint(type_name, digest)


def _read_hex(text: str) -> tuple[Fingerprint, ...]:
    """Read hex of a length that no other form has; return nothing if this needs the full parser.

    This is a fast path for `_read_as`, as a list may have millions of hashes.
    """
    type_names = _HEX_READINGS.get(len(text), ())
    # `fromhex` passes over white space.
    if not type_names or not text.isalnum():
        return ()
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return ()
    if digest in _REFUSED_BY_HEX:
        return ()
    return tuple(
        Fingerprint(name, digest) for name in type_names if name != "pdq" or not is_flat_pdq(digest)
    )


def _read_as(
    text: str, hash_types: Iterable[HashType]
) -> tuple[list[Fingerprint], dict[Reason, FingerprintError]]:
    """Read a text as each type that is not opaque; return the fingerprints and the errors."""
    found = []
    refusals: dict[Reason, FingerprintError] = {}
    for hash_type in hash_types:
        if hash_type.kind is Kind.OPAQUE:
            continue
        try:
            found.append(Fingerprint.parse(hash_type.name, text))
        except FingerprintError as error:
            if error.reason is Reason.DIGEST_DEGENERATE and hash_type.kind is Kind.EXACT:
                raise
            refusals.setdefault(error.reason, error)
    return found, refusals


def strongest(fingerprints: Iterable[Fingerprint]) -> Fingerprint:
    """Choose the fingerprint that names an entry: strongest type, then smallest digest.

    Types that this node does not know rank below all others, ordered by name.

    Raises:
        UsageError: there are no fingerprints.
    """

    def rank(fingerprint: Fingerprint) -> tuple[int, Fingerprint]:
        hash_type = HASH_TYPES.get(fingerprint.type)
        return (0 if hash_type is None else -hash_type.strength, fingerprint)

    try:
        return min(fingerprints, key=rank)
    except ValueError as error:
        raise UsageError("there are no fingerprints from which to choose the strongest") from error


def check_digest(type_name: str, digest: bytes) -> None:
    """Check the width of one binary digest, and that a list may carry it.

    Raises:
        FingerprintError: FINGERPRINT_TYPE, the name cannot be that of a type; FINGERPRINT_LENGTH,
            the type has no such width; FINGERPRINT_ALPHABET, a vpdq frame of impossible quality;
            DIGEST_DEGENERATE, a digest that no list may carry.
    """
    hash_type = find_type(type_name)
    _check_width(type_name, hash_type, len(digest))
    if hash_type is None:
        return
    for refused, what in _refused_digests(hash_type.name, len(digest)):
        if digest == refused:
            raise _degenerate(type_name, what)
    if type_name == "pdq" and is_flat_pdq(digest):
        raise _degenerate(type_name, "flat")
    if type_name == "vpdq":
        _check_frames(digest)


def check_column(type_name: str, width: int, column: bytes) -> None:
    """Check many concatenated digests of one type and width; the result is that of `check_digest`.

    It searches the column as a whole instead of slicing it into rows, because every row of every
    delta passes through it.

    Raises:
        FingerprintError: as for `check_digest`, and FINGERPRINT_LENGTH if the column is not a whole
            number of rows. The message of DIGEST_DEGENERATE names the row, counted from 0.
    """
    hash_type = find_type(type_name)
    _check_width(type_name, hash_type, width)
    if len(column) % width:
        raise FingerprintError(
            f"{type_name}: got a column of {len(column)} bytes, expected a multiple of {width}",
            reason=Reason.FINGERPRINT_LENGTH,
        )
    if hash_type is None:
        return
    for refused, what in _refused_digests(type_name, width):
        row = _find_row(column, refused)
        if row is not None:
            raise _degenerate(type_name, what, row)
    if type_name == "pdq":
        row = _find_flat_pdq(column)
        if row is not None:
            raise _degenerate(type_name, "flat", row)
    if type_name == "vpdq":
        for row, start in enumerate(range(0, len(column), width)):
            _check_frames(column[start : start + width], row)


def is_flat_pdq(digest: bytes) -> bool:
    """Return whether a PDQ hash says too little about a picture for matching.

    A bit of a PDQ hash says whether one of 16 x 16 DCT coefficients is greater than their median.
    So the hash of a photograph has exactly 128 ones, and almost no two of its rows are alike. More
    than 128 ones cannot occur with the reference code. Fewer only occur if coefficients are exactly
    equal, as in drawings with symmetries (71 to 122 ones were measured) and in plain surfaces (0 to
    103). Therefore a hash is flat in each of these cases:

    - at most 31 ones or at most 31 zeroes. At the usual distance of 31 such a hash matches the
      all-zero hash, which the reference code gives to black and to tiny pictures.
    - both halves are the same, or all rows are one pattern or its complement. That is a filler
      such as `0123...` repeated, or a picture all of whose detail lies in one line: 31 bits hold
      everything it says.
    - not exactly 128 ones and at most 8 different rows. That is rounding noise: by the reference
      code, 964 of 1,000 plain colours give such a hash and none gives 128 ones. Stripes and bar
      codes, which vary in one direction only, give such hashes too.

    It does not replace the quality that PDQ reports with the hash. Publishers drop hashes with a
    quality below 50, because the hash alone cannot distinguish every plain surface from a symmetric
    drawing (vectorised builds of the same code leave other noise).
    """
    ones = int.from_bytes(digest, "big").bit_count()
    if not PDQ_MATCH_BITS < ones < 8 * PDQ_BYTES - PDQ_MATCH_BITS:
        return True
    middle = PDQ_BYTES // 2
    if digest[:middle] == digest[middle:]:
        return True
    rows = set(_PDQ_ROWS.unpack(digest))
    if len(rows) == 2 and sum(rows) == 0xFFFF:  # complements add up to all ones
        return True
    return ones != _PDQ_BALANCED_ONES and len(rows) <= PDQ_FLAT_ROWS


def _find_flat_pdq(column: bytes) -> int | None:
    """Find the first flat row; the column has no row of 256 ones.

    Three conditions, one of which every flat row meets, are computed for all rows at once, in
    integers with one byte a row. Only rows that meet one of them are checked one by one. For real
    hashes that is about one row in 85.
    """
    rows = len(column) // PDQ_BYTES

    def lane(data: bytes, offset: int) -> int:
        return int.from_bytes(data[offset::PDQ_BYTES], "little")

    # A lane holds at most 255, because all-one rows were refused before, so nothing carries over.
    ones_by_byte = column.translate(_ONES)
    ones = sum(lane(ones_by_byte, offset) for offset in range(PDQ_BYTES))
    first = lane(column, 0)
    halves = first ^ lane(column, PDQ_BYTES // 2)
    neighbours = first ^ lane(column, _PDQ_ROW_BYTES)
    suspects = {
        match.start()
        for pattern, lanes in (
            (_UNBALANCED, ones),
            (_SAME, halves),
            (_SAME_OR_OPPOSITE, neighbours),
        )
        for match in pattern.finditer(lanes.to_bytes(rows, "little"))
    }
    for row in sorted(suspects):
        if is_flat_pdq(column[row * PDQ_BYTES : (row + 1) * PDQ_BYTES]):
            return row
    return None


def _find_row(column: bytes, digest: bytes) -> int | None:
    """Find the first row equal to `digest`, whose width is that of the column."""
    width = len(digest)
    position = column.find(digest)
    while position >= 0:
        if position % width == 0:
            return position // width
        # The match straddles two rows, so go on at the start of the second.
        position = column.find(digest, position + width - position % width)
    return None


def _check_frames(digest: bytes, row: int | None = None) -> None:
    """Check the frames of one vpdq digest; a video must have a frame that is not flat."""
    starts = range(0, len(digest), VPDQ_FRAME_BYTES)
    if max(digest[start + PDQ_BYTES] for start in starts) > VPDQ_MAX_QUALITY:
        raise FingerprintError(
            f"vpdq: got a frame of quality over {VPDQ_MAX_QUALITY}{_at(row)}",
            reason=Reason.FINGERPRINT_ALPHABET,
        )
    if all(is_flat_pdq(digest[start : start + PDQ_BYTES]) for start in starts):
        raise _degenerate("vpdq", "flat in every frame", row)


def _check_width(type_name: str, hash_type: HashType | None, width: int) -> None:
    known = hash_type if hash_type is not None else opaque_type(type_name)
    if not known.has_width(width):
        raise FingerprintError(
            f"{type_name}: got {width} bytes, expected {known.describe_widths()}",
            reason=Reason.FINGERPRINT_LENGTH,
        )


def _refused_digests(type_name: str, width: int) -> tuple[tuple[bytes, str], ...]:
    """List the digests of one width that no list may carry, each with a description."""
    equal_bits = ((b"\x00" * width, "all zeroes"), (b"\xff" * width, "all ones"))
    empty = _EMPTY_INPUT.get(type_name)
    return equal_bits if empty is None else (*equal_bits, (empty, "the digest of the empty input"))


def _degenerate(type_name: str, what: str, row: int | None = None) -> FingerprintError:
    return FingerprintError(
        f"{type_name}: the digest{_at(row)} is {what}, which no list may carry",
        reason=Reason.DIGEST_DEGENERATE,
    )


def _at(row: int | None) -> str:
    return "" if row is None else f" in row {row}"


_HEX_READINGS: Final = MappingProxyType(
    {40: ("sha1",), 64: ("sha256", "pdq"), 128: ("sha512",)},
)
"""Types by the length of their hex, if no other form of any type has that length."""

_HEX_LENGTHS: Final = MappingProxyType(
    {"md5": 32, "sha1": 40, "sha256": 64, "pdq": 64, "sha512": 128},
)
"""Lengths of the hex of the most common types."""

_REFUSED_BY_HEX: Final = frozenset(
    digest
    for name, length in _HEX_LENGTHS.items()
    for digest, _ in _refused_digests(name, length // 2)
)
