"""Builds the schema of a store, or brings it up to date.

It uses sqlite-utils, whose import takes half the time of a short command. So this module is only
imported where there is a step to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlite_utils import Database, Migrations

from node.store.schema import MIGRATION_SET, Schema
from node.store.sqlite import sqlite3


def migrate(connection: sqlite3.Connection, schema: Schema) -> None:
    """Take all steps that are still missing, each in its own transaction."""
    migrations = Migrations(MIGRATION_SET)
    for name, statements in schema.items():
        _add(migrations, name, statements)
    migrations.apply(Database(connection))


def _add(migrations: Migrations, name: str, statements: Sequence[str]) -> None:
    @migrations(name=name)
    def _take(db: Database) -> None:
        for statement in statements:
            db.execute(statement)


_UNSIGNED: Final[dict[str, str]] = {
    "the organizations": "SELECT name, root FROM org ORDER BY name",
    "the peers": "SELECT o.name, p.address, p.certificate FROM peer AS p JOIN org AS o USING (org) "
    "ORDER BY o.name",
    "the lists": "SELECT o.name, l.name, l.own, l.size, l.frontier, l.last_leaf, l.live_count, "
    "l.charter, v.name FROM list AS l JOIN org AS o ON o.org = l.org "
    "LEFT JOIN org AS v ON v.org = l.via ORDER BY o.name, l.name",
    "what is released": "SELECT list, size FROM released ORDER BY list",
    "the deltas that were fetched one by one": "SELECT count(*) FROM fetched",
    "the versions": "SELECT count(*), max(version), max(committed_ms) FROM version",
    "whose store it is": "SELECT key, value FROM node ORDER BY key",
}
"""Data that a migration may not change and that `fsck` cannot derive from signed bytes. It is read
through the old schema and the new one."""


def read_unsigned(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return the data that a migration may not change and that `fsck` cannot derive, by kind."""
    return {what: connection.execute(query).fetchall() for what, query in _UNSIGNED.items()}
