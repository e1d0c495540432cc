"""The tables of the store, as steps that build them. Times are milliseconds since 1970 (UTC).

The row id of a delta is one integer, `list << 32 | position`, so that a list's deltas are together
and in order without a second index. Likewise the row id of a bucket is `snapshot << 32 | number`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from node.errors import DamageError

POSITION_BITS: Final = 32
MAX_NUMBER: Final = 2**31 - 1
"""The largest number of a list or snapshot: with a position below it, it fits SQLite's integers."""
NUMBERS: Final = 10_000
"""Rows of the table `number`: one for each operation that a body can have."""


def pack(number: int, place: int) -> int:
    """Return the row id of a leaf of a list or of a bucket of a snapshot.

    Args:
        number: the number of the list or the snapshot, from 0 to `MAX_NUMBER`.
        place: a position in the list or the number of a bucket, below 2^32.

    Raises:
        DamageError: one of them is out of range. What is signed was checked before
            (`federation.limits`), so the store itself must be wrong. Otherwise the id would be that
            of another list's row.
    """
    if not (0 <= number <= MAX_NUMBER and 0 <= place < 1 << POSITION_BITS):
        raise DamageError(f"a row of number {number} and place {place} cannot be in a store")
    return number << POSITION_BITS | place


_INITIAL: Final = (
    # Facts about this store: its schema and its owner.
    "CREATE TABLE node (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    # Which store this is: a backup that is put back gets another token.
    "INSERT INTO node (key, value) VALUES ('incarnation', lower(hex(randomblob(16))))",
    # Organizations whose root is pinned here, this node's own among them.
    """CREATE TABLE org (
        org INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        root BLOB NOT NULL,
        pinned_ms INTEGER NOT NULL
    ) STRICT""",
    # Nodes that may call here and that can be called.
    """CREATE TABLE peer (
        org INTEGER PRIMARY KEY REFERENCES org,
        address TEXT NOT NULL,
        certificate TEXT NOT NULL,
        certificate_sha256 BLOB NOT NULL UNIQUE,
        added_ms INTEGER NOT NULL
    ) STRICT""",
    # Our own lists and those that we follow, each with the state of its log.
    """CREATE TABLE list (
        list INTEGER PRIMARY KEY,
        org INTEGER NOT NULL REFERENCES org,
        name TEXT NOT NULL,
        own INTEGER NOT NULL,
        via INTEGER REFERENCES org,
        charter BLOB,
        charter_version INTEGER NOT NULL,
        frontier BLOB NOT NULL,
        size INTEGER NOT NULL,
        last_leaf BLOB NOT NULL,
        last_time_ms INTEGER NOT NULL,
        live_count INTEGER NOT NULL,
        state_digest BLOB NOT NULL,
        checked INTEGER NOT NULL,
        span INTEGER NOT NULL UNIQUE,
        deltas_only INTEGER NOT NULL,
        since_snapshot INTEGER NOT NULL,
        UNIQUE (org, name)
    ) STRICT""",
    # Unbroken parts of a list's log that were applied here one delta after the other. Each begins
    # empty or with a snapshot, at size `start`. The newest one is the list's. An earlier one ended
    # at size `stop`, when a snapshot replaced it. One without `stop` to which no list refers is
    # still being filled.
    """CREATE TABLE span (
        span INTEGER PRIMARY KEY,
        list INTEGER NOT NULL REFERENCES list,
        start INTEGER NOT NULL,
        stop INTEGER,
        snapshot INTEGER REFERENCES snapshot
    ) STRICT""",
    "CREATE INDEX span_of_list ON span (list, start)",
    # Snapshots that are here, whole or in part, and their buckets, verbatim.
    """CREATE TABLE snapshot (
        snapshot INTEGER PRIMARY KEY,
        list INTEGER NOT NULL REFERENCES list,
        position INTEGER NOT NULL,
        state TEXT NOT NULL,
        header BLOB NOT NULL,
        checkpoint BLOB NOT NULL,
        frontier BLOB NOT NULL,
        bucket_hashes BLOB NOT NULL,
        size_bytes INTEGER NOT NULL,
        checked INTEGER NOT NULL DEFAULT 0,
        checked_digest BLOB NOT NULL DEFAULT (zeroblob(32))
    ) STRICT""",
    """CREATE TABLE bucket (
        id INTEGER PRIMARY KEY,
        entries INTEGER NOT NULL,
        first BLOB NOT NULL,
        last BLOB NOT NULL,
        bytes BLOB NOT NULL
    ) STRICT""",
    # The status of following each list. It changes with every contact, so no version includes it.
    """CREATE TABLE follow_state (
        list INTEGER PRIMARY KEY REFERENCES list,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        since_ms INTEGER NOT NULL,
        contact_ms INTEGER NOT NULL,
        head INTEGER NOT NULL
    ) STRICT""",
    # One row for each committed change of this store.
    """CREATE TABLE version (
        version INTEGER PRIMARY KEY,
        committed_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT""",
    # Accepted deltas: the signed bytes, and how they came. `via` is null for our own.
    """CREATE TABLE delta (
        id INTEGER PRIMARY KEY,
        version INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        via INTEGER REFERENCES org,
        body_size INTEGER NOT NULL,
        header BLOB NOT NULL,
        checkpoint BLOB NOT NULL
    ) STRICT""",
    # Their bodies are in a table of their own, so that reading headers does not read them.
    "CREATE TABLE body (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT",
    # Deltas that a snapshot skipped, fetched one by one to be looked at, with the proof that each
    # is in the log of that size.
    """CREATE TABLE fetched (
        id INTEGER PRIMARY KEY,
        size INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        via INTEGER NOT NULL REFERENCES org,
        header BLOB NOT NULL,
        checkpoint BLOB NOT NULL,
        inclusion BLOB NOT NULL,
        body BLOB NOT NULL
    ) STRICT""",
    # The newest signed part of a list's staged changes (`node.staging.file.StagedRange`). It is
    # written with the deltas, so that a crash before it is removed from staging is noticed.
    """CREATE TABLE signed_extent (
        list INTEGER PRIMARY KEY REFERENCES list,
        staging BLOB NOT NULL,
        first BLOB NOT NULL,
        last BLOB NOT NULL,
        edit INTEGER NOT NULL
    ) STRICT""",
    # How much of each of our own lists may leave this machine: what the high-water mark covers. A
    # peer is never given more, even if more is committed.
    """CREATE TABLE released (
        list INTEGER PRIMARY KEY REFERENCES list,
        size INTEGER NOT NULL
    ) STRICT""",
    # Hash types by a small number of this store's own.
    "CREATE TABLE hash_type (code INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    # The places of every operation with each fingerprint and each entry name. `kind` is twice the
    # code of the hash type, plus one if the fingerprint names the entry; code 0 is an id. Rows are
    # never removed: `superseded` says whether an operation is still in force. `bucket` is the
    # number of the bucket of an entry that came with the snapshot of its span; the delta of its
    # position is not here then. Rows are in runs, each sorted by itself (`node.store.runs`).
    """CREATE TABLE posting (
        run INTEGER NOT NULL,
        digest BLOB NOT NULL,
        kind INTEGER NOT NULL,
        span INTEGER NOT NULL,
        position INTEGER NOT NULL,
        row INTEGER NOT NULL,
        op INTEGER NOT NULL,
        bucket INTEGER,
        PRIMARY KEY (run, digest, kind, span, position, row)
    ) STRICT, WITHOUT ROWID""",
    # The runs: how many rows each has, the version that began it, and the run into which it is
    # being merged.
    """CREATE TABLE run (
        run INTEGER PRIMARY KEY,
        rows INTEGER NOT NULL,
        version INTEGER NOT NULL,
        target INTEGER
    ) STRICT""",
    "INSERT INTO run (run, rows, version) VALUES (1, 0, 0)",
    # Operations that are no longer in force, and the ones that replaced them. An operation is valid
    # from its own position to before `by_position`.
    """CREATE TABLE superseded (
        span INTEGER NOT NULL,
        position INTEGER NOT NULL,
        row INTEGER NOT NULL,
        op INTEGER NOT NULL,
        by_position INTEGER NOT NULL,
        by_row INTEGER NOT NULL,
        PRIMARY KEY (span, position, row)
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX superseded_by ON superseded (span, by_position, by_row)",
    # 0, 1, 2 ...: lets SQL cut columns into rows, many times faster than binding each row.
    "CREATE TABLE number (n INTEGER PRIMARY KEY) STRICT",
    f"""WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted
    WHERE n + 1 < {NUMBERS}) INSERT INTO number (n) SELECT n FROM counted""",  # noqa: S608
)

Schema = Mapping[str, Sequence[str]]
"""The statements of each step that builds a store, by name, in their order."""

MIGRATIONS: Final[Schema] = MappingProxyType({"0001_initial": _INITIAL})
"""The schema of this version. A new step also changes what `node.maintenance.migrate` compares."""

MIGRATION_SET: Final = "hashfed"
"""The name of all steps together in the table of the steps that were taken."""
