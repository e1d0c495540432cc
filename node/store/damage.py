"""What is known to be damaged in a store, in a small file beside it.

The file lies outside of the database, whose damage it tells of. Who answers from the store asks it
first. `hashfed fsck` and the background scrub write it.
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
    """What is signed of a snapshot beside its buckets, and the tree before it."""
    BUCKET = "bucket"
    """A bucket of a snapshot."""
    FETCHED = "fetched"
    """A delta that was fetched by itself, or its proof."""
    CHARTER = "charter"
    """The signed audience of a list."""
    ROOT = "root"
    """The pinned keys of an organization."""
    PEER = "peer"
    """A peer's certificate."""
    INDEX = "index"
    """Where fingerprints and names are found: derived."""
    INTERVAL = "interval"
    """Until when an operation was in force: derived."""
    RECORD = "record"
    """What is recorded of lists, spans, snapshots, runs and versions: derived, or noted here."""
    SCHEMA = "schema"
    """The tables themselves."""
    FILE = "file"
    """The database file: SQLite cannot read a part of it."""
    CLAIM = "claim"
    """Nothing here: what a list's owner signed contradicts itself."""


_HARMLESS: Final = frozenset({DamageKind.CLAIM, DamageKind.PEER, DamageKind.ROOT})
"""Of no list: what the entries of a list are does not depend on it."""

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
"""Of single parts of a list, or derived from them: the other parts are what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something stored that is not what was signed, or what follows from that.

    Attributes:
        kind: what it is.
        origin: the list, as text; empty when it concerns the store.
        position: the leaf's position; None when it concerns the list or the store.
        row: the operation's row in that leaf; None when it concerns no single one.
        message: what is wrong.
    """

    kind: DamageKind
    origin: str
    position: int | None
    row: int | None = None
    message: str

    def describe(self) -> dict[str, object]:
        """Return it as the JSON object that commands print."""
        return {
            "kind": str(self.kind),
            "list": self.origin or None,
            "position": self.position,
            "op": self.row,
            "message": self.message,
        }


class StoredDamage(msgspec.Struct, frozen=True):
    """A damage as files beside the store have it: the form of `Damage.describe`."""

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
    """What the checks of a store have found.

    Attributes:
        ended_ms: when the last whole check ended; None when none has.
        damages: what was found and is not known to be repaired.
    """

    ended_ms: int | None = None
    damages: tuple[Damage, ...] = ()

    def of(self, origin: str) -> Damage | None:
        """Return a damage for which nothing may be answered from a list, or None."""
        return next(self._iter_of(origin), None)

    def concern_parts_alone(self, origin: str) -> bool:
        """Say whether all that is damaged of a list are parts that say nothing of its others."""
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
    message="the file of what was found to be damaged cannot be read",
)


def require_sound(store: Path, origin: str) -> None:
    """Raise if a list is known to be damaged in the store at a path: it answers nothing.

    Raises:
        DamageError: it is.
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
    """Return the file of a store's findings: beside the file itself, whatever link leads there."""
    found = store.resolve()
    return found.with_name(f"{found.name}.findings")


_Stamp = tuple[int, int, int]
_lock = threading.Lock()
_read: dict[Path, tuple[_Stamp, Findings]] = {}  # Guarded by _lock.


def load(store: Path) -> Findings:
    """Return what was found in a store; asked before each answer, so it costs one look."""
    path = path_of(store)
    try:
        stat = path.stat()
    except OSError:
        return Findings()
    # It is replaced as a whole: another content is another file.
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
    """Replace what is known of the store at a path.

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
    """Add to what is known of the store at a path, at once: from now on nothing hides it.

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
