"""Reads operations from the signed bytes that they came with: a body or a bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from federation.body import PackedOp, unpack
from federation.bucket import Bucket
from federation.entry import Operation
from node.errors import DamageError
from node.store import log, snapshots
from node.store.index import NO_BUCKET, Place
from node.store.sqlite import sqlite3

_HELD: Final = 16
"""Decoded buckets that are kept: a caller that asks for many entries asks for neighbours."""


class SpanSource(NamedTuple):
    """Where the entries of a span are from.

    Attributes:
        list: the list's number.
        snapshot: the number of the snapshot that it begins with, or None.
    """

    list: int
    snapshot: int | None


class Contents:
    """Reads operations by their places, and keeps the last few buckets."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._spans: dict[int, SpanSource] = {}
        self._buckets: dict[tuple[int, int], Bucket] = {}

    def source(self, span: int) -> SpanSource:
        """Return where the entries of a span are from.

        Raises:
            DamageError: there is no such span.
        """
        source = self._spans.get(span)
        if source is None:
            row = self._connection.execute(
                "SELECT list, snapshot FROM span WHERE span = ?", (span,)
            ).fetchone()
            if row is None:
                raise DamageError(f"span {span} is missing", hint="run 'hashfed fsck'")
            source = self._spans[span] = SpanSource(*row)
        return source

    def operation(self, place: Place) -> Operation:
        """Return the operation at a place; reads no more than necessary.

        Raises:
            DamageError: its body or bucket is missing or damaged.
        """
        bucket = NO_BUCKET if place.bucket is None else place.bucket
        (packed,) = self.iter_packed([(place.span, bucket, place.position, place.row)])
        return unpack(packed)

    def iter_packed(
        self, places: Iterable[tuple[int, int, int, int, *tuple[object, ...]]]
    ) -> Iterator[PackedOp]:
        """Yield packed operations; neighbours share one read of their body or bucket.

        Args:
            places: (span, bucket or `NO_BUCKET`, position, row, anything) of each.

        Raises:
            DamageError: a body or bucket is missing or damaged.
        """
        for (span, number), some in groupby(places, key=itemgetter(0, 1)):
            source = self.source(span)
            if number == NO_BUCKET:
                yield from log.iter_packed(
                    self._connection, ((source.list, place[2], place[3]) for place in some)
                )
                continue
            if source.snapshot is None:
                raise DamageError(f"span {span} has no snapshot", hint="run 'hashfed fsck'")
            bucket = self._bucket(source.snapshot, number)
            for place in some:
                yield _entry_at(bucket, number, place[2], place[3])

    def _bucket(self, snapshot: int, number: int) -> Bucket:
        key = (snapshot, number)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _HELD:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = snapshots.load_bucket(self._connection, snapshot, number)
        return bucket


def _entry_at(bucket: Bucket, number: int, position: int, row: int) -> PackedOp:
    index = bucket.find(position, row)
    if index is None:
        raise DamageError(
            f"bucket {number} has no entry from position {position}, row {row}",
            hint="run 'hashfed fsck'",
        )
    return bucket.body.packed(index)
