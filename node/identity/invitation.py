"""Invitations: the file by which two organizations come to know each other.

It carries all that a node needs to call another and to check whatever it gets from it; nothing in
it is secret. Anyone on its way could replace it by an invitation of their own, so two people
compare the fingerprint over another channel, such as by telephone, before it is trusted.

Knows nothing of how the file travels and of where peers are kept.
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

# What is often sent in its place, by how it starts.
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
    (b"\xef\xbb\xbf", "text with a byte order mark, which an editor has put before it"),
    (b"#", "a configuration file or a script"),
    (b"[", "a configuration file or a JSON array"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What one organization tells another to be followed by it.

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
            CommandError: nobody can call the address; or the certificate is not in the org root,
                is not for that organization, or is not valid now.
        """
        try:
            address = parse_address(self.address)
        except ConfigError as error:
            raise CommandError(f"invitation: {error}", hint=error.hint or _ASK_AGAIN) from error
        if not address.is_callable:
            raise CommandError(
                f"invitation: {address} is no address that a peer can call",
                hint="its node must set `advertise` in [node] to the address that peers call",
            )
        try:
            digest = certificate_sha256(self.certificate)
            verify_certificate(self.certificate, self.root.document.org, now_ms)
        except ConfigError as error:
            raise CommandError(f"invitation: {error}", hint=_ASK_AGAIN) from error
        if digest not in self.root.document.tls_certificates:
            raise CommandError(
                "invitation: the certificate is not among those that the org root lists: "
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

        What it says for people to read, the name and the fingerprints, is compared with what the
        signed document says: they must not be shown one thing and trust another.

        Args:
            text: the file.
            now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

        Raises:
            CommandError: it is no invitation, or anything in it is wrong.
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
                    f"but what is signed says {expected!r}",
                    hint="somebody has changed this file: ask the organization, over another "
                    "channel, what happened",
                )
        return invitation


def _read_texts(data: bytes) -> dict[str, str]:
    """Return the texts of an invitation: exactly the keys of one."""
    if len(data) > limits.MAX_INVITATION_BYTES:
        raise CommandError(
            f"this is no invitation: got {len(data)} bytes, at most {limits.MAX_INVITATION_BYTES}",
            hint=_ASK_AGAIN,
        )
    _refuse_other_files(data)
    document = _parse_object(data)
    version = document.pop(_MARK, None)
    if version is None:
        raise CommandError(f"this is no invitation: there is no {_MARK!r} in it", hint=_ASK_AGAIN)
    if type(version) is not int or version != FORMAT_VERSION:
        raise CommandError(
            f"invitation: got format {_quote(version)}, expected {FORMAT_VERSION}",
            hint="it may be of a newer hashfed: update this one",
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
        raise CommandError("this is no invitation: the file is empty", hint=_ASK_AGAIN)
    # Wherever it stands: a key must not be passed on together with an invitation either.
    if b"PRIVATE KEY-----" in content:
        raise CommandError(
            "this is no invitation: it holds a private key, which belongs into nobody else's hands",
            hint="if it was sent to you, delete it and tell its owner to replace the key; "
            "if it is yours, send the invitation that your node writes",
        )
    for start, kind in _OTHER_FILES:
        if content.startswith(start):
            raise CommandError(f"this is no invitation: it is {kind}", hint=_ASK_AGAIN)


def _parse_object(data: bytes) -> dict[str, object]:
    try:
        document: object = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise CommandError(
            "this is no invitation: it is not text in UTF-8", hint=_ASK_AGAIN
        ) from error
    except json.JSONDecodeError as error:
        raise CommandError(
            f"this is no invitation: it is not JSON at line {error.lineno}, column {error.colno}",
            hint=_ASK_AGAIN,
        ) from error
    # A number with too many digits, or too many brackets.
    except (ValueError, RecursionError) as error:
        raise CommandError(
            "this is no invitation: its JSON is out of bounds", hint=_ASK_AGAIN
        ) from error
    if not isinstance(document, dict):
        raise CommandError("this is no invitation: it is not a JSON object", hint=_ASK_AGAIN)
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # The last of two would win here, and the first elsewhere.
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise CommandError(f"invitation: key {_quote(key)} is there twice", hint=_ASK_AGAIN)
        result[key] = value
    return result


def _refuse_constant(text: str) -> object:
    raise CommandError(f"this is no invitation: {text} is not JSON", hint=_ASK_AGAIN)


def _decode_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CommandError("invitation: org_root is not base64", hint=_ASK_AGAIN) from error
    # The decoder takes several texts for the same bytes.
    if base64.b64encode(data).decode() != text:
        raise CommandError("invitation: org_root is not canonical base64", hint=_ASK_AGAIN)
    return data


def _quote(value: object) -> str:
    """Quote a value that a stranger chose, for a message: short, and without control characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
