"""How far a check of the whole store has come, so that an interrupted one goes on from there.

A cursor says what was verified and what follows from it; what is behind it is not looked at again
in the same pass. That is sound, although others commit meanwhile, because nothing behind it ever
changes rightly: leaves, bodies, buckets and their index rows are only added. A cursor that fits no
more (its last leaf is another one, its snapshot is gone) is dropped, with what it stood for.
What can change is compared at the end of a pass, in one read of one version of the store.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from federation.errors import FederationError
from federation.replica import LogState
from node.store.damage import Damage, replace_file

_FORMAT: Final = 2


@dataclass(slots=True, kw_only=True)
class SpanCursor:
    """How far one span was followed.

    Attributes:
        position: of the next leaf.
        state: where the log stands before it; None when damage has hidden that.
        rows: rows that the span must have in the index; None when damage has hidden that.
        snapshot: position of the newest snapshot's leaf; None when there was none.
    """

    position: int
    state: LogState | None
    rows: int | None = 0
    snapshot: int | None = None


@dataclass(slots=True, kw_only=True)
class SnapshotCursor:
    """How far the buckets of one snapshot were checked.

    Attributes:
        header: the signed record of its leaf.
        bucket: number of the next bucket.
        digest: state digest of the entries so far.
        rows: as of a span.
    """

    header: bytes
    bucket: int
    digest: bytes
    rows: int | None = 0


@dataclass(slots=True, kw_only=True)
class ListCursor:
    """What else of one list was checked.

    Attributes:
        fetched: position from which on deltas that were fetched by themselves are still to check.
        rebuilt: position of the snapshot that was made again, or None.
        lost: whether something keeps the list from being followed at all.
    """

    fetched: int = 0
    rebuilt: int | None = None
    lost: bool = False


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a journal: its fields as JSON, bytes in base64."""

    format: int
    incarnation: str
    version: int
    began_ms: int
    file_checked: bool
    damages: list[Damage]
    spans: dict[int, SpanCursor]
    snapshots: dict[int, SnapshotCursor]
    lists: dict[int, ListCursor]


@dataclass(slots=True, kw_only=True)
class Journal:
    """How far a pass over the whole store has come.

    Attributes:
        incarnation: of the store that the pass is over.
        version: the newest version of the store that it has seen.
        began_ms: when it began.
        file_checked: whether SQLite's own check of the file was made.
        damages: what was found, in order.
        spans: by number.
        snapshots: by number.
        lists: by number.
    """

    incarnation: str = ""
    version: int = 0
    began_ms: int = 0
    file_checked: bool = False
    damages: dict[Damage, None] = field(default_factory=dict)
    spans: dict[int, SpanCursor] = field(default_factory=dict)
    snapshots: dict[int, SnapshotCursor] = field(default_factory=dict)
    lists: dict[int, ListCursor] = field(default_factory=dict)

    def of_list(self, number: int) -> ListCursor:
        """Return what was checked of a list."""
        return self.lists.setdefault(number, ListCursor())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return what an interrupted pass has left, or None if there is nothing of use."""
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except (OSError, msgspec.MsgspecError, FederationError, UnicodeDecodeError):
            return None
        if stored.format != _FORMAT:
            return None
        fields = {name: getattr(stored, name) for name in _Stored.__struct_fields__}
        del fields["format"]
        return cls(**{**fields, "damages": dict.fromkeys(stored.damages)})

    def store(self, path: Path) -> None:
        """Put it into a file.

        Raises:
            StoreError: it could not be written.
        """
        fields = {
            name: getattr(self, name) for name in _Stored.__struct_fields__ if name != "format"
        }
        stored = _Stored(format=_FORMAT, **{**fields, "damages": list(self.damages)})
        replace_file(path, msgspec.json.encode(stored))


def forget(path: Path) -> None:
    """Let the next pass begin from the start."""
    with suppress(OSError):
        path.unlink()
