"""A disk that loses its power: what may be on it afterwards, given what was synced before.

The model is that of POSIX, not that of a particular file system. Data written to a file is kept
once the file is synced, a name in a folder once that folder is synced. Any part of everything else
may be lost, each write and each name by itself, whatever was done before or after it. A write that
is kept may be torn at the disk's sectors. A renamed file is at its old or at its new name. A write
changes only its own bytes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, TypeAlias

_SECTORS: Final = (512, 4096)
_TORN: Final = 0.25
"""How often a write that is kept is torn."""

_ODDS: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""The chances that an unsynced change is kept; one of them is drawn for each image."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes are written to a file."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file is given a size."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Make:
    """A new file or folder gets a name."""

    path: str
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """Something gets another name and replaces what has that name."""

    path: str
    new: str


@dataclass(frozen=True, slots=True)
class Link:
    """A file gets one more name."""

    path: str
    new: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name is removed."""

    path: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's content or a folder's names have to be on the disk."""

    path: str


Operation: TypeAlias = Write | Truncate | Make | Rename | Link | Unlink | Sync
Image: TypeAlias = Mapping[str, bytes | None]
"""The content of each file by its path; None for a folder. Folders come before what is in them."""


@dataclass(slots=True)
class _File:
    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[Write | Truncate] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    now: dict[str, _Node] = field(default_factory=dict)
    synced: dict[str, _Node] = field(default_factory=dict)


_Node: TypeAlias = _File | _Folder


@dataclass(frozen=True, slots=True)
class _Naming:
    """A change of names that is not synced yet; it is kept as a whole or not at all."""

    kind: str
    names: tuple[tuple[_Folder, str, _Node | None], ...]

    def keep(self) -> None:
        """Apply it to what is on the disk."""
        for folder, name, node in self.names:
            _set(folder.synced, name, node)


def _set(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class Disk:
    """The content of one folder: as processes see it, and as it is on the disk."""

    def __init__(self, root: str) -> None:
        self._parts = len(PurePosixPath(root).parts)
        self._root = _Folder()
        self._pending: list[_Naming] = []

    def apply(self, operation: Operation) -> None:
        """Repeat an operation of a process."""
        match operation:
            case Write(path, offset, data):
                file = self._file(path)
                _write(file.now, offset, data)
                file.pending.append(operation)
            case Truncate(path, size):
                file = self._file(path)
                _truncate(file.now, size)
                file.pending.append(operation)
            case Make(path, is_folder):
                folder, name = self._place(path)
                self._name("create", (folder, name, _Folder() if is_folder else _File()))
            case Rename(path, new):
                old_folder, old = self._place(path)
                folder, name = self._place(new)
                node = old_folder.now[old]
                if folder.now.get(name) is node:
                    return  # Two names of one file stay as they are.
                self._name("rename", (old_folder, old, None), (folder, name, node))
            case Link(path, new):
                folder, name = self._place(new)
                self._name("link", (folder, name, self._file(path)))
            case Unlink(path):
                folder, name = self._place(path)
                self._name("unlink", (folder, name, None))
            case Sync(path):
                self._sync(self._node(path))

    def now(self) -> Image:
        """Return everything as processes see it."""
        return dict(_walk(self._root, "", lambda folder: folder.now, lambda file: bytes(file.now)))

    def image(self, choices: random.Random, losses: Counter[str]) -> Image:
        """Return what may be there after a power cut; count in `losses` what was lost."""
        odds = choices.choice(_ODDS)
        names = {id(self._root): dict(self._root.synced)}

        def names_of(folder: _Folder) -> dict[str, _Node]:
            return names.setdefault(id(folder), dict(folder.synced))

        for naming in self._pending:
            if choices.random() < odds:
                for folder, name, node in naming.names:
                    _set(names_of(folder), name, node)
            else:
                losses[f"{naming.kind} lost"] += 1
        odds = choices.choice(_ODDS)
        contents: dict[int, bytes] = {}

        def content_of(file: _File) -> bytes:
            # Two names of one file have one content.
            if id(file) not in contents:
                contents[id(file)] = _survive(file, odds, choices, losses)
            return contents[id(file)]

        return dict(_walk(self._root, "", names_of, content_of))

    def _name(self, kind: str, *names: tuple[_Folder, str, _Node | None]) -> None:
        for folder, name, node in names:
            _set(folder.now, name, node)
        self._pending.append(_Naming(kind, names))

    def _sync(self, node: _Node) -> None:
        if isinstance(node, _File):
            node.synced = bytes(node.now)
            node.pending.clear()
            return
        waiting = []
        for naming in self._pending:
            if any(folder is node for folder, _, _ in naming.names):
                naming.keep()
            else:
                waiting.append(naming)
        self._pending = waiting

    def _place(self, path: str) -> tuple[_Folder, str]:
        *above, name = PurePosixPath(path).parts[self._parts :]
        folder = self._root
        for part in above:
            node = folder.now[part]
            assert isinstance(node, _Folder)  # the system has found the path
            folder = node
        return folder, name

    def _node(self, path: str) -> _Node:
        if len(PurePosixPath(path).parts) == self._parts:
            return self._root
        folder, name = self._place(path)
        return folder.now[name]

    def _file(self, path: str) -> _File:
        node = self._node(path)
        assert isinstance(node, _File)  # the system has written to it
        return node


def _walk(
    folder: _Folder,
    path: str,
    names_of: Callable[[_Folder], dict[str, _Node]],
    content_of: Callable[[_File], bytes],
) -> Iterator[tuple[str, bytes | None]]:
    for name, node in sorted(names_of(folder).items()):
        below = f"{path}/{name}" if path else name
        if isinstance(node, _Folder):
            yield below, None
            yield from _walk(node, below, names_of, content_of)
        else:
            yield below, content_of(node)


def _survive(file: _File, odds: float, choices: random.Random, losses: Counter[str]) -> bytes:
    """Return what may be left of a file's content."""
    found = bytearray(file.synced)
    for change in file.pending:
        if choices.random() >= odds:
            losses["write lost" if isinstance(change, Write) else "truncation lost"] += 1
        elif isinstance(change, Truncate):
            _truncate(found, change.size)
        elif choices.random() < _TORN:
            lost = _tear(found, change, choices)
            losses.update([f"write {lost}"] if lost else ())
        else:
            _write(found, change.offset, change.data)
    if len(found) < len(file.now) and choices.random() < odds:
        # A file system may keep the size and lose what was written.
        losses["zeros for a write"] += 1
        _truncate(found, len(file.now))
    return bytes(found)


def _tear(content: bytearray, write: Write, choices: random.Random) -> str:
    """Keep some sectors of a write; return what became of it: torn, lost, or neither."""
    sector = choices.choice(_SECTORS)
    kept = []
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, (start // sector + 1) * sector)
        kept.append(choices.random() < 0.5)  # as likely as not
        if kept[-1]:
            _write(content, start, write.data[start - write.offset : stop - write.offset])
        start = stop
    return "" if all(kept) else "torn" if any(kept) else "lost"


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
