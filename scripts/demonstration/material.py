"""The list that is shared: where it comes from, how it is cut, and what must come of it.

The expected state is computed here from the input alone: operations applied one after the other to
a dictionary. No signature, log, store or network is part of that.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from telling import DemoError

from federation.entry import EntryId, Operation, OpKind
from federation.errors import FederationError
from node.formats.csvfile import HEADER, CsvReader, merge_labels
from node.formats.jsonl import format_change, parse_change

FEWEST_PARTS: Final = 6
"""Change files that the story needs: one before anybody follows, some live, two in the crash."""

_GZIP: Final = b"\x1f\x8b"
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024

State = dict[EntryId, Operation]
"""The live entries of a list."""


@dataclass(frozen=True, slots=True)
class Part:
    """One change file.

    Attributes:
        path: where it lies.
        operations: what it says.
    """

    path: Path
    operations: tuple[Operation, ...]


def write_sample(path: Path, most: int) -> int:
    """Write a list of the files of Python's standard library; return how many entries it has.

    One entry a file, named by three digests of it, labelled by its package: what an organization
    that keeps MD5, SHA-1 and SHA-256 of its material would export.

    Raises:
        DemoError: there are too few files.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    seen: set[bytes] = set()
    with path.open("w", encoding="utf-8") as out:
        for file in _python_files(folder):
            if len(seen) == most:
                break
            data = file.read_bytes()
            sha256 = hashlib.sha256(data)
            # An empty file's digests say nothing of it: no list may carry them.
            if not data or sha256.digest() in seen:
                continue
            seen.add(sha256.digest())
            change = {
                "op": "assert",
                "fingerprints": {
                    "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
                    "sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
                    "sha256": sha256.hexdigest(),
                },
                "labels": [_package(file.relative_to(folder))],
            }
            out.write(f"{json.dumps(change)}\n")
    if len(seen) < FEWEST_PARTS:
        raise DemoError(f"found {len(seen)} files of Python in {folder}: give a list with --input")
    return len(seen)


def _python_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.py")):
        if "site-packages" in file.parts or file.is_symlink():
            continue
        if file.is_file() and file.stat().st_size <= _MAX_FILE_BYTES:
            yield file


def _package(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else path.stem


# --- cutting ----------------------------------------------------------------------------------


def cut(source: Path, folder: Path, parts: int) -> list[Part]:
    """Cut a change file into several, which say the same when they are imported in order.

    Args:
        source: JSON Lines or CSV, as `hashfed import` takes it; may be compressed with gzip.
        folder: where the parts are put.
        parts: how many there should be; fewer when there are not so many lines.

    Raises:
        DemoError: it cannot be read, or says too little.
    """
    text = _read(source)
    is_csv = not text.lstrip().startswith("{")
    items = list(_csv_items(text, source) if is_csv else _change_items(text, source))
    parts = min(parts, len(items))
    if parts < FEWEST_PARTS:
        raise DemoError(f"{source} has {len(items)} entries, at least {FEWEST_PARTS} are needed")
    made = []
    for number in range(parts):
        chunk = items[len(items) * number // parts : len(items) * (number + 1) // parts]
        path = folder / f"part-{number + 1:02}.{'csv' if is_csv else 'jsonl'}"
        lines = [HEADER] if is_csv else []
        lines += [line for rows, _ in chunk for line in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        made.append(Part(path, tuple(operation for _, operation in chunk)))
    return made


def _read(source: Path) -> str:
    try:
        data = source.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DemoError(f"cannot read {source}: {error}") from error


_Item = tuple[Sequence[str], Operation]
"""Lines that belong together, and the one operation that they are."""


def _change_items(text: str, source: Path) -> Iterator[_Item]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield (line,), parse_change(line)
            except FederationError as error:
                raise DemoError(f"{source}:{number}: {error}") from error


def _csv_items(text: str, source: Path) -> Iterator[_Item]:
    """Yield an item for each fingerprint: all its rows are one entry, so they stay together."""
    rows: list[tuple[EntryId, str, Operation]] = []
    reader: CsvReader | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            if reader is None:
                reader = CsvReader.open(line.encode())
                columns = [cell.removesuffix("\r") for cell in line.split(",")]
                continue
            operation = reader.parse_row(line.encode())
        except FederationError as error:
            raise DemoError(f"{source}:{number}: {error}") from error
        rows.append((operation.entry, _reorder(line, columns), operation))
    rows.sort(key=lambda row: row[0])
    for _, group in groupby(rows, key=lambda row: row[0]):
        same = list(group)
        merged = merge_labels([operation.annotation for _, _, operation in same])
        yield [line for _, line, _ in same], Operation.assertion(same[0][2].fingerprints, merged)


def _reorder(line: str, columns: Sequence[str]) -> str:
    """Return a row with its cells in the order of the header that the parts have."""
    (cells,) = csv.reader([line.removesuffix("\r")])
    by_column = dict(zip(columns, cells, strict=True))
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(
        [by_column.get(column, "") for column in HEADER.split(",")]
    )
    return out.getvalue()


# --- what must come of it ---------------------------------------------------------------------


def apply(state: State, operations: Iterable[Operation]) -> None:
    """Apply operations to a state, one after the other."""
    for operation in operations:
        if operation.kind is OpKind.ASSERT:
            state[operation.entry] = operation
        else:
            state.pop(operation.entry, None)


def expected_export(state: State) -> bytes:
    """Return what every node must export for a state."""
    named = sorted((entry.format().encode(), operation) for entry, operation in state.items())
    return b"".join(f"{format_change(operation)}\n".encode() for _, operation in named)


def pick(state: State) -> Operation:
    """Return an entry whose first fingerprint no other live entry has.

    Raises:
        DemoError: there is none.
    """
    count: dict[object, int] = {}
    for operation in state.values():
        for fingerprint in operation.fingerprints:
            count[fingerprint] = count.get(fingerprint, 0) + 1
    for _, operation in sorted(state.items()):
        if all(count[fingerprint] == 1 for fingerprint in operation.fingerprints):
            return operation
    raise DemoError("every hash of the list is in several entries: give another with --input")
