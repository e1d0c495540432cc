"""How much of our own lists may leave this machine, and which store this is.

A delta is committed first; then the high-water mark is raised; then the delta is released here. A
delta that is not released is served to nobody.
"""

from __future__ import annotations

import secrets
from typing import Final

from node.errors import DamageError
from node.store.connection import Transaction
from node.store.lists import ListRecord
from node.store.schema import pack
from node.store.sqlite import sqlite3

_INCARNATION: Final = "incarnation"
_INCARNATION_BYTES: Final = 16


def released_size(connection: sqlite3.Connection, record: ListRecord) -> int:
    """Return how many deltas of a list may leave; all of them if it is another organization's."""
    if not record.own:
        return record.log.size
    row = connection.execute("SELECT size FROM released WHERE list = ?", (record.list,)).fetchone()
    return 0 if row is None else min(int(row[0]), record.log.size)


def release(connection: sqlite3.Connection, list_number: int, size: int) -> None:
    """Let the first `size` deltas of one of our lists leave. The mark has been raised to that."""
    connection.execute(
        "INSERT INTO released (list, size) VALUES (?, ?) "
        "ON CONFLICT (list) DO UPDATE SET size = max(size, excluded.size)",
        (list_number, size),
    )


def load_unreleased(connection: sqlite3.Connection) -> list[int]:
    """Return the numbers of our lists that have committed deltas that are not released."""
    rows = connection.execute(
        "SELECT l.list FROM list AS l LEFT JOIN released AS r USING (list) "
        "WHERE l.own AND l.size > coalesce(r.size, 0)"
    )
    return [int(number) for (number,) in rows]


def settled_size(connection: sqlite3.Connection, record: ListRecord) -> int:
    """Return the size of a list before its newest committed step: a step is one store version."""
    start = pack(record.list, 0)
    row = connection.execute(
        """SELECT id FROM delta WHERE id >= ?1 AND id < ?2
        AND version < (SELECT version FROM delta WHERE id = ?2 - 1) ORDER BY id DESC LIMIT 1""",
        (start, start + record.log.size),
    ).fetchone()
    return 0 if row is None else int(row[0]) - start + 1


def load_incarnation(connection: sqlite3.Connection) -> bytes:
    """Return the token of this store.

    Raises:
        DamageError: it has none.
    """
    row = connection.execute("SELECT value FROM node WHERE key = ?", (_INCARNATION,)).fetchone()
    try:
        return bytes.fromhex(row[0])
    except (ValueError, TypeError) as error:
        raise DamageError("this store has no valid token", hint="run 'hashfed fsck'") from error


def rotate_incarnation(transaction: Transaction) -> bytes:
    """Give this store a token that no other has; return it."""
    token = secrets.token_bytes(_INCARNATION_BYTES)
    transaction.connection.execute(
        "INSERT INTO node (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_INCARNATION, token.hex()),
    )
    return token


SignedRange = tuple[bytes, bytes, bytes, int]
"""The newest signed part of the staged changes, as in `node.staging.file.StagedRange`."""


def store_signed_range(
    connection: sqlite3.Connection, list_number: int, signed: SignedRange
) -> None:
    """Record the newest signed part of a list's staged changes, together with the deltas."""
    connection.execute(
        "INSERT OR REPLACE INTO signed_extent (list, staging, first, last, edit) "
        "VALUES (?, ?, ?, ?, ?)",
        (list_number, *signed),
    )


def load_signed_range(connection: sqlite3.Connection, list_number: int) -> SignedRange | None:
    """Return the newest signed part of a list's staged changes; None if nothing was signed."""
    row: SignedRange | None = connection.execute(
        "SELECT staging, first, last, edit FROM signed_extent WHERE list = ?", (list_number,)
    ).fetchone()
    return row
