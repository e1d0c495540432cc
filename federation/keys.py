"""Ed25519 keys and signatures, by libsodium alone.

One verifier for the whole network: libraries differ in which odd keys and signatures they accept,
and a signature that one node accepts and another refuses would split their lists. Under a key of
small order one signature fits many messages, so its owner could deny what it signed.

This module does not know what is signed, key files or roles.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Final, NewType, Protocol, final

from nacl import bindings
from nacl.exceptions import BadSignatureError

from federation.errors import KeyRefusedError, SignatureError, UsageError

PublicKey = NewType("PublicKey", bytes)
"""An Ed25519 public key, 32 bytes, that `admit_public_key` has accepted."""

PUBLIC_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class Signer(Protocol):
    """Signs with one private key, in memory or in a hardware module."""

    @property
    def public_key(self) -> PublicKey:
        """The public key of every signature that `sign` makes."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature over the message itself (no pre-hash)."""


def admit_public_key(raw: bytes) -> PublicKey:
    """Admit a public key that came from anywhere.

    Raises:
        KeyRefusedError: it is not 32 bytes, or not the canonical encoding of a point of the
            prime-order group other than the identity.
    """
    if not isinstance(raw, bytes) or len(raw) != PUBLIC_KEY_BYTES:
        got = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
        raise KeyRefusedError(f"public key: got {got}, expected {PUBLIC_KEY_BYTES} bytes")
    if not _is_valid_point(raw):
        raise KeyRefusedError(f"public key {raw.hex()} is not a point of the prime-order group")
    return PublicKey(raw)


def key_id(public_key: bytes) -> bytes:
    """Return the id of a key: SHA-256 of its raw bytes, never truncated."""
    return sha256(public_key).digest()


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Check one signature.

    Raises:
        SignatureError: this key did not sign this message, or the key must not be trusted.
    """
    try:
        key = admit_public_key(public_key)
    except KeyRefusedError as error:
        raise SignatureError(str(error)) from error
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        got = (
            f"{len(signature)} bytes" if isinstance(signature, bytes) else type(signature).__name__
        )
        raise SignatureError(f"signature: got {got}, expected {SIGNATURE_BYTES} bytes")
    if not isinstance(message, bytes):
        raise SignatureError(f"signed message must be bytes: got {type(message).__name__}")
    try:
        bindings.crypto_sign_open(signature + message, key)
    except BadSignatureError as error:
        raise SignatureError(f"signature by key {key_id(key).hex()} is false") from error


def sign(signer: Signer, message: bytes) -> bytes:
    """Sign, and verify the result before anyone sees it.

    A fault during signing can make a signature that reveals the private key, and a module can hold
    another key than its configuration says.

    Raises:
        UsageError: the signer's signature does not verify under its own public key.
    """
    signature = signer.sign(message)
    try:
        verify(signer.public_key, signature, message)
    except SignatureError as error:
        raise UsageError(f"the signer made a signature that does not verify: {error}") from error
    return signature


@final
class SigningKey:
    """A private key held in memory. Its `repr` shows the public half only."""

    __slots__ = ("_public_key", "_secret_key")

    def __init__(self, seed: bytes) -> None:
        """Derive the key pair from its 32-byte seed.

        Raises:
            UsageError: the seed is not 32 bytes.
        """
        if not isinstance(seed, bytes) or len(seed) != SEED_BYTES:
            # The message does not give the length, which could be that of a passphrase.
            raise UsageError(f"the seed of a signing key must be {SEED_BYTES} bytes")
        public_key, self._secret_key = bindings.crypto_sign_seed_keypair(seed)
        self._public_key = PublicKey(public_key)

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """Derive the key pair from its 32-byte seed (RFC 8032 section 5.1.5).

        Raises:
            UsageError: the seed is not 32 bytes.
        """
        return cls(seed)

    @property
    def public_key(self) -> PublicKey:
        """The public key, 32 bytes."""
        return self._public_key

    @property
    def key_id(self) -> bytes:
        """The id of the public key."""
        return key_id(self._public_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over the message.

        Raises:
            UsageError: the message is not bytes.
        """
        if not isinstance(message, bytes):
            raise UsageError(f"message to sign must be bytes: got {type(message).__name__}")
        return bindings.crypto_sign(message, self._secret_key)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self._public_key.hex()})"

    def __reduce__(self) -> str:
        raise UsageError("a signing key cannot be copied or pickled: its seed would leave with it")


# The group check costs as much as a verification. A node sees few keys very often, and the result
# for a key never changes; the bound keeps a peer that sends many keys from filling memory.
@lru_cache(maxsize=1024)
def _is_valid_point(raw: bytes) -> bool:
    return bindings.crypto_core_ed25519_is_valid_point(raw)
