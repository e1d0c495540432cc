"""The Merkle tree of a list's log, computed from the leaves that are here."""

from __future__ import annotations

from federation import merkle
from federation.checkpoint import read_checkpoint
from federation.logtail import LogTail
from federation.merkle import CompactRange
from node.errors import DamageError
from node.store import log, snapshots, spans
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.spans import Span
from node.store.sqlite import sqlite3


def _start(connection: sqlite3.Connection, span: Span) -> CompactRange:
    """Return the tree of the log before the first leaf of a span."""
    if span.snapshot is None:
        return CompactRange()
    base = snapshots.load(connection, span.snapshot)
    if base is None:
        raise DamageError(
            f"the snapshot at position {span.first} is missing", hint="run 'hashfed fsck'"
        )
    return CompactRange.decode(base.position, base.offer.frontier)


def load_tail(connection: sqlite3.Connection, record: ListRecord) -> LogTail:
    """Return the leaf hashes of a list's span, from which proofs about its log are made.

    Raises:
        DamageError: a leaf, or the snapshot with which the span begins, is missing.
    """
    start = _start(connection, _reaching(connection, record, record.log.size))
    leaves = [
        merkle.leaf_hash(delta.header)
        for delta in log.iter_records(connection, record.list, start.size, record.log.size)
    ]
    if start.size + len(leaves) != record.log.size:
        raise DamageError(f"leaves of {record.origin} are missing", hint="run 'hashfed fsck'")
    return LogTail(start, leaves)


def load_frontier(connection: sqlite3.Connection, record: ListRecord, size: int) -> CompactRange:
    """Return the complete subtrees of a list's log at an earlier size.

    Raises:
        DamageError: no span here reaches that size, or a leaf is missing, or the snapshot with
            which the span begins.
    """
    tree = _start(connection, _reaching(connection, record, size))
    for delta in log.iter_records(connection, record.list, tree.size, size):
        tree = tree.append(merkle.leaf_hash(delta.header))
    if tree.size != size:
        raise DamageError(f"leaves of {record.origin} are missing", hint="run 'hashfed fsck'")
    return tree


def _reaching(connection: sqlite3.Connection, record: ListRecord, size: int) -> Span:
    """Return the newest span from which the tree at a size can be computed."""
    for span in reversed(list(spans.iter_applied(connection, record.list))):
        if span.first <= size and (span.stop is None or size <= span.stop):
            return span
    raise DamageError(f"size {size} of {record.origin} is not covered by what is here")


def root_at(store: Store, record: ListRecord, size: int) -> bytes:
    """Return the root hash of a list's log at an earlier size (0 < size <= its size).

    Every delta is stored with the checkpoint of the log right after it, and a snapshot that begins
    a span is stored with the tree of the log before it.

    Raises:
        DamageError: the record of that size is missing.
    """
    if record.base is not None and size == record.log.start:
        return load_frontier(store.connection, record, size).root()
    held = log.load_record(store.connection, record.list, size - 1)
    if held is None:
        raise DamageError(f"position {size - 1} of {record.origin} is missing")
    return read_checkpoint(held.checkpoint).root_hash
