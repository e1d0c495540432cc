"""Snapshots: a leaf of the log that commits to the whole live set, in buckets.

The leaf's header signs the number of buckets and the root of the RFC 6962 tree whose leaves they
are. So a subscriber that has the header can check each bucket as it arrives, from any sender and in
any order. This module does not know how a live set is stored and what is fetched when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from federation import merkle
from federation.bucket import (
    Bucket,
    Extent,
    LiveEntry,
    cut_buckets,
    decode_bucket,
    encode_bucket,
)
from federation.errors import (
    MalformedError,
    OperationError,
    ProofError,
    Reason,
    UsageError,
)
from federation.header import Header
from federation.merkle import CompactRange


class SnapshotOffer(NamedTuple):
    """A snapshot without its buckets, in exact bytes.

    Attributes:
        header: the signed record of the snapshot's leaf.
        checkpoint: the signed note of the log right after it.
        frontier: the complete subtrees of the log before it, as `CompactRange.encode`.
        bucket_hashes: the leaf hash of each bucket, end to end.
        consistency: the RFC 6962 proof from the log that the reader holds to that of `checkpoint`;
            empty if it holds none.
    """

    header: bytes
    checkpoint: bytes
    frontier: bytes
    bucket_hashes: bytes
    consistency: tuple[bytes, ...] = ()

    def has_bucket(self, number: int, data: bytes) -> bool:
        """Say whether these are the bytes of one of its buckets."""
        at = number * merkle.HASH_BYTES
        return merkle.leaf_hash(data) == self.bucket_hashes[at : at + merkle.HASH_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot whose signatures and place in the log are verified.

    Attributes:
        offer: the exact bytes.
        header: the signed header.
        before: the log before the snapshot's leaf.
        bucket_hashes: the leaf hash of each bucket.
    """

    offer: SnapshotOffer
    header: Header
    before: CompactRange
    bucket_hashes: tuple[bytes, ...]

    @property
    def position(self) -> int:
        """The position of its leaf."""
        return self.header.position

    def open_bucket(self, number: int, data: bytes) -> Bucket:
        """Verify one bucket and return it.

        Raises:
            ProofError: SNAPSHOT_MISMATCH, it is not the bucket that was signed.
            PeerError: it is the signed bucket, but is malformed.
        """
        known = 0 <= number < len(self.bucket_hashes)
        if not known or merkle.leaf_hash(data) != self.bucket_hashes[number]:
            raise ProofError(
                f"bucket {number} of the snapshot at position {self.position} is not the one that "
                "was signed",
                reason=Reason.SNAPSHOT_MISMATCH,
            )
        bucket = decode_bucket(data)
        bucket.check(self.position)
        return bucket

    def check_extents(self, extents: Sequence[Extent]) -> None:
        """Raise an error unless the buckets together can be those of one live set.

        Args:
            extents: the extent of each bucket, in order.

        Raises:
            UsageError: there is not one for each bucket.
            OperationError: OP_ORDER, buckets overlap; LIVE_COUNT_MISMATCH, the number of entries is
                not the signed one.
        """
        if len(extents) != len(self.bucket_hashes):
            raise UsageError(f"got {len(extents)} of {len(self.bucket_hashes)} buckets")
        for number, (left, right) in enumerate(pairwise(extents)):
            if left.greatest >= right.least:
                raise OperationError(
                    f"buckets {number} and {number + 1} of the snapshot at position "
                    f"{self.position} overlap",
                    reason=Reason.OP_ORDER,
                )
        count = sum(extent.size for extent in extents)
        if count != self.header.live_count:
            raise OperationError(
                f"the snapshot at position {self.position} has {count} entries, "
                f"{self.header.live_count} signed",
                reason=Reason.LIVE_COUNT_MISMATCH,
            )


def split_hashes(data: bytes, count: int) -> tuple[bytes, ...]:
    """Return the concatenated hashes in `data`.

    Raises:
        MalformedError: there are not `count` of them.
    """
    if len(data) != count * merkle.HASH_BYTES:
        raise MalformedError(
            f"got {len(data)} bytes of hashes, expected {count} of {merkle.HASH_BYTES}",
            reason=Reason.SNAPSHOT_MISMATCH,
        )
    return tuple(data[at : at + merkle.HASH_BYTES] for at in range(0, len(data), merkle.HASH_BYTES))


def check_buckets(header: Header, bucket_hashes: bytes) -> tuple[bytes, ...]:
    """Return the hashes of a snapshot's buckets, if its header commits to them.

    Raises:
        PeerError: SNAPSHOT_MISMATCH, it does not commit to them.
    """
    hashes = split_hashes(bucket_hashes, header.op_count)
    if merkle.root_hash(hashes) != header.ops_root:
        raise ProofError(
            f"the buckets of the snapshot at position {header.position} do not hash to the root "
            "that was signed",
            reason=Reason.SNAPSHOT_MISMATCH,
        )
    return hashes


def build_buckets(entries: Iterable[LiveEntry]) -> Iterator[tuple[list[LiveEntry], bytes]]:
    """Yield (entries, encoded bucket) for a live set in ascending order of names."""
    for some in cut_buckets(entries):
        yield some, encode_bucket(some)
