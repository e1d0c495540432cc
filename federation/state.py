"""The state digest: one number for the live set of a list, cheap to add to and to take from.

The digest is the sum modulo 2^256 of one SHA-256 for each live entry, over its name and the place
(position, row) of the operation that last asserted it; so it does not depend on order (Bellare and
Micciancio's AdHash). Somebody who can choose entries can forge a sum: it binds nothing. What binds
are the body digests and the log. It shows that two merge implementations disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from federation.body import Body, Shape
from federation.bucket import Bucket
from federation.entry import OpKind
from federation.merge import Prior

_TAG: Final = b"hashfed/live/v1\x00"
_MODULUS: Final = 2**256
EMPTY: Final = bytes(32)
"""The digest of an empty list."""


def advance(digest: bytes, body: Body, position: int, prior: Mapping[int, Prior]) -> bytes:
    """Return the digest after a delta.

    Args:
        digest: the digest before it (32 bytes).
        body: the delta's operations.
        position: the delta's position.
        prior: for each row whose entry the list has known, the operation in force on it before.
    """
    total = int.from_bytes(digest)
    at = position.to_bytes(8)
    for group in body.groups:
        head = _head(group.shape)
        rows = range(group.first_row, group.first_row + group.count)
        if group.shape.kind is OpKind.ASSERT:
            total += _sum(head, group.keys, [at + row.to_bytes(4) for row in rows])
        if prior:
            for key, row in zip(group.keys, rows, strict=True):
                before = prior.get(row)
                if before is not None and before.kind is OpKind.ASSERT:
                    place = before.position.to_bytes(8) + before.row.to_bytes(4)
                    total -= int.from_bytes(sha256(head + key + place).digest())
    return (total % _MODULUS).to_bytes(32)


def add_bucket(digest: bytes, bucket: Bucket) -> bytes:
    """Return the digest with the entries of a bucket added: over all buckets, that of the list.

    Args:
        digest: the digest of other buckets, in whatever order (32 bytes).
        bucket: a bucket that passed its check.
    """
    total = int.from_bytes(digest)
    positions = [position.to_bytes(8) for position in bucket.positions]
    places = [
        positions[code] + row.to_bytes(4)
        for code, row in zip(bucket.codes, bucket.rows, strict=True)
    ]
    for group in bucket.body.groups:
        rows = slice(group.first_row, group.first_row + group.count)
        total += _sum(_head(group.shape), group.keys, places[rows])
    return (total % _MODULUS).to_bytes(32)


def _head(shape: Shape) -> bytes:
    """Return what stands before the key of an entry."""
    key_type = shape.key_type.encode()
    return _TAG + len(key_type).to_bytes() + key_type + shape.key_width.to_bytes(4)


def _sum(head: bytes, keys: Sequence[bytes], places: Sequence[bytes]) -> int:
    """Return the sum of what entries contribute."""
    digests = [sha256(head + key + place).digest() for key, place in zip(keys, places, strict=True)]
    return sum(map(int.from_bytes, digests))
