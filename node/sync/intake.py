"""Applies what one stream of a peer brings to the followed lists. Runs in the writer's thread.

A list that fails is dropped for the rest of the stream; the others go on. Nothing here waits. The
module is long because it is the one place where a stream meets what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from federation.errors import FederationError, OperationError, PeerError
from federation.follow import (
    Action,
    Cursor,
    Following,
    FollowReason,
    FollowState,
    Handling,
    News,
    decide,
    is_frozen,
    read_claim,
)
from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from node.clock import Clock
from node.errors import CommandError, DamageError, NodeError, ProtocolError
from node.ingest import checks, snapshot
from node.ingest import deltas as ingest_deltas
from node.ingest.snapshot import Arrival
from node.store import damage, follow_state, lists, orgs, spans, trees
from node.store.connection import Store
from node.store.lists import ListRecord
from node.sync.client import Alive, Delivered, Event, Opened
from node.telemetry.logs import get_logger

CONTACT_MS: Final = 30_000
"""How old the recorded time of the last contact may be. Recording it with every message would cost
a write to disk each time."""

_log = get_logger()


@dataclass(slots=True, kw_only=True)
class Progress:
    """The progress of one list on one stream.

    Attributes:
        origin: the list.
        before: how many deltas were here when the stream began.
        size: how many deltas are here now.
        head: how many deltas the peer said it has; 0 before it answered.
        retained_from: the peer said that it holds every delta from this size on.
        deltas: how many deltas this stream brought.
        ops: how many operations are in them.
        buckets: how many buckets of an arriving snapshot are here.
        buckets_total: how many buckets it has; 0 when no snapshot is arriving.
        joined: the position of the snapshot that was put in force; None if none was.
        bytes: how many bytes the peer sent for it.
        state: how following it goes.
        reason: the stable word for what is wrong, or empty.
        detail: the same as a sentence.
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
    """One list on the stream, and its deltas that wait to be committed."""

    progress: Progress
    following: Following
    pending: list[SignedDelta] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a batch of events did.

    Attributes:
        progress: the progress of each list that the batch was about.
        accepted: whether the store has new deltas.
        refused: the lists of which something was refused, with the reason.
        actions: what to do next with lists, in the order in which it was decided.
    """

    progress: tuple[Progress, ...]
    accepted: tuple[tuple[Origin, int, int], ...]
    refused: tuple[tuple[Origin, str], ...]
    actions: tuple[tuple[Origin, Action], ...]


class Intake:
    """The lists of one stream, as they are here.

    Attributes:
        reopen: whether a list needs a new stream to go on, with a new cursor.
        compare: whether a list needs a new stream to be compared from the start.
    """

    def __init__(self, via: OrgName, clock: Clock) -> None:
        self.reopen = False
        self.compare = False
        self._arrivals: list[Arrival] = []
        self._via = via
        self._clock = clock
        self._lists: dict[str, _Followed] = {}
        self._touched: dict[str, _Followed] = {}
        self._accepted: list[tuple[Origin, int, int]] = []
        self._refused: list[tuple[Origin, str]] = []
        self._actions: list[tuple[Origin, Action]] = []
        self._contact_ms = 0

    @property
    def progress(self) -> tuple[Progress, ...]:
        """The progress of all lists of the stream."""
        return tuple(item.progress for item in self._lists.values())

    @property
    def gained(self) -> int:
        """A number that grows with what is useful: answers, leaves, compared leaves, buckets.

        A peer cannot make it grow by sending something twice, or anything that does not verify.
        """
        return sum(
            item.progress.size
            + min(item.following.expected, item.progress.size)
            + item.progress.buckets
            + (item.following.outcome is not None)
            for item in self._lists.values()
        )

    @property
    def active(self) -> set[Origin]:
        """The lists for which the stream still brings something."""
        return {item.progress.origin for item in self._lists.values() if not item.following.dropped}

    def progress_of(self, origin: Origin) -> Progress:
        """Return the progress of one list of the stream."""
        return self._lists[str(origin)].progress

    def take_arrivals(self) -> list[Arrival]:
        """Return the snapshots that were offered since the last call and are to be fetched."""
        taken, self._arrivals = self._arrivals, []
        return taken

    def arrive(self, store: Store, arrival: Arrival, buckets: Sequence[tuple[int, bytes]]) -> bool:
        """Keep buckets of a snapshot; return whether it is still awaited.

        Raises:
            PeerError: one is not what was signed.
            StoreError: the store could not be written.
        """
        entries = snapshot.take(store, arrival, buckets)
        if entries is None:
            self._note_moved(store, arrival.origin, News.MOVED_ON)
            return False
        progress = self._lists[str(arrival.origin)].progress
        progress.buckets += len(buckets)
        progress.ops += entries
        progress.bytes += sum(len(data) for _, data in buckets)
        return True

    def join(self, store: Store, arrival: Arrival) -> bool:
        """Put a snapshot whose buckets are all here in force, and ask for what follows it.

        Returns:
            Whether it was put in force; if not, the list has moved on and is asked for again.

        Raises:
            PeerError: the buckets do not fit what was signed.
            StoreError: the store could not be written.
        """
        record = snapshot.finish(store, arrival, via=self._via)
        news = News.MOVED_ON if record is None else News.JOINED
        self._note_moved(store, arrival.origin, news)
        if record is not None:
            progress = self._lists[str(arrival.origin)].progress
            progress.size = record.log.size
            progress.joined = arrival.opened.position
            progress.buckets = progress.buckets_total = 0
        return record is not None

    def give_up_join(self, store: Store, origin: Origin, error: NodeError) -> Applied:
        """Note that a snapshot could not be fetched for now; keep the part that came."""
        self._begin_batch()
        item = self._find(str(origin))
        record = self._load(store, item)
        if record is not None:
            self._learn(store, item, record, News.NOT_FETCHED, error.reason, str(error))
        return self._applied()

    def refuse(self, store: Store, origin: Origin, error: PeerError) -> Applied:
        """Park a list whose snapshot does not verify."""
        self._begin_batch()
        self._park(store, self._find(str(origin)), error)
        return self._applied()

    def open(
        self,
        store: Store,
        *,
        only: Callable[[Origin], bool] = lambda _origin: True,
        from_start: Collection[Origin] = (),
    ) -> list[Cursor]:
        """Return this node's place in each list that it follows from the peer.

        Args:
            store: the store.
            only: the lists that are wanted.
            from_start: the lists to compare delta by delta, from the first delta on.
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
            following = Following.ask(
                record.log,
                deltas_only=record.deltas_only,
                from_start=record.origin in from_start,
            )
            self._lists[str(record.origin)] = _Followed(
                progress=Progress(
                    origin=record.origin,
                    before=size,
                    size=size,
                    state=status.state,
                    reason=status.reason,
                    detail=status.detail,
                ),
                following=following,
            )
            if is_frozen(status.state, status.reason):
                following.dropped = True
            else:
                cursors.append(following.cursor(record.origin, record.log, record.charter_version))
        return cursors

    def apply(self, store: Store, events: Iterable[Event]) -> Applied:
        """Take what the peer sent; commit all its deltas of one list in one transaction.

        Raises:
            ProtocolError: it sent something that nobody asked for. What came before that is kept.
            StoreError: the store could not be written.
        """
        self._begin_batch()
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
        return self._applied()

    def fail(self, store: Store, error: NodeError) -> None:
        """Note that the peer cannot be followed now."""
        for item in self._lists.values():
            record = None if item.following.dropped else self._load(store, item)
            if record is None:
                continue
            held = follow_state.load_follow_status(store.connection, record.list)
            step = decide(held.state, held.reason, News.PEER_FAILED)
            if step.state is None:
                self._show(item, held.state, held.reason, held.detail)
                continue
            self._show(item, step.state, error.reason, str(error))
            if (held.state, held.reason) != (step.state, error.reason):
                self._record(store, item)

    # --- events -------------------------------------------------------------------------------

    def _take(self, store: Store, event: Event) -> None:
        match event:
            case Alive():
                return
            case Opened():
                item = self._find(event.origin)
                self._flush(store, item)
                if not item.following.dropped:
                    item.progress.bytes += event.size_bytes
                    self._open(store, item, event)
            case Delivered():
                item = self._find(event.origin)
                handling = item.following.judge_frame()
                if handling is Handling.BREAK_OFF:
                    raise ProtocolError(f"{self._via} sent deltas before it answered")
                if handling is Handling.TAKE:
                    item.progress.bytes += event.size_bytes
                    item.pending.extend(event.deltas)

    def _find(self, origin: str) -> _Followed:
        item = self._lists.get(origin)
        if item is None:
            raise ProtocolError(f"{self._via} sent deltas of a list that nobody asked it for")
        self._touched[origin] = item
        return item

    def _open(self, store: Store, item: _Followed, event: Opened) -> None:
        record = self._load(store, item)
        if record is None:
            return
        following = item.following
        following.outcome = event.outcome
        try:
            if event.charter:
                ingest_deltas.accept_charter(store, record.origin, event.charter)
            if event.checkpoint:
                following.head = item.progress.head = _read_claim(store, record, event.checkpoint)
            item.progress.retained_from = event.retained_from
            if event.snapshot is not None:
                self._begin(store, item, record, event.snapshot)
        except PeerError as error:
            self._park(store, item, error)
        except CommandError:
            # It has just ceased to be followed.
            following.dropped = True

    def _begin(
        self, store: Store, item: _Followed, record: ListRecord, offer: SnapshotOffer
    ) -> None:
        handling = item.following.judge_offer(record.log.size)
        if handling is Handling.BREAK_OFF:
            raise ProtocolError(f"{self._via} offered a snapshot although it was asked for deltas")
        if handling is Handling.ASK_AGAIN:
            self._learn(store, item, record, News.MOVED_ON)
            return
        arrival = snapshot.begin(store, record.origin, offer, clock=self._clock)
        total = len(arrival.opened.bucket_hashes)
        item.progress.buckets_total = total
        item.progress.buckets = total - len(arrival.missing)
        self._arrivals.append(arrival)

    def _flush(self, store: Store, item: _Followed) -> None:
        """Verify and commit the waiting deltas."""
        if not item.pending:
            return
        deltas, item.pending = item.pending, []
        record = self._load(store, item)
        if record is None:
            return
        if item.following.judge_deltas(deltas, record.log.size) is Handling.ASK_AGAIN:
            self._learn(store, item, record, News.MOVED_ON)
            return
        try:
            acceptance = ingest_deltas.accept(
                store, record.origin, deltas, via=self._via, clock=self._clock
            )
        except CommandError:
            # It has just ceased to be followed.
            item.following.dropped = True
            return
        progress = item.progress
        progress.size = acceptance.size
        progress.deltas += acceptance.deltas
        progress.ops += acceptance.ops
        item.following.taken += acceptance.deltas
        if acceptance.deltas:
            self._accepted.append((record.origin, acceptance.deltas, acceptance.ops))
        if acceptance.error is not None:
            self._drop(store, item, acceptance.error, acceptance.action)

    # --- states -------------------------------------------------------------------------------

    def _load(self, store: Store, item: _Followed) -> ListRecord | None:
        """Return the record of a list; drop it and return None if this peer is not its source."""
        record = lists.load_list(store.connection, item.progress.origin)
        if record is None or record.own or record.via != self._via:
            item.following.dropped = True
            return None
        return record

    def _park(self, store: Store, item: _Followed, error: FederationError) -> None:
        action = ingest_deltas.park(store, item.progress.origin, error, clock=self._clock)
        self._drop(store, item, error, action)

    def _drop(self, store: Store, item: _Followed, error: FederationError, action: Action) -> None:
        """Take nothing more of a list after something of it was refused."""
        origin = item.progress.origin
        self._refused.append((origin, str(error.reason)))
        self._act(item, action)
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
        """Note what the peer's answer to a list's cursor means now."""
        news = item.following.news(item.progress.size)
        if item.following.dropped or news is None:
            return
        record = lists.load_list(store.connection, item.progress.origin)
        if record is None:
            return
        if news is News.DIVERGED:
            self._refused.append((record.origin, FollowReason.DIVERGED))
        self._learn(store, item, record, news, detail=self._describe(item.progress, news))

    def _learn(
        self,
        store: Store,
        item: _Followed,
        record: ListRecord,
        news: News,
        reason: str = "",
        detail: str = "",
    ) -> None:
        """Show how a piece of news changes a list, record a new state, and act on it.

        Args:
            store: the store.
            item: the list on this stream.
            record: the list.
            news: what was learnt.
            reason: the stable word for the error, if the news is an error.
            detail: the news as a sentence.
        """
        progress = item.progress
        held = follow_state.load_follow_status(store.connection, record.list)
        step = decide(held.state, held.reason, news)
        if step.state is None:
            self._show(item, held.state, held.reason, held.detail)
        else:
            self._show(item, step.state, step.reason or reason, detail)
        self._act(item, step.action)
        is_news = (held.state, held.reason, held.detail) != (
            progress.state,
            progress.reason,
            progress.detail,
        )
        if is_news or progress.head > max(held.head, progress.size):
            self._record(store, item)

    def _act(self, item: _Followed, action: Action) -> None:
        self._actions.append((item.progress.origin, action))
        if action.stays_open:
            return
        item.following.dropped = True
        item.pending.clear()
        self.reopen |= action is Action.ASK_AGAIN
        self.compare |= action is Action.COMPARE

    def _note_moved(self, store: Store, origin: Origin, news: News) -> None:
        """Open a new stream for a list whose snapshot is in force, or no longer awaited."""
        record = lists.load_list(store.connection, origin)
        if record is not None:
            held = follow_state.load_follow_status(store.connection, record.list)
            self.reopen |= decide(held.state, held.reason, news).action is Action.ASK_AGAIN

    def _describe(self, progress: Progress, news: News) -> str:
        """Return what an answer means as a sentence; empty where the state says it all."""
        match news:
            case News.UNAVAILABLE:
                return f"{self._via} does not have it, or does not give it to this node"
            case News.TOO_OLD:
                return (
                    f"{self._via} holds every delta from position {progress.retained_from} on, "
                    f"this node has {progress.size}"
                )
            case News.AHEAD:
                return f"{self._via} has {progress.head} deltas of it, this node {progress.size}"
            case News.DIVERGED:
                return f"{self._via} says it has another history; comparing delta by delta"
            case _:
                return ""

    @staticmethod
    def _show(item: _Followed, state: FollowState, reason: str = "", detail: str = "") -> None:
        progress = item.progress
        progress.state, progress.reason, progress.detail = state, reason, detail

    def _record(self, store: Store, item: _Followed) -> None:
        progress = item.progress
        ingest_deltas.record_follow_state(
            store,
            progress.origin,
            progress.state,
            clock=self._clock,
            reason=progress.reason,
            detail=progress.detail,
            head=progress.head if item.following.outcome is not None else None,
        )

    # --- batches ------------------------------------------------------------------------------

    def _begin_batch(self) -> None:
        self._touched, self._accepted, self._refused, self._actions = {}, [], [], []

    def _applied(self) -> Applied:
        return Applied(
            progress=tuple(item.progress for item in self._touched.values()),
            accepted=tuple(self._accepted),
            refused=tuple(self._refused),
            actions=tuple(self._actions),
        )

    def _keep_contact(self, store: Store) -> None:
        """Record from time to time that the peer has answered for all lists of the stream."""
        now_ms = self._clock.now_ms()
        if abs(now_ms - self._contact_ms) < CONTACT_MS:
            return
        answered = [item for item in self._lists.values() if item.following.outcome is not None]
        if not answered:
            return
        self._contact_ms = now_ms
        with store.update_status() as connection:
            for item in answered:
                record = lists.load_list(connection, item.progress.origin)
                if record is not None and not item.following.dropped:
                    follow_state.store_contact(connection, record.list, now_ms=now_ms)


def _read_claim(store: Store, record: ListRecord, note: bytes) -> int:
    """Return the size in a peer's newest checkpoint, after checking it against what is here.

    Raises:
        PeerError: it is not signed by the list's owner.
        ForkError: it contradicts what is here.
        OperationError: it contradicts what is here, and that is damaged.
    """
    root = orgs.load_root(store.connection, record.origin.org)
    if root is None:
        raise CommandError(f"no root of {record.origin.org} is pinned here")

    def root_at(size: int) -> bytes | None:
        covered = spans.at(store.connection, record.list, size) is not None
        return trees.root_at(store, record, size) if covered else None

    def require_sound(position: int) -> None:
        try:
            checks.check_leaf(store.connection, record, root, position)
        except DamageError as error:
            raise OperationError(f"{error}: {error.hint}") from error

    return read_claim(
        note, record.origin, root, record.log, root_at=root_at, require_sound=require_sound
    )
