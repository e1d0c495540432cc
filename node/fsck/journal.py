"""The progress of a check of the whole store, so that an interrupted check can be continued.

A cursor says what was verified and what follows from it. Data before the cursor is not read again
in the same pass. This is sound even with concurrent commits, because that data never changes:
leaves, bodies, buckets and their index rows are only added. A cursor that no longer fits (its last
leaf differs, or its snapshot is gone) is dropped with its results. Data that may change is compared
at the end of a pass, in one read of one version of the store.
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
    """The progress in one span.

    Attributes:
        position: the position of the next leaf.
        state: the state of the log before it; None if damage hides it.
        rows: how many rows the span must have in the index; None if damage hides it.
        snapshot: the position of the newest snapshot's leaf; None if there was none.
    """

    position: int
    state: LogState | None
    rows: int | None = 0
    snapshot: int | None = None


@dataclass(slots=True, kw_only=True)
class SnapshotCursor:
    """The progress in the buckets of one snapshot.

    Attributes:
        header: the signed record of its leaf.
        bucket: the number of the next bucket.
        digest: the state digest of the entries so far.
        rows: as for a span.
    """

    header: bytes
    bucket: int
    digest: bytes
    rows: int | None = 0


@dataclass(slots=True, kw_only=True)
class ListCursor:
    """The progress in the other parts of one list.

    Attributes:
        fetched: the position from which deltas that were fetched alone are still unchecked.
        rebuilt: the position of the snapshot that was made again, or None.
        lost: whether a problem prevents following the list at all.
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
    """The progress of a pass over the whole store.

    Attributes:
        incarnation: the token of the store.
        version: the newest version of the store that was read.
        began_ms: when it began.
        file_checked: whether SQLite's own check of the file is done.
        damages: the findings, in order.
        spans: progress by span number.
        snapshots: progress by snapshot number.
        lists: progress by list number.
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
        """Return the progress in a list."""
        return self.lists.setdefault(number, ListCursor())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the journal of an interrupted pass, or None if there is no usable one."""
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
        """Write it into a file.

        Raises:
            StoreError: it could not be written.
        """
        fields = {
            name: getattr(self, name) for name in _Stored.__struct_fields__ if name != "format"
        }
        stored = _Stored(format=_FORMAT, **{**fields, "damages": list(self.damages)})
        replace_file(path, msgspec.json.encode(stored))


def forget(path: Path) -> None:
    """Delete a journal, so that the next pass begins at the start."""
    with suppress(OSError):
        path.unlink()
