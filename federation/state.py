"""The state digest: one number for the live set of a list that is cheap to update.

The digest is the sum modulo 2^256 of one SHA-256 for each live entry, over its name and the place
(position, row) of the operation that last asserted it. So it does not depend on order (Bellare and
Micciancio's AdHash). Anybody who can choose entries can forge a sum, so it binds nothing; the body
digests and the log do. It shows whether two merge implementations disagree.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import repeat
from typing import Final

from federation.body import Body, Shape, cut
from federation.bucket import Bucket
from federation.entry import OpKind
from federation.merge import Prior

_TAG: Final = b"hashfed/live/v1\x00"
_MODULUS: Final = 2**256
_POSITION_BYTES: Final = 8
_ROW_BYTES: Final = 4
EMPTY: Final = bytes(32)
"""The digest of an empty list."""


def advance(
    digest: bytes,
    body: Body,
    position: int,
    prior: Mapping[int, Prior],
    *,
    asserted: bytes | None = None,
) -> bytes:
    """Return the digest after a delta.

    Args:
        digest: the digest before it (32 bytes).
        body: the delta's operations.
        position: the delta's position.
        prior: for each row whose entry the list has known, the operation in force on it before.
        asserted: the result of `sum_asserted` for this body and position, if known.
    """
    if asserted is None:
        asserted = sum_asserted(body, position)
    total = int.from_bytes(digest) + int.from_bytes(asserted)
    gone = [(row, before) for row, before in prior.items() if before.kind is OpKind.ASSERT]
    for group in body.groups if gone else ():
        stop = group.first_row + group.count
        some = [(row - group.first_row, it) for row, it in gone if group.first_row <= row < stop]
        keys = [group.keys[index] for index, _ in some]
        positions = [before.position.to_bytes(_POSITION_BYTES) for _, before in some]
        total -= _sum(
            _head(group.shape), keys, positions, _row_bytes([before.row for _, before in some])
        )
    return (total % _MODULUS).to_bytes(32)


def sum_asserted(body: Body, position: int) -> bytes:
    """Return the digest of a list with only a delta's assertions (32 bytes).

    This part of `advance` depends only on the delta, and takes most of the time.
    """
    total = 0
    at = position.to_bytes(_POSITION_BYTES)
    for group in body.groups:
        if group.shape.kind is OpKind.ASSERT:
            rows = range(group.first_row, group.first_row + group.count)
            total += _sum(_head(group.shape), group.keys, repeat(at), _row_bytes(rows))
    return (total % _MODULUS).to_bytes(32)


def add_bucket(digest: bytes, bucket: Bucket) -> bytes:
    """Return the digest with the entries of a bucket added; all buckets give that of the list.

    Args:
        digest: the digest of other buckets, in any order (32 bytes).
        bucket: a bucket that passed its check.
    """
    total = int.from_bytes(digest)
    positions = [position.to_bytes(_POSITION_BYTES) for position in bucket.positions]
    places = [positions[code] for code in bucket.codes]
    rows = _row_bytes(bucket.rows)
    for group in bucket.body.groups:
        some = slice(group.first_row, group.first_row + group.count)
        total += _sum(_head(group.shape), group.keys, places[some], rows[some])
    return (total % _MODULUS).to_bytes(32)


def _head(shape: Shape) -> bytes:
    """Return the bytes before the key of an entry."""
    key_type = shape.key_type.encode()
    return _TAG + len(key_type).to_bytes() + key_type + shape.key_width.to_bytes(4)


def _row_bytes(rows: Sequence[int]) -> list[bytes]:
    return cut(struct.pack(f">{len(rows)}I", *rows), _ROW_BYTES)


def _sum(
    head: bytes, keys: Sequence[bytes], positions: Iterable[bytes], rows: Sequence[bytes]
) -> int:
    """Return the sum of the contributions of entries."""
    # Not strict, because `repeat` has no end. All others have a value for each key.
    messages = map(b"".join, zip(repeat(head), keys, positions, rows, strict=False))
    terms = [term.digest() for term in map(sha256, messages)]
    return sum(map(int.from_bytes, terms))
