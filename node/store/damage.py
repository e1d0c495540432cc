"""Known damage of a store, in a small file beside it.

The file is not in the database, because it describes the damage of the database. Everything that
answers from the store asks it first. `hashfed fsck` and the background scrub write it.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from node.errors import DamageError
from node.system import durable


class DamageKind(StrEnum):
    """What is damaged."""

    HEADER = "header"
    """The signed record of a leaf."""
    CHECKPOINT = "checkpoint"
    """The signed note of the log right after a leaf."""
    BODY = "body"
    """The operations that a leaf signs."""
    SNAPSHOT = "snapshot"
    """The signed bytes of a snapshot except its buckets, and the tree of the log before it."""
    BUCKET = "bucket"
    """A bucket of a snapshot."""
    FETCHED = "fetched"
    """A delta that was fetched alone, or its proof."""
    CHARTER = "charter"
    """The signed audience of a list."""
    ROOT = "root"
    """The pinned keys of an organization."""
    PEER = "peer"
    """A peer's certificate."""
    INDEX = "index"
    """The index of fingerprints and names, which is derived."""
    INTERVAL = "interval"
    """How long an operation was in force, which is derived."""
    RECORD = "record"
    """The records of lists, spans, snapshots, runs and versions: derived, or unsigned notes."""
    SCHEMA = "schema"
    """The tables themselves."""
    FILE = "file"
    """The database file: SQLite cannot read a part of it."""
    CLAIM = "claim"
    """Not damage of this store: what the list's owner signed contradicts itself."""


_HARMLESS: Final = frozenset({DamageKind.CLAIM, DamageKind.PEER, DamageKind.ROOT})
"""Kinds of damage that concern no list: the entries of a list do not depend on them."""

_OF_PARTS: Final = frozenset(
    {
        DamageKind.HEADER,
        DamageKind.CHECKPOINT,
        DamageKind.BODY,
        DamageKind.SNAPSHOT,
        DamageKind.BUCKET,
        DamageKind.FETCHED,
        DamageKind.INDEX,
        DamageKind.INTERVAL,
    }
)
"""Damage to single parts of a list, or to what is derived from them. Other parts are sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something stored that differs from what was signed, or from what follows from that.

    Attributes:
        kind: the kind of damage.
        origin: the list, as text; empty if it concerns the store.
        position: the leaf's position; None if it concerns the whole list or the store.
        row: the operation's row in that leaf; None if it concerns no single operation.
        message: what is wrong.
    """

    kind: DamageKind
    origin: str
    position: int | None
    row: int | None = None
    message: str

    def describe(self) -> dict[str, object]:
        """Return the damage as the JSON object that commands print."""
        return {
            "kind": str(self.kind),
            "list": self.origin or None,
            "position": self.position,
            "op": self.row,
            "message": self.message,
        }


class StoredDamage(msgspec.Struct, frozen=True):
    """One damage in the form of `Damage.describe`, as the files beside the store hold it."""

    kind: DamageKind
    list: str | None
    position: int | None
    op: int | None
    message: str

    def read(self) -> Damage:
        """Return the damage."""
        return Damage(
            kind=self.kind,
            origin=self.list or "",
            position=self.position,
            row=self.op,
            message=self.message,
        )


class _StoredFindings(msgspec.Struct, frozen=True):
    ended_ms: int | None
    damages: list[StoredDamage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The findings of all checks of a store.

    Attributes:
        ended_ms: when the last complete check ended; None if none has.
        damages: the damage that was found and is not known to be repaired.
    """

    ended_ms: int | None = None
    damages: tuple[Damage, ...] = ()

    def of(self, origin: str) -> Damage | None:
        """Return a damage that forbids answers from a list, or None."""
        return next(self._iter_of(origin), None)

    def concern_parts_alone(self, origin: str) -> bool:
        """Return whether only parts of a list are damaged that do not affect its other parts."""
        return all(damage.kind in _OF_PARTS for damage in self._iter_of(origin))

    def _iter_of(self, origin: str) -> Iterator[Damage]:
        for damage in self.damages:
            if damage.origin:
                if damage.origin == origin and damage.kind is not DamageKind.CLAIM:
                    yield damage
            elif damage.kind not in _HARMLESS:
                yield damage


_UNREADABLE: Final = Damage(
    kind=DamageKind.RECORD,
    origin="",
    position=None,
    message="the file of known damage cannot be read",
)


def require_sound(store: Path, origin: str) -> None:
    """Raise an error if a list is known to be damaged, since nothing may be answered from it.

    Raises:
        DamageError: it is damaged.
    """
    damage = load(store).of(origin)
    if damage is not None:
        at = "" if damage.position is None else f" at position {damage.position}"
        raise DamageError(
            f"{origin} is damaged here ({damage.kind}{at}): nothing is answered from it",
            hint="stop 'hashfed serve' and run 'hashfed fsck --repair'",
        )


@lru_cache(maxsize=64)
def path_of(store: Path) -> Path:
    """Return the path of a store's findings: beside the file itself, even if a link leads there."""
    found = store.resolve()
    return found.with_name(f"{found.name}.findings")


_Stamp = tuple[int, int, int]
_lock = threading.Lock()
_read: dict[Path, tuple[_Stamp, Findings]] = {}  # Guarded by _lock.


def load(store: Path) -> Findings:
    """Return the findings of a store. Called before each answer, so it only does one stat."""
    path = path_of(store)
    try:
        stat = path.stat()
    except OSError:
        return Findings()
    # The file is replaced as a whole, so other content means another file.
    stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    with _lock:
        known = _read.get(path)
    if known is None or known[0] != stamp:
        known = (stamp, _parse(path))
        with _lock:
            _read[path] = known
    return known[1]


def _parse(path: Path) -> Findings:
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_StoredFindings)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Findings(damages=(_UNREADABLE,))
    damages = tuple(damage.read() for damage in stored.damages)
    return Findings(ended_ms=stored.ended_ms, damages=damages)


def store(path: Path, findings: Findings) -> None:
    """Replace the findings of a store.

    Raises:
        StoreError: it could not be written.
    """
    target = path_of(path)
    data = json.dumps(
        {
            "ended_ms": findings.ended_ms,
            "damages": [damage.describe() for damage in findings.damages],
        },
        indent=1,
    )
    replace_file(target, data.encode())


def add(path: Path, damages: Iterable[Damage]) -> None:
    """Add to the findings of a store; from then on every answer takes them into account.

    Raises:
        StoreError: it could not be written.
    """
    known = load(path)
    new = [damage for damage in damages if damage not in known.damages]
    if new:
        store(path, Findings(ended_ms=known.ended_ms, damages=(*known.damages, *new)))


def replace_file(target: Path, data: bytes) -> None:
    """Put a file in place as a whole, durably.

    Raises:
        StoreError: it could not be written.
    """
    unnamed = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    with durable.disk_errors(target):
        try:
            durable.write_new(unnamed, data)
            durable.rename(unnamed, target)
        finally:
            with suppress(FileNotFoundError):
                unnamed.unlink()
