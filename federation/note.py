"""C2SP signed notes (c2sp.org/signed-note v1.0.0): text that one or more keys have signed.

Reads Ed25519 signatures (type 01) and the timestamped cosignatures of witnesses (type 04,
c2sp.org/tlog-cosignature v1.0.1); makes Ed25519 signatures. It does not know the meaning of the
text.

Everything is parsed from bytes and in one form only. A form that `sign_note` would not write is
refused, even if a lenient decoder could read it.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import sha256
from typing import Final, final

from federation import keys, limits
from federation.errors import LimitError, MalformedError, Reason, SignatureError, UsageError
from federation.keys import PublicKey, Signer

KEY_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
_MAX_TIME: Final = 2**63 - 1  # tlog-cosignature: a time must not exceed this.

_LINE_PREFIX: Final = "\N{EM DASH} ".encode()
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_CONTROL_IN_NOTE: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_ID_HEX: Final = re.compile(r"[0-9a-f]{8}")

# What other signed formats begin with. A key that signed such a text as a note would have signed
# an object of that format too.
_RESERVED_BEGINNINGS: Final = ("DSSEv1 ", "cosignature/v1\n", "subtree/v1\n")


class SignatureType(IntEnum):
    """The byte that says how a note key signs."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line of a note.

    Attributes:
        name: the key name on the line.
        key_id: four bytes that distinguish keys of one name. A collision can be constructed.
        signature: the bytes after the key id, in the form of the key's type.
        cosigned_at_seconds: POSIX time that a verified cosignature states, else None.
    """

    name: str
    key_id: bytes
    signature: bytes
    cosigned_at_seconds: int | None = None

    def format(self) -> str:
        """Return the signature line, with its newline."""
        encoded = b64encode(self.key_id + self.signature).decode()
        return f"\N{EM DASH} {self.name} {encoded}\n"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A key that may have signed a note. Construction checks name and key.

    Attributes:
        name: the key name on its signature lines.
        signature_type: how it signs.
        public_key: the raw Ed25519 key.
        key_id: the first four bytes of SHA-256(name, newline, type, key).
    """

    name: str
    signature_type: SignatureType
    public_key: PublicKey
    key_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)
        keys.admit_public_key(self.public_key)
        identity = self.name.encode() + b"\n" + bytes([self.signature_type]) + self.public_key
        object.__setattr__(self, "key_id", sha256(identity).digest()[:KEY_ID_BYTES])

    @classmethod
    def for_ed25519(cls, name: str, public_key: bytes) -> Verifier:
        """Describe the key of a log or another signer of notes.

        Raises:
            MalformedError: the name cannot be a key name.
            KeyRefusedError: the public key must not be trusted.
        """
        return cls(name, SignatureType.ED25519, keys.admit_public_key(public_key))

    @classmethod
    def for_cosignature(cls, name: str, public_key: bytes) -> Verifier:
        """Describe the key of a witness.

        Raises:
            MalformedError: the name cannot be a key name.
            KeyRefusedError: the public key must not be trusted.
        """
        return cls(name, SignatureType.COSIGNATURE, keys.admit_public_key(public_key))

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """Parse a verifier key: `<name>+<key id>+<type and key>`.

        Raises:
            MalformedError: it is not a verifier key, its key id does not fit its key, or its type
            is
                neither 01 nor 04 (reason `FORMAT_UNSUPPORTED`).
            LimitError: it is longer than a whole note.
            KeyRefusedError: the public key must not be trusted.
        """
        if not isinstance(vkey, str):
            raise MalformedError(f"verifier key must be text: got {type(vkey).__name__}")
        if len(vkey) > limits.MAX_NOTE_BYTES:
            raise LimitError(
                f"verifier key: got {len(vkey)} characters, at most {limits.MAX_NOTE_BYTES}"
            )
        # The last part is base64 and may itself hold plus signs; the name may not.
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise MalformedError(f"verifier key {vkey!r} is not <name>+<key id>+<key>")
        name, key_id_hex, encoded = parts
        if _KEY_ID_HEX.fullmatch(key_id_hex) is None:
            raise MalformedError(f"key id {key_id_hex!r} is not 8 hexadecimal digits in lower case")
        material = decode_base64(encoded, "verifier key")
        if not material:
            raise MalformedError("verifier key holds no key")
        try:
            signature_type = SignatureType(material[0])
        except ValueError as error:
            raise MalformedError(
                f"signature type {material[0]:02x} of verifier key {name!r} is not supported",
                reason=Reason.FORMAT_UNSUPPORTED,
            ) from error
        verifier = cls(name, signature_type, keys.admit_public_key(material[1:]))
        if verifier.key_id.hex() != key_id_hex:
            raise MalformedError(
                f"key id of {name!r}: got {key_id_hex}, expected {verifier.key_id.hex()}"
            )
        return verifier

    def format(self) -> str:
        """Return the verifier key, which `parse` reads."""
        material = bytes([self.signature_type]) + self.public_key
        return f"{self.name}+{self.key_id.hex()}+{b64encode(material).decode()}"

    def verify(self, text: bytes, signature: bytes) -> int | None:
        """Check a signature over the text of a note.

        Args:
            text: the bytes of the text, with its last newline.
            signature: the bytes after the key id on the line.

        Returns:
            The POSIX time that a cosignature states; None for a signature without time.

        Raises:
            SignatureError: it does not verify.
        """
        if self.signature_type is SignatureType.ED25519:
            keys.verify(self.public_key, signature, text)
            return None
        if len(signature) != _TIME_BYTES + keys.SIGNATURE_BYTES:
            raise SignatureError(
                f"cosignature by {self.name!r}: got {len(signature)} bytes, "
                f"expected {_TIME_BYTES + keys.SIGNATURE_BYTES}"
            )
        seconds = int.from_bytes(signature[:_TIME_BYTES], "big")
        if seconds > _MAX_TIME:
            raise SignatureError(f"cosignature by {self.name!r}: time {seconds} is out of range")
        # tlog-cosignature: a header line, a time line, then the whole text.
        message = b"cosignature/v1\ntime %d\n%b" % (seconds, text)
        keys.verify(self.public_key, signature[_TIME_BYTES:], message)
        return seconds


@final
class NoteSigner:
    """A key that signs notes under a name (type 01)."""

    __slots__ = ("_signer", "_verifier")

    def __init__(self, name: str, signer: Signer) -> None:
        """Bind a signer to a key name.

        Raises:
            MalformedError: the name cannot be a key name.
            KeyRefusedError: the signer's public key must not be trusted.
        """
        self._signer = signer
        self._verifier = Verifier.for_ed25519(name, signer.public_key)

    @property
    def verifier(self) -> Verifier:
        """The public half, for opening notes."""
        return self._verifier

    @property
    def name(self) -> str:
        """The key name."""
        return self._verifier.name

    def sign(self, text: bytes) -> NoteSignature:
        """Sign the bytes of a text.

        Raises:
            UsageError: the signer made a signature that does not verify.
        """
        signature = keys.sign(self._signer, text)
        return NoteSignature(self.name, self._verifier.key_id, signature)


@dataclass(frozen=True, slots=True)
class Note:
    """A note with at least one verified signature.

    Attributes:
        text: the signed text, with its last newline.
        signatures: the lines that verified, in their order.
        unverified: the lines of other keys, which were not checked.
    """

    text: str
    signatures: tuple[NoteSignature, ...]
    unverified: tuple[NoteSignature, ...]


def sign_note(text: str, signers: Iterable[NoteSigner]) -> bytes:
    r"""Sign a text and return the note.

    Raises:
        UsageError: the text does not end in a newline, holds another control character, is
            reserved to another signed format or makes too long a note; there is no signer or
            there are too many; a key would sign twice, or made a signature that does not verify.
    """
    text_bytes = _text_to_sign(text)
    chosen = tuple(signers)
    if not 0 < len(chosen) <= limits.MAX_NOTE_SIGNATURES:
        raise UsageError(
            f"note: got {len(chosen)} signers, expected 1 to {limits.MAX_NOTE_SIGNATURES}"
        )
    if len({(signer.name, signer.verifier.key_id) for signer in chosen}) != len(chosen):
        raise UsageError("note: a key must not sign twice")
    lines = "".join(signer.sign(text_bytes).format() for signer in chosen)
    note = text_bytes + b"\n" + lines.encode()
    if len(note) > limits.MAX_NOTE_BYTES:
        raise UsageError(f"note: got {len(note)} bytes, at most {limits.MAX_NOTE_BYTES}")
    return note


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> Note:
    """Verify a note and return its text.

    Lines of keys that are not among the verifiers are skipped. A false signature of one of the
    verifiers makes the whole note false.

    Raises:
        LimitError: it is too long, or has too many signatures.
        MalformedError: it is not a note in the one allowed form, or has two signatures of one key.
        SignatureError: a signature of a known key is false, or there is none.
        UsageError: two different verifiers have the same name and key id.
    """
    known = _by_identity(verifiers)
    text, lines = _split(data)
    signatures: dict[tuple[str, bytes], NoteSignature] = {}
    for line in lines:
        signature = _parse_line(line)
        if signatures.setdefault((signature.name, signature.key_id), signature) is not signature:
            raise MalformedError(
                f"note has two signatures of key {signature.name}+{signature.key_id.hex()}"
            )
    verified: list[NoteSignature] = []
    unverified: list[NoteSignature] = []
    for identity, signature in signatures.items():
        verifier = known.get(identity)
        if verifier is None:
            unverified.append(signature)
        else:
            seconds = verifier.verify(text, signature.signature)
            verified.append(replace(signature, cosigned_at_seconds=seconds))
    if not verified:
        raise SignatureError(f"note has no signature of a known key: got {len(unverified)} others")
    return Note(text.decode(), tuple(verified), tuple(unverified))


def check_key_name(name: str) -> None:
    """Check that a name can be on a signature line.

    Raises:
        MalformedError: it is empty, holds a space, a plus sign or a control character, or is not
            text that UTF-8 can encode.
    """
    if not isinstance(name, str) or not name:
        raise MalformedError(f"key name must be text that is not empty: got {name!r}")
    if "+" in name or _CONTROL.search(name) or any(character.isspace() for character in name):
        raise MalformedError(f"key name {name!r} holds a space, a plus sign or a control character")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"key name {name!r} is not valid text") from error


def decode_base64(encoded: str | bytes, name: str) -> bytes:
    """Decode standard base64 (RFC 4648 section 4) with padding and without stray bits.

    Raises:
        MalformedError: an encoder would not have written it.
    """
    try:
        raw = b64decode(encoded, validate=True)
    except ValueError as error:  # binascii.Error is one; str that is not ASCII raises another.
        raise MalformedError(f"{name} is not base64") from error
    # The decoder ignores bits that do not fill a byte, so several texts decode to the same bytes.
    if b64encode(raw) != (encoded.encode() if isinstance(encoded, str) else encoded):
        raise MalformedError(f"{name} is not in the canonical form of base64")
    return raw


def _text_to_sign(text: str) -> bytes:
    if not isinstance(text, str) or not text.endswith("\n"):
        raise UsageError("the text of a note must end in a newline")
    if _CONTROL_IN_NOTE.search(text):
        raise UsageError("the text of a note must hold no control character but newline")
    if text.startswith(_RESERVED_BEGINNINGS):
        raise UsageError(f"the text of a note must not begin like {text[:16]!r}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the text of a note is not valid text") from error


def _by_identity(verifiers: Iterable[Verifier]) -> dict[tuple[str, bytes], Verifier]:
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        other = known.setdefault((verifier.name, verifier.key_id), verifier)
        if other != verifier:
            raise UsageError(f"two keys are called {verifier.name}+{verifier.key_id.hex()}")
    return known


def _split(data: bytes) -> tuple[bytes, list[bytes]]:
    """Split a note into its text and its signature lines, without their newlines."""
    if not isinstance(data, bytes):
        raise MalformedError(f"note must be bytes: got {type(data).__name__}")
    if len(data) > limits.MAX_NOTE_BYTES:
        raise LimitError(f"note: got {len(data)} bytes, at most {limits.MAX_NOTE_BYTES}")
    try:
        characters = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("note is not UTF-8") from error
    if _CONTROL_IN_NOTE.search(characters):
        raise MalformedError("note holds a control character other than newline")
    # signed-note: the text may have empty lines; the last one of the note ends the text.
    boundary = data.rfind(b"\n\n")
    if boundary < 0 or not data.endswith(b"\n") or boundary + 2 == len(data):
        raise MalformedError("note has no signature lines after an empty line")
    lines = data[boundary + 2 : -1].split(b"\n")
    if len(lines) > limits.MAX_NOTE_SIGNATURES:
        raise LimitError(f"note: got {len(lines)} signatures, at most {limits.MAX_NOTE_SIGNATURES}")
    return data[: boundary + 1], lines


def _parse_line(line: bytes) -> NoteSignature:
    if not line.startswith(_LINE_PREFIX):
        raise MalformedError("signature line does not begin with an em dash and a space")
    name_bytes, space, encoded = line.removeprefix(_LINE_PREFIX).partition(b" ")
    if not space:
        raise MalformedError("signature line is not <em dash> <key name> <base64>")
    name = name_bytes.decode()
    check_key_name(name)
    blob = decode_base64(encoded, "signature line")
    if len(blob) <= KEY_ID_BYTES:
        raise MalformedError(f"signature of {name!r}: got {len(blob)} bytes with the key id")
    return NoteSignature(name, blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:])
