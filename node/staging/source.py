"""Opens the input of an import and cuts it between lines: a file or a pipe, plain or gzip.

Memory is bounded by the size of one read, even if a small file unpacks to a huge one. This module
does not know the meaning of a line.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from node.errors import CommandError, ConfigError

MAX_LINE_BYTES: Final = 1024 * 1024
"""The most bytes of one line: more than an operation can have."""

STDIN: Final = Path("-")
"""The path that stands for standard input."""

_BLOCK_BYTES: Final = 256 * 1024
_BLOCK_SHARE: Final = 10
_MAX_BLOCK_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one read: a share of what was read so far, within bounds."""

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_WIDE_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


class _Counted(io.RawIOBase):
    """Forwards reads and counts their bytes."""

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed: Buffer
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class Source:
    """Lines of one input.

    Attributes:
        name: its name in messages.
        total_bytes: its size as stored; None for a pipe.
    """

    def __init__(self, inner: BinaryIO, name: str, total_bytes: int | None) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self._counted = _Counted(inner)
        raw = io.BufferedReader(self._counted, _BLOCK_BYTES)
        self._data: BinaryIO = raw
        self._unpacked = 0
        if raw.peek(2)[:2] == _GZIP:
            self._data = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]  # it is one
        self._first = self._read()
        if self._first.startswith(_WIDE_BOMS):
            raise CommandError(f"{name} is in UTF-16", hint="save it as UTF-8")
        self._first = self._first.removeprefix(_BOM)

    @property
    def bytes_read(self) -> int:
        """How many stored bytes have been read."""
        return self._counted.count

    @property
    def is_empty(self) -> bool:
        """Whether it is empty; call this before reading."""
        return not self._first

    @property
    def first_byte(self) -> bytes:
        """The first byte after unpacking that is not white space; empty if there is none."""
        return self._first.lstrip()[:1]

    def iter_chunks(self) -> Iterator[bytes]:
        """Yield all lines, as pieces of whole lines with line feeds between them.

        The pieces grow with what has been read: small inputs have several pieces, large ones few.
        Of a line longer than `MAX_LINE_BYTES`, at least `MAX_LINE_BYTES` + 1 bytes are returned;
        the rest of it may be skipped.

        Raises:
            CommandError: it cannot be read to its end, or cannot be unpacked.
        """
        rest, skipping = b"", False
        block, self._first = self._first, b""
        while block:
            if skipping:
                _, feed, block = block.partition(b"\n")
                skipping = not feed
            if not skipping:
                stop = block.rfind(b"\n")
                if stop >= 0:
                    yield b"".join((rest, memoryview(block)[:stop]))
                    rest = b""
                rest += block[stop + 1 :]
                if len(rest) > MAX_LINE_BYTES:
                    yield rest[: MAX_LINE_BYTES + 1]
                    rest, skipping = b"", True
            block = self._read()
        if rest:
            yield rest

    def _read(self) -> bytes:
        size = min(max(_BLOCK_BYTES, self._unpacked // _BLOCK_SHARE), _MAX_BLOCK_BYTES)
        try:
            block = self._data.read(size)
        except EOFError as error:
            raise CommandError(
                f"{self.name} is incomplete: its gzip data has no end",
                hint="fetch it again and compare its size",
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise CommandError(
                f"{self.name} is damaged: {error}", hint="fetch it again; try 'gzip -t'"
            ) from error
        except OSError as error:
            raise CommandError(f"cannot read {self.name}: {error.strerror or error}") from error
        self._unpacked += len(block)
        return block


@contextmanager
def open_source(source: Path | BinaryIO) -> Iterator[Source]:
    """Open the input of an import; `-` is standard input. A file that was given open stays open.

    Raises:
        CommandError: there is no such file, or it is a directory, UTF-16, or unreadable.
        ConfigError: no permission to read it.
    """
    if not isinstance(source, Path):
        yield Source(source, str(getattr(source, "name", "the input")), None)
    elif source == STDIN:
        yield Source(sys.stdin.buffer, "standard input", None)
    else:
        with _open_file(source) as file:
            yield Source(file, str(source), source.stat().st_size)


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise CommandError(f"there is no file {path}", hint="check the path") from error
    except IsADirectoryError as error:
        raise CommandError(f"{path} is a directory", hint="name a file in it") from error
    except PermissionError as error:
        raise ConfigError(
            f"no permission to read {path}", hint="let this user read it, or pipe it in with '-'"
        ) from error
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
