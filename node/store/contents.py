"""What an operation says: read from the signed bytes that it came with, a body or a bucket."""

from __future__ import annotations

from typing import Final, NamedTuple

from federation.body import Body, unpack
from federation.bucket import Bucket
from federation.entry import Operation
from node.errors import DamageError
from node.store import log, snapshots
from node.store.entries import Place
from node.store.sqlite import sqlite3

_HELD: Final = 16
"""Bodies and buckets that are held decoded: who asks for many entries asks for neighbours."""


class SpanSource(NamedTuple):
    """Where the entries of a span are from.

    Attributes:
        list: the list's number.
        snapshot: the number of the snapshot that it begins with, or None.
    """

    list: int
    snapshot: int | None


class Contents:
    """Reads operations at their places, and holds the last few bodies and buckets."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._spans: dict[int, SpanSource] = {}
        self._bodies: dict[tuple[int, int], Body] = {}
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
        """Return the operation at a place.

        Raises:
            DamageError: what it came with is missing or damaged.
        """
        source = self.source(place.span)
        if place.bucket is None:
            return self._body(source.list, place.position).operation(place.row)
        if source.snapshot is None:
            raise DamageError(f"span {place.span} has no snapshot", hint="run 'hashfed fsck'")
        bucket = self._bucket(source.snapshot, place.bucket)
        index = bucket.find(place.position, place.row)
        if index is None:
            raise DamageError(
                f"bucket {place.bucket} has no entry of position {place.position}, row {place.row}",
                hint="run 'hashfed fsck'",
            )
        return unpack(bucket.body.packed(index))

    def _body(self, list_number: int, position: int) -> Body:
        key = (list_number, position)
        body = self._bodies.get(key)
        if body is None:
            if len(self._bodies) >= _HELD:
                del self._bodies[next(iter(self._bodies))]
            body = self._bodies[key] = log.load_body(self._connection, list_number, position)
        return body

    def _bucket(self, snapshot: int, number: int) -> Bucket:
        key = (snapshot, number)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _HELD:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = snapshots.load_bucket(self._connection, snapshot, number)
        return bucket
