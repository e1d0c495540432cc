"""Invitations: the file by which two organizations come to know each other.

It holds all that a node needs to call another node and to check what it gets from it. Nothing in
it is secret. Anyone who passes it on could replace it with an invitation of their own, so two
people compare the fingerprint over another channel, such as the telephone, before they trust it.

Knows neither how the file travels nor where peers are kept.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Final, Self

from federation import limits, wire
from federation.errors import FederationError
from federation.trust.orgroot import PinnedRoot
from node.address import parse_address
from node.errors import CommandError, ConfigError
from node.identity.certificate import certificate_sha256, verify_certificate

FORMAT_VERSION: Final = 1

_MARK: Final = "hashfed_invitation"
_TEXTS: Final = (
    "org",
    "address",
    "fingerprint",
    "certificate_sha256",
    "org_root",
    "certificate",
)
_ASK_AGAIN: Final = "ask the organization for a new invitation, sent as a file and not as text"

# Files that people often send instead, and how they start.
_OTHER_FILES: Final = (
    (b"<", "a web page or another XML file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"SQLite format 3\x00", "a database"),
    (b"-----BEGIN CERTIFICATE-----", "a TLS certificate alone"),
    (b"-----BEGIN PGP", "a PGP message"),
    (b"-----BEGIN ", "a PEM file of another kind"),
    (b"\xff\xfe", "text in UTF-16, where UTF-8 is expected"),
    (b"\xfe\xff", "text in UTF-16, where UTF-8 is expected"),
    (b"\xef\xbb\xbf", "text with a byte order mark, which an editor has added"),
    (b"#", "a configuration file or a script"),
    (b"[", "a configuration file or a JSON array"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What one organization tells another, so that the other can follow it.

    Attributes:
        root: the org root, verified under its own root keys.
        address: where peers call the node, as `host:port`.
        certificate: the TLS certificate that the node shows, PEM.
    """

    root: PinnedRoot
    address: str
    certificate: str

    def verify(self, now_ms: int) -> None:
        """Check that the parts fit each other and can be used now.

        Args:
            now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

        Raises:
            CommandError: nobody can call the address; or the org root does not list the
                certificate, or it is for another organization, or not valid now.
        """
        try:
            address = parse_address(self.address)
        except ConfigError as error:
            raise CommandError(f"invitation: {error}", hint=error.hint or _ASK_AGAIN) from error
        if not address.is_callable:
            raise CommandError(
                f"invitation: peers cannot call the address {address}",
                hint="on the node that wrote it, set `advertise` in [node] to the address that "
                "peers call",
            )
        try:
            digest = certificate_sha256(self.certificate)
            verify_certificate(self.certificate, self.root.document.org, now_ms)
        except ConfigError as error:
            raise CommandError(f"invitation: {error}", hint=_ASK_AGAIN) from error
        if digest not in self.root.document.tls_certificates:
            raise CommandError(
                "invitation: the org root does not list the certificate: "
                f"got SHA-256 {digest.hex()}",
                hint=_ASK_AGAIN,
            )

    def format(self) -> str:
        """Format as the text of an invitation file."""
        document = {
            _MARK: FORMAT_VERSION,
            "org": self.root.document.org,
            "address": self.address,
            "fingerprint": self.root.short_fingerprint,
            "certificate_sha256": certificate_sha256(self.certificate).hex(),
            "org_root": base64.b64encode(wire.encode_envelope(self.root.envelope)).decode(),
            "certificate": self.certificate,
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, *, now_ms: int) -> Self:
        """Parse and check an invitation file.

        The name and the fingerprints, which people read, are compared with the signed document:
        nobody must be shown one thing and trust another.

        Args:
            text: the file.
            now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

        Raises:
            CommandError: it is not an invitation, or something in it is wrong.
        """
        texts = _read_texts(text if isinstance(text, bytes) else text.encode(errors="replace"))
        try:
            root = wire.open_org_root(_decode_base64(texts["org_root"]))
        except FederationError as error:
            raise CommandError(f"invitation: org root: {error}", hint=_ASK_AGAIN) from error
        invitation = cls(root=root, address=texts["address"], certificate=texts["certificate"])
        invitation.verify(now_ms)
        for key, expected in (
            ("org", root.document.org),
            ("fingerprint", root.short_fingerprint),
            ("certificate_sha256", certificate_sha256(invitation.certificate).hex()),
        ):
            if texts[key] != expected:
                raise CommandError(
                    f"invitation: {key}: got {_quote(texts[key])}, "
                    f"but the signed document says {expected!r}",
                    hint="somebody has changed this file: ask the organization, over another "
                    "channel, what happened",
                )
        return invitation


def _read_texts(data: bytes) -> dict[str, str]:
    """Return the texts of an invitation by key; it has all its keys and no others."""
    if len(data) > limits.MAX_INVITATION_BYTES:
        raise CommandError(
            f"this is not an invitation: got {len(data)} bytes, "
            f"expected at most {limits.MAX_INVITATION_BYTES}",
            hint=_ASK_AGAIN,
        )
    _refuse_other_files(data)
    document = _parse_object(data)
    version = document.pop(_MARK, None)
    if version is None:
        raise CommandError(f"this is not an invitation: it lacks {_MARK!r}", hint=_ASK_AGAIN)
    if type(version) is not int or version != FORMAT_VERSION:
        raise CommandError(
            f"invitation: got format {_quote(version)}, expected {FORMAT_VERSION}",
            hint="a newer hashfed may have written it: update this one",
        )
    for key in document:
        if key not in _TEXTS:
            raise CommandError(f"invitation: unknown key {_quote(key)}", hint=_ASK_AGAIN)
    texts: dict[str, str] = {}
    for key in _TEXTS:
        value = document.get(key)
        if not isinstance(value, str):
            got = "nothing" if key not in document else _quote(value)
            raise CommandError(f"invitation: {key}: got {got}, expected a text", hint=_ASK_AGAIN)
        texts[key] = value
    return texts


def _refuse_other_files(data: bytes) -> None:
    content = data.strip()
    if not content:
        raise CommandError("this is not an invitation: the file is empty", hint=_ASK_AGAIN)
    # Look at the whole file: a key must not be sent along with an invitation either.
    if b"PRIVATE KEY-----" in content:
        raise CommandError(
            "this is not an invitation: it holds a private key, which nobody else may have",
            hint="if it was sent to you, delete it and tell its owner to replace the key; "
            "if it is yours, send the invitation that your node writes",
        )
    for start, kind in _OTHER_FILES:
        if content.startswith(start):
            raise CommandError(f"this is not an invitation: it is {kind}", hint=_ASK_AGAIN)


def _parse_object(data: bytes) -> dict[str, object]:
    try:
        document: object = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise CommandError(
            "this is not an invitation: it is not text in UTF-8", hint=_ASK_AGAIN
        ) from error
    except json.JSONDecodeError as error:
        raise CommandError(
            f"this is not an invitation: not JSON at line {error.lineno}, column {error.colno}",
            hint=_ASK_AGAIN,
        ) from error
    # A number with too many digits, or too many brackets.
    except (ValueError, RecursionError) as error:
        raise CommandError(
            "this is not an invitation: its JSON is too large or too deep", hint=_ASK_AGAIN
        ) from error
    if not isinstance(document, dict):
        raise CommandError("this is not an invitation: it is not a JSON object", hint=_ASK_AGAIN)
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Of two equal keys, this reader would take the last one and another the first.
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise CommandError(f"invitation: key {_quote(key)} is there twice", hint=_ASK_AGAIN)
        result[key] = value
    return result


def _refuse_constant(text: str) -> object:
    raise CommandError(f"this is not an invitation: {text} is not JSON", hint=_ASK_AGAIN)


def _decode_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CommandError("invitation: org_root is not base64", hint=_ASK_AGAIN) from error
    # The decoder accepts several texts for the same bytes.
    if base64.b64encode(data).decode() != text:
        raise CommandError("invitation: org_root is not canonical base64", hint=_ASK_AGAIN)
    return data


def _quote(value: object) -> str:
    """Quote a value that a stranger chose, for a message: short, and without control characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
