"""How far a check of the whole store has come, so that an interrupted one goes on from there.

A cursor says what was verified and what follows from it; what is behind it is not looked at again
in the same pass. That is sound, although others commit meanwhile, because nothing behind it ever
changes rightly: leaves, bodies, buckets and their index rows are only added. A cursor that fits no
more (its last leaf is another one, its snapshot is gone) is dropped, with what it stood for.
What can change is compared at the end of a pass, in one read of one version of the store.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from federation.merkle import CompactRange
from federation.replica import LogState
from node.store.damage import Damage, replace_file

_FORMAT: Final = 1


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
        rebuilt: position of the snapshot that was made anew, or None.
        lost: whether something keeps the list from being followed at all.
    """

    fetched: int = 0
    rebuilt: int | None = None
    lost: bool = False


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
            said = json.loads(path.read_bytes())
            if said["format"] != _FORMAT:
                return None
            return cls(
                incarnation=str(said["incarnation"]),
                version=int(said["version"]),
                began_ms=int(said["began_ms"]),
                file_checked=bool(said["file_checked"]),
                damages=dict.fromkeys(map(Damage.read, said["damages"])),
                spans={int(key): _read_span(value) for key, value in said["spans"].items()},
                snapshots={
                    int(key): SnapshotCursor(
                        header=bytes.fromhex(value["header"]),
                        bucket=int(value["bucket"]),
                        digest=bytes.fromhex(value["digest"]),
                        rows=value["rows"],
                    )
                    for key, value in said["snapshots"].items()
                },
                lists={int(key): ListCursor(**value) for key, value in said["lists"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def store(self, path: Path) -> None:
        """Put it into a file.

        Raises:
            StoreError: it could not be written.
        """
        said = {
            "format": _FORMAT,
            "incarnation": self.incarnation,
            "version": self.version,
            "began_ms": self.began_ms,
            "file_checked": self.file_checked,
            "damages": [damage.describe() for damage in self.damages],
            "spans": {key: _describe_span(cursor) for key, cursor in self.spans.items()},
            "snapshots": {
                key: {
                    "header": cursor.header.hex(),
                    "bucket": cursor.bucket,
                    "digest": cursor.digest.hex(),
                    "rows": cursor.rows,
                }
                for key, cursor in self.snapshots.items()
            },
            "lists": {
                key: {
                    "fetched": cursor.fetched,
                    "rebuilt": cursor.rebuilt,
                    "lost": cursor.lost,
                }
                for key, cursor in self.lists.items()
            },
        }
        replace_file(path, json.dumps(said).encode())


def forget(path: Path) -> None:
    """Have the next pass begin anew."""
    with suppress(OSError):
        path.unlink()


def _describe_span(cursor: SpanCursor) -> dict[str, object]:
    state = cursor.state
    return {
        "position": cursor.position,
        "rows": cursor.rows,
        "snapshot": cursor.snapshot,
        "state": None
        if state is None
        else {
            "size": state.size,
            "frontier": state.frontier.encode().hex(),
            "last_leaf": state.last_leaf.hex(),
            "last_time_ms": state.last_time_ms,
            "live_count": state.live_count,
            "state_digest": state.state_digest.hex(),
            "start": state.start,
        },
    }


def _read_span(said: dict[str, Any]) -> SpanCursor:
    state = said["state"]
    return SpanCursor(
        position=int(said["position"]),
        rows=said["rows"],
        snapshot=said["snapshot"],
        state=None
        if state is None
        else LogState(
            frontier=CompactRange.decode(state["size"], bytes.fromhex(state["frontier"])),
            last_leaf=bytes.fromhex(state["last_leaf"]),
            last_time_ms=int(state["last_time_ms"]),
            live_count=int(state["live_count"]),
            state_digest=bytes.fromhex(state["state_digest"]),
            start=int(state["start"]),
        ),
    )
