"""Finds the kind of file system of a folder, and which kinds can lose or damage the store.

Locks and shared memory between processes do not work reliably on file systems that other machines
share or that a program implements; SQLite says so itself (sqlite.org/howtocorrupt.html). The kind
is known on Linux only; on other systems nothing is refused.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Final

from node.errors import ConfigError

# statfs(2) and the kernel's include/uapi/linux/magic.h.
_MAGIC: Final = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb",
    0xFF534D42: "cifs",
    0x01021997: "9p",
    0x65735546: "fuse",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x00C36400: "ceph",
    0x73757245: "coda",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x786F4256: "vboxsf",
    0x564C: "ncp",
}
UNSAFE: Final = frozenset(_MAGIC.values())
"""Kinds of file system that are refused."""

_STATFS_BYTES: Final = 512
"""More bytes than any kernel's struct statfs has."""


def require_local(path: Path, allowed: str) -> None:
    """Raise an error if a folder is on a file system that can lose or damage a store.

    Args:
        path: the folder, which need not exist yet.
        allowed: the one kind that is allowed nevertheless, or empty.

    Raises:
        ConfigError: FILESYSTEM, with the kind.
    """
    kind = kind_of(path)
    if kind is not None and kind != allowed:
        raise ConfigError(
            f"{path} is on {kind}, where a store can be lost or damaged",
            hint="keep it on a local disk; 'file systems' in docs/operate.md says what "
            f'node.allow_filesystem = "{kind}" risks',
            reason="FILESYSTEM",
        )


def kind_of(path: Path) -> str | None:
    """Return the kind of an unsafe file system; None if it is safe or not known."""
    magic = _read_magic(path)
    return None if magic is None else _MAGIC.get(magic)


def _read_magic(path: Path) -> int | None:
    """Return the kernel's number for the file system of a path, or of its nearest folder."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    for folder in (path, *path.absolute().parents):
        buffer = ctypes.create_string_buffer(_STATFS_BYTES)
        if library.statfs(str(folder).encode(), buffer) == 0:
            # The first word is the magic number, of which 32 bits count.
            return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF
    return None
