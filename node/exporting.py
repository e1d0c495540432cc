"""Exports a list as it was at a position, and resolves what people write for one.

Entries are written in the order of their ids, so that two nodes that hold the same state write the
same bytes. Memory does not grow with the list.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from federation.entry import Operation
from node import findings
from node.changes import Format, format_change
from node.comparing import covering_span
from node.csvfile import HEADER, format_rows
from node.errors import ConfigError, StoreFullError, UsageError
from node.sorting import Sorter
from node.store import history, log, registry
from node.store.connection import Store
from node.store.entries import NOW, Cuts
from node.store.registry import ListRecord

_ADD_ITEMS: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_AS_OF_FORMS: Final = "position:N, version:N or time:2026-01-31T12:00:00Z"


def export(
    store: Store,
    record: ListRecord,
    position: int,
    file_format: Format,
    out: Path | BinaryIO,
) -> int:
    """Write the entries that are live after the first `position` deltas of a list.

    JSON Lines has one line for each entry, by the bytes of its id. CSV has a header and one line
    for each fingerprint and label, each pair once, by the bytes of the line.

    Args:
        store: where the list is.
        record: the list.
        position: how many of its deltas count; `record.log.size` for all.
        file_format: which text form to write.
        out: a path, which appears or is replaced as a whole when all is written, or an open file.

    Returns:
        The number of lines written, a header aside.

    Raises:
        UsageError: the list has not so many deltas, or a snapshot went past that position here.
        ConfigError: the file cannot be written.
        StoreFullError: no room for the file.
        DamageError: the list is damaged here.
    """
    findings.require_sound(store.path, str(record.origin))
    if not 0 <= position <= record.log.size:
        raise UsageError(f"{record.origin} has {record.log.size} positions, got {position}")
    covering_span(store, record, position)
    with (
        _written(out) as file,
        store.snapshot() as connection,
        Sorter(store.path.parent) as sorter,
    ):
        live = (
            operation for _, _, operation in history.iter_live(connection, record.list, position)
        )
        if file_format is Format.CSV:
            file.write(f"{HEADER}\n".encode())
            return _write_rows(live, sorter, file)
        return _write_changes(live, sorter, file)


def _write_changes(live: Iterable[Operation], sorter: Sorter, file: BinaryIO) -> int:
    # No id has a NUL: an id sorts before all that it is the beginning of.
    _sort(
        (f"{operation.entry.format()}\0{format_change(operation)}\n" for operation in live), sorter
    )
    count = 0
    for block in sorter.iter_blocks():
        file.write(b"".join([item[item.index(0) + 1 :] for item in block]))
        count += len(block)
    return count


def _write_rows(live: Iterable[Operation], sorter: Sorter, file: BinaryIO) -> int:
    _sort((f"{row}\n" for operation in live for row in format_rows(operation)), sorter)
    count = 0
    last = b""
    for block in sorter.iter_blocks():
        # Several entries may have one fingerprint.
        distinct = list(dict.fromkeys(block))
        if distinct[0] == last:
            del distinct[0]
        last = block[-1]
        file.write(b"".join(distinct))
        count += len(distinct)
    return count


def _sort(lines: Iterable[str], sorter: Sorter) -> None:
    items = []
    for line in lines:
        items.append(line.encode())
        if len(items) == _ADD_ITEMS:
            sorter.extend(items)
            items = []
    sorter.extend(items)


@contextmanager
def _written(out: Path | BinaryIO) -> Iterator[BinaryIO]:
    """Give a file to write to; at a path, it is there only once it is complete and durable."""
    if not isinstance(out, Path):
        yield out
        return
    temporary = None
    try:
        # Readable by this user alone, as what it holds deserves.
        with tempfile.NamedTemporaryFile(
            dir=out.parent, prefix=f".{out.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            yield file  # type: ignore[misc]  # typeshed: the wrapper of a BinaryIO is none
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
        temporary = None
        _sync_directory(out.parent)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no folder {out.parent}", hint="make it first") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFullError(
                f"no room left for {out}", hint="make room on that disk and export again"
            ) from error
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- as of ------------------------------------------------------------------------------------


def resolve_as_of(store: Store, record: ListRecord, text: str) -> int:
    """Return how many deltas of a list were here as of a position, a store version or a time.

    Args:
        store: where the list is.
        record: the list.
        text: `position:N`, the first N deltas; `version:N`, what this store had committed with its
            version N; or `time:T`, at a time in RFC 3339, with `Z` or an offset.

    Raises:
        UsageError: another form; or a position or version that is not reached yet.
    """
    kind, colon, value = text.partition(":")
    if not colon or kind not in ("position", "version", "time"):
        raise UsageError(f"got {text!r}, expected {_AS_OF_FORMS}")
    connection = store.connection
    if kind == "position":
        return _parse_number(kind, value, record.log.size)
    if kind == "version":
        version = _parse_number(kind, value, store.version)
    else:
        version = log.version_at_time(connection, _parse_time(value))
    return log.position_at_version(connection, record.list, version)


def resolve_cuts(store: Store, record: ListRecord | None, text: str | None) -> Cuts | None:
    """Return the point in history that a question about one list, or about all, is about.

    Args:
        store: where the lists are.
        record: the one list; None for all.
        text: as `resolve_as_of`; None for now.

    Returns:
        None for all lists now.

    Raises:
        UsageError: as `resolve_as_of`, or a position without a list.
        DamageError: the one list is damaged here.
    """
    if record is not None:
        findings.require_sound(store.path, str(record.origin))
    if text is None:
        return None if record is None else {record.span: NOW}
    if record is not None:
        return dict([_cut(store, record, text)])
    if text.startswith("position:"):
        raise UsageError(
            f"{text}: of which list?",
            hint="name it with --list; version:N and time:T are points of all lists",
        )
    records = list(registry.iter_lists(store.connection))
    return dict(_cut(store, held, text) for held in records)


def _cut(store: Store, record: ListRecord, text: str) -> tuple[int, int]:
    """Return the span that tells of a list at a point, and how many deltas count."""
    size = resolve_as_of(store, record, text)
    return covering_span(store, record, size).span, size


def _parse_number(kind: str, text: str, newest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise UsageError(f"{kind}: got {text[:40]!r}, expected a number such as {kind}:{newest}")
    number = int(text)
    if number > newest:
        raise UsageError(f"{kind} {number} is not reached yet: the newest is {newest}")
    return number


def _parse_time(text: str) -> int:
    """Parse a time into milliseconds since 1970."""
    if _RFC3339.fullmatch(text) is None:
        missing = "" if text.endswith(("Z", "z")) else ", with Z or an offset such as +01:00"
        raise UsageError(f"time: got {text[:40]!r}, expected RFC 3339{missing}")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise UsageError(f"time: {text!r} is no time: {error}") from error
    return (moment - _EPOCH) // timedelta(milliseconds=1)
