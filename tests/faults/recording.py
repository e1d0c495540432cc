"""Records what a real process does to its files, in order, from the output of strace."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, TextIO

from tests.faults.disk import Link, Make, Operation, Rename, Sync, Truncate, Unlink, Write
from tests.faults.running import HarnessError
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer

_CALLS: Final = (
    "open,openat,openat2,creat,lseek,write,writev,pwrite64,pwritev,pwritev2,copy_file_range,"
    "sendfile,splice,fsync,fdatasync,truncate,ftruncate,fallocate,rename,renameat,renameat2,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat"
)
"""Every call that changes or syncs a file or a name. A call on the folder that this module does not
understand is an error."""

_LONGEST: Final = 64 * 1024 * 1024
_LINE: Final = re.compile(r"([0-9]+) +(.*)")
_CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?[0-9]+)(.*)")
_UNFINISHED: Final = " <unfinished ...>"
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_DESCRIPTOR: Final = re.compile(r"([0-9]+|AT_FDCWD)<([^>]*)>(\(deleted\))?")


@dataclass(frozen=True)
class Recorded:
    """How a command ended, and what it did to the files of a folder.

    Attributes:
        code: its exit code.
        out: what it printed.
        err: what it wrote to stderr.
        operations: what it did, in order.
    """

    code: int
    out: str
    err: str
    operations: tuple[Operation, ...]


@contextmanager
def recording(folder: Path, trace: Path, *modules: str) -> Iterator[Recorder]:
    """Record commands while the block runs.

    Args:
        folder: changes of files below it are recorded; it is still empty.
        trace: where strace may write.
        modules: modules that change the program, as in `forkserver.running`.
    """
    strace = ["strace", "-f", "-y", "-xx", "-s", str(_LONGEST), "--seccomp-bpf", "-qq"]
    strace += ["-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(trace)]
    with forkserver.running(*modules, wrap=strace) as forks, trace.open(encoding="ascii") as lines:
        yield Recorder(folder.resolve(), forks, lines)


class Recorder:
    """Records commands that are run one after the other.

    Memory that processes share (`-shm`) is left out: SQLite rebuilds it after a power cut.
    """

    def __init__(self, folder: Path, forks: ForkServer, lines: TextIO) -> None:
        self._folder = folder
        self._forks = forks
        self._lines = lines
        self._begun: dict[str, str] = {}
        self._names: set[str] = set()
        self._offsets: dict[str, int] = {}

    def record(self, args: Sequence[str], *, env: Mapping[str, str], stdin: str = "") -> Recorded:
        """Run a command, and record what it does to files below the folder.

        Args:
            args: the command's arguments.
            env: its environment.
            stdin: what the command reads.

        Raises:
            HarnessError: the command did something that the model does not know.
        """
        with TemporaryFile() as source, TemporaryFile() as out, TemporaryFile() as err:
            source.write(stdin.encode())
            source.seek(0)
            streams = (source.fileno(), out.fileno(), err.fileno())
            code = self._forks.start(args, cwd=self._folder, env=env, streams=streams).wait()
            for file in (out, err):
                file.seek(0)
            said, complained = out.read().decode(), err.read().decode()
        return Recorded(code, said, complained, tuple(self._read()))

    def _read(self) -> Iterator[Operation]:
        """Yield what was done since, in the order in which the calls were completed.

        strace writes what a process did before anybody learns that it has ended.
        """
        for line in self._lines:
            found = _LINE.fullmatch(line.rstrip("\n"))
            if found is None:
                raise HarnessError(f"strace wrote {line[:200]!r}")
            process, text = found.groups()
            if text.endswith(_UNFINISHED):
                self._begun[process] = text.removesuffix(_UNFINISHED)
                continue
            resumed = _RESUMED.fullmatch(text)
            if resumed is not None:
                text = self._begun.pop(process) + resumed[1]
            call = _CALL.fullmatch(text)
            # A call without a result is the end of the process, or was interrupted by it.
            if call is not None and int(call[3]) >= 0:
                yield from self._call(call[1], call[2].split(", "), int(call[3]), call[4])

    def _call(
        self, name: str, arguments: list[str], result: int, where: str
    ) -> Iterator[Operation]:
        match name:
            case "openat":
                yield from self._open(arguments, f"{result}{where}")
            case "lseek":
                self._offsets[_number(arguments[0])] = result
            case "write" | "pwrite64" | "fsync" | "fdatasync" | "ftruncate":
                path = self._opened(arguments[0])
                if path is not None:
                    yield self._change(name, path, arguments, result)
            case "rename" | "link":
                old, new = (self._path("", argument) for argument in arguments)
                yield from self._move(name, old, new)
            case "renameat" | "renameat2" | "linkat":
                old, new = self._path(*arguments[:2]), self._path(*arguments[2:4])
                yield from self._move(name, old, new)
            case "unlink" | "rmdir" | "unlinkat":
                path = self._path(*(arguments[:2] if name == "unlinkat" else ["", arguments[0]]))
                if path is not None:
                    self._names.discard(path)
                    yield Unlink(path)
            case "mkdir" | "mkdirat":
                path = self._path(*(arguments[:2] if name == "mkdirat" else ["", arguments[0]]))
                if path is not None:
                    self._names.add(path)
                    yield Make(path, folder=True)
            case _:
                self._refuse(name, arguments)

    def _open(self, arguments: list[str], opened: str) -> Iterator[Operation]:
        self._offsets[_number(opened)] = 0
        path, flags = self._opened(opened), arguments[2].split("|")
        if path is None or "O_TMPFILE" in flags:
            return
        if path not in self._names:
            if "O_CREAT" in flags:
                self._names.add(path)
                yield Make(path)
        elif "O_TRUNC" in flags:
            yield Truncate(path, 0)
        if "O_APPEND" in flags:
            raise HarnessError(f"{path} was opened for appending, at an unknown place")

    def _change(self, name: str, path: str, arguments: list[str], result: int) -> Operation:
        match name:
            case "write":
                descriptor = _number(arguments[0])
                offset = self._offsets[descriptor]
                self._offsets[descriptor] = offset + result
                return Write(path, offset, _bytes(arguments[1])[:result])
            case "pwrite64":
                return Write(path, int(arguments[3]), _bytes(arguments[1])[:result])
            case "ftruncate":
                return Truncate(path, int(arguments[1]))
            case _:
                return Sync(path)

    def _move(self, name: str, old: str | None, new: str | None) -> Iterator[Operation]:
        if old is None and new is None:
            return
        if old is None or new is None:
            raise HarnessError(f"{name}: {old} to {new} leaves the folder or enters it")
        self._names.add(new)
        if name.startswith("rename"):
            self._names.discard(old)
            yield Rename(old, new)
        else:
            yield Link(old, new)

    def _refuse(self, name: str, arguments: list[str]) -> None:
        for argument in arguments:
            found = _DESCRIPTOR.fullmatch(argument)
            text = found[2] if found else argument.strip('"')
            if re.fullmatch(r"(\\x[0-9a-f]{2})+", text) and self._below(_bytes(text).decode()):
                raise HarnessError(f"the model does not know {name} of {_bytes(text).decode()}")

    def _opened(self, descriptor: str) -> str | None:
        """Return the path of an open file below the folder that still has a name."""
        found = _DESCRIPTOR.fullmatch(descriptor)
        if found is None or found[3]:
            return None
        return self._below(_bytes(found[2]).decode(errors="replace"))

    def _path(self, folder: str, name: str) -> str | None:
        """Return the path that a call names, if it is below the folder."""
        found = _DESCRIPTOR.fullmatch(folder)
        start = str(self._folder) if found is None else _bytes(found[2]).decode()
        return self._below(os.path.normpath(Path(start, _bytes(name).decode(errors="replace"))))

    def _below(self, path: str) -> str | None:
        inside = path == str(self._folder) or path.startswith(f"{self._folder}/")
        return path if inside and not path.endswith("-shm") else None


def _number(descriptor: str) -> str:
    return descriptor.partition("<")[0]


def _bytes(text: str) -> bytes:
    """Return the bytes that strace has written as hex, each after a backslash and an x."""
    return bytes.fromhex(text.strip('"').replace("\\x", ""))
