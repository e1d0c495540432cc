"""The background scrub: the check of `node.fsck.check` in slices, again and again.

A slice reads one version of the store. The next slice continues by the journal, even in another
process. New damage is added at once to the findings that every answer takes into account.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.clock import Clock
from node.errors import DamageError
from node.fsck import journal as fsck_journal
from node.fsck.check import inspect, resume
from node.fsck.journal import Journal
from node.home import Home
from node.store import consistency
from node.store import damage as store_damage
from node.store.connection import Store
from node.store.damage import Damage, DamageKind, Findings
from node.store.sqlite import sqlite3
from node.system import durable, locks

_SLICE_SECONDS: Final = 0.2
"""Bytes that are read without a pause."""

_CACHE_KIB: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The result of one slice.

    Attributes:
        found: the newly found damage.
        part: the share of the pass that is done, from 0 to 1.
        ended: whether the pass has ended.
    """

    found: tuple[Damage, ...]
    part: float
    ended: bool


class Scrub:
    """Checks the store of a running node. One thread calls its methods, except `stop`."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._stopped = False
        self._connection: sqlite3.Connection | None = None

    def stop(self) -> None:
        """End a running slice at once; its result does not count."""
        self._stopped = True
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def step(self) -> Slice | None:
        """Check one slice; return its result, or None if it was stopped.

        Raises:
            LockedError: `hashfed fsck` is running.
            StoreError: the findings or the journal could not be written.
        """
        home = self._home
        path = home.store.resolve()
        with locks.hold(home.lock_file("fsck"), "hashfed serve"):
            try:
                store = Store.open_reader(path, self._clock)
            except DamageError as error:
                return self._end(path, [_file_damage(error)])
            try:
                store.limit_cache(_CACHE_KIB)
                self._connection = store.connection
                return self._check(store)
            finally:
                self._connection = None
                store.close()

    def _check(self, store: Store) -> Slice | None:
        path, kept = store.path, self._home.scrub_journal
        if not kept.exists():
            # Check the data on the disk, not the system's cached copy of it.
            durable.forget_cached(path)
        found: list[Damage] = []
        deadline = time.monotonic() + _SLICE_SECONDS
        with store.snapshot() as connection:
            journal = resume(connection, kept, self._clock.now_ms())
            part = _part(connection, journal)
            ended = True
            for damage in inspect(connection, path.parent, journal):
                if damage is not None:
                    found.append(damage)
                elif self._stopped or time.monotonic() > deadline:
                    ended = False
                    break
            if self._stopped:
                return None
            if not ended:
                part = _part(connection, journal)
        if ended:
            return self._end(path, found, journal)
        store_damage.add(path, found)
        journal.store(kept)
        return Slice(found=tuple(found), part=part, ended=False)

    def _end(self, path: Path, found: list[Damage], journal: Journal | None = None) -> Slice:
        known = store_damage.load(path).damages
        every = found if journal is None else list(journal.damages)
        store_damage.store(path, Findings(ended_ms=self._clock.now_ms(), damages=tuple(every)))
        fsck_journal.forget(self._home.scrub_journal)
        new = tuple(damage for damage in found if damage not in known)
        return Slice(found=new, part=1.0, ended=True)


def _file_damage(error: Exception) -> Damage:
    return Damage(kind=DamageKind.FILE, origin="", position=None, message=str(error))


def _part(connection: sqlite3.Connection, journal: Journal) -> float:
    """Return the share of a pass that is done, in leaves and buckets."""
    try:
        parts = consistency.count_parts(connection)
    except sqlite3.DatabaseError:
        return 0.0
    done: int = sum(cursor.position for cursor in journal.spans.values())
    done += sum(cursor.bucket for cursor in journal.snapshots.values())
    return min(1.0, done / max(1, parts))
