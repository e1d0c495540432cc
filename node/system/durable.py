"""Writes files and makes sure that they are on the disk; turns disk failures into our errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from node.errors import DiskError, StoreError, StoreFullError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about a file into ours.

    Raises:
        DiskError: the disk failed, so nobody knows what is on it.
        StoreFullError: no room left.
        StoreError: anything else, such as a missing permission.
    """
    try:
        yield
    except OSError as error:
        text = f"{path}: {error.strerror or error}"
        if error.errno == errno.EIO:
            raise DiskError(text) from error
        if error.errno in _FULL:
            raise StoreFullError(
                text, hint="make room on that disk and run the command again"
            ) from error
        raise StoreError(text, hint="check the disk and who may write there") from error


def sync(path: Path) -> None:
    """Make sure that a file's content or a folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder and its missing parents, and make sure that their names are on the disk.

    An existing folder stays as it is, but its name is synced too, as the process that made it may
    have been killed before that.

    Raises:
        FileExistsError: there is a file with that name.
        OSError: it cannot be made.
    """
    if not path.parent.exists():
        make_folder(path.parent, 0o777)
    path.mkdir(mode=mode, exist_ok=True)
    # If we may not read the parent folder, we have not made this one.
    with suppress(PermissionError):
        sync(path.parent)


def forget_cached(path: Path) -> None:
    """Make sure that the next read of a file comes from the disk, if the file exists.

    After a failed write, the system may still return data that it could not write.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Data that is not written yet stays in the cache, so nothing is lost.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Make a file that only its owner may read, and make sure that its content is on the disk.

    If this fails, the file does not exist.

    Raises:
        FileExistsError: the file exists already.
        OSError: it could not be written.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        try:
            with open(descriptor, "wb", closefd=False) as file:  # a descriptor
                file.write(data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def rename(old: Path, new: Path) -> None:
    """Rename a file, replacing any file of that name, and make sure that this is on the disk."""
    old.replace(new)
    sync(new.absolute().parent)
