"""Builds the schema of a store, or brings it up to date.

By sqlite-utils, which takes as long to import as a fifth of what a short command does in all. So
this module is imported where there is a step to take, and nowhere else.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from node.store.schema import MIGRATION_SET, MIGRATIONS
from node.store.sqlite import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    """Take all steps that were not taken yet, each in a transaction of its own."""
    migrations = Migrations(MIGRATION_SET)
    for name in MIGRATIONS:
        _add_step(migrations, name)
    migrations.apply(Database(connection))


def _add_step(migrations: Migrations, name: str) -> None:
    @migrations(name=name)
    def take(db: Database) -> None:
        for statement in MIGRATIONS[name]:
            db.execute(statement)
