"""All that is stored against what was signed.

Every signature, leaf, root, body, bucket, operation and index row is derived again from the signed
bytes alone, and every damage is named. Memory does not grow with the store: one delta or bucket at
a time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from federation.errors import FederationError
from node.errors import DamageError
from node.fsck import journal as fsck_journal
from node.fsck.journal import Journal
from node.fsck.lists import ListCheck
from node.fsck.records import CHECKS, check_schema
from node.fsck.scope import Scope, Steps
from node.store import consistency, history, orgs, runs
from node.store import lists as list_store
from node.store.connection import Store
from node.store.damage import Damage, DamageKind
from node.store.schema import MIGRATIONS, Schema
from node.store.sqlite import sqlite3

__all__ = ["Damage", "DamageKind", "ProgressCallback", "fsck", "inspect"]

ProgressCallback = Callable[[str, int, int], None]
"""Is told (origin, leaves and buckets done, all of them)."""

_SAVE_SECONDS: Final = 2.0
"""How much of a check is done again, at most, when it is killed."""

_LINES: Final = 100
"""Lines that SQLite may say of one file."""


def fsck(
    store: Store,
    *,
    on_progress: ProgressCallback = lambda _o, _d, _n: None,
    journal: Path | None = None,
    now_ms: int = 0,
) -> Iterator[Damage]:
    """Derive everything again from the signed bytes, and yield what differs.

    Changes nothing. The newest snapshot of each list is made again.

    Args:
        store: the store; others may go on writing.
        on_progress: told (origin, leaves and buckets done, all of them) after each.
        journal: a file that says how far an interrupted check has come: it goes on there, and
            yields what it had found; None for a check from the beginning.
        now_ms: the time, to be kept as when the check began.

    Raises:
        StoreError: the journal could not be written.
    """
    # One version of the store: what others commit meanwhile would look like damage.
    with store.snapshot() as connection:
        state = resume(connection, journal, now_ms)
        saved = time.monotonic()
        ended = False
        try:
            yield from list(state.damages)
            for damage in inspect(
                connection, store.path.parent, state, on_progress, schema=store.schema
            ):
                if damage is not None:
                    yield damage
                elif journal is not None and time.monotonic() > saved + _SAVE_SECONDS:
                    state.store(journal)
                    saved = time.monotonic()
            ended = True
        finally:
            if journal is not None:
                if ended:
                    fsck_journal.forget(journal)
                else:
                    state.store(journal)


def resume(connection: sqlite3.Connection, journal: Path | None, now_ms: int) -> Journal:
    """Return how far a check of this very store has come, or a new one."""
    try:
        incarnation = orgs.load_node(connection, "incarnation") or ""
        version = consistency.newest_version(connection)
    except sqlite3.DatabaseError:
        # It is found by the check.
        return Journal(began_ms=now_ms)
    held = None if journal is None else Journal.load(journal)
    if held is None or held.incarnation != incarnation or held.version > version:
        return Journal(incarnation=incarnation, version=version, began_ms=now_ms)
    held.version = version
    return held


def inspect(
    connection: sqlite3.Connection,
    directory: Path,
    journal: Journal,
    on_progress: ProgressCallback = lambda _o, _d, _n: None,
    *,
    schema: Schema = MIGRATIONS,
) -> Steps:
    """Go on with a pass, in one read transaction; yield what is new, and None between two steps.

    A caller that stops between two steps can go on later, in another transaction, with the same
    journal.

    Args:
        connection: the store, in a read transaction.
        directory: where temporary files go.
        journal: how far the pass has come; it is kept up to date.
        on_progress: as `fsck`.
        schema: what the store is expected to have.
    """
    for damage in _inspect(connection, directory, journal, on_progress, schema):
        if damage is None:
            yield None
        elif damage not in journal.damages:
            journal.damages[damage] = None
            yield damage


def _inspect(
    connection: sqlite3.Connection,
    directory: Path,
    journal: Journal,
    on_progress: ProgressCallback,
    schema: Schema,
) -> Steps:
    origins: list[tuple[int, str]] = []
    try:
        # A damaged name can be of any kind: it is text here, or empty.
        origins = [
            (number, str(name or "")) for number, name in list_store.iter_origins(connection)
        ]
    except sqlite3.DatabaseError as error:
        yield _file_damage("", error)
    for number, origin in origins:
        if journal.of_list(number).lost:
            continue
        scope = Scope(connection, number, origin, directory, journal)
        told = 0
        for damage in _guarded(origin, ListCheck(scope).run(), journal, number):
            if damage is None and scope.done != told:
                told = scope.done
                on_progress(origin, told, scope.total)
            yield damage
    if not journal.file_checked:
        yield from _guarded("", _check_file(connection))
        journal.file_checked = True
        yield None
    # What can change rightly is compared as a whole, in this one transaction.
    names = dict(origins)
    for compare in (_compare_intervals, _compare_index, _compare_leaves):
        yield from _guarded("", compare(connection, names, journal))
    yield from _guarded("", check_schema(connection, schema))
    for check_records in CHECKS:
        yield from _guarded("", check_records(connection))


def _guarded(
    origin: str, steps: Steps, journal: Journal | None = None, number: int | None = None
) -> Steps:
    """Yield damages; what keeps the rest from being looked at is one too."""
    try:
        yield from steps
    except sqlite3.DatabaseError as error:
        yield _file_damage(origin, error)
    except (DamageError, FederationError) as error:
        yield Damage(kind=DamageKind.RECORD, origin=origin, position=None, message=str(error))
    except Exception as error:  # noqa: BLE001  # a damaged page gives any column any value
        message = f"a value of another kind than is stored: {type(error).__name__}: {error}"
        yield Damage(kind=DamageKind.FILE, origin=origin, position=None, message=message)
    else:
        return
    if journal is not None and number is not None:
        journal.of_list(number).lost = True


def _file_damage(origin: str, error: Exception) -> Damage:
    return Damage(
        kind=DamageKind.FILE, origin=origin, position=None, message=f"database file: {error}"
    )


def _check_file(connection: sqlite3.Connection) -> Steps:
    for line in consistency.iter_file_problems(connection, _LINES):
        yield Damage(
            kind=DamageKind.FILE, origin="", position=None, message=f"database file: {line}"
        )


def _name_spans(
    connection: sqlite3.Connection, origins: Mapping[int, str]
) -> tuple[dict[int, int], dict[int, str]]:
    """Return the list of each span, and that list's name."""
    lists = {row.span: row.list for row in consistency.iter_spans(connection)}
    return lists, {span: origins.get(number, "") for span, number in lists.items()}


def _compare_intervals(
    connection: sqlite3.Connection, origins: Mapping[int, str], _journal: Journal
) -> Steps:
    """Compare until when operations were in force with what follows from the index."""
    _, of_span = _name_spans(connection, origins)
    ended: Counter[int] = Counter()
    for interval in history.iter_intervals(connection):
        ended[interval.span] += interval.recorded
        if not interval.holds:
            yield Damage(
                kind=DamageKind.INTERVAL,
                origin=of_span.get(interval.span, ""),
                position=interval.position,
                row=interval.row,
                message=f"index: until when row {interval.row} was in force is not what follows "
                "from the operations on its entry",
            )
    found = consistency.count_by_span(connection, "superseded")
    for span in found.keys() | ended.keys():
        yield from _count(of_span.get(span, ""), "superseded", found[span], ended[span])


def _compare_index(
    connection: sqlite3.Connection, origins: Mapping[int, str], journal: Journal
) -> Steps:
    """Compare how many rows the index has with how many were looked up in it."""
    lists, of_span = _name_spans(connection, origins)
    for run, recorded, found in runs.iter_miscounted(connection):
        yield Damage(
            kind=DamageKind.RECORD,
            origin="",
            position=None,
            message=f"index: got {found} rows in run {run}, recorded {recorded}",
        )
    rows = consistency.count_by_span(connection, "posting")
    for span in rows.keys() | journal.spans.keys():
        cursor = journal.spans.get(span)
        if cursor is None and span in lists:
            # Of a snapshot on its way: nothing is answered from it before it is whole.
            continue
        expected = 0 if cursor is None else cursor.rows
        yield from _count(of_span.get(span, ""), "posting", rows[span], expected)


def _compare_leaves(
    connection: sqlite3.Connection, origins: Mapping[int, str], journal: Journal
) -> Steps:
    """Compare how many leaves and buckets there are with how many were checked."""
    expected: Counter[int] = Counter()
    for row in consistency.iter_spans(connection):
        cursor = journal.spans.get(row.span)
        if cursor is not None:
            expected[row.list] += cursor.position - row.start + (row.snapshot is not None)
    tables: tuple[Literal["delta", "body"], ...] = ("delta", "body")
    for table in tables:
        for number, found in consistency.count_by_list(connection, table):
            if number not in journal.lists or not journal.lists[number].lost:
                yield from _count(origins.get(number, ""), table, found, expected[number])
    yield from _count("", "bucket", consistency.count_stray_buckets(connection), 0)


def _count(origin: str, table: str, found: int, expected: int | None) -> Steps:
    """Compare a number of rows; nothing is expected where damage, named by itself, hides it."""
    if expected is not None and found != expected:
        yield Damage(
            kind=DamageKind.RECORD if table in ("delta", "body", "bucket") else DamageKind.INDEX,
            origin=origin,
            position=None,
            message=f"got {found} rows in {table}, {expected} from the signed bytes",
        )
