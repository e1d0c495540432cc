"""What a follower asks for a list, and how it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How this node stands to a caller's cursor."""

    UP_TO_DATE = "up-to-date"
    DELTAS = "deltas"
    UNAVAILABLE = "unavailable"
    CURSOR_AHEAD = "cursor-ahead"
    DIVERGED = "diverged"
    SNAPSHOT = "snapshot"
    CURSOR_TOO_OLD = "cursor-too-old"


class SnapshotReason(Enum):
    """Why a snapshot is offered in the place of deltas."""

    NOT_RETAINED = "not-retained"
    CHEAPER = "cheaper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a caller stands in one list's log.

    Attributes:
        origin: the list, as the caller wrote it; it may be no name at all.
        size: how many deltas the caller holds.
        root_hash: the root of its log at that size; empty at 0.
        charter_version: the charter that it holds; 0 for none.
        deltas_only: whether it wants every delta, and no snapshot in their place.
    """

    origin: str
    size: int
    root_hash: bytes
    charter_version: int
    deltas_only: bool = False
