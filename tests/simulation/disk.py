"""The disk of a simulated node, and what a crash leaves of it.

A store is a row of versions: each commit makes the next, whole or not at all, and it is durable
then. The mark is a file that is written under another name, synced, renamed, and its folder synced;
a rename that is not synced yet is there after a power loss, or is not. All else is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from federation import merkle
from federation.body import Body, PackedOp
from federation.bucket import Bucket, LiveEntry, name_of
from federation.checkpoint import Checkpoint, read_checkpoint
from federation.entry import Annotation, EntryId, OpKind
from federation.errors import FederationError
from federation.follow import FollowState
from federation.logtail import LogTail
from federation.merge import Prior
from federation.merkle import CompactRange
from federation.names import OrgName, Origin
from federation.recovery import Mark, Obstacle
from federation.replica import LogState, SignedDelta
from federation.snapshot import SnapshotOffer


class DiskFullError(Exception):
    """Nothing more can be written; nothing was."""


class DiskFailedError(Exception):
    """The disk failed while something was written: the process ends at once."""


class DamageError(Exception):
    """What is stored is not what was written."""


# --- entries ----------------------------------------------------------------------------------


class Entries:
    """The entries of one list that were ever named, with the operation in force on each."""

    def __init__(self, known: Mapping[EntryId, tuple[Prior, PackedOp]] | None = None) -> None:
        self._known = {} if known is None else known

    @classmethod
    def of_buckets(cls, buckets: Sequence[Bucket]) -> Entries:
        """Return the entries that a snapshot has."""
        return cls(
            {
                entry.packed.entry: (Prior(entry.position, entry.row, OpKind.ASSERT), entry.packed)
                for bucket in buckets
                for entry in bucket.entries()
            }
        )

    def prior(self, body: Body) -> dict[int, Prior]:
        """Return what is in force on the entries that a body names, by its rows."""
        found = {}
        for row in range(body.count):
            known = self._known.get(body.packed(row).entry)
            if known is not None:
                found[row] = known[0]
        return found

    def after(self, position: int, body: Body) -> Entries:
        """Return the entries after a delta."""
        known = dict(self._known)
        for row in range(body.count):
            packed = body.packed(row)
            known[packed.entry] = (Prior(position, row, packed.shape.kind), packed)
        return type(self)(known)

    def live(self) -> Iterator[LiveEntry]:
        """Yield the live entries by ascending name."""
        found = [
            LiveEntry(packed, prior.position, prior.row)
            for prior, packed in self._known.values()
            if prior.kind is OpKind.ASSERT
        ]
        found.sort(key=lambda entry: name_of(entry.packed.shape, entry.packed.entry.key))
        yield from found

    def kinds(self) -> dict[EntryId, OpKind]:
        """What the operation in force on each entry did."""
        return {entry: prior.kind for entry, (prior, _) in self._known.items()}

    def said(self) -> dict[EntryId, tuple[int, Annotation]]:
        """The live entries: where each was last asserted, and what was said of it."""
        return {
            entry: (prior.position, packed.annotation)
            for entry, (prior, packed) in self._known.items()
            if prior.kind is OpKind.ASSERT
        }


# --- one list ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf as it is stored.

    Attributes:
        delta: the bytes.
        version: the version of the store that brought it.
    """

    delta: SignedDelta
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSnapshot:
    """A snapshot that can be served."""

    position: int
    offer: SnapshotOffer
    buckets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Arriving:
    """A snapshot on its way here, with the buckets that have come."""

    offer: SnapshotOffer
    buckets: Mapping[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one version of a store has of one list.

    Attributes:
        origin: the list.
        own: whether it is this node's own.
        via: the peer that it is followed by.
        log: where the log stands.
        before: the log before the first leaf that is here.
        leaves: the leaves from `log.start` on.
        entries: the index.
        charter, charter_version: the charter in force.
        released: how much of an own list may leave.
        signed_extent: up to which number staged changes are signed.
        state, reason: how following it goes.
        snapshots: what can be served.
        arriving: what is on its way.
    """

    origin: Origin
    own: bool
    via: OrgName | None
    log: LogState = field(default_factory=LogState.empty)
    before: CompactRange = field(default_factory=lambda: CompactRange(0, ()))
    leaves: tuple[Leaf, ...] = ()
    entries: Entries = field(default_factory=Entries)
    charter: bytes = b""
    charter_version: int = 0
    released: int = 0
    signed_extent: int = 0
    state: FollowState = FollowState.CURRENT
    reason: str = ""
    snapshots: tuple[HeldSnapshot, ...] = ()
    arriving: Arriving | None = None

    @property
    def size(self) -> int:
        """How many leaves the log has."""
        return self.log.size

    @property
    def available(self) -> int:
        """How many leaves may leave this node."""
        return min(self.released, self.size) if self.own else self.size

    @property
    def shown(self) -> bytes:
        """The newest checkpoint that may leave this node; empty for none."""
        newest = self.leaf(self.available - 1)
        return b"" if newest is None else newest.checkpoint

    @property
    def settled(self) -> int:
        """The size before the newest committed step: a step is one version of the store."""
        newest = self.leaves[-1].version if self.leaves else 0
        count = sum(leaf.version < newest for leaf in self.leaves)
        return self.log.start + count if self.leaves else 0

    def leaf(self, position: int) -> SignedDelta | None:
        """Return the leaf at a position; None where none is here."""
        if not self.log.start <= position < self.size:
            return None
        return self.leaves[position - self.log.start].delta

    def root_at(self, size: int) -> bytes:
        """Return the root of the log at an earlier size, as it was signed.

        Raises:
            DamageError: it cannot be read, or is not here.
        """
        if self.log.start and size == self.log.start:
            return self.before.root()
        leaf = self.leaf(size - 1)
        if leaf is None:
            raise DamageError(f"position {size - 1} of {self.origin} is not here")
        try:
            checkpoint = read_checkpoint(leaf.checkpoint)
        except FederationError as error:
            raise DamageError(str(error)) from error
        if checkpoint.size != size:
            raise DamageError(f"the checkpoint of size {size} is of size {checkpoint.size}")
        return checkpoint.root_hash

    def checkpoint(self) -> Checkpoint:
        """Return its newest size and root."""
        return Checkpoint(str(self.origin), self.size, self.log.frontier.root())

    def tail(self) -> LogTail:
        """Return what proofs about the log are made from."""
        return LogTail(self.before, [merkle.leaf_hash(leaf.delta.header) for leaf in self.leaves])


# --- the store --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a store: all that a backup or a copy of the file has."""

    lists: Mapping[Origin, Held]
    incarnation: bytes


class Store:
    """The store of one node.

    Attributes:
        now: what is in it.
        history: every version that was ever in it, the newest last.
        is_full: whether writing fails, for want of space.
    """

    def __init__(self, lists: Mapping[Origin, Held], incarnation: bytes) -> None:
        self.now = Version(lists, incarnation)
        self.history = [self.now]
        self.is_full = False

    def __getitem__(self, origin: Origin) -> Held:
        return self.now.lists[origin]

    def __iter__(self) -> Iterator[Held]:
        return iter(self.now.lists.values())

    @property
    def incarnation(self) -> bytes:
        """The token of this store."""
        return self.now.incarnation

    @property
    def number(self) -> int:
        """The number of its version."""
        return len(self.history)

    def leaf(self, delta: SignedDelta) -> Leaf:
        """Return a leaf as the next version brings it."""
        return Leaf(delta, self.number + 1)

    def commit(self, held: Held) -> None:
        """Make a list what it is now, durably.

        Raises:
            DiskFullError: there is no space; nothing was changed.
        """
        if self.is_full:
            raise DiskFullError
        self.now = Version({**self.now.lists, held.origin: held}, self.now.incarnation)
        self.history.append(self.now)

    def go_back(self, version: Version, incarnation: bytes | None = None) -> None:
        """Put an earlier version back, as it was or under a new token."""
        self.now = version if incarnation is None else replace(version, incarnation=incarnation)
        self.history.append(self.now)

    def damage(self, held: Held) -> None:
        """Change what is stored without anybody having written it."""
        self.now = Version({**self.now.lists, held.origin: held}, self.now.incarnation)
        self.history[-1] = self.now


# --- the mark ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MarkRecord:
    """What the mark says of one list."""

    size: int
    root_hash: bytes
    incarnation: bytes


MarkContent = Mapping[Origin, MarkRecord] | Obstacle
"""What the file has, or why it cannot be used."""


class MarkFile:
    """The high-water mark of one node, as a file that may be renamed and not synced yet.

    Attributes:
        content: what a reader sees.
        durable: what is left of it after a power loss, at least.
        history: every content that it ever had, the newest last.
        synced: all that it ever said, durably.
        is_full, fails: what happens when it is written.
        known: lists whose mark was compared with the peers, for this very file on this boot, with
            how far the clock may be ahead, as the operator has said.
    """

    def __init__(self, records: Mapping[Origin, MarkRecord]) -> None:
        self.content: MarkContent = records
        self.durable: MarkContent = records
        self.history: list[MarkContent] = []
        self.synced: dict[tuple[Origin, int, bytes], bool] = {}
        self.is_full = False
        self.fails = False
        self.known: dict[Origin, int] = dict.fromkeys(records, 0)
        self.sync()

    def load(self, origin: Origin) -> Mark | Obstacle:
        """Return the mark of a list, or why there is none that can be used."""
        if isinstance(self.content, Obstacle):
            return self.content
        record = self.content.get(origin)
        if record is None:
            return Obstacle.MARK_MISSING
        return Mark(
            checkpoint=Checkpoint(str(origin), record.size, record.root_hash),
            incarnation=record.incarnation,
            fresh=origin in self.known,
            accepted_lead_ms=self.known.get(origin, 0),
        )

    def raised(self, held: Held, incarnation: bytes) -> MarkContent:
        """Return what it says when the mark of one list is where the list is now."""
        assert not isinstance(self.content, Obstacle)  # only what can be used is raised
        record = MarkRecord(held.size, held.log.frontier.root(), incarnation)
        return {**self.content, held.origin: record}

    def write(self) -> None:
        """Write a mark under another name and sync it.

        Raises:
            DiskFullError, DiskFailedError: it could not be written.
        """
        if self.is_full:
            raise DiskFullError
        if self.fails:
            self.fails = False
            raise DiskFailedError

    def rename(self, content: MarkContent) -> None:
        """Put what was written in place; a power loss may still undo it."""
        self.content = content

    def sync(self) -> None:
        """Sync the folder: what is in place stays."""
        self.durable = self.content
        self.history.append(self.content)
        self._note_synced()

    def _note_synced(self) -> None:
        if not isinstance(self.content, Obstacle):
            for origin, record in self.content.items():
                self.synced[origin, record.size, record.root_hash] = True

    def record_durable(self, origin: Origin) -> MarkRecord | None:
        """Return what the mark says of a list whatever crash comes."""
        if isinstance(self.durable, Obstacle):
            return None
        return self.durable.get(origin)

    def lose_power(self, random: Random) -> None:
        """Keep what is synced; of a rename that is not, one of the two."""
        if random.random() < 0.5:
            self.durable = self.content
        self.content = self.durable
        self.known = {}

    def tamper(self, content: MarkContent) -> None:
        """Put another content in place, as somebody else than this program does."""
        # What was in place is replaced, not undone.
        self._note_synced()
        self.content = self.durable = content
        self.known = {}


@dataclass(frozen=True, slots=True)
class Intent:
    """A staged change: what somebody wanted of a list, numbered in the order of staging."""

    number: int
    kind: str
    value: int
