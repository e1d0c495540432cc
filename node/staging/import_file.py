"""Imports changes of one of our own lists into its staged changes, to be published later.

It imports all or nothing: after a file with one bad row, a damaged file or a killed process, the
staged changes are as before. The store is only read, so sync and lookups go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Final

from federation.body import pack
from federation.entry import Cause, EntryId, Operation, OpKind
from federation.errors import FederationError
from federation.fingerprint import Fingerprint, candidates
from node.errors import CommandError
from node.formats.csvfile import CsvReader
from node.formats.jsonl import Format
from node.staging.batches import Pile, to_item
from node.staging.commitments import SLOTS
from node.staging.file import Staging
from node.staging.parse import MAX_ERRORS, LineError, answer, decode_reading, encode_piece
from node.staging.reconcile import Effect, Refusal, Settlement
from node.staging.rows import key_of
from node.staging.source import Source, open_source
from node.store import index
from node.store.connection import Store
from node.store.contents import Contents
from node.store.lists import ListRecord
from node.system.worker import Pair

_SHOWN_CHARS: Final = 60
_PIECE_SLOTS: Final = 2
"""Pieces of a file that wait for the second process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """The result of an import.

    Attributes:
        rows: rows read, without empty lines and a header.
        effect: what the rows change in the published list; zeros if a row could not be read, since
            nothing was compared then.
        errors: the first bad rows.
        error_count: how many bad rows there are.
        staged: whether the changes are staged now; False after an error or a dry run.
    """

    rows: int
    effect: Effect
    errors: tuple[LineError, ...]
    error_count: int
    staged: bool


ProgressCallback = Callable[[int, int | None, int], None]
"""Called with bytes read, total bytes or None, and rows read."""


@dataclass(slots=True)
class _Errors:
    """The first bad rows, and the number of all."""

    count: int = 0
    first: list[LineError] = field(default_factory=list)

    def add(self, count: int, first: Iterable[LineError]) -> None:
        """Add bad rows; the first ones are reported in full."""
        self.count += count
        room = MAX_ERRORS - len(self.first)
        self.first += [error._replace(value=_shorten(error.value)) for error in islice(first, room)]


def import_changes(
    store: Store,
    record: ListRecord,
    staging: Staging,
    source: Path | BinaryIO,
    *,
    file_format: Format | None = None,
    dry_run: bool = False,
    on_progress: ProgressCallback = lambda _read, _total, _rows: None,
) -> ImportReport:
    """Stage the changes in a file.

    Args:
        store: has the operations in force, for comparison.
        record: the list, which must be our own.
        staging: its staged changes.
        source: a path, `-` for standard input, or an open file; may be compressed with gzip.
        file_format: its text format; None to detect it by its first character.
        dry_run: only report.
        on_progress: called with the progress of reading, a few times a second.

    Raises:
        CommandError: the list is not ours; the file is missing, empty, damaged or truncated.
        ConfigError: no permission to read the file.
        StoreError: the staged changes cannot be written; nothing of the file is staged.
    """
    _require_own(record)
    errors = _Errors()
    with open_source(source) as opened:
        if file_format is None:
            file_format = Format.JSONL if opened.first_byte == b"{" else Format.CSV
        is_csv = file_format is Format.CSV
        with (
            Pile(staging.path.parent, merge_repeats=is_csv) as pile,
            Pair(staging.path.parent, slots=SLOTS) as pair,
        ):
            rows = _read_rows(opened, pile, pair, errors, on_progress, is_csv=is_csv)
            if errors.count:
                return _report(rows, Effect(), errors, staged=False)

            def refuse(refusal: Refusal) -> None:
                error = refusal.error
                value = refusal.entry.format()
                errors.add(1, [LineError(refusal.number, value, error.reason.value, str(error))])

            settlement = Settlement(store, record, staging, pile, pair, on_refusal=refuse)
            with staging.edit() as edit:
                settlement.run(edit)
                edit.keep = not errors.count and not dry_run
            return _report(rows, settlement.effect, errors, staged=edit.keep)


def _report(rows: int, effect: Effect, errors: _Errors, *, staged: bool) -> ImportReport:
    return ImportReport(
        rows=rows,
        effect=effect,
        errors=tuple(sorted(errors.first)),
        error_count=errors.count,
        staged=staged,
    )


def _read_rows(
    source: Source,
    pile: Pile,
    pair: Pair,
    errors: _Errors,
    on_progress: ProgressCallback,
    *,
    is_csv: bool,
) -> int:
    """Read every row into the pile; return how many there are."""
    if source.is_empty:
        raise CommandError(f"{source.name} is empty", hint="nothing was changed")
    pieces = _number_lines(source.iter_chunks())
    columns = None
    if is_csv:
        number, header, pieces = _take_header(pieces)
        if not header:
            return 0
        try:
            columns = CsvReader.open(header).columns
        except FederationError as error:
            # Without a header, no row of a CSV can be read.
            errors.add(1, [LineError.of(number, header, error)])
            return 0
    rows = 0
    questions = (encode_piece(columns, number, lines) for number, lines in pieces)
    with closing(pair.answer_all(answer, questions, slots=_PIECE_SLOTS)) as answers:
        for reading in map(decode_reading, answers):
            rows += reading.rows
            errors.add(reading.error_count, reading.errors)
            if not errors.count:
                pile.sorter.add_run(reading.run)
            on_progress(source.bytes_read, source.total_bytes, rows)
    return rows


def _number_lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of lines, each with the number of its first line."""
    number = 1
    for chunk in chunks:
        yield number, chunk
        number += chunk.count(b"\n") + 1


def _take_header(
    pieces: Iterator[tuple[int, bytes]],
) -> tuple[int, bytes, Iterator[tuple[int, bytes]]]:
    """Return number and text of the first line that is not empty, and the text after it."""
    for first, lines in pieces:
        at = 0
        for number, line in enumerate(lines.split(b"\n"), first):
            at += len(line) + 1
            if line and not line.isspace():
                rest = [(number + 1, lines[at:])] if at <= len(lines) else []
                return number, line, chain(rest, pieces)
    return 0, b"", pieces


def stage_operations(
    store: Store, record: ListRecord, staging: Staging, operations: Iterable[Operation]
) -> Effect:
    """Stage operations from a command; all of them or none.

    Raises:
        CommandError: the list is not ours, or its entries do not allow one of them.
        StoreError: the staged changes cannot be written.
    """
    _require_own(record)

    def refuse(refusal: Refusal) -> None:
        raise CommandError(
            str(refusal.error),
            hint=f"run 'hashfed lookup' to see what {record.origin} has",
            reason=refusal.error.reason.value,
        ) from refusal.error

    with Pile(staging.path.parent) as pile, Pair(staging.path.parent, slots=SLOTS) as pair:
        pile.sorter.extend(
            [to_item(pack(operation), at) for at, operation in enumerate(operations)]
        )
        settlement = Settlement(store, record, staging, pile, pair, on_refusal=refuse)
        with staging.edit() as edit:
            settlement.run(edit)
    return settlement.effect


def _require_own(record: ListRecord) -> None:
    if not record.own:
        raise CommandError(
            f"{record.origin} is a list of another organization: only its owner can change it",
            hint="run 'hashfed list' to see which lists are this node's own",
        )


# --- retracting one entry ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRetraction:
    """The result of `stage_retraction`.

    Attributes:
        entry: the retracted entry.
        effect: what it changes.
        others: other live entries that have the fingerprint, if the target was a fingerprint.
    """

    entry: EntryId
    effect: Effect
    others: tuple[EntryId, ...]


def stage_retraction(
    store: Store,
    record: ListRecord,
    staging: Staging,
    target: str,
    cause: Cause,
    *,
    reason: str = "",
) -> StagedRetraction:
    """Stage the retraction of one entry, or unstage the entry if it is only staged.

    Args:
        store: where the entry is looked up.
        record: the list, one of our own.
        staging: its staged changes.
        target: an entry id, or a fingerprint that exactly one live entry has. An entry with
            exactly that id has precedence over entries that have the fingerprint.
        cause: the cause.
        reason: the reason in a sentence, or empty.

    Raises:
        CommandError: the list is not ours, the target is not exactly one entry, or the reason is
            invalid.
        StoreError: the staged changes cannot be written.
    """
    _require_own(record)
    named, having = _find_targets(store, record, staging, target)
    if named is None and len(having) > 1:
        listed = ", ".join(entry.format() for entry in having)
        raise CommandError(
            f"{len(having)} live entries of {record.origin} have that fingerprint: {listed}",
            hint="name one of them by its id",
        )
    entry = named if named is not None else next(iter(having), None)
    if entry is None:
        raise CommandError(
            f"{_shorten(target)} is not a live entry of {record.origin}, is not staged, and no "
            "live entry has it as a fingerprint",
            hint="run 'hashfed lookup' to see which lists have it",
            reason="RETRACT_OF_ABSENT",
        )
    try:
        operation = Operation.retraction(entry, cause, reason)
    except FederationError as error:
        raise CommandError(str(error), reason=error.reason.value) from error
    effect = stage_operations(store, record, staging, (operation,))
    others = tuple(other for other in having if other != entry)
    return StagedRetraction(entry=entry, effect=effect, others=others)


def _find_targets(
    store: Store, record: ListRecord, staging: Staging, target: str
) -> tuple[EntryId | None, list[EntryId]]:
    """Return the entry with exactly that id, if any, and the live entries with that fingerprint."""
    problem: FederationError | None = None
    try:
        ids = [EntryId.parse(target)]
    except FederationError as error:
        ids, problem = [], error
    try:
        fingerprints = candidates(target)
    except FederationError:
        fingerprints = ()
    if problem is not None and not fingerprints:
        raise CommandError(str(problem), reason=problem.reason.value) from problem
    ids += [EntryId.of(fingerprint) for fingerprint in fingerprints]
    named = [entry for entry in dict.fromkeys(ids) if _is_here(store, record, staging, entry)]
    having = {
        entry for fingerprint in fingerprints for entry in _entries_with(store, record, fingerprint)
    }
    # Digits without a type can mean several fingerprints, and so several entries.
    return (named[0], sorted(having)) if len(named) == 1 else (None, sorted({*having, *named}))


def _is_here(store: Store, record: ListRecord, staging: Staging, entry: EntryId) -> bool:
    """Return whether an entry is live, or staged to become live."""
    in_force = index.load_in_force(store.connection, record.span, entry)
    if in_force is not None and in_force.kind is OpKind.ASSERT:
        return True
    key = key_of(pack(Operation.purge(entry)))
    staged = staging.load([key]).get(key)
    return staged is not None and staged.kind is OpKind.ASSERT


def _entries_with(store: Store, record: ListRecord, fingerprint: Fingerprint) -> Iterable[EntryId]:
    """Yield the live entries of a list that have a fingerprint."""
    contents = Contents(store.connection)
    for place in index.find_fingerprint(store.connection, fingerprint):
        if place.span != record.span:
            continue
        operation = contents.operation(place)
        # Long digests are in the index by their SHA-256.
        if fingerprint in operation.fingerprints:
            yield operation.entry


def _shorten(value: str) -> str:
    shown = value[:_SHOWN_CHARS] + ("..." if len(value) > _SHOWN_CHARS else "")
    return "".join(char if char.isprintable() else "?" for char in shown)
