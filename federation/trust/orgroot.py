"""Org roots: which keys speak for an organization, in which role (model: TUF root metadata 1.0.34).

Peers pin version 1 by its fingerprint, which two people compare. This module does not know how the
document reached this node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

from federation import limits
from federation.dsse import Envelope
from federation.errors import LimitError, MalformedError, Reason, SignatureError
from federation.keys import PublicKey, admit_public_key, key_id
from federation.names import OrgName, Origin, parse_org
from federation.note import Verifier

MEDIA_TYPE: Final = "application/vnd.hashfed.org-root.v1"
CERTIFICATE_DIGEST_BYTES: Final = 32


class Role(IntEnum):
    """What a key may do. The numbers are those of the wire."""

    ROOT = 1
    PUBLISHER = 2
    LOG = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleKeys:
    """The keys of one role and how many of them must sign."""

    public_keys: tuple[PublicKey, ...]
    threshold: int

    @property
    def by_id(self) -> Mapping[bytes, PublicKey]:
        """The keys by key id."""
        return {key_id(public_key): public_key for public_key in self.public_keys}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgRoot:
    """Which keys speak for an organization.

    Attributes:
        org: the organization.
        version: 1 for the first.
        created_ms: when it was made, in milliseconds since 1970-01-01T00:00:00Z.
        roles: the keys of every role.
        tls_certificates: SHA-256 of the DER form of each TLS leaf certificate in use.
    """

    org: OrgName
    version: int
    created_ms: int
    roles: Mapping[Role, RoleKeys]
    tls_certificates: tuple[bytes, ...]

    def check(self) -> None:
        """Raise an error unless the document can be trusted at all.

        Raises:
            MalformedError: a name is invalid, a version or a time is out of range, a role is
            missing,
                a threshold cannot be met, or a key is repeated.
            KeyRefusedError: a key must not be trusted with anything.
            LimitError: there are too many keys.
        """
        parse_org(self.org)
        if not 1 <= self.version <= limits.MAX_VERSION:
            raise MalformedError(f"org root of {self.org}: got version {self.version}")
        if self.created_ms > limits.MAX_TIME_MS:
            raise MalformedError(f"org root of {self.org}: made at {self.created_ms}")
        seen: set[bytes] = set()
        for role in Role:
            keys = self.roles.get(role)
            if keys is None or not keys.public_keys:
                raise MalformedError(f"org root of {self.org}: no {role.name.lower()} key")
            if len(keys.public_keys) > limits.MAX_ROLE_KEYS:
                raise LimitError(f"org root of {self.org}: {len(keys.public_keys)} keys in a role")
            if not 1 <= keys.threshold <= len(keys.public_keys):
                raise MalformedError(
                    f"org root of {self.org}: threshold {keys.threshold} of "
                    f"{len(keys.public_keys)} {role.name.lower()} keys"
                )
            for public_key in keys.public_keys:
                admit_public_key(public_key)
                if public_key in seen:
                    raise MalformedError(f"org root of {self.org}: one key in two places")
                seen.add(public_key)
        if any(len(digest) != CERTIFICATE_DIGEST_BYTES for digest in self.tls_certificates):
            raise MalformedError(f"org root of {self.org}: a certificate digest is not SHA-256")

    def publisher_key(self, signer: bytes) -> PublicKey:
        """Return the publisher key of that key id.

        Raises:
            SignatureError: KEY_UNAUTHORISED, no publisher key has it.
        """
        public_key = self.roles[Role.PUBLISHER].by_id.get(signer)
        if public_key is None:
            raise SignatureError(
                f"key {signer.hex()[:16]} is not a publisher key of {self.org} "
                f"in org root version {self.version}",
                reason=Reason.KEY_UNAUTHORISED,
            )
        return public_key

    def log_verifiers(self, origin: Origin) -> tuple[Verifier, ...]:
        """Return the verifiers of the checkpoints of one of the organization's lists."""
        return tuple(
            Verifier.for_ed25519(str(origin), public_key)
            for public_key in self.roles[Role.LOG].public_keys
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedRoot:
    """An org root with the envelope that it was verified from.

    Attributes:
        document: its content.
        envelope: the signed bytes.
        hash: SHA-256 of the payload: its fingerprint, which delta headers state.
    """

    document: OrgRoot
    envelope: Envelope
    hash: bytes

    @property
    def short_fingerprint(self) -> str:
        """What two people compare: the first 128 bits of the hash, in groups of four digits."""
        return short_fingerprint(self.hash)


def short_fingerprint(digest: bytes) -> str:
    """Format the first 128 bits of a digest for two people to compare."""
    text = digest[:16].hex()
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def pin(document: OrgRoot, envelope: Envelope) -> PinnedRoot:
    """Pin an org root that is signed by a threshold of its own root keys.

    Args:
        document: the content of the envelope's payload (`federation.wire.decode_org_root`).
        envelope: the signed bytes.

    Raises:
        MalformedError, KeyRefusedError, LimitError: as `OrgRoot.check`; FORMAT_UNSUPPORTED, another
            type of object.
        SignatureError: it has fewer signatures than the threshold.
    """
    document.check()
    keys = document.roles[Role.ROOT]
    payload = envelope.verify(keys.by_id, keys.threshold, payload_type=MEDIA_TYPE)
    return PinnedRoot(document=document, envelope=envelope, hash=sha256(payload).digest())
