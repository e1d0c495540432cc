"""DSSE v1.0.2: signatures cover the type and the bytes, never a re-encoding of them.

The payload is opaque here. It is verified first and returned from the same buffer. Other modules
parse it and put envelopes on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from federation import limits
from federation.errors import LimitError, MalformedError, Reason, SignatureError, UsageError
from federation.keys import Signer, key_id
from federation.keys import sign as sign_message
from federation.keys import verify as verify_signature


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding, which is what signatures cover.

    Raises:
        UsageError: the type is not text that UTF-8 can encode, or the payload is not bytes.
    """
    if not isinstance(payload_type, str) or not isinstance(payload, bytes):
        raise UsageError(
            "payload type must be str and payload bytes: "
            f"got {type(payload_type).__name__} and {type(payload).__name__}"
        )
    try:
        type_bytes = payload_type.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"payload type {payload_type!r} is not valid text") from error
    # protocol.md: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body, lengths in bytes.
    return b"DSSEv1 %d %b %d %b" % (len(type_bytes), type_bytes, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope.

    Attributes:
        key_id: says which key to try. It is not signed, so nothing may be concluded from it.
        signature: 64 bytes, if it is a signature at all.
    """

    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its type and the signatures over both."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def verify(
        self,
        keys: Mapping[bytes, bytes],
        threshold: int,
        *,
        payload_type: str | None = None,
    ) -> bytes:
        """Return the payload if enough different keys have signed it, and nobody else.

        An envelope is kept and passed on as it came. So it must not hold anything that nobody
        signed: a signature that is false, of an unknown key, or the second one of a raw key makes
        the whole envelope false.

        Args:
            keys: the public keys that may sign, by key id.
            threshold: how many of them must have signed.
            payload_type: the only type to accept. None leaves the check to a caller that
                dispatches on `payload_type` afterwards.

        Raises:
            MalformedError: it has another type (reason `FORMAT_UNSUPPORTED`).
            LimitError: it has more signatures than a document may have.
            SignatureError: fewer keys than the threshold signed it, or a signature is not one of
                theirs.
            UsageError: the threshold is not a positive number.
        """
        if type(threshold) is not int or threshold < 1:
            raise UsageError(f"threshold must be at least 1: got {threshold!r}")
        if payload_type is not None and self.payload_type != payload_type:
            raise MalformedError(
                f"payload type: got {self.payload_type!r}, expected {payload_type!r}",
                reason=Reason.FORMAT_UNSUPPORTED,
            )
        if len(self.signatures) > limits.MAX_DOCUMENT_SIGNATURES:
            raise LimitError(
                f"envelope: got {len(self.signatures)} signatures, "
                f"at most {limits.MAX_DOCUMENT_SIGNATURES}"
            )
        message = self._signed_bytes()
        signed_by: set[bytes] = set()
        for signature in self.signatures:
            key = keys.get(signature.key_id)
            if key is None or key in signed_by:
                which = "a key that may not sign it" if key is None else "one key twice"
                raise SignatureError(
                    f"envelope of type {self.payload_type!r}: it is signed by {which}"
                )
            verify_signature(key, signature.signature, message)
            signed_by.add(key)
        if len(signed_by) < threshold:
            raise SignatureError(
                f"envelope of type {self.payload_type!r}: got {len(signed_by)} of "
                f"{threshold} signatures needed"
            )
        return self.payload

    def _signed_bytes(self) -> bytes:
        try:
            return pae(self.payload_type, self.payload)
        except UsageError as error:
            raise MalformedError(str(error)) from error


def sign_envelope(payload_type: str, payload: bytes, signers: Iterable[Signer]) -> Envelope:
    """Sign a payload with every signer, in their order.

    Raises:
        UsageError: there is no signer, there are too many, a key signs twice, or a signer made a
            signature that does not verify.
    """
    message = pae(payload_type, payload)
    signatures = tuple(
        Signature(key_id(signer.public_key), sign_message(signer, message)) for signer in signers
    )
    if not 0 < len(signatures) <= limits.MAX_DOCUMENT_SIGNATURES:
        raise UsageError(
            f"envelope: got {len(signatures)} signers, "
            f"expected 1 to {limits.MAX_DOCUMENT_SIGNATURES}"
        )
    if len({signature.key_id for signature in signatures}) != len(signatures):
        raise UsageError("envelope: a key must not sign twice")
    return Envelope(payload_type, payload, signatures)
