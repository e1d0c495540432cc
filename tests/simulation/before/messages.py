"""What simulated nodes send each other: what the production service's messages say, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.follow import Cursor, Outcome
from federation.names import Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer


@dataclass(frozen=True, slots=True)
class Open:
    """A stream is opened; `live` if it is to go on for ever."""

    serial: int
    cursors: tuple[Cursor, ...]
    live: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """How the peer stands to one cursor; `index` counts what is sent on a stream."""

    serial: int
    origin: Origin
    outcome: Outcome
    checkpoint: bytes = b""
    charter: bytes = b""
    snapshot: SnapshotOffer | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Delivered:
    """Deltas of one list."""

    serial: int
    origin: Origin
    deltas: tuple[SignedDelta, ...]
    index: int = 0


@dataclass(frozen=True, slots=True)
class Alive:
    """A sign of life, and how many messages were sent before it."""

    serial: int
    sent: int


@dataclass(frozen=True, slots=True)
class End:
    """The stream ends: by `failed`, because the peer cannot serve it."""

    serial: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Which checkpoints of our lists do you hold?"""

    number: int


@dataclass(frozen=True, slots=True)
class Shown:
    """The newest checkpoint and charter of each of the asker's lists, and the time."""

    number: int
    lists: Mapping[Origin, tuple[bytes, bytes]]
    time_ms: int


@dataclass(frozen=True, slots=True)
class WantBucket:
    """One bucket of the snapshot at a position."""

    origin: Origin
    position: int
    number: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """That bucket; None when it is not there."""

    origin: Origin
    position: int
    number: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class WantLeaf:
    """One leaf, with the proof that it is in the log of a size."""

    origin: Origin
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class LeafSent:
    """That leaf."""

    origin: Origin
    position: int
    delta: SignedDelta
    inclusion: tuple[bytes, ...]


Message = (
    Open
    | Opened
    | Delivered
    | Alive
    | End
    | Ask
    | Shown
    | WantBucket
    | Bucket
    | WantLeaf
    | LeafSent
)
