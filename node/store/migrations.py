"""Builds the schema of a store, or brings it up to date.

By sqlite-utils, which takes as long to import as half of what a short command does. So this module
is imported where there is a step to take, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlite_utils import Database, Migrations

from node.store.schema import MIGRATION_SET, Schema
from node.store.sqlite import sqlite3


def migrate(connection: sqlite3.Connection, schema: Schema) -> None:
    """Take all steps that were not taken yet, each in a transaction of its own."""
    migrations = Migrations(MIGRATION_SET)
    for name, statements in schema.items():
        _add(migrations, name, statements)
    migrations.apply(Database(connection))


def _add(migrations: Migrations, name: str, statements: Sequence[str]) -> None:
    @migrations(name=name)
    def _take(db: Database) -> None:
        for statement in statements:
            db.execute(statement)
