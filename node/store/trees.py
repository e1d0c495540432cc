"""The Merkle tree of a list's log, as far as the leaves that are here tell it."""

from __future__ import annotations

from federation import merkle
from federation.logtail import LogTail
from federation.merkle import CompactRange
from node.errors import DamageError
from node.store import log, snapshots
from node.store.registry import ListRecord
from node.store.sqlite import sqlite3


def _start(connection: sqlite3.Connection, record: ListRecord) -> CompactRange:
    """Return the tree of the log before the first leaf that is here."""
    if record.base is None:
        return CompactRange()
    base = snapshots.load(connection, record.base)
    if base is None:
        raise DamageError(f"the snapshot that {record.origin} begins with is missing")
    return CompactRange.decode(base.position, base.offer.frontier)


def load_tail(connection: sqlite3.Connection, record: ListRecord) -> LogTail:
    """Return what proofs about a list's log are made from: every leaf of its span, hashed.

    Raises:
        DamageError: a leaf is missing, or the snapshot that the span begins with is.
    """
    start = _start(connection, record)
    leaves = [
        merkle.leaf_hash(delta.header)
        for delta in log.iter_records(connection, record.list, start.size, record.log.size)
    ]
    if start.size + len(leaves) != record.log.size:
        raise DamageError(f"leaves of {record.origin} are missing", hint="run 'hashfed fsck'")
    return LogTail(start, leaves)


def load_frontier(connection: sqlite3.Connection, record: ListRecord, size: int) -> CompactRange:
    """Return the complete subtrees of a list's log at an earlier size, within its span.

    Raises:
        DamageError: a leaf is missing, or the snapshot that the span begins with is.
    """
    tree = _start(connection, record)
    for delta in log.iter_records(connection, record.list, tree.size, size):
        tree = tree.append(merkle.leaf_hash(delta.header))
    if tree.size != size:
        raise DamageError(f"leaves of {record.origin} are missing", hint="run 'hashfed fsck'")
    return tree
