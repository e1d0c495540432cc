"""Temporary files without names, for data that does not fit in memory and ends with its process."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from node.errors import StoreError, StoreFullError

_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Scratch:
    """One temporary file. Use it in a `with` statement, which frees its room.

    Attributes:
        descriptor: its file descriptor, which may be passed to a child process.
        size: bytes that were appended.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Create the file.

        Args:
            directory: the folder whose disk it uses; the system's choice if None.

        Raises:
            StoreError: it cannot be created there.
        """
        self._directory = directory
        self.size = 0
        with scratch_errors(directory):
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # close
        self.descriptor = self._file.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            StoreFullError: no room left.
            StoreError: it cannot be written.
        """
        self.write(data, self.size)
        self.size += len(data)

    def write(self, data: bytes, at: int = 0) -> None:
        """Write at an offset.

        Raises:
            StoreFullError: no room left.
            StoreError: it cannot be written.
        """
        with scratch_errors(self._directory):
            write_at(self.descriptor, data, at)

    def read(self, size: int, at: int = 0) -> bytes:
        """Read what was written at an offset.

        Raises:
            StoreError: it cannot be read.
        """
        with scratch_errors(self._directory):
            return read_at(self.descriptor, size, at)


@contextmanager
def scratch_errors(directory: Path | None) -> Iterator[None]:
    """Turn errors of the system about temporary files into ours, with what to do about them.

    Args:
        directory: where the files are.

    Raises:
        StoreFullError: no room left.
        StoreError: something else makes them unusable.
    """
    where = "" if directory is None else f" in {directory}"
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFullError(
                f"no room left for a temporary file{where}",
                hint="make room on that disk and run the command again",
            ) from error
        raise StoreError(
            f"cannot use a temporary file{where}: {error.strerror}",
            hint="check the disk and who may write there",
        ) from error


def write_at(descriptor: int, data: bytes, at: int = 0) -> None:
    """Write all of some bytes into an open file.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest = rest[written:]
        at += written


def read_at(descriptor: int, size: int, at: int = 0) -> bytes:
    """Read exactly this many bytes of an open file.

    Raises:
        OSError: it cannot be read, or is too short.
    """
    parts: list[bytes] = []
    while size:
        part = os.pread(descriptor, size, at)
        if not part:
            raise OSError(errno.EIO, "the file is shorter than what was written")
        parts.append(part)
        size -= len(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
