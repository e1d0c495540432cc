"""Files that are on the disk when it says so, and what to call it when the disk fails."""

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
        DiskError: the disk failed: what is on it is not known any more.
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
            raise StoreFullError(text, hint="make room on that disk and run it again") from error
        raise StoreError(text, hint="check the disk and who may write there") from error


def sync(path: Path) -> None:
    """Have the disk keep a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, and those above it that are missing, and have the disk keep their names.

    One that is there already stays as it is; that its name is kept is seen to all the same: whoever
    made it may have been killed before that.

    Raises:
        FileExistsError: something else is there.
        OSError: it cannot be made.
    """
    if not path.parent.exists():
        make_folder(path.parent, 0o777)
    path.mkdir(mode=mode, exist_ok=True)
    # Where we may not look into what lies above, it was not we who made this one.
    with suppress(PermissionError):
        sync(path.parent)


def forget_cached(path: Path) -> None:
    """Have the next read of a file come from the disk, if there is such a file.

    After a write that failed, a system may go on showing what it could not write.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # What is still to be written stays: it is not lost yet.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Make a file that only its owner may read, and have the disk keep its content.

    When that fails there is no such file.

    Raises:
        FileExistsError: there is one already.
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
    """Give a file another name, in place of any that has it, and have the disk keep that."""
    old.replace(new)
    sync(new.absolute().parent)
