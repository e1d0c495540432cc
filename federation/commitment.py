"""The part of a header's commitments that follows from a delta's body and position alone.

This is nearly all of the work of signing, and it needs neither keys nor the log. So a publisher can
compute it for several deltas at a time, in any process. A commitment includes the digest of its
bytes, so it cannot be signed for another body.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from federation import state, wire


class Commitment(NamedTuple):
    """A body's digests.

    Attributes:
        body_digest: SHA-256 of the body's bytes.
        position: the delta's position.
        ops_root: root of the ops tree.
        asserted: what the assertions add to the state digest (`federation.state.sum_asserted`).
    """

    body_digest: bytes
    position: int
    ops_root: bytes
    asserted: bytes


def commit(data: bytes, position: int, ops_root: bytes | None = None) -> Commitment:
    """Compute the commitment to the bytes of a body at a position of its log.

    Args:
        data: the bytes.
        position: the position.
        ops_root: the result of `find_ops_root` for these bytes, if known.

    Raises:
        MalformedError, LimitError: as `wire.decode_body`.
    """
    body = wire.decode_body(data)
    return Commitment(
        body_digest=sha256(data).digest(),
        position=position,
        ops_root=body.ops_root() if ops_root is None else ops_root,
        asserted=state.sum_asserted(body, position),
    )


def find_ops_root(data: bytes) -> bytes:
    """Compute the root of the ops tree of a body's bytes, which does not depend on the position.

    Raises:
        MalformedError, LimitError: as `wire.decode_body`.
    """
    return wire.decode_body(data).ops_root()
