"""Gives a copy of a damaged store the first page of an empty one.

The first page says where each table begins, which is the same in every store. So a store whose
first page is damaged can be opened again.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Final

from node.clock import Clock
from node.store import rebuild
from node.store.connection import Store

_PAGE_SIZE: Final = struct.Struct(">H")
_PAGE_SIZE_AT: Final = 16
_VERSIONS: Final = slice(18, 20)
_CHANGES: Final = slice(24, 28)
_PAGE_COUNT: Final = struct.Struct(">I")
_PAGE_COUNT_AT: Final = 28
_VALID_FOR: Final = slice(92, 96)
"""The offsets of these in the first page (sqlite.org/fileformat.html, section 1.3)."""

_WAL_VERSIONS: Final = b"\x02\x02"
"""The versions that tell a reader that a write-ahead log belongs to the file."""


def copy_with_new(path: Path, copy: Path, clock: Clock) -> None:
    """Copy a store, replacing its first page with that of an empty store."""
    page = _read_from_empty(copy, clock)
    shutil.copyfile(path, copy)
    copy.chmod(0o600)
    wal = Path(f"{path}-wal")
    if wal.exists():
        shutil.copyfile(wal, Path(f"{copy}-wal"))
        page[_VERSIONS] = _WAL_VERSIONS
    with copy.open("r+b") as file:
        # SQLite trusts the page count if the change counter was the same when it was written.
        pages = file.seek(0, 2) // len(page)
        _PAGE_COUNT.pack_into(page, _PAGE_COUNT_AT, max(1, pages))
        page[_VALID_FOR] = page[_CHANGES]
        file.seek(0)
        file.write(page)


def _read_from_empty(copy: Path, clock: Clock) -> bytearray:
    """Return the first page of an empty store, which is made beside the copy."""
    # It is removed with the copy, as its name begins with the name of the copy.
    model = copy.with_name(f"{copy.name}.model")
    store = Store.create(model, clock)
    rebuild.complete(store)
    store.close()
    data = model.read_bytes()
    (size,) = _PAGE_SIZE.unpack_from(data, _PAGE_SIZE_AT)
    return bytearray(data[:size])
