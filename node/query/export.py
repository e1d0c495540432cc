"""Exports a list as it was at a position.

Entries are written in the order of their ids, so that two nodes that hold the same state write the
same bytes. Memory does not grow with the list.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from federation.entry import Operation
from node.errors import CommandError, ConfigError, StoreFullError
from node.formats.csvfile import QUOTED_HEADER, format_rows
from node.formats.jsonl import Format, format_change
from node.query.diff import covering_span
from node.store import damage, history
from node.store.connection import Store
from node.store.lists import ListRecord
from node.system.external_sort import Sorter

_ADD_ITEMS: Final = 1_000


def export(
    store: Store,
    record: ListRecord,
    position: int,
    file_format: Format,
    out: Path | BinaryIO,
) -> int:
    """Write the entries that are live after the first `position` deltas of a list.

    JSON Lines has one line for each entry, sorted by the bytes of its id. CSV has a header and one
    line for each pair of fingerprint and label, sorted by the bytes of the line, without repeats.

    Args:
        store: where the list is.
        record: the list.
        position: how many of its deltas count; `record.log.size` for all.
        file_format: which text form to write.
        out: a path, or an open file. At a path, the file appears or is replaced once all of it is
            written.

    Returns:
        The number of lines written, without a header.

    Raises:
        CommandError: the list has fewer deltas, or a snapshot replaced those at that position here.
        ConfigError: the file cannot be written.
        StoreFullError: there is no room for the file.
        DamageError: the list is damaged here.
    """
    damage.require_sound(store.path, str(record.origin))
    if not 0 <= position <= record.log.size:
        raise CommandError(f"{record.origin} has {record.log.size} positions, got {position}")
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
            file.write(f"{QUOTED_HEADER}\n".encode())
            return _write_rows(live, sorter, file)
        return _write_changes(live, sorter, file)


def _write_changes(live: Iterable[Operation], sorter: Sorter, file: BinaryIO) -> int:
    # No id contains a NUL, so an id sorts before all ids that begin with it.
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
    """Yield a file to write to; at a path, it appears only once it is complete and durable."""
    if not isinstance(out, Path):
        yield out
        return
    temporary = None
    try:
        # Only this user may read it: the content is confidential.
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
        raise ConfigError(f"there is no folder {out.parent}", hint="create it first") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFullError(
                f"no room left for {out}", hint="free space on that disk and export again"
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
