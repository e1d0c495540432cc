"""What one stream of a peer does to the lists that are followed by it. Runs in the writer's thread.

A list that fails is dropped for the rest of the stream; the others go on. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from federation.checkpoint import open_checkpoint
from federation.errors import FederationError, ForkError, OperationError, PeerError, Reason
from federation.follow import Cursor, FollowState, Outcome
from federation.header import Header
from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from federation.trust.orgroot import PinnedRoot
from node.clock import Clock
from node.errors import CommandError, DamageError, NodeError, ProtocolError
from node.ingest import checks, snapshot
from node.ingest import deltas as ingest_deltas
from node.ingest.snapshot import Arrival
from node.store import damage, follow_state, lists, orgs, spans, trees
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord
from node.sync.client import Alive, Delivered, Event, Opened
from node.telemetry.logs import get_logger

CONTACT_MS: Final = 30_000
"""How fresh the time of the last contact is kept. Noting it with every message would cost a write
to disk for each."""

UNAVAILABLE: Final = "UNAVAILABLE"
CURSOR_AHEAD: Final = "CURSOR_AHEAD"
CURSOR_TOO_OLD: Final = "CURSOR_TOO_OLD"
DIVERGED: Final = "DIVERGED"

_FOLLOWABLE: Final = (Outcome.UP_TO_DATE, Outcome.DELTAS)
_PUBLISHER_AT_FAULT: Final = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)

_log = get_logger()


def is_frozen(status: FollowStatus | Progress) -> bool:
    """Say whether a list waits for a person: fetching it again would not change what is wrong."""
    return status.state in (FollowState.FORKED, FollowState.DAMAGED) or (
        status.state is FollowState.QUARANTINED and status.reason in _PUBLISHER_AT_FAULT
    )


@dataclass(slots=True, kw_only=True)
class Progress:
    """How one list comes along on one stream.

    Attributes:
        origin: the list.
        before: deltas that were here when the stream began.
        size: deltas that are here.
        head: deltas that the peer said it has; 0 before it answered.
        retained_from: the size from which on the peer said that it holds every delta.
        deltas: deltas that this stream brought.
        ops: operations in them.
        buckets: buckets of a snapshot that are here, while one is arriving.
        buckets_total: how many it has; 0 when none is arriving.
        joined: the position of the snapshot that was put in force; None when none was.
        bytes: bytes that the peer sent for it.
        state: how following it goes.
        reason: the stable word of what is wrong, or empty.
        detail: the same in a sentence.
    """

    origin: Origin
    before: int
    size: int
    head: int = 0
    retained_from: int = 0
    deltas: int = 0
    ops: int = 0
    buckets: int = 0
    buckets_total: int = 0
    joined: int | None = None
    bytes: int = 0
    state: FollowState = FollowState.CATCHING_UP
    reason: str = ""
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class _Followed:
    """One list on the stream. `expected` is the position that the peer should send next."""

    progress: Progress
    expected: int
    deltas_only: bool = False
    outcome: Outcome | None = None
    dropped: bool = False
    pending: list[SignedDelta] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a batch of events did.

    Attributes:
        progress: of each list that the batch was about.
        accepted: whether the store has new deltas.
        refused: lists of which something was refused, with the reason.
    """

    progress: tuple[Progress, ...]
    accepted: tuple[tuple[Origin, int, int], ...]
    refused: tuple[tuple[Origin, str], ...]


class Intake:
    """The lists of one stream, as they stand here.

    Attributes:
        reopen: whether a list needs a new stream to go on, with a new cursor.
        diverged: lists that the peer said to have another history of.
    """

    def __init__(self, via: OrgName, clock: Clock) -> None:
        self.reopen = False
        self.diverged: set[Origin] = set()
        self._arrivals: list[Arrival] = []
        self._via = via
        self._clock = clock
        self._lists: dict[str, _Followed] = {}
        self._touched: dict[str, _Followed] = {}
        self._accepted: list[tuple[Origin, int, int]] = []
        self._refused: list[tuple[Origin, str]] = []
        self._contact_ms = 0

    @property
    def progress(self) -> tuple[Progress, ...]:
        """How all lists of the stream come along."""
        return tuple(item.progress for item in self._lists.values())

    @property
    def active(self) -> set[Origin]:
        """The lists that the stream still brings something of."""
        return {item.progress.origin for item in self._lists.values() if not item.dropped}

    def progress_of(self, origin: Origin) -> Progress:
        """Return how one list of the stream comes along."""
        return self._lists[str(origin)].progress

    def take_arrivals(self) -> list[Arrival]:
        """Return the snapshots that were offered since the last call; they are to be fetched."""
        taken, self._arrivals = self._arrivals, []
        return taken

    def arrive(self, store: Store, arrival: Arrival, buckets: Sequence[tuple[int, bytes]]) -> bool:
        """Keep buckets of a snapshot; say whether it is still awaited.

        Raises:
            PeerError: one is not what was signed.
            StoreError: the store could not be written.
        """
        entries = snapshot.take(store, arrival, buckets)
        if entries is None:
            self.reopen = True
            return False
        progress = self._lists[str(arrival.origin)].progress
        progress.buckets += len(buckets)
        progress.ops += entries
        progress.bytes += sum(len(data) for _, data in buckets)
        return True

    def join(self, store: Store, arrival: Arrival) -> bool:
        """Put a snapshot in force, all of whose buckets are here, and ask for what follows it.

        Returns:
            Whether it was; otherwise the list has moved on, and is asked for anew.

        Raises:
            PeerError: the buckets do not fit what was signed.
            StoreError: the store could not be written.
        """
        record = snapshot.finish(store, arrival, via=self._via)
        self.reopen = True
        if record is not None:
            progress = self._lists[str(arrival.origin)].progress
            progress.size = record.log.size
            progress.joined = arrival.opened.position
            progress.buckets = progress.buckets_total = 0
        return record is not None

    def give_up_join(self, store: Store, origin: Origin, error: NodeError) -> None:
        """Note that a snapshot could not be fetched for now; what came of it stays."""
        item = self._lists[str(origin)]
        item.dropped = True
        self._show(item, FollowState.STALE, error.reason, str(error))
        if self._load(store, item) is not None:
            self._note(store, item)

    def refuse(self, store: Store, origin: Origin, error: PeerError) -> Applied:
        """Park a list whose snapshot does not verify."""
        self._touched, self._accepted, self._refused = {}, [], []
        item = self._find(str(origin))
        self._park(store, item, error)
        return Applied(progress=(item.progress,), accepted=(), refused=tuple(self._refused))

    def open(
        self,
        store: Store,
        *,
        only: Callable[[Origin], bool] = lambda _origin: True,
        from_start: Collection[Origin] = (),
    ) -> list[Cursor]:
        """Return where this node stands in each list that it follows by the peer.

        Args:
            store: the store.
            only: which lists are wanted.
            from_start: lists to be compared delta by delta, from the first one.
        """
        cursors = []
        found = damage.load(store.path)
        for record in list(lists.iter_lists(store.connection)):
            if record.own or record.via != self._via or not only(record.origin):
                continue
            status = follow_state.with_damage(
                follow_state.load_follow_status(store.connection, record.list),
                found.of(str(record.origin)),
            )
            size = record.log.size
            item = _Followed(
                progress=Progress(
                    origin=record.origin,
                    before=size,
                    size=size,
                    state=status.state,
                    reason=status.reason,
                    detail=status.detail,
                ),
                expected=size,
            )
            self._lists[str(record.origin)] = item
            if is_frozen(status):
                item.dropped = True
                continue
            known = size and record.origin not in from_start
            if not known:
                item.expected = 0
            # What is compared from the start is compared delta by delta.
            item.deltas_only = record.deltas_only or record.origin in from_start
            cursors.append(
                Cursor(
                    origin=str(record.origin),
                    size=item.expected,
                    root_hash=record.log.frontier.root() if known else b"",
                    charter_version=record.charter_version,
                    deltas_only=item.deltas_only,
                )
            )
        return cursors

    def apply(self, store: Store, events: Iterable[Event]) -> Applied:
        """Take what the peer sent: all deltas of a list among it in one transaction.

        Raises:
            ProtocolError: it sent what nobody asked for. What came before that is kept.
            StoreError: the store could not be written.
        """
        self._touched, self._accepted, self._refused = {}, [], []
        broken: ProtocolError | None = None
        try:
            for event in events:
                self._take(store, event)
        except ProtocolError as error:
            broken = error
        for item in self._touched.values():
            self._flush(store, item)
            self._settle(store, item)
        self._keep_contact(store)
        if broken is not None:
            raise broken
        return Applied(
            progress=tuple(item.progress for item in self._touched.values()),
            accepted=tuple(self._accepted),
            refused=tuple(self._refused),
        )

    def fail(self, store: Store, error: NodeError) -> None:
        """Note that the peer cannot be followed now."""
        for item in self._lists.values():
            record = lists.load_list(store.connection, item.progress.origin)
            if item.dropped or record is None:
                continue
            held = follow_state.load_follow_status(store.connection, record.list)
            # What was wrong with the list stays wrong while nobody can be asked.
            if held.state in {FollowState.QUARANTINED, FollowState.FORKED}:
                self._show(item, held.state, held.reason, held.detail)
                continue
            self._show(item, FollowState.STALE, error.reason, str(error))
            if (held.state, held.reason) != (FollowState.STALE, error.reason):
                self._note(store, item)

    # --- events -------------------------------------------------------------------------------

    def _take(self, store: Store, event: Event) -> None:
        match event:
            case Alive():
                return
            case Opened():
                item = self._find(event.origin)
                self._flush(store, item)
                if not item.dropped:
                    item.progress.bytes += event.size_bytes
                    self._open(store, item, event)
            case Delivered():
                item = self._find(event.origin)
                if item.outcome is None and not item.dropped:
                    raise ProtocolError(f"{self._via} sent deltas before it answered")
                if not item.dropped and item.outcome in _FOLLOWABLE:
                    item.progress.bytes += event.size_bytes
                    item.pending.extend(event.deltas)

    def _find(self, origin: str) -> _Followed:
        item = self._lists.get(origin)
        if item is None:
            raise ProtocolError(f"{self._via} sent a list that it was not asked for")
        self._touched[origin] = item
        return item

    def _open(self, store: Store, item: _Followed, event: Opened) -> None:
        record = self._load(store, item)
        if record is None:
            return
        item.outcome = event.outcome
        try:
            if event.charter:
                ingest_deltas.accept_charter(store, record.origin, event.charter)
            if event.checkpoint:
                item.progress.head = _check_checkpoint(store, record, event.checkpoint)
            item.progress.retained_from = event.retained_from
            if event.snapshot is not None:
                self._begin(store, item, record, event.snapshot)
        except PeerError as error:
            self._park(store, item, error)
        except CommandError:
            # Not followed any more, since a moment ago.
            item.dropped = True

    def _begin(
        self, store: Store, item: _Followed, record: ListRecord, offer: SnapshotOffer
    ) -> None:
        if item.deltas_only:
            raise ProtocolError(f"{self._via} offered a snapshot where it was asked for deltas")
        if record.log.size != item.expected:
            # Proved from where the list stood: somebody else has moved it on meanwhile.
            item.dropped = self.reopen = True
            return
        arrival = snapshot.begin(store, record.origin, offer, clock=self._clock)
        total = len(arrival.opened.bucket_hashes)
        item.progress.buckets_total = total
        item.progress.buckets = total - len(arrival.missing)
        self._arrivals.append(arrival)

    def _flush(self, store: Store, item: _Followed) -> None:
        """Verify and commit the deltas that wait."""
        if not item.pending:
            return
        deltas, item.pending = item.pending, []
        start, item.expected = item.expected, item.expected + len(deltas)
        record = self._load(store, item)
        if record is None:
            return
        if record.log.size < start and _position(deltas[0]) == start:
            # The peer goes on rightly, but what came before did not stay here.
            item.dropped = self.reopen = True
            return
        try:
            acceptance = ingest_deltas.accept(
                store, record.origin, deltas, via=self._via, clock=self._clock
            )
        except CommandError:
            # Not followed any more, since a moment ago.
            item.dropped = True
            return
        progress = item.progress
        progress.size = acceptance.size
        progress.deltas += acceptance.deltas
        progress.ops += acceptance.ops
        if acceptance.deltas:
            self._accepted.append((record.origin, acceptance.deltas, acceptance.ops))
        if acceptance.error is not None:
            self._drop(store, item, acceptance.error)

    # --- states -------------------------------------------------------------------------------

    def _load(self, store: Store, item: _Followed) -> ListRecord | None:
        """Return the record of a list; None, and drop it, if it is not followed by this peer."""
        record = lists.load_list(store.connection, item.progress.origin)
        if record is None or record.own or record.via != self._via:
            item.dropped = True
            return None
        return record

    def _park(self, store: Store, item: _Followed, error: FederationError) -> None:
        ingest_deltas.park(store, item.progress.origin, error, clock=self._clock)
        self._drop(store, item, error)

    def _drop(self, store: Store, item: _Followed, error: FederationError) -> None:
        """Take nothing more of a list that was parked."""
        item.dropped = True
        item.pending.clear()
        origin = item.progress.origin
        self._refused.append((origin, str(error.reason)))
        record = lists.load_list(store.connection, origin)
        if record is not None:
            held = follow_state.load_follow_status(store.connection, record.list)
            self._show(item, held.state, held.reason, held.detail)
        _log.warning(
            "list_parked",
            origin=str(origin),
            peer=self._via,
            state=str(item.progress.state),
            reason=str(error.reason),
            detail=str(error),
        )

    def _settle(self, store: Store, item: _Followed) -> None:
        """Note how following a list goes, if that has changed."""
        if item.dropped:
            return
        progress = item.progress
        record = lists.load_list(store.connection, progress.origin)
        if record is None or item.outcome is None:
            return
        held = follow_state.load_follow_status(store.connection, record.list)
        self._show_outcome(item, item.outcome, held)
        if is_frozen(held):
            # Found out in the meantime, behind acceptance or by way of another peer.
            item.dropped = True
            self._show(item, held.state, held.reason, held.detail)
        elif (held.state, held.reason, held.detail) != (
            progress.state,
            progress.reason,
            progress.detail,
        ) or progress.head > max(held.head, progress.size):
            self._note(store, item)

    def _show_outcome(self, item: _Followed, outcome: Outcome, held: FollowStatus) -> None:
        """Say of a list what the peer's answer to its cursor means."""
        progress = item.progress
        match outcome:
            case Outcome.UP_TO_DATE | Outcome.DELTAS:
                # Both: when compared from the start, all may be here and not be compared yet.
                if min(progress.size, item.expected) >= progress.head:
                    self._show(item, FollowState.CURRENT)
                elif held.state is FollowState.QUARANTINED and not progress.deltas:
                    # What was refused is still to come: nothing says yet that it is better now.
                    self._show(item, held.state, held.reason, held.detail)
                else:
                    self._show(item, FollowState.CATCHING_UP)
            case Outcome.UNAVAILABLE:
                detail = f"{self._via} does not have it, or not for us"
                self._show(item, FollowState.STALE, UNAVAILABLE, detail)
            case Outcome.SNAPSHOT if held.state is FollowState.QUARANTINED:
                # As above, until the snapshot is here.
                self._show(item, held.state, held.reason, held.detail)
            case Outcome.SNAPSHOT:
                self._show(item, FollowState.CATCHING_UP)
            case Outcome.CURSOR_TOO_OLD if held.reason == DIVERGED:
                # What it said before is worse, and cannot be compared with this peer.
                self._show(item, held.state, held.reason, held.detail)
            case Outcome.CURSOR_TOO_OLD:
                detail = (
                    f"{self._via} holds every delta from position {progress.retained_from} on, "
                    f"here are {progress.size}"
                )
                self._show(item, FollowState.DESYNCHRONISED, CURSOR_TOO_OLD, detail)
            case Outcome.CURSOR_AHEAD:
                detail = f"{self._via} has {progress.head} deltas of it, here are {progress.size}"
                self._show(item, FollowState.DESYNCHRONISED, CURSOR_AHEAD, detail)
            case Outcome.DIVERGED:
                # A claim, and no evidence yet: that is in the deltas themselves.
                detail = f"{self._via} says it has another history; comparing delta by delta"
                self._show(item, FollowState.QUARANTINED, DIVERGED, detail)
                self.diverged.add(progress.origin)
                self._refused.append((progress.origin, DIVERGED))
                item.dropped = True

    @staticmethod
    def _show(item: _Followed, state: FollowState, reason: str = "", detail: str = "") -> None:
        progress = item.progress
        progress.state, progress.reason, progress.detail = state, reason, detail

    def _note(self, store: Store, item: _Followed) -> None:
        progress = item.progress
        ingest_deltas.record_follow_state(
            store,
            progress.origin,
            progress.state,
            clock=self._clock,
            reason=progress.reason,
            detail=progress.detail,
            head=progress.head if item.outcome is not None else None,
        )

    def _keep_contact(self, store: Store) -> None:
        """Note, now and then, that the peer has answered for all lists of the stream."""
        now_ms = self._clock.now_ms()
        if abs(now_ms - self._contact_ms) < CONTACT_MS:
            return
        answered = [item for item in self._lists.values() if item.outcome is not None]
        if not answered:
            return
        self._contact_ms = now_ms
        with store.update_status() as connection:
            for item in answered:
                record = lists.load_list(connection, item.progress.origin)
                if record is not None and not item.dropped:
                    follow_state.store_contact(connection, record.list, now_ms=now_ms)


def _check_checkpoint(store: Store, record: ListRecord, note: bytes) -> int:
    """Return the size that a peer's newest checkpoint says, once its signature holds.

    Raises:
        PeerError: it is not signed by the list's owner.
        ForkError: it contradicts what is held here at that size.
        OperationError: it does, and what is held is damaged.
    """
    root = orgs.load_root(store.connection, record.origin.org)
    if root is None:
        raise CommandError(f"no root of {record.origin.org} is pinned here")
    origin = str(record.origin)
    checkpoint = open_checkpoint(note, origin, root.document.log_verifiers(record.origin))
    if 0 < checkpoint.size <= record.log.size:
        # Where a snapshot went past that size, nothing here says what its root was.
        covered = spans.at(store.connection, record.list, checkpoint.size) is not None
        if covered and trees.root_at(store, record, checkpoint.size) != checkpoint.root_hash:
            if checkpoint.size > record.log.start:
                _check_held(store, record, root, checkpoint.size - 1)
            raise ForkError(f"{origin} has two signed checkpoints of size {checkpoint.size}")
    return checkpoint.size


def _check_held(store: Store, record: ListRecord, root: PinnedRoot, position: int) -> None:
    """Raise unless what contradicts a peer is what was signed: damage is no history.

    Raises:
        OperationError: it is damaged here.
    """
    try:
        checks.check_leaf(store.connection, record, root, position)
    except DamageError as error:
        raise OperationError(f"{error}: {error.hint}") from error


def _position(delta: SignedDelta) -> int | None:
    try:
        return Header.parse(delta.header).position
    except FederationError:
        return None
