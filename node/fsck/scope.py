"""The state that the parts of a list's check share: the list, the progress, the form of damage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation import limits
from node.fsck.journal import Journal, ListCursor
from node.store import log
from node.store.damage import Damage, DamageKind
from node.store.lists import ListRecord
from node.store.spans import Span
from node.store.sqlite import sqlite3

Steps = Iterator[Damage | None]
"""Damages as they are found, and None where the check can be interrupted."""

_NAMED_ROWS: Final = 10
"""The most operations of one leaf that are reported one by one as missing in the index."""


@dataclass(slots=True)
class Scope:
    """The list that is checked.

    Attributes:
        connection: the store.
        number, origin: the list's number and its name.
        directory: the folder of temporary files.
        journal: the progress of each part.
        done: how many leaves and buckets were checked in this pass.
        total: how many there are.
    """

    connection: sqlite3.Connection
    number: int
    origin: str
    directory: Path
    journal: Journal
    done: int = 0
    total: int = 0

    @property
    def cursor(self) -> ListCursor:
        """The progress in the list's own part."""
        return self.journal.of_list(self.number)

    def damage(
        self, kind: DamageKind, position: int | None, message: str, row: int | None = None
    ) -> Damage:
        """Return a damage of this list."""
        return Damage(kind=kind, origin=self.origin, position=position, row=row, message=message)

    def name_rows(self, position: int, expected: int, missing: Sequence[int], where: str) -> Steps:
        """Report operations of a leaf whose rows the index does not have."""
        for row in sorted(set(missing))[:_NAMED_ROWS]:
            yield self.damage(
                DamageKind.INDEX,
                position,
                f"index: {len(missing)} of {expected} fingerprints and names{where} are not found",
                row=row,
            )

    def end_of(self, record: ListRecord, span: Span) -> int:
        """Return the size at which the stored leaves of a span end, without using its record."""
        recorded = record.log.size if span.stop is None else span.stop
        most = min(recorded, limits.MAX_TREE_SIZE)
        newest = next(log.iter_records(self.connection, self.number, 0, most, newest=True), None)
        return 0 if newest is None else newest.position + 1
