"""Reads the tables of a store for a check of whether they are consistent.

`node.fsck` judges the results. A damaged page can give any column any value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Final, Literal, NamedTuple

from node.store.schema import NUMBERS, POSITION_BITS, Schema
from node.store.sqlite import sqlite3

_SCHEMA: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master "
    "WHERE name NOT LIKE 'sqlite%' AND name NOT LIKE '_sqlite%' ORDER BY type, name"
)
_MOST_REFERENCES: Final = 20
"""How many dangling rows are reported at most: one is enough to prove damage."""


class PeerRow(NamedTuple):
    """The record of a peer. If its organization is missing, only the number is known."""

    number: int
    org: str | None
    certificate: str
    certificate_sha256: bytes


class ListRow(NamedTuple):
    """The record of a list: ownership, size, peer, state, and how much is released."""

    own: int
    size: int
    via: int | None
    state: str | None
    released: int | None


class SpanRow(NamedTuple):
    """The record of a span."""

    span: int
    list: int
    start: int
    snapshot: int | None


class Versions(NamedTuple):
    """The number of versions, the first, the newest, and how many go back in time."""

    rows: int
    first: int
    newest: int
    backwards: int


# --- tables -----------------------------------------------------------------------------------


def iter_file_problems(connection: sqlite3.Connection, most: int) -> Iterator[str]:
    """Yield what SQLite's own check finds wrong with the file, at most `most` lines."""
    for (line,) in connection.execute(f"PRAGMA integrity_check({int(most)})"):
        if line != "ok":
            yield str(line)


def iter_schema_differences(
    connection: sqlite3.Connection, schema: Schema
) -> Iterator[tuple[str, str]]:
    """Yield kind and name of everything that differs from what the schema's steps make."""
    from node.store import migrations  # noqa: PLC0415  # slow to import, and only needed here

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        migrations.migrate(made, schema)
        expected = dict.fromkeys(made.execute(_SCHEMA).fetchall())
    found = dict.fromkeys(connection.execute(_SCHEMA).fetchall())
    for kind, name, *_ in expected.keys() ^ found.keys():
        yield kind, name


def has_all_numbers(connection: sqlite3.Connection) -> bool:
    """Return whether the table of numbers is complete."""
    found = connection.execute("SELECT count(*), min(n), max(n) FROM number").fetchone()
    return bool(found == (NUMBERS, 0, NUMBERS - 1))


def iter_dangling(connection: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
    """Yield table, row and parent table of some rows that refer to a missing row."""
    rows = connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_REFERENCES)
    for table, row, parent, _ in rows:
        yield table, row, parent


# --- what is recorded beside the lists --------------------------------------------------------


def is_pinned(connection: sqlite3.Connection, org: str | None) -> bool:
    """Say whether the root of an organization is here."""
    return connection.execute("SELECT 1 FROM org WHERE name = ?", (org,)).fetchone() is not None


def iter_orgs_without_lists(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the names of organizations that have no list here, in order."""
    for (name,) in connection.execute(
        "SELECT name FROM org WHERE org NOT IN (SELECT org FROM list) ORDER BY name"
    ).fetchall():
        yield name


def iter_peers(connection: sqlite3.Connection) -> Iterator[PeerRow]:
    """Yield the record of each peer, by number."""
    for (number,) in connection.execute("SELECT org FROM peer ORDER BY org").fetchall():
        row = connection.execute(
            "SELECT p.org, o.name, p.certificate, p.certificate_sha256 "
            "FROM peer AS p JOIN org AS o USING (org) WHERE org = ?",
            (number,),
        ).fetchone()
        yield PeerRow(number, None, "", b"") if row is None else PeerRow(*row)


def newest_version(connection: sqlite3.Connection) -> int:
    """Return the newest version of the store; 0 if none is recorded."""
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM version").fetchone()
    return int(version)


def measure_versions(connection: sqlite3.Connection) -> Versions:
    """Return a summary of the recorded versions."""
    rows, first, newest = connection.execute(
        "SELECT count(*), coalesce(min(version), 1), coalesce(max(version), 0) FROM version"
    ).fetchone()
    (backwards,) = connection.execute(
        "SELECT count(*) FROM (SELECT committed_ms < lag(committed_ms) OVER (ORDER BY version) "
        "AS earlier FROM version) WHERE earlier"
    ).fetchone()
    return Versions(rows, first, newest, backwards)


def load_list(connection: sqlite3.Connection, number: int) -> ListRow:
    """Return the record of a list, which must exist."""
    return ListRow(
        *connection.execute(
            """SELECT l.own, l.size, l.via, f.state, r.size FROM list AS l
            LEFT JOIN follow_state AS f USING (list) LEFT JOIN released AS r USING (list)
            WHERE l.list = ?""",
            (number,),
        ).fetchone()
    )


def count_disordered(connection: sqlite3.Connection, number: int) -> int:
    """Return how many leaves of a list have a lower version than an earlier leaf, or none."""
    (disordered,) = connection.execute(
        """SELECT count(*) FROM (
            SELECT version, lag(version, 1, 0) OVER (ORDER BY id) AS earlier FROM delta
            WHERE id >= ?1 << ?2 AND id < (?1 + 1) << ?2
        ) WHERE version < earlier OR version > (SELECT max(version) FROM version)""",
        (number, POSITION_BITS),
    ).fetchone()
    return int(disordered)


# --- how many rows there are ------------------------------------------------------------------


def iter_spans(connection: sqlite3.Connection) -> Iterator[SpanRow]:
    """Yield the record of each span."""
    for row in connection.execute("SELECT span, list, start, snapshot FROM span").fetchall():
        yield SpanRow(*row)


def count_by_span(
    connection: sqlite3.Connection, table: Literal["posting", "superseded"]
) -> Counter[int]:
    """Return how many rows of the index each span has."""
    statements = {
        "posting": "SELECT span, count(*) FROM posting GROUP BY span",
        "superseded": "SELECT span, count(*) FROM superseded GROUP BY span",
    }
    return Counter(dict(connection.execute(statements[table]).fetchall()))


def count_by_list(
    connection: sqlite3.Connection, table: Literal["delta", "body"]
) -> Iterator[tuple[int, int]]:
    """Yield the number of each list and how many rows it has."""
    statements = {
        "delta": "SELECT id >> ?1, count(*) FROM delta GROUP BY id >> ?1",
        "body": "SELECT id >> ?1, count(*) FROM body GROUP BY id >> ?1",
    }
    yield from connection.execute(statements[table], (POSITION_BITS,))


def count_stray_buckets(connection: sqlite3.Connection) -> int:
    """Return how many buckets belong to a missing snapshot."""
    (strays,) = connection.execute(
        "SELECT count(*) FROM bucket WHERE id >> ? NOT IN (SELECT snapshot FROM snapshot)",
        (POSITION_BITS,),
    ).fetchone()
    return int(strays)


def count_ended_later(connection: sqlite3.Connection, span: int, end: int) -> int:
    """Return how many operations of a span are recorded as ended at position `end` or later."""
    (later,) = connection.execute(
        "SELECT count(*) FROM superseded WHERE span = ? AND by_position >= ?", (span, end)
    ).fetchone()
    return int(later)


def count_parts(connection: sqlite3.Connection) -> int:
    """Return how many leaves and buckets there are to check."""
    (leaves,) = connection.execute("SELECT coalesce(sum(size), 0) FROM list").fetchone()
    (buckets,) = connection.execute("SELECT count(*) FROM bucket").fetchone()
    return int(leaves) + int(buckets)
