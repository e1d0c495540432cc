"""Opens the store and owns its transactions.

One connection is used by one thread at a time. Writers take the write lock at BEGIN, so that what
they read is still true when they write. A transaction is one version of the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from node.clock import Clock
from node.errors import DamageError, DiskError, LockedError, StoreError
from node.store.copies import list_replaced
from node.store.schema import MIGRATION_SET, MIGRATIONS, Schema
from node.store.sqlite import is_disk_failure, sqlite3, sqlite_errors
from node.system import durable

OLDEST_SQLITE: Final = (3, 51, 3)
"""Older versions can lose committed data: the WAL-reset bug (sqlite.org, 2026-03-13)."""

_BUSY_SECONDS: Final = 30.0
_PRAGMAS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA cache_size = -65536",
    "PRAGMA synchronous = FULL",
)
# This comes before anything reads the file, so that its locks are taken at once and kept.
_ALONE: Final = ("PRAGMA busy_timeout = 2000", "PRAGMA locking_mode = EXCLUSIVE")


@dataclass(slots=True)
class Transaction:
    """An open write transaction.

    Attributes:
        connection: where to execute.
        version: the store version that it will be.
        now_ms: the time of its commit, in milliseconds since 1970.
        abandoned: whether it is to be rolled back at its end.
    """

    connection: sqlite3.Connection
    version: int
    now_ms: int
    abandoned: bool = False

    def abandon(self) -> None:
        """Discard the transaction at its end: it turned out to change nothing."""
        self.abandoned = True


class Store:
    """One node's store.

    Attributes:
        path: the database file.
        connection: for reading; write in a `write` block only.
        schema: what it is expected to have.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Clock) -> None:
        self.path = path
        self.connection = connection
        self.schema: Schema = MIGRATIONS
        self._clock = clock
        self._failed = False

    @classmethod
    def create(cls, path: Path, clock: Clock) -> Self:
        """Create the store of a new node.

        Raises:
            StoreError: there is a file at that path already, or SQLite is too old.
        """
        if path.exists():
            raise StoreError(f"{path} exists already")
        # Nobody else on this machine may read a list.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with cls._connected(path, clock) as store:
            # Nothing is vacuumed. But in this mode the file records what each page continues, so a
            # part of a body can be read without all the pages before it (docs/adr/0013).
            store.connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            store.connection.execute("PRAGMA journal_mode = WAL")
            store.migrate()
        return store

    @classmethod
    def open(cls, path: Path, clock: Clock, *, schema: Schema = MIGRATIONS) -> Self:
        """Open an existing store for reading and writing.

        Raises:
            StoreError: there is none, it is from another hashfed, or SQLite is too old.
            DamageError: the file is no store of this program.
        """
        # A transaction whose commit failed may be in the file as if it had succeeded.
        durable.forget_cached(Path(f"{path}-wal"))
        with cls._connected(path, clock) as store:
            store.schema = schema
            store.check_schema()
            # A backup is one file without a log. As it is, it would make readers and writers wait
            # for each other.
            store.connection.execute("PRAGMA journal_mode = WAL")
        return store

    @classmethod
    def open_reader(cls, path: Path, clock: Clock, *, schema: Schema = MIGRATIONS) -> Self:
        """Open an existing store for reading only; each query sees what was committed before it.

        Raises:
            StoreError: there is none, it is from another hashfed, or SQLite is too old.
            DamageError: the file is no store of this program.
        """
        with cls._connected(path, clock) as store:
            store.connection.execute("PRAGMA query_only = ON")
            store.schema = schema
            store.check_schema()
        return store

    @classmethod
    def open_alone(cls, path: Path, clock: Clock, *, schema: Schema = MIGRATIONS) -> Self:
        """Open a store that may be from an older hashfed, to migrate it.

        While it is open, nobody else can read or write it.

        Raises:
            LockedError: another process has it open.
            StoreError: there is none, it is from a newer hashfed, or SQLite is too old.
            DamageError: the file is no store of this program.
        """
        try:
            with cls._connected(path, clock, _ALONE) as store:
                store.connection.execute("BEGIN EXCLUSIVE")
                store.connection.execute("COMMIT")
                store.schema = schema
                store.missing_steps()
        except LockedError as error:
            raise LockedError(
                f"{path} is open in another process",
                hint="end every other command and 'hashfed serve' on it, and try again",
            ) from error
        return store

    @classmethod
    @contextmanager
    def _connected(cls, path: Path, clock: Clock, before: Sequence[str] = ()) -> Iterator[Self]:
        """Connect, and close again if the block finds that the store cannot be used."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} can lose committed data; at least "
                f"{'.'.join(map(str, OLDEST_SQLITE))} is needed",
                hint="install the locked dependencies: scripts/setup",
            )
        if not path.exists():
            if replaced := list_replaced(path):
                raise StoreError(
                    f"there is no store at {path}: its replacement was interrupted",
                    hint="run that command again: 'hashfed restore BACKUP' or 'hashfed fsck "
                    f"--repair'; the former store is {replaced[-1]}",
                )
            raise StoreError(
                f"there is no store at {path}",
                hint="run 'hashfed --home DIR init --org ORG' first, or check --home",
            )
        with sqlite_errors(path):
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_SECONDS,
                check_same_thread=False,
            )
            try:
                for pragma in (*before, *_PRAGMAS):
                    connection.execute(pragma)
                yield cls(path, connection, clock)
            except BaseException:
                connection.close()
                raise

    def check_schema(self) -> None:
        """Raise an error unless the schema is this program's.

        Raises:
            DamageError: the file is no store of this program.
            StoreError: it is from a newer hashfed; OLDER if it is from an older one.
        """
        if missing := self.missing_steps():
            raise StoreError(
                f"{self.path} is from an older hashfed (without {', '.join(missing)})",
                hint="stop 'hashfed serve' and run 'hashfed migrate', which keeps the old store",
                reason="OLDER",
            )

    def missing_steps(self) -> list[str]:
        """Return the names of the steps that the schema of this store lacks, in their order.

        Raises:
            DamageError: the file is no store of this program.
            StoreError: it is from a newer hashfed.
        """
        known = self.connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlite_migrations'"
        ).fetchone()
        if known is None:
            raise DamageError(
                f"{self.path} is not a hashfed store",
                hint="keep the file; put the right one back, or run 'hashfed restore BACKUP'",
            )
        taken = self._load_steps()
        if not taken or any(
            _differ_by_a_bit(name, other) for name in taken for other in self.schema
        ):
            raise DamageError(f"{self.path}: its schema cannot be read", hint="run 'hashfed fsck'")
        if newer := taken - self.schema.keys():
            raise StoreError(
                f"{self.path} is from a newer hashfed ({', '.join(sorted(newer))})",
                hint="update hashfed on this machine",
                reason="NEWER",
            )
        return [name for name in self.schema if name not in taken]

    def migrate(self) -> None:
        """Take the steps that the schema lacks. Nobody else may have the file open."""
        from node.store.migrations import migrate  # noqa: PLC0415  # rarely needed, slow to import

        with sqlite_errors(self.path):
            migrate(self.connection, self.schema)

    def _load_steps(self) -> set[str]:
        """Return the names of the steps that the schema was built by."""
        rows = self.connection.execute(
            "SELECT name FROM _sqlite_migrations WHERE migration_set = ?", (MIGRATION_SET,)
        )
        return {str(name) for (name,) in rows}

    def close(self) -> None:
        """Close the connection."""
        # Closing the last connection writes the log into the file. After a disk failure nothing
        # may be written by a process that does not know what the disk holds.
        if not self._failed:
            self.connection.close()

    @property
    def version(self) -> int:
        """The newest version that is committed; 0 for an empty store."""
        row = self.connection.execute("SELECT max(version) FROM version").fetchone()
        return int(row[0] or 0)

    @property
    def data_version(self) -> int:
        """A number that changes when another connection commits. Reads memory only."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def limit_cache(self, kib: int) -> None:
        """Use at most this many KiB for pages of the file."""
        self.connection.execute(f"PRAGMA cache_size = -{int(kib)}")

    @contextmanager
    def write(self, kind: str, detail: str) -> Iterator[Transaction]:
        """Run a block as one transaction, which becomes the next version of the store.

        Args:
            kind: the kind of change: `publish`, `sync`, `peer`, `list`, ...
            detail: what the change is about, for people.

        Raises:
            LockedError: another process is writing and does not come to an end.
            StoreFullError: no room left. Nothing of the block is kept.
            DiskError: the disk failed, now or before. Nobody knows whether the block is kept.
            StoreError: the database could not be written.
        """
        with self._transaction() as connection:
            newest = connection.execute(
                "SELECT version, committed_ms FROM version ORDER BY version DESC LIMIT 1"
            ).fetchone()
            version, before = newest if newest is not None else (0, 0)
            # Times of versions never decrease, so that a time identifies one version.
            transaction = Transaction(connection, version + 1, max(before, self._clock.now_ms()))
            yield transaction
            if transaction.abandoned:
                connection.execute("ROLLBACK")
                return
            connection.execute(
                "INSERT INTO version (version, committed_ms, kind, detail) VALUES (?, ?, ?, ?)",
                (transaction.version, transaction.now_ms, kind, detail),
            )

    @contextmanager
    def update_status(self) -> Iterator[sqlite3.Connection]:
        """Run a block that changes no content, such as `follow_state`: it makes no version."""
        with self._transaction() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block from BEGIN to COMMIT; after a failure of the disk, never again."""
        if self._failed:
            raise DiskError(f"{self.path}: the disk failed before, so nothing more is written")
        connection = self.connection
        with sqlite_errors(self.path):
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                if connection.in_transaction:
                    connection.execute("COMMIT")
            except BaseException as error:
                if is_disk_failure(error):
                    # The commit may be on the disk nevertheless: no ROLLBACK, which would deny it.
                    self._failed = True
                    raise DiskError(f"{self.path}: {error}") from error
                if connection.in_transaction and not self._failed:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Run a block of reads that all see the same version."""
        with sqlite_errors(self.path):
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            finally:
                self.connection.execute("ROLLBACK")


def _differ_by_a_bit(name: str, other: str) -> bool:
    """Return whether two names differ in exactly one bit."""
    if len(name) != len(other):
        return False
    flipped = [ord(here) ^ ord(there) for here, there in zip(name, other, strict=True)]
    return sum(bits.bit_count() for bits in flipped) == 1
