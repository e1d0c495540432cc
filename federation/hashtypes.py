"""The registry of hash types: widths, strength, and the text forms that programs write.

It converts text to digest bytes and back. It computes no hashes, and does not know which digests a
list must not carry (`federation.fingerprint` does).

Every reader accepts exactly the texts that its form can write. The length of a text, never its
characters, decides between the forms of a type. Messages have lengths and positions but never a
hash value, because messages end up in logs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from federation import limits
from federation.errors import FingerprintError, Reason

MAX_TEXT_CHARS: Final = 4 * limits.MAX_DIGEST_BYTES
"""Characters of one hash in text: the longest form, a list of vPDQ frames, has under 3 a byte."""

VPDQ_FRAME_BYTES: Final = 37
"""Bytes of one vPDQ frame: PDQ (32), quality 0-100 (1), milliseconds from the start (4, BE)."""

VPDQ_MAX_QUALITY: Final = 100
"""The highest PDQ quality of a vPDQ frame."""

_TYPE_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
_FOREIGN: Final = re.compile(r"[^!-~]")
_FOREIGN_IN_FRAMES: Final = re.compile(r"[^ -~]")
_HEX: Final = re.compile(r"[0-9a-fA-F]*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_BASE32: Final = re.compile(r"[A-Za-z2-7]*")
_OCTET: Final = re.compile(r"0|[1-9][0-9]{0,2}")
_FRAME: Final = re.compile(
    r'"([0-9a-f]{64}),(0|[1-9][0-9]?|100),([0-9]{1,9}(?:\.[0-9]{1,9})?(?:e[+-][0-9]{2})?)"'
)
_FRAMES: Final = re.compile(rf"\[{_FRAME.pattern}(?:, ?{_FRAME.pattern})*\]")


class Kind(StrEnum):
    """The meaning of equality of two digests of a type."""

    EXACT = "exact"
    """The same bytes: a cryptographic digest of a file."""
    PERCEPTUAL = "perceptual"
    """Material that looks alike: matchers compare by distance."""
    OPAQUE = "opaque"
    """Bytes whose format is not public: carried, and only compared for equality."""


class TextForm(StrEnum):
    """A way to write a digest as text."""

    HEX = "hex"
    """Two hexadecimal digits a byte; read in either case, written in lower case."""
    BASE64 = "base64"
    """RFC 4648 section 4, with padding; its case carries the value."""
    BASE32 = "base32"
    """RFC 4648 section 6, read in either case."""
    INTEGERS = "comma-separated integers"
    """One decimal number 0-255 a byte, no leading zeroes, commas between."""
    TLSH = "TLSH"
    """`T1` and upper hex; read in either case and, as before version 4, without the `T1`."""
    FRAMES = "list of frames"
    """A JSON list of `"<pdq hex>,<quality>,<seconds>"`; seconds are rounded to milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashType:
    """One registered kind of hash.

    Attributes:
        name: its name in lists, commands and `type:value` texts.
        kind: the meaning of equality of its digests.
        widths: the possible digest widths in bytes, or None for any up to the limit.
        unit: every width is a multiple of this many bytes.
        strength: rank of the type when one fingerprint must name an entry; higher is stronger.
        forms: the text forms that are read; the first is the canonical one.
    """

    name: str
    kind: Kind
    widths: tuple[int, ...] | None
    unit: int = 1
    strength: int
    forms: tuple[TextForm, ...] = (TextForm.HEX,)

    @property
    def canonical_form(self) -> TextForm:
        """The one form in which digests of this type are written."""
        return self.forms[0]

    def has_width(self, width: int) -> bool:
        """Return whether a digest of this type can be `width` bytes long."""
        if self.widths is not None:
            return width in self.widths
        return 0 < width <= limits.MAX_DIGEST_BYTES and width % self.unit == 0

    def describe_widths(self) -> str:
        """Return the widths of this type in words, for messages."""
        if self.widths is not None:
            return " or ".join(str(width) for width in self.widths)
        multiple = f"a multiple of {self.unit}, " if self.unit > 1 else ""
        return f"{multiple}1 to {limits.MAX_DIGEST_BYTES}"


def _registry() -> Mapping[str, HashType]:
    exact, perceptual, opaque = Kind.EXACT, Kind.PERCEPTUAL, Kind.OPAQUE
    hexadecimal, b64, b32 = TextForm.HEX, TextForm.BASE64, TextForm.BASE32
    # Strength: collision resistance first. The perceptual types follow by how many bits a digest
    # holds about one image, then video, then text; what is not public comes last.
    types = (
        HashType(name="sha512", kind=exact, widths=(64,), strength=130, forms=(hexadecimal, b64)),
        HashType(name="sha256", kind=exact, widths=(32,), strength=120, forms=(hexadecimal, b64)),
        HashType(
            name="sha1", kind=exact, widths=(20,), strength=110, forms=(hexadecimal, b64, b32)
        ),
        HashType(name="md5", kind=exact, widths=(16,), strength=100, forms=(hexadecimal, b64)),
        HashType(
            name="photodna-edge",
            kind=perceptual,
            widths=(924,),
            strength=90,
            forms=(b64, hexadecimal),
        ),
        HashType(
            name="photodna",
            kind=perceptual,
            widths=(144,),
            strength=80,
            forms=(b64, hexadecimal, TextForm.INTEGERS),
        ),
        HashType(name="pdq", kind=perceptual, widths=(32,), strength=70, forms=(hexadecimal, b64)),
        # Header 176, averages 1,024, features 2 x 4 periods x 32 terms x 256 dimensions x 4 bytes.
        HashType(
            name="tmk-pdqf",
            kind=perceptual,
            widths=(263_344,),
            strength=60,
            forms=(b64, hexadecimal),
        ),
        # Not base64: without a width, only hex digits tell the length. The same 148 characters can
        # be two frames in hex and three in base64.
        HashType(
            name="vpdq",
            kind=perceptual,
            widths=None,
            unit=VPDQ_FRAME_BYTES,
            strength=50,
            forms=(hexadecimal, TextForm.FRAMES),
        ),
        HashType(name="tlsh", kind=perceptual, widths=(35,), strength=40, forms=(TextForm.TLSH,)),
        HashType(name="ssvh", kind=opaque, widths=None, strength=30),
        HashType(name="videntifier", kind=opaque, widths=None, strength=20),
        HashType(name="netclean", kind=opaque, widths=None, strength=10),
    )
    return MappingProxyType({hash_type.name: hash_type for hash_type in types})


HASH_TYPES: Final = _registry()
"""Every registered type by its name, strongest first."""

_OTHER_NAMES: Final = MappingProxyType(
    {"pdna": "photodna", "pdnaedge": "photodna-edge", "tmk": "tmk-pdqf", "pdqf": "tmk-pdqf"}
)


def is_type_name(name: str) -> bool:
    """Return whether `name` can be the name of a hash type, registered here or not."""
    return _TYPE_NAME.fullmatch(name) is not None


def find_type(name: str) -> HashType | None:
    """Find a registered type, or None for a name that only other nodes may know.

    Raises:
        FingerprintError: FINGERPRINT_TYPE, `name` cannot be the name of a type.
    """
    found = HASH_TYPES.get(name)
    if found is None and not is_type_name(name):
        raise _unknown_type(name)
    return found


def require_type(name: str) -> HashType:
    """Find a registered type.

    Raises:
        FingerprintError: FINGERPRINT_TYPE, no such type; the message suggests the nearest name.
    """
    found = HASH_TYPES.get(name)
    if found is None:
        raise _unknown_type(name)
    return found


def opaque_type(name: str) -> HashType:
    """Describe a type that this node does not know: any bytes in hex, weaker than all others.

    Raises:
        FingerprintError: FINGERPRINT_TYPE, `name` cannot be the name of a type.
    """
    if not is_type_name(name):
        raise _unknown_type(name)
    return HashType(name=name, kind=Kind.OPAQUE, widths=None, strength=0)


def _unknown_type(name: str) -> FingerprintError:
    shown = name[: limits.MAX_HASH_TYPE_BYTES]
    # Only names of this alphabet are compared, so that a hash pasted in its place suggests nothing.
    plain = re.sub(r"[^a-z0-9]", "", shown.lower())
    squeezed = {known.replace("-", ""): known for known in HASH_TYPES} | dict(_OTHER_NAMES)
    near = get_close_matches(plain, squeezed, n=1, cutoff=0.7)
    hint = f"did you mean {squeezed[near[0]]!r}" if near else f"known: {', '.join(HASH_TYPES)}"
    return FingerprintError(f"unknown hash type {shown!r}; {hint}", reason=Reason.FINGERPRINT_TYPE)


def parse_digest(hash_type: HashType, text: str) -> bytes:
    """Read a digest of `hash_type` in any of its text forms.

    Raises:
        FingerprintError: FINGERPRINT_LENGTH, no form of the type has this length;
            FINGERPRINT_ALPHABET, a character or an encoding that the form does not have.
    """
    if not 0 < len(text) <= MAX_TEXT_CHARS:
        raise _wrong_length(hash_type, text)
    is_frames = TextForm.FRAMES in hash_type.forms and text.startswith("[")
    foreign = (_FOREIGN_IN_FRAMES if is_frames else _FOREIGN).search(text)
    if foreign is not None:
        raise _wrong_alphabet(
            f"{hash_type.name}: got U+{ord(foreign.group()):04X} at character "
            f"{foreign.start() + 1}, expected visible ASCII characters only"
        )
    for form in hash_type.forms:
        if _fits(hash_type, form, text):
            digest = _READERS[form](text)
            break
    else:
        raise _wrong_length(hash_type, text)
    if not hash_type.has_width(len(digest)):
        raise FingerprintError(
            f"{hash_type.name}: got {len(digest)} bytes, expected {hash_type.describe_widths()}",
            reason=Reason.FINGERPRINT_LENGTH,
        )
    return digest


def types_written_like(text: str) -> tuple[HashType, ...]:
    """Return the types that have a form of this text's length, strongest first."""
    if "," in text or text.startswith("[") or not 0 < len(text) <= MAX_TEXT_CHARS:
        return tuple(HASH_TYPES.values())
    return _types_of_length(len(text))


@lru_cache(maxsize=256)
def _types_of_length(length: int) -> tuple[HashType, ...]:
    any_text = "0" * length
    return tuple(
        hash_type
        for hash_type in HASH_TYPES.values()
        if any(
            _fits(hash_type, form, any_text)
            and (form is not TextForm.HEX or hash_type.has_width(length // 2))
            for form in hash_type.forms
        )
    )


def format_digest(type_name: str, digest: bytes) -> str:
    """Write a digest in the canonical form of its type; in hex if the type is unknown."""
    write = _WRITERS.get(type_name)
    return digest.hex() if write is None else write(digest)


def _fits(hash_type: HashType, form: TextForm, text: str) -> bool:
    """Return by its length (or a character of only one form) whether `text` is in `form`."""
    match form:
        case TextForm.INTEGERS:
            return "," in text
        case TextForm.FRAMES:
            return text.startswith("[")
        case _ if hash_type.widths is not None:
            return len(text) in _lengths(hash_type, form) and "," not in text
        case _:
            # Of these forms, a type of variable width has only hex.
            return len(text) % 2 == 0 and not text.startswith("[")


def _lengths(hash_type: HashType, form: TextForm) -> tuple[int, ...]:
    """List the lengths in characters of a fixed-width type in one form."""
    widths = hash_type.widths or ()
    match form:
        case TextForm.HEX:
            return tuple(2 * width for width in widths)
        case TextForm.BASE64:
            return tuple((width + 2) // 3 * 4 for width in widths)
        case TextForm.BASE32:
            return tuple((width + 4) // 5 * 8 for width in widths)
        case TextForm.TLSH:
            return tuple(2 * width + extra for width in widths for extra in (2, 0))
        case _:
            return ()


def _wrong_length(hash_type: HashType, text: str) -> FingerprintError:
    expected = [
        f"{length} ({form})"
        for form in hash_type.forms
        for length in _lengths(hash_type, form) or ("any whole number of bytes",)
    ]
    return FingerprintError(
        f"{hash_type.name}: got {len(text)} characters, expected {' or '.join(expected)}",
        reason=Reason.FINGERPRINT_LENGTH,
    )


def _wrong_alphabet(message: str) -> FingerprintError:
    return FingerprintError(message, reason=Reason.FINGERPRINT_ALPHABET)


def _read_hex(text: str) -> bytes:
    # bytes.fromhex alone would skip white space.
    if _HEX.fullmatch(text) is None:
        raise _wrong_alphabet("hex: got a character other than 0-9 a-f A-F")
    return bytes.fromhex(text)


def _read_base64(text: str) -> bytes:
    if _BASE64.fullmatch(text) is None:
        raise _wrong_alphabet("base64: got a character other than A-Z a-z 0-9 + / or a misplaced =")
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _wrong_alphabet("base64: the padding is wrong") from error
    # RFC 4648 section 3.5: several texts decode to one value unless the unused bits are zero.
    if base64.b64encode(digest).decode("ascii") != text:
        raise _wrong_alphabet("base64: the unused last bits are not zero")
    return digest


def _read_base32(text: str) -> bytes:
    # 20 bytes are exactly 32 characters: there is neither padding nor an unused bit.
    if _BASE32.fullmatch(text) is None:
        raise _wrong_alphabet("base32: got a character other than A-Z a-z 2-7")
    return base64.b32decode(text.upper())


def _read_integers(text: str) -> bytes:
    values = text.split(",")
    for position, value in enumerate(values, start=1):
        # int() alone would take a sign, an underscore and the digits of other scripts.
        if _OCTET.fullmatch(value) is None or int(value) > 255:
            raise _wrong_alphabet(f"integers: number {position} is not 0 to 255 in plain decimal")
    return bytes(int(value) for value in values)


def _read_tlsh(text: str) -> bytes:
    return _read_hex(text.removeprefix("T1"))


def _read_frames(text: str) -> bytes:
    if _FRAMES.fullmatch(text) is None:
        raise _wrong_alphabet(
            'frames: expected a JSON list of "<64 hex>,<quality 0-100>,<seconds>"'
        )
    frames = bytearray()
    for pdq, quality, seconds in _FRAME.findall(text):
        milliseconds = int((Decimal(seconds) * 1000).to_integral_value())
        if milliseconds >= 1 << 32:
            raise _wrong_alphabet("frames: a time is later than 49 days")
        frames += bytes.fromhex(pdq) + bytes([int(quality)]) + milliseconds.to_bytes(4, "big")
    return bytes(frames)


_READERS: Final[Mapping[TextForm, Callable[[str], bytes]]] = MappingProxyType(
    {
        TextForm.HEX: _read_hex,
        TextForm.BASE64: _read_base64,
        TextForm.BASE32: _read_base32,
        TextForm.INTEGERS: _read_integers,
        TextForm.TLSH: _read_tlsh,
        TextForm.FRAMES: _read_frames,
    }
)


def _write_base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


def _write_tlsh(digest: bytes) -> str:
    return f"T1{digest.hex().upper()}"


_WRITERS: Final = {
    name: _write_tlsh if hash_type.canonical_form is TextForm.TLSH else _write_base64
    for name, hash_type in HASH_TYPES.items()
    if hash_type.canonical_form in {TextForm.TLSH, TextForm.BASE64}
}
"""Writers of digests for the types that are not written in hex."""
