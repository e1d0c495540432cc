"""Checks everything stored against the signed bytes.

Every signature, leaf, root, body, bucket, operation and index row is derived again from the signed
bytes alone, and all damage is reported. Memory does not grow with the store, as one delta or bucket
is read at a time.
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
"""Called with (origin, leaves and buckets done, total)."""

_SAVE_SECONDS: Final = 2.0
"""How much of a check is repeated at most after it was killed."""

_LINES: Final = 100
"""The most problems that SQLite may report for one file."""


def fsck(
    store: Store,
    *,
    on_progress: ProgressCallback = lambda _o, _d, _n: None,
    journal: Path | None = None,
    now_ms: int = 0,
) -> Iterator[Damage]:
    """Derive everything again from the signed bytes, and yield every difference.

    It changes nothing. The newest snapshot of each list is made again.

    Args:
        store: the store; other processes may go on writing.
        on_progress: called after each step with (origin, leaves and buckets done, total).
        journal: the file with the progress of an interrupted check, which is continued and whose
            findings are yielded too; None to check from the beginning.
        now_ms: the current time, to be recorded as the start of the check.

    Raises:
        StoreError: the journal could not be written.
    """
    # Read one version of the store, as concurrent commits would look like damage.
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
    """Return the journal of an interrupted check of this same store, or a new journal."""
    try:
        incarnation = orgs.load_node(connection, "incarnation") or ""
        version = consistency.newest_version(connection)
    except sqlite3.DatabaseError:
        # The check will find the problem.
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
    """Continue a pass in one read transaction; yield new damage, and None between two steps.

    A caller that stops between two steps can continue later in another transaction with the same
    journal.

    Args:
        connection: the store, in a read transaction.
        directory: the folder of temporary files.
        journal: the progress of the pass; it is updated.
        on_progress: as `fsck`.
        schema: the expected schema of the store.
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
        # A damaged name can be of any type; here it is text, or empty.
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
    # Data that may change is compared as a whole, in this one transaction.
    names = dict(origins)
    for compare in (_compare_intervals, _compare_index, _compare_leaves):
        yield from _guarded("", compare(connection, names, journal))
    yield from _guarded("", check_schema(connection, schema))
    for check_records in CHECKS:
        yield from _guarded("", check_records(connection))


def _guarded(
    origin: str, steps: Steps, journal: Journal | None = None, number: int | None = None
) -> Steps:
    """Yield damages; an error that prevents the rest of the check is damage too."""
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
    """Return the list of each span, and the list's name."""
    lists = {row.span: row.list for row in consistency.iter_spans(connection)}
    return lists, {span: origins.get(number, "") for span, number in lists.items()}


def _compare_intervals(
    connection: sqlite3.Connection, origins: Mapping[int, str], _journal: Journal
) -> Steps:
    """Compare the recorded ends of operations with those that follow from the index."""
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
                message=f"index: the recorded end of row {interval.row} is not what follows "
                "from the operations on its entry",
            )
    found = consistency.count_by_span(connection, "superseded")
    for span in found.keys() | ended.keys():
        yield from _count(of_span.get(span, ""), "superseded", found[span], ended[span])


def _compare_index(
    connection: sqlite3.Connection, origins: Mapping[int, str], journal: Journal
) -> Steps:
    """Compare the number of rows in the index with the number of rows that were looked up."""
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
            # Rows of an arriving snapshot: nothing is answered from it before it is complete.
            continue
        expected = 0 if cursor is None else cursor.rows
        yield from _count(of_span.get(span, ""), "posting", rows[span], expected)


def _compare_leaves(
    connection: sqlite3.Connection, origins: Mapping[int, str], journal: Journal
) -> Steps:
    """Compare the number of leaves and buckets with the number of checked ones."""
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
    """Compare a number of rows; skip it if other damage, which is reported, hides the number."""
    if expected is not None and found != expected:
        yield Damage(
            kind=DamageKind.RECORD if table in ("delta", "body", "bucket") else DamageKind.INDEX,
            origin=origin,
            position=None,
            message=f"got {found} rows in {table}, {expected} from the signed bytes",
        )
