"""What a peer may read here, and in which order it is answered. Reads only.

A list is served to whom its charter allows, by its owner and by every relay alike. A list that is
not here and one that the caller may not have get the same answer. Of a list of this node's own,
nothing leaves that is not released (`node.store.release`). The owner of a list may always have it:
its peers' copies are what it recovers from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from federation.checkpoint import read_checkpoint
from federation.errors import FederationError
from federation.names import Origin
from federation.replica import SignedDelta
from node.errors import DamageError
from node.store import log, registry
from node.store.connection import Store
from node.store.registry import ListRecord
from node.store.release import released_size


class Outcome(Enum):
    """How this node stands to a caller's cursor."""

    UP_TO_DATE = "up-to-date"
    DELTAS = "deltas"
    UNAVAILABLE = "unavailable"
    CURSOR_AHEAD = "cursor-ahead"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a caller stands in one list's log.

    Attributes:
        origin: the list, as the caller wrote it; it may be no name at all.
        size: how many deltas the caller holds.
        root_hash: the root of its log at that size; empty at 0.
        charter_version: the charter that it holds; 0 for none.
    """

    origin: str
    size: int
    root_hash: bytes
    charter_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How this node stands to one cursor.

    Attributes:
        outcome: what follows.
        head: how many deltas there are here; 0 when unavailable.
        checkpoint: the newest signed note here, or empty.
        charter: the envelope of the charter in force, if the caller's is older; else empty.
    """

    outcome: Outcome
    head: int = 0
    checkpoint: bytes = b""
    charter: bytes = b""


_UNAVAILABLE = Answer(outcome=Outcome.UNAVAILABLE)


def iter_available(store: Store, caller: str) -> Iterator[ListRecord]:
    """Yield the lists that a caller may have, by origin."""
    for record in registry.iter_lists(store.connection):
        if _allows(record, caller):
            yield record


def answer(store: Store, caller: str, cursor: Cursor) -> Answer:
    """Say how this node stands to a caller's cursor."""
    record = _available(store, caller, cursor.origin)
    if record is None:
        return _UNAVAILABLE
    size = released_size(store.connection, record)
    charter = record.charter or b""
    newest = log.load_record(store.connection, record.list, size - 1) if size else None
    if cursor.size > size:
        outcome = Outcome.CURSOR_AHEAD
    elif cursor.size and cursor.root_hash != root_at(store, record, cursor.size):
        outcome = Outcome.DIVERGED
    elif cursor.size == size:
        outcome = Outcome.UP_TO_DATE
    else:
        outcome = Outcome.DELTAS
    return Answer(
        outcome=outcome,
        head=size,
        checkpoint=b"" if newest is None else newest.checkpoint,
        charter=charter if record.charter_version > cursor.charter_version else b"",
    )


def read_frame(store: Store, caller: str, origin: str, start: int) -> list[SignedDelta] | None:
    """Return the deltas of a list from `start` on, one frame of them; empty when there are none.

    None when the caller may not have the list any more: this is asked anew for every frame.
    """
    record = _available(store, caller, origin)
    if record is None:
        return None
    size = released_size(store.connection, record)
    if start >= size:
        return []
    return log.read_frame(store.connection, record.list, start, size)


def root_at(store: Store, record: ListRecord, size: int) -> bytes:
    """Return the root hash of a list's log at an earlier size (0 < size <= its size).

    Every delta is kept with the checkpoint of the log right after it.
    """
    held = log.load_record(store.connection, record.list, size - 1)
    if held is None:
        raise DamageError(f"position {size - 1} of {record.origin} is missing")
    return read_checkpoint(held.checkpoint).root_hash


def _available(store: Store, caller: str, origin: str) -> ListRecord | None:
    try:
        parsed = Origin.parse(origin)
    except FederationError:
        return None
    record = registry.load_list(store.connection, parsed)
    return record if record is not None and _allows(record, caller) else None


def _allows(record: ListRecord, caller: str) -> bool:
    charter = record.open_charter()
    return charter is not None and charter.allows(caller)
