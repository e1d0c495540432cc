"""Follows all lists of one peer with one stream, once or for ever. Both use the same code.

A session shares only the writer with those of other peers, so a failing peer does not delay other
lists. The module is long because opening, reading and ending a stream share their state.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Final

import grpc

from federation.errors import PeerError, Reason
from federation.follow import Agenda, FollowReason, FollowState, news_of_failure
from federation.names import OrgName, Origin
from node.clock import Clock
from node.errors import (
    DamageError,
    LockedError,
    NodeError,
    ProtocolError,
    RefusedError,
    StoreError,
    UnreachableError,
)
from node.store import lists, orgs
from node.store.connection import Store
from node.store.orgs import Peer
from node.sync.buffer import Buffer
from node.sync.client import Alive, TlsIdentity, follow, open_channel
from node.sync.failures import IdleError, PeerBusyError
from node.sync.intake import Applied, Intake, Progress
from node.sync.join import Join, Sources
from node.sync.patience import Patience
from node.sync.writer import Writer
from node.telemetry.logs import get_logger
from node.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from random import Random

BUFFER_BYTES: Final = 8 * 1024 * 1024
"""How many bytes of frames wait for the writer: a second of its work, one transaction's content."""

MAX_JOINS: Final = 2
"""How many snapshots are fetched from one peer at a time: it allows us only a few streams."""

MAX_ATTEMPTS: Final = 4
"""How many streams one `sync` opens: lists that need another cursor are asked for again."""

_log = get_logger()


def _ignore(*_: object) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all sessions of a process share.

    Attributes:
        writer: writes what is fetched.
        identity: what this node shows to peers.
        clock: the time of day.
        idle_timeout_seconds: how long a stream may be silent before it counts as broken.
        interval_seconds: the longest wait before a peer is contacted again.
        deadline_seconds: how long one `sync` may take.
        random: draws waits.
        monotonic: measures waits.
        metrics: where to count, or None.
        on_accepted: called when the store has new deltas.
        on_progress: told the progress of a list after each batch.
    """

    writer: Writer
    identity: TlsIdentity
    clock: Clock
    idle_timeout_seconds: float
    interval_seconds: float
    deadline_seconds: float = math.inf
    random: Random = field(default_factory=SystemRandom)
    monotonic: Callable[[], float] = time.monotonic
    metrics: Metrics | None = None
    on_accepted: Callable[[], None] = _ignore
    on_progress: Callable[[Progress], None] = _ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class ListResult:
    """What one `sync` did for one list.

    Attributes:
        origin: the list.
        via: the peer from which it is followed.
        before: how many deltas were here before.
        after: how many deltas are here now.
        head: how many deltas the peer said it has.
        ops: how many operations are new.
        bytes: how many bytes the peer sent for it.
        joined: the position of the snapshot that was put in force; None if only deltas came.
        state: how following it goes.
        reason: the stable word for what is wrong, or empty.
        error: what is wrong, with a hint and an exit code; None when the list is current.
    """

    origin: Origin
    via: OrgName
    before: int
    after: int
    head: int
    ops: int
    bytes: int
    joined: int | None
    state: FollowState
    reason: str
    error: NodeError | None


class Session:
    """Follows the lists of one peer.

    Attributes:
        peer: the peer.
    """

    def __init__(self, peer: Peer, tools: Tools) -> None:
        self.peer = peer
        self._tools = tools
        self._log = _log.bind(peer=peer.org)
        self._agenda = Agenda(tools.random, tools.interval_seconds)
        self._intake = Intake(peer.org, tools.clock)
        self._buffer: Buffer | None = None
        self._joins: dict[Origin, asyncio.Task[None]] = {}
        self._joining = asyncio.Semaphore(MAX_JOINS)
        self._changed = asyncio.Event()
        self._answered = False

    # --- once ---------------------------------------------------------------------------------

    async def run_once(self, only: Callable[[Origin], bool]) -> list[ListResult]:
        """Fetch what the peer has, and return the result for each list.

        Raises:
            StoreError: the store cannot be written.
            LockedError: another process holds it.
        """
        results: dict[Origin, Progress] = {}
        error: NodeError | None = None
        patience = Patience(
            self.peer.org,
            idle_seconds=self._tools.idle_timeout_seconds,
            deadline_seconds=self._tools.deadline_seconds,
            monotonic=self._tools.monotonic,
        )
        for _ in range(MAX_ATTEMPTS):
            wanted = only if not results else self._again
            try:
                await self._stream(wanted, patience)
                error = None
            except (StoreError, LockedError):
                raise
            except NodeError as caught:
                error = caught
                await self._give_up(caught)
            for progress in self._intake.progress:
                _add(results, progress)
            if error is not None or not self._again_any():
                break
        return [self._result(progress, error) for _, progress in sorted(results.items())]

    def _again_any(self) -> bool:
        return self._intake.reopen or self._intake.compare

    def _again(self, origin: Origin) -> bool:
        return origin in self._agenda.from_start or self._intake.reopen

    def _result(self, progress: Progress, error: NodeError | None) -> ListResult:
        if progress.state is FollowState.CURRENT:
            error = None
        elif progress.state in {FollowState.QUARANTINED, FollowState.FORKED} or error is None:
            error = _describe(progress)
        return ListResult(
            origin=progress.origin,
            via=self.peer.org,
            before=progress.before,
            after=progress.size,
            head=progress.head,
            ops=progress.ops,
            bytes=progress.bytes,
            joined=progress.joined,
            state=progress.state,
            reason=progress.reason,
            error=error,
        )

    # --- for ever -----------------------------------------------------------------------------

    def update(self, wanted: Collection[Origin]) -> None:
        """Set which lists are followed from this peer now; open a new stream if that changed."""
        active = self._intake.active
        known = active | self._agenda.resting
        if not set(wanted) <= known or not active <= set(wanted):
            for origin in self._agenda.resting - set(wanted):
                self._agenda.forget(origin)
            self._changed.set()
            if self._buffer is not None:
                self._buffer.interrupt()

    async def run(self) -> None:
        """Follow the peer until cancelled.

        Raises:
            StoreError: the store cannot be written. Damage counts as a failure of the peer, and the
                session tries again later.
        """
        while True:
            self._changed.clear()
            try:
                opened = await self._stream(self._is_due, None)
            except NodeError as error:
                await self._rest(await self._after(error))
                continue
            if not opened:
                due = self._until_due()
                await self._rest(self._tools.interval_seconds if due is None else due)
            elif not self._changed.is_set() and self._until_due() != 0:
                # The peer ended it, or it ended for a list that another process has changed.
                await self._rest(self._agenda.backoff.draw())

    async def _after(self, error: NodeError) -> float:
        """Note a failure; return how long to wait."""
        if isinstance(error, StoreError) and not isinstance(error, DamageError):
            raise error
        broke_off = isinstance(error, IdleError | ProtocolError)
        news = news_of_failure(answered=self._answered, broke_off=broke_off)
        if news is not None and not isinstance(error, LockedError):
            try:
                await self._give_up(error)
            except LockedError as locked:
                self._log.warning("store_locked", detail=str(locked))
            except DamageError as damaged:
                # Other peers are still followed; the scrub reports the damage and withholds lists.
                self._log.error("store_damaged", detail=str(damaged))
        asked = error.retry_seconds if isinstance(error, PeerBusyError) else 0.0
        delay = self._agenda.backoff.draw(at_least=asked)
        self._log.info(
            "peer_retry", reason=error.reason, detail=str(error), delay_seconds=round(delay, 3)
        )
        return delay

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _is_due(self, origin: Origin) -> bool:
        return self._agenda.is_due(origin, self._tools.monotonic())

    def _until_due(self) -> float | None:
        """Return how long until a resting list is to be asked for; None if no list rests."""
        return self._agenda.seconds_until_due(self._intake.active, self._tools.monotonic())

    # --- one stream ---------------------------------------------------------------------------

    async def _stream(self, wanted: Callable[[Origin], bool], patience: Patience | None) -> bool:
        """Open a stream and take what it brings, until it ends or a new one is needed.

        Args:
            wanted: says which lists it is for.
            patience: how long a `sync` waits; None to follow for ever.

        Returns:
            Whether there was a list to open it for.

        Raises:
            UnreachableError, RefusedError, ProtocolError: as `node.sync.client.follow`.
            StoreError: the store cannot be written.
        """
        tools = self._tools
        intake = Intake(self.peer.org, tools.clock)
        from_start = frozenset(self._agenda.from_start)
        cursors = await tools.writer.run(
            lambda store: intake.open(store, only=wanted, from_start=from_start)
        )
        # Set this only now: `update` compares the wanted lists with those of the open stream.
        self._intake, self._answered = intake, False
        for origin in self._agenda.resting - intake.active:
            if self._is_due(origin):
                # The list is no longer followed, or no longer from this peer.
                self._agenda.forget(origin)
        if not cursors:
            return False
        buffer = self._buffer = Buffer(BUFFER_BYTES)
        channel = open_channel(self.peer, tools.identity)

        async def read() -> None:
            events = follow(
                channel,
                self.peer.org,
                cursors,
                live=patience is None,
                idle_timeout_seconds=tools.idle_timeout_seconds,
            )
            try:
                async for event in events:
                    await buffer.put(event)
            except Exception as error:  # noqa: BLE001  # raised by who takes from the buffer
                buffer.end(error)
            else:
                buffer.end()

        reading = asyncio.create_task(read())
        try:
            await self._drain(buffer, intake, channel, patience)
            if patience is not None:
                await self._finish_joins(patience)
        finally:
            self._buffer = None
            tasks = [reading, *self._joins.values()]
            self._joins.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await channel.close()
        return True

    # --- snapshots ----------------------------------------------------------------------------

    async def _start_joins(self, intake: Intake, channel: grpc.aio.Channel) -> None:
        """Begin to fetch the snapshots that were offered; the stream's other lists go on."""
        tools = self._tools
        for arrival in intake.take_arrivals():
            running = self._joins.get(arrival.origin)
            if running is not None and not running.done():
                continue
            others = await tools.writer.run_aside(partial(_find_sources, origin=arrival.origin))
            sources = Sources(
                via=self.peer.org,
                channel=channel,
                others=[peer for peer in others if peer.org != self.peer.org],
                identity=tools.identity,
                idle_timeout_seconds=tools.idle_timeout_seconds,
            )
            origin = arrival.origin
            join = Join(
                arrival,
                intake,
                tools.writer,
                sources,
                partial(self._note_arrived, intake, origin),
            )
            self._joins[origin] = asyncio.create_task(self._join(origin, join, intake))
            tools.on_progress(intake.progress_of(origin))

    def _note_arrived(self, intake: Intake, origin: Origin, buckets: int) -> None:
        if self._tools.metrics is not None:
            self._tools.metrics.buckets_accepted.labels(str(origin)).inc(buckets)
        self._tools.on_progress(intake.progress_of(origin))

    async def _join(self, origin: Origin, join: Join, intake: Intake) -> None:
        """Fetch one snapshot; a failure concerns its list alone.

        Raises:
            StoreError: the store cannot be written.
            LockedError: another process holds it.
        """
        tools = self._tools
        try:
            async with self._joining:
                joined = await join.run()
        except PeerError as caught:
            error = caught
            self._report(await tools.writer.run(lambda store: intake.refuse(store, origin, error)))
        except (StoreError, LockedError):
            raise
        except NodeError as caught:
            failure = caught
            self._log.warning(
                "snapshot_failed", origin=str(origin), reason=failure.reason, detail=str(failure)
            )
            self._report(
                await tools.writer.run(lambda store: intake.give_up_join(store, origin, failure))
            )
        else:
            if joined:
                self._log.info("snapshot_joined", origin=str(origin))
                if tools.metrics is not None:
                    tools.metrics.snapshots_joined.labels(str(origin)).inc()
                tools.on_accepted()
        finally:
            # The stream may be waiting for the next message: there is work to do before that.
            if self._buffer is not None:
                self._buffer.interrupt()

    async def _finish_joins(self, patience: Patience) -> None:
        try:
            # Each of them has its own bound on silence.
            async with asyncio.timeout(patience.until_deadline()):
                await asyncio.gather(*self._joins.values())
        except TimeoutError:
            raise patience.overdue() from None

    async def _drain(
        self,
        buffer: Buffer,
        intake: Intake,
        channel: grpc.aio.Channel,
        patience: Patience | None,
    ) -> None:
        """Store what comes, until the stream ends or a new one is needed."""
        tools = self._tools
        live = patience is None
        if patience is not None:
            patience.begin(intake.gained)
        while True:
            events = await buffer.take(self._until_due() if patience is None else patience.left())
            if events is None:
                return
            is_news = not all(isinstance(event, Alive) for event in events)
            if events:
                # The checks behind acceptance wait while news is written. They must not wait
                # for heartbeats, which come all the time if there are many peers.
                write = tools.writer.run if is_news else tools.writer.run_aside
                self._report(await write(partial(intake.apply, events=events)))
                await self._start_joins(intake, channel)
                if not self._answered:
                    self._answered = True
                    self._agenda.backoff.reset()
            if patience is not None:
                patience.check(intake.gained)
            for task in [task for task in self._joins.values() if task.done()]:
                # This raises if the store could not be written.
                task.result()
            if live and (self._changed.is_set() or intake.reopen or self._until_due() == 0):
                return
            if not live and not intake.active:
                # Everything was refused, so it no longer matters whether the peer ends the stream.
                return

    def _report(self, applied: Applied) -> None:
        tools = self._tools
        now = tools.monotonic()
        for origin, action in applied.actions:
            self._agenda.follow(origin, action, now)
        if tools.metrics is not None:
            for origin, reason in applied.refused:
                tools.metrics.deltas_refused.labels(str(origin), reason).inc()
        for origin, deltas, ops in applied.accepted:
            self._log.info("deltas_accepted", origin=str(origin), deltas=deltas, ops=ops)
            if tools.metrics is not None:
                tools.metrics.deltas_accepted.labels(str(origin)).inc(deltas)
                tools.metrics.ops_accepted.labels(str(origin)).inc(ops)
        for progress in applied.progress:
            tools.on_progress(progress)
        if applied.accepted:
            tools.on_accepted()

    async def _give_up(self, error: NodeError) -> None:
        """Note for each list that its peer cannot be followed now."""

        def note(store: Store) -> None:
            self._intake.fail(store, error)

        await self._tools.writer.run(note)
        self._log.warning("peer_failed", reason=error.reason, detail=str(error))


def _find_sources(store: Store, origin: Origin) -> list[Peer]:
    """Return the peers that may know of a list: a question for its buckets names it."""
    record = lists.load_list(store.connection, origin)
    charter = None if record is None else record.open_charter()
    if charter is None:
        return []
    return [peer for peer in orgs.iter_peers(store.connection) if charter.allows(peer.org)]


def _add(results: dict[Origin, Progress], progress: Progress) -> None:
    """Add the results of a further stream to those of the streams before it."""
    before = results.get(progress.origin)
    if before is not None:
        progress.before = before.before
        progress.ops += before.ops
        progress.deltas += before.deltas
        progress.bytes += before.bytes
        progress.head = max(progress.head, before.head)
        if progress.joined is None:
            progress.joined = before.joined
    results[progress.origin] = progress


def _describe(progress: Progress) -> NodeError:
    """Return what is wrong with a list whose peer answered."""
    kind: type[NodeError] = UnreachableError
    match progress.state:
        case FollowState.DAMAGED:
            kind = DamageError
            hint = "run 'hashfed fsck --repair': until it is repaired, nothing of it is fetched"
        case FollowState.FORKED:
            kind = ProtocolError
            hint = (
                "two signed histories of this list exist, so this node takes no more of it: tell "
                "its owner, and keep this store"
            )
        case FollowState.QUARANTINED:
            kind = ProtocolError
            hint = "nothing of that was kept; tell the peer and the list's owner what was refused"
        case FollowState.DESYNCHRONISED:
            hint = (
                "follow it from a peer that holds more of it, such as its owner"
                if progress.reason == FollowReason.CURSOR_TOO_OLD
                else "the peer is behind, or was restored from an old copy: try again later"
            )
        case FollowState.STALE if progress.reason == FollowReason.UNAVAILABLE:
            kind = RefusedError
            hint = "ask its owner whether this node is in the list's audience"
        case FollowState.STALE if progress.reason == Reason.TIME_IN_FUTURE:
            hint = "compare the clocks of the two machines"
        case _:
            hint = "try again: the peer ended the stream before everything had come"
    text = f"{progress.origin}: {progress.detail or progress.state}"
    return kind(text, hint=hint, reason=progress.reason or None)
