"""Headers: the fixed-width signed records that are the leaves of a list's log.

A leaf is a delta or a snapshot. A header contains no hash value of the list, so that organizations
which may not have the list can check order, signer and append-only. This module does not know
bodies and state.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

from federation import limits, merkle
from federation.dsse import pae
from federation.errors import MalformedError, Reason, SignatureError
from federation.keys import Signer, key_id, verify

MEDIA_TYPE: Final = "application/vnd.hashfed.delta-header.v1"
FORMAT_VERSION: Final = 1
NO_LEAF: Final = bytes(32)
"""The previous hash in the first header."""
NO_BODY: Final = sha256(b"").digest()
"""The body digest in the header of a snapshot, which has no body."""

_FLAG_ENDS_CHANGE_SET: Final = 0x01
_LAYOUT: Final = struct.Struct(">BBB32sQ32sQQII32s32sQ32sI32s32s")
_SIGNATURE_BYTES: Final = 64
HEADER_BYTES: Final = _LAYOUT.size + _SIGNATURE_BYTES


class LeafKind(IntEnum):
    """The kind of a leaf of the log."""

    DELTA = 1
    """Operations, which change the live set."""
    SNAPSHOT = 2
    """A commitment to the whole live set, without changing it (`federation.snapshot`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a publisher signs for one leaf of a list's log.

    Attributes:
        kind: a delta or a snapshot.
        origin_hash: SHA-256 of the origin's text.
        position: the leaf's index in the log: how many deltas come before.
        previous: leaf hash of the delta before; zeros for the first.
        change_set: position of the first delta of its change set.
        ends_change_set: whether it is the last of that change set.
        time_ms: when it was signed, in milliseconds since 1970-01-01T00:00:00Z.
        op_count: how many operations the body has; for a snapshot, how many buckets.
        body_size: bytes of the body; 0 for a snapshot.
        body_digest: SHA-256 of the body's exact bytes; `NO_BODY` for a snapshot.
        ops_root: root of the ops tree; for a snapshot, root of the tree over its buckets.
        live_count: entries live after this delta.
        state_digest: `federation.state` digest of the live set after this delta.
        root_version: version of the org root in force.
        root_hash: SHA-256 of that org root's payload.
        key_id: SHA-256 of the signing key.
    """

    kind: LeafKind = LeafKind.DELTA
    origin_hash: bytes
    position: int
    previous: bytes
    change_set: int
    ends_change_set: bool
    time_ms: int
    op_count: int
    body_size: int
    body_digest: bytes
    ops_root: bytes
    live_count: int
    state_digest: bytes
    root_version: int
    root_hash: bytes
    key_id: bytes

    def encode_unsigned(self) -> bytes:
        """Return the bytes that are signed (after PAE)."""
        return _LAYOUT.pack(
            FORMAT_VERSION,
            self.kind,
            _FLAG_ENDS_CHANGE_SET if self.ends_change_set else 0,
            self.origin_hash,
            self.position,
            self.previous,
            self.change_set,
            self.time_ms,
            self.op_count,
            self.body_size,
            self.body_digest,
            self.ops_root,
            self.live_count,
            self.state_digest,
            self.root_version,
            self.root_hash,
            self.key_id,
        )

    def sign(self, signer: Signer) -> bytes:
        """Return the signed record: the leaf of the log."""
        unsigned = self.encode_unsigned()
        return unsigned + signer.sign(pae(MEDIA_TYPE, unsigned))

    @classmethod
    def parse(cls, record: bytes) -> Header:
        """Parse a signed record without checking its signature.

        Raises:
            MalformedError: it is not a header of this format; HEADER_MALFORMED, or
                FORMAT_UNSUPPORTED for a later version or another kind.
        """
        if len(record) != HEADER_BYTES:
            raise MalformedError(
                f"delta header: got {len(record)} bytes, need {HEADER_BYTES}",
                reason=Reason.HEADER_MALFORMED,
            )
        version, kind, flags, *fields = _LAYOUT.unpack_from(record)
        if version != FORMAT_VERSION or kind not in _KINDS:
            raise MalformedError(
                f"header of version {version}, kind {kind}: this node reads version "
                f"{FORMAT_VERSION}, kinds {' and '.join(map(str, _KINDS))}",
                reason=Reason.FORMAT_UNSUPPORTED,
            )
        (
            origin_hash, position, previous, change_set, time_ms, op_count, body_size, body_digest,
            ops_root, live_count, state_digest, root_version, root_hash, signer,
        ) = fields  # fmt: skip
        header = cls(
            kind=LeafKind(kind),
            origin_hash=origin_hash,
            position=position,
            previous=previous,
            change_set=change_set,
            ends_change_set=flags == _FLAG_ENDS_CHANGE_SET,
            time_ms=time_ms,
            op_count=op_count,
            body_size=body_size,
            body_digest=body_digest,
            ops_root=ops_root,
            live_count=live_count,
            state_digest=state_digest,
            root_version=root_version,
            root_hash=root_hash,
            key_id=signer,
        )
        if flags & ~_FLAG_ENDS_CHANGE_SET:
            problem = f"unknown flags {flags:#x}"
        elif position >= limits.MAX_TREE_SIZE or change_set > position:
            problem = f"position {position} in change set {change_set}"
        elif (position == 0) is not (previous == NO_LEAF):
            problem = "it has a leaf before position 0, or none before a later position"
        elif time_ms > limits.MAX_TIME_MS:
            problem = f"time {time_ms} is after the year 9999"
        elif live_count > limits.MAX_LIVE_ENTRIES:
            problem = f"{live_count} live entries, at most {limits.MAX_LIVE_ENTRIES} allowed"
        elif not 1 <= root_version <= limits.MAX_VERSION:
            problem = f"root version {root_version}"
        else:
            problem = header._content_problem()
            if not problem:
                return header
        raise MalformedError(f"header: {problem}", reason=Reason.HEADER_MALFORMED)

    def _content_problem(self) -> str:
        """Return the problem with the leaf's statements about its content, or an empty text."""
        if self.kind is LeafKind.SNAPSHOT:
            if self.op_count > limits.MAX_SNAPSHOT_BUCKETS:
                return f"{self.op_count} buckets, at most {limits.MAX_SNAPSHOT_BUCKETS} allowed"
            if self.body_size or self.body_digest != NO_BODY:
                return "it is a snapshot with a body"
            return ""
        if not 0 < self.op_count <= limits.MAX_BODY_OPS:
            return f"{self.op_count} operations, 1 to {limits.MAX_BODY_OPS} allowed"
        if not 0 < self.body_size <= limits.MAX_BODY_BYTES:
            return f"a body of {self.body_size} bytes, 1 to {limits.MAX_BODY_BYTES} allowed"
        return ""


_KINDS: Final = tuple(int(kind) for kind in LeafKind)


def verify_header(record: bytes, public_key: bytes) -> None:
    """Check the signature of a signed record.

    Raises:
        SignatureError: it is not signed by that key.
    """
    unsigned, signature = record[: _LAYOUT.size], record[_LAYOUT.size :]
    if Header.parse(record).key_id != key_id(public_key):
        raise SignatureError("delta header names another key")
    verify(public_key, signature, pae(MEDIA_TYPE, unsigned))


def leaf_hash(record: bytes) -> bytes:
    """Return the hash of the log's leaf, which is the whole signed record."""
    return merkle.leaf_hash(record)
