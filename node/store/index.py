"""The index of fingerprints and entry names, and which operations are in force.

The index is derived: `hashfed fsck` computes it again from the signed bytes and compares. The
module is long because writing and looking up must cut names into the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from federation import limits
from federation.body import Body, Group, Shape, cut
from federation.bucket import Bucket
from federation.entry import EntryId, OpKind
from federation.fingerprint import Fingerprint
from federation.merge import Prior
from node.errors import DamageError
from node.store import runs
from node.store.connection import Transaction
from node.store.schema import NUMBERS
from node.store.sqlite import sqlite3

_ID_TYPE: Final = 0
LONGEST_KEY: Final = 64
"""Bytes of the longest digest that is in the index itself."""

_LONG_TAG: Final = bytes(33)
_LOOK_ALONG: Final = 6
"""At most this many rows for each key are scanned; otherwise each key is looked up."""
_SPARSE: Final = 4
"""New rows go straight into the main run if it has at most this many rows there for each."""
MAX_NAMES: Final = NUMBERS
"""How many entries one query may be about."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an operation stands.

    Attributes:
        span: the number of the span (`node.store.spans`).
        position: the position of its delta.
        row: its row there.
        bucket: the bucket of the span's snapshot with which it came; None if it came with its
            delta.
    """

    span: int
    position: int
    row: int
    bucket: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """An operation on an entry, and how long it was in force.

    Attributes:
        place: where it stands.
        kind: what it did.
        until: the position at which another operation replaced it; None while in force.
    """

    place: Place
    kind: OpKind
    until: int | None


def _index_key(digest: bytes) -> bytes:
    """Return the index key of a digest: the digest itself, or its tagged SHA-256 if it is long.

    The tag makes the key longer than any digest that is its own key. Otherwise a short digest of a
    type of any width could be taken for a long one.
    """
    return digest if len(digest) <= LONGEST_KEY else _LONG_TAG + sha256(digest).digest()


def _type_code(connection: sqlite3.Connection, type_name: str) -> int:
    """Return this store's number of a hash type; 0, which is ids, for one it has never seen."""
    row = connection.execute("SELECT code FROM hash_type WHERE name = ?", (type_name,)).fetchone()
    return _ID_TYPE if row is None else int(row[0])


def _ensure_type_code(connection: sqlite3.Connection, type_name: str) -> int:
    code = _type_code(connection, type_name)
    if code == _ID_TYPE:
        cursor = connection.execute("INSERT INTO hash_type (name) VALUES (?)", (type_name,))
        code = int(cursor.lastrowid or 0)
    return code


def _key_kind(code: int) -> int:
    return 2 * code + 1


_KINDS: Final[dict[int, OpKind]] = {int(kind): kind for kind in OpKind}


def _kind(op: int) -> OpKind:
    """Return the kind of an operation, as it stands in the index.

    Raises:
        DamageError: there is no such kind.
    """
    kind = _KINDS.get(op)
    if kind is None:
        raise DamageError(f"the index has an operation of kind {op}", hint="run 'hashfed fsck'")
    return kind


def _place(span: int, position: object, row: object, bucket: object) -> Place:
    """Return a place, as it stands in the index.

    Raises:
        DamageError: it is not a place. A damaged page can give any column any value.
    """
    if not (
        isinstance(position, int)
        and isinstance(row, int)
        and (bucket is None or isinstance(bucket, int))
    ):
        raise DamageError("the index has a place that cannot be", hint="run 'hashfed fsck'")
    return Place(span, position, row, bucket)


# --- merging ----------------------------------------------------------------------------------


def load_prior(
    connection: sqlite3.Connection, span: int, body: Body, *, before: int | None = None
) -> dict[int, Prior]:
    """Return the operation in force for each row whose entry the span has known.

    Args:
        connection: where to look.
        span: the number of the span.
        body: the operations.
        before: the state before the delta at that position; None for the state now.
    """
    prior: dict[int, Prior] = {}
    for group in body.groups:
        type_name = group.shape.key_type
        code = _type_code(connection, type_name) if type_name else _ID_TYPE
        if type_name and code == _ID_TYPE:
            continue
        keys = _index_column(group.key_column, group.shape.key_width)
        if not _may_overlap(connection, span, code, keys, group):
            continue
        width = len(keys) // group.count
        # Ascending positions: the last one read for a row is the newest, and in force.
        for index, position, row, op in connection.execute(
            """SELECT n.n, p.position, p.row, p.op FROM run CROSS JOIN number AS n
            CROSS JOIN posting AS p ON p.run = run.run
                AND p.digest = substr(?1, n.n * ?2 + 1, ?2) AND p.kind = ?3 AND p.span = ?4
            WHERE n.n < ?5 AND p.position < ?6 ORDER BY n.n, p.position""",
            (keys, width, _key_kind(code), span, group.count, NOW if before is None else before),
        ):
            prior[group.first_row + index] = Prior(position, row, _kind(op))
    return prior


def load_prior_by_name(
    connection: sqlite3.Connection, span: int, type_name: str, names: Sequence[bytes]
) -> dict[int, Prior]:
    """Return the operation in force on each entry that the span has known, by index in `names`.

    Args:
        connection: where to look.
        span: the number of the span of the list.
        type_name: the hash type of the digests that name the entries; empty for ids.
        names: the digests or ids of at most `MAX_NAMES` entries: of one width, ascending.
    """
    width, column = len(names[0]), b"".join(names)
    if type_name:
        shape = Shape(OpKind.RETRACT, named=True, id_width=0, columns=((type_name, width),))
        group = Group(shape, 0, len(names), b"", (column,), ())
    else:
        shape = Shape(OpKind.RETRACT, named=False, id_width=width, columns=())
        group = Group(shape, 0, len(names), column, (), ())
    # A body that names these entries and does nothing with them.
    return load_prior(connection, span, Body(b"", (), (group,)))


def _may_overlap(
    connection: sqlite3.Connection, span: int, code: int, keys: bytes, group: Group
) -> bool:
    """Say whether the span may have an entry between a group's first and last key.

    A list that is loaded in the order of its keys never has one, and one scan of the index is much
    cheaper than a lookup for each key. The scan is cut short where other lists have very many keys.
    """
    width = len(keys) // group.count
    if group.shape.key_width > LONGEST_KEY:  # The hashes of ascending texts do not ascend.
        return True
    most = _LOOK_ALONG * group.count
    ours, near = connection.execute(
        """SELECT max(kind = ? AND span = ?), count(*) FROM (
            SELECT kind, span FROM run CROSS JOIN posting USING (run)
            WHERE digest BETWEEN ? AND ? LIMIT ?
        )""",
        (_key_kind(code), span, keys[:width], keys[-width:], most),
    ).fetchone()
    return bool(ours) or near == most


def _index_column(column: bytes, width: int) -> bytes:
    if width <= LONGEST_KEY:
        return column
    return b"".join([_index_key(digest) for digest in cut(column, width)])


_INSERT_ASCENDING: Final = """INSERT INTO posting (run, digest, kind, span, position, row, op)
    SELECT ?9, substr(?1, n * ?2 + 1, ?2) AS digest, ?3, ?4, ?5, ?6 + n, ?7
    FROM number WHERE n < ?8 ORDER BY n"""
_INSERT: Final = _INSERT_ASCENDING.removesuffix("n") + "digest"


def index_body(
    transaction: Transaction,
    span: int,
    position: int,
    body: Body,
    prior: Mapping[int, Prior],
) -> None:
    """Put a delta's operations in force, and in the index."""
    connection = transaction.connection
    added = 0
    for group, keys, kind in _index_columns(connection, body, _ensure_type_code):
        ascending = _ascends(group, kind)
        run = _choose_run(transaction, keys, group.count, ascending=ascending)
        connection.execute(
            _INSERT_ASCENDING if ascending else _INSERT,
            (
                keys,
                len(keys) // group.count,
                kind,
                span,
                position,
                group.first_row,
                group.shape.kind,
                group.count,
                run,
            ),
        )
        added += group.count if run != runs.MAIN else 0
    if added:
        runs.merge_overdue(transaction, added)
    if prior:
        connection.executemany(
            "INSERT INTO superseded (span, position, row, op, by_position, by_row) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                (span, before.position, before.row, before.kind, position, row)
                for row, before in prior.items()
            ),
        )


_INSERT_BUCKET_ASCENDING: Final = """INSERT INTO posting
    (run, digest, kind, span, position, row, op, bucket)
    SELECT ?1, substr(?2, n * ?3 + 1, ?3) AS digest, ?4, ?5,
        CAST(substr(?6, n * ?7 + 1, ?7) AS INTEGER),
        CAST(substr(?8, n * ?9 + 1, ?9) AS INTEGER), ?10, ?11
    FROM number WHERE n < ?12 ORDER BY n"""
_INSERT_BUCKET: Final = _INSERT_BUCKET_ASCENDING.removesuffix("n") + "digest"
_ROW_DIGITS: Final = len(str(limits.MAX_BODY_OPS))
# SQL reads numbers from text alone, so columns of numbers are cut from columns of digits.
_ROW_TEXTS: Final = tuple(b"%0*d" % (_ROW_DIGITS, row) for row in range(limits.MAX_BODY_OPS))


def index_bucket(transaction: Transaction, span: int, number: int, bucket: Bucket) -> None:
    """Add the entries of a bucket to the index of a span, at the places of their assertions."""
    connection = transaction.connection
    digits = len(str(bucket.positions[-1]))
    position_texts = [b"%0*d" % (digits, position) for position in bucket.positions]
    positions = b"".join(map(position_texts.__getitem__, bucket.codes))
    rows = b"".join(map(_ROW_TEXTS.__getitem__, bucket.rows))
    added = 0
    for group, keys, kind in _index_columns(connection, bucket.body, _ensure_type_code):
        start, stop = group.first_row, group.first_row + group.count
        ascending = _ascends(group, kind)
        run = _choose_run(transaction, keys, group.count, ascending=ascending)
        connection.execute(
            _INSERT_BUCKET_ASCENDING if ascending else _INSERT_BUCKET,
            (
                run,
                keys,
                len(keys) // group.count,
                kind,
                span,
                positions[start * digits : stop * digits],
                digits,
                rows[start * _ROW_DIGITS : stop * _ROW_DIGITS],
                _ROW_DIGITS,
                OpKind.ASSERT,
                number,
                group.count,
            ),
        )
        added += group.count if run != runs.MAIN else 0
    if added:
        runs.merge_overdue(transaction, added)


def unindex_bucket(connection: sqlite3.Connection, span: int, number: int, bucket: Bucket) -> None:
    """Remove what `index_bucket` added to the index of a span that was never in force."""
    for group, keys, kind in _index_columns(connection, bucket.body, _type_code):
        for (run,) in connection.execute("SELECT run FROM run").fetchall():
            gone = connection.execute(
                """DELETE FROM posting WHERE run = ?1 AND kind = ?4 AND span = ?5 AND bucket = ?6
                AND digest IN (SELECT substr(?2, n * ?3 + 1, ?3) FROM number WHERE n < ?7)""",
                (run, keys, len(keys) // group.count, kind, span, number, group.count),
            ).rowcount
            runs.count_rows(connection, run, -gone)


def _ascends(group: Group, kind: int) -> bool:
    """Return whether index keys ascend as they are; the digests that name entries do.

    The index is a tree by digest: rows in its order cost least.
    """
    return bool(kind % 2) and group.shape.key_width <= LONGEST_KEY


def _choose_run(transaction: Transaction, keys: bytes, count: int, *, ascending: bool) -> int:
    """Return the run that will take this many rows, and count them there."""
    connection = transaction.connection
    if _is_dense(connection, keys, count, ascending=ascending):
        run = runs.MAIN
    else:
        run = runs.open_run(transaction)
    runs.count_rows(connection, run, count)
    return run


def _is_dense(connection: sqlite3.Connection, keys: bytes, count: int, *, ascending: bool) -> bool:
    """Return whether keys fall on few pages of the main run, as they do where it has few rows.

    Keys that do not ascend are assumed to be spread over all of it.
    """
    most = _SPARSE * count
    if not ascending:
        return runs.load_runs(connection)[-1].rows <= most
    width = len(keys) // count
    (near,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM posting WHERE run = ? AND digest BETWEEN ? AND ? "
        "LIMIT ?)",
        (runs.MAIN, keys[:width], keys[-width:], most + 1),
    ).fetchone()
    return bool(near <= most)


def _index_columns(
    connection: sqlite3.Connection, body: Body, code_of: Callable[[sqlite3.Connection, str], int]
) -> Iterator[tuple[Group, bytes, int]]:
    """Yield (group, index keys end to end, kind) for everything that a body adds to the index."""
    for group in body.groups:
        if not group.shape.named:
            yield group, _index_column(group.ids, group.shape.id_width), _key_kind(_ID_TYPE)
        for number, ((type_name, width), column) in enumerate(
            zip(group.shape.columns, group.columns, strict=True)
        ):
            code = code_of(connection, type_name)
            naming = group.shape.named and number == 0
            yield group, _index_column(column, width), _key_kind(code) if naming else 2 * code


def check_index(
    connection: sqlite3.Connection, span: int, position: int, body: Body
) -> tuple[int, list[int]]:
    """Return how many rows a delta must have in the index, and which rows of its body lack one.

    A row of the body is returned once for each missing or wrong row of the index.
    """
    expected = 0
    missing: list[int] = []
    for group, keys, kind in _index_columns(connection, body, _type_code):
        expected += group.count
        found = {
            index
            for (index,) in connection.execute(
                """SELECT n.n FROM run CROSS JOIN number AS n CROSS JOIN posting AS p
                ON p.run = run.run AND p.digest = substr(?1, n.n * ?2 + 1, ?2) AND p.kind = ?3
                    AND p.span = ?4 AND p.position = ?5 AND p.row = ?6 + n.n AND p.op = ?7
                    AND p.bucket IS NULL
                WHERE n.n < ?8""",
                (
                    keys,
                    len(keys) // group.count,
                    kind,
                    span,
                    position,
                    group.first_row,
                    group.shape.kind,
                    group.count,
                ),
            )
        }
        if len(found) != group.count:
            missing += [
                group.first_row + index for index in range(group.count) if index not in found
            ]
    return expected, missing


def check_bucket_index(
    connection: sqlite3.Connection, span: int, number: int, bucket: Bucket
) -> tuple[int, list[int]]:
    """Return how many rows a bucket must have in the index, and which of its entries lack one."""
    expected = 0
    missing: list[int] = []
    for group, keys, kind in _index_columns(connection, bucket.body, _type_code):
        width = len(keys) // group.count
        there = connection.execute(
            """SELECT n.n, p.position, p.row FROM run CROSS JOIN number AS n
            CROSS JOIN posting AS p ON p.run = run.run
                AND p.digest = substr(?1, n.n * ?2 + 1, ?2) AND p.kind = ?3 AND p.span = ?4
                AND p.bucket = ?5 AND p.op = ?6
            WHERE n.n < ?7""",
            (keys, width, kind, span, number, OpKind.ASSERT, group.count),
        )
        places = set(there)
        expected += group.count
        missing += [
            at
            for index, at in enumerate(range(group.first_row, group.first_row + group.count))
            if (index, bucket.positions[bucket.codes[at]], bucket.rows[at]) not in places
        ]
    return expected, missing


def load_superseded_by(
    connection: sqlite3.Connection, span: int, position: int
) -> dict[int, Prior]:
    """Return what `load_prior` returned when the delta at that position was merged."""
    return {
        by_row: Prior(before, row, _kind(op))
        for by_row, before, row, op in connection.execute(
            "SELECT by_row, position, row, op FROM superseded WHERE span = ? AND by_position = ?",
            (span, position),
        )
    }


# --- looking up -------------------------------------------------------------------------------


Cuts = Mapping[int, int]
"""A point in the history of lists: how many deltas of its list count, by span. Other spans do not
count."""

NOW: Final = 1 << 62
"""More deltas than a list can have: everything of a span counts."""

NO_BUCKET: Final = -1
"""Means, where buckets are compared, that an operation came with its delta."""


def find_fingerprint(
    connection: sqlite3.Connection, fingerprint: Fingerprint, cuts: Cuts | None = None
) -> list[Place]:
    """Return the assertions in force that have a fingerprint, in all lists, by place.

    A digest of more than 64 bytes is found by its SHA-256: the caller compares the digest itself.

    Args:
        connection: where to look.
        fingerprint: the fingerprint.
        cuts: the point in history; None for now.
    """
    code = _type_code(connection, fingerprint.type)
    if code == _ID_TYPE:
        return []
    if cuts is None:
        cuts = load_now(connection)
    return sorted(
        Place(span, position, row, bucket)
        for span, position, row, bucket, until in connection.execute(
            """SELECT p.span, p.position, p.row, p.bucket, s.by_position
            FROM run CROSS JOIN posting AS p USING (run)
            LEFT JOIN superseded AS s USING (span, position, row)
            WHERE p.digest = ? AND p.kind BETWEEN ? AND ? AND p.op = ?""",
            (_index_key(fingerprint.digest), 2 * code, 2 * code + 1, OpKind.ASSERT),
        )
        if _holds(span, position, until, cuts)
    )


def find_many(
    connection: sqlite3.Connection,
    type_name: str,
    digests: Iterable[bytes],
    cuts: Cuts | None = None,
) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield (span, bucket, position, row, digest) of assertions in force with one of many digests.

    The bucket is `NO_BUCKET` for an operation that came with its delta.

    Args:
        connection: where to look.
        type_name: the hash type of all of them.
        digests: distinct digests of one width.
        cuts: the point in history; None for now.
    """
    code = _type_code(connection, type_name)
    if code == _ID_TYPE:
        return
    if cuts is None:
        cuts = load_now(connection)
    # In the order of the index, neighbours share its pages.
    ordered = sorted(digests)
    if ordered and len(ordered[0]) > LONGEST_KEY:
        ordered.sort(key=_index_key)
    for start in range(0, len(ordered), NUMBERS):
        some = ordered[start : start + NUMBERS]
        keys = _index_column(b"".join(some), len(some[0]))
        rows = connection.execute(
            """SELECT n.n, p.span, coalesce(p.bucket, ?6), p.position, p.row, s.by_position
            FROM run CROSS JOIN number AS n CROSS JOIN posting AS p
            ON p.run = run.run
                AND p.digest = substr(?1, n.n * ?2 + 1, ?2) AND p.kind BETWEEN ?3 AND ?3 + 1
            LEFT JOIN superseded AS s USING (span, position, row)
            WHERE n.n < ?4 AND p.op = ?5""",
            (keys, len(keys) // len(some), 2 * code, len(some), OpKind.ASSERT, NO_BUCKET),
        )
        # The same as `_holds`, without a call for each.
        yield from [
            (span, bucket, position, row, some[index])
            for index, span, bucket, position, row, until in rows
            if position < (size := cuts.get(span, 0)) and (until is None or until >= size)
        ]


def load_now(connection: sqlite3.Connection) -> Cuts:
    """Return the point in history that is now: everything that is here, of every list."""
    return {span: NOW for (span,) in connection.execute("SELECT span FROM list")}


def _holds(span: int, position: int, until: int | None, cuts: Cuts) -> bool:
    """Return whether an operation from a position until another one is in force after `cuts`."""
    size = cuts.get(span, 0)
    return position < size and (until is None or until >= size)


def find_entries(
    connection: sqlite3.Connection, span: int, fingerprint: Fingerprint
) -> list[Place]:
    """Return every assertion of a span that ever had a fingerprint, in force or not."""
    code = _type_code(connection, fingerprint.type)
    if code == _ID_TYPE:
        return []
    return [
        Place(*row)
        for row in connection.execute(
            "SELECT span, position, row, bucket FROM run CROSS JOIN posting USING (run) "
            "WHERE digest = ? AND kind BETWEEN ? AND ? "
            "AND span = ? AND op = ? ORDER BY position, row",
            (_index_key(fingerprint.digest), 2 * code, 2 * code + 1, span, OpKind.ASSERT),
        )
    ]


def load_versions(connection: sqlite3.Connection, span: int, entry: EntryId) -> list[Version]:
    """Return every operation of a span on an entry, oldest first."""
    code = _type_code(connection, entry.type) if entry.type else _ID_TYPE
    if entry.type and code == _ID_TYPE:
        return []
    return [
        Version(_place(span, position, row, bucket), _kind(op), until)
        for position, row, bucket, op, until in connection.execute(
            """SELECT p.position, p.row, p.bucket, p.op, s.by_position
            FROM run CROSS JOIN posting AS p USING (run)
            LEFT JOIN superseded AS s USING (span, position, row)
            WHERE p.digest = ? AND p.kind = ? AND p.span = ? ORDER BY p.position""",
            (_index_key(entry.key), _key_kind(code), span),
        )
    ]


def load_in_force(connection: sqlite3.Connection, span: int, entry: EntryId) -> Version | None:
    """Return the operation in force on an entry of a span, or None."""
    versions = load_versions(connection, span, entry)
    return versions[-1] if versions else None
