"""Damage that is done to a store behind its back, in SQL."""

from __future__ import annotations

from node.store.connection import Store


def damage(store: Store, statement: str, *values: object) -> None:
    """Change some rows."""
    # Another program would not keep to foreign keys either.
    store.connection.execute("PRAGMA foreign_keys = OFF")
    assert store.connection.execute(statement, values).rowcount > 0


def flip_bit(store: Store, table: str, column: str, where: str, at: int) -> None:
    """Flip a bit of one column's byte number `at`, in the first row that is meant."""
    rowid, data = store.connection.execute(
        f"SELECT rowid, {column} FROM {table} WHERE {where} LIMIT 1"  # noqa: S608
    ).fetchone()
    flipped = bytearray(data)
    flipped[at] ^= 0x01
    damage(store, f"UPDATE {table} SET {column} = ? WHERE rowid = ?", bytes(flipped), rowid)  # noqa: S608
