"""What a running node does in the background: deferred checks, the scrub, the gauges.

No peer waits for any of it. Each part lets fetching and publishing go first: it works in short
steps, while nothing is fetched or published, or when it is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from node.clock import Clock
from node.config import Config
from node.errors import DamageError, DiskError, LockedError, StoreError
from node.fsck.scrub import Scrub, Slice
from node.home import Home
from node.ingest.checks import check_behind
from node.ingest.snapshot import sweep
from node.rpc.readers import Readers
from node.store import damage as store_damage
from node.store import follow_state, lists
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord
from node.store.runs import merge_behind
from node.sync.writer import Writer
from node.telemetry.logs import get_logger
from node.telemetry.metrics import Metrics

_POLL_SECONDS: Final = 1.0
"""How long to wait for something to check when nothing was left."""

_STEP_SECONDS: Final = 0.05
"""How long one step may keep the writer."""

_IDLE_SECONDS: Final = 1.0
"""How long nothing must have been fetched or published before a step begins. A change that comes
during a step waits for its end."""

_SCRUB_POLL_SECONDS: Final = 60.0
"""The longest pause of the scrub: meanwhile the clock may be set, and the store may grow."""

_SCRUB_START_SECONDS: Final = 10.0
"""How long the first slice waits after the start, when peers wait to be answered."""

_SCRUB_SHARE: Final = 0.9
"""The slices of a pass are spread over this part of the time that the pass may take."""

_GAUGE_SECONDS: Final = 5.0
"""How often the gauges of the lists are updated."""

_log = get_logger()


class Background:
    """The background work of one running node.

    Args:
        home: the node's files.
        config: its configuration.
        clock: the time of day.
        writer: what writes to the store.
        metrics: the metrics with the gauges.
        on_damage: called when the scrub has found damage.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        clock: Clock,
        *,
        writer: Writer,
        metrics: Metrics,
        on_damage: Callable[[], None],
    ) -> None:
        self._home = home
        self._clock = clock
        self._writer = writer
        self._metrics = metrics
        self._on_damage = on_damage
        self._check_budget_seconds = config.sync.check_budget_seconds
        self._scrub_seconds = config.store.scrub_hours * 3600
        self._readers = Readers(home.store, clock, threads=1)
        self._changed = asyncio.Event()
        self._woken_at = time.monotonic()

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; return the tasks, for the caller to cancel."""
        tasks = [
            asyncio.create_task(self._work_behind(), name="behind"),
            asyncio.create_task(self._gauge(), name="gauge"),
        ]
        if self._scrub_seconds:
            tasks.append(asyncio.create_task(self._scrub(), name="scrub"))
        return tasks

    def close(self) -> None:
        """Close the reader, once the tasks have ended."""
        self._readers.close()

    def note_wake_up(self) -> None:
        """Note that another process has just written: it may write more soon."""
        self._woken_at = time.monotonic()

    def refresh(self) -> None:
        """Update the gauges soon: the store may have changed."""
        self._changed.set()

    async def _work_behind(self) -> None:
        """Do the work behind acceptance while nothing is fetched, or when it is due."""
        due = time.monotonic() + self._check_budget_seconds
        while True:
            idle_seconds = min(self._writer.idle_seconds, time.monotonic() - self._woken_at)
            if idle_seconds < _IDLE_SECONDS and time.monotonic() < due:
                await asyncio.sleep(_IDLE_SECONDS / 5)
                continue
            try:
                done = await self._writer.run_aside(self._take_step)
            except LockedError:
                # Another process has been writing for a long time: try again later.
                done = 0
            except DamageError as error:
                # The scrub will report the damage and withhold the list; others are served on.
                _log.error("checks_wait", detail=str(error))
                await asyncio.sleep(_SCRUB_POLL_SECONDS)
                continue
            if not done:
                await asyncio.sleep(_POLL_SECONDS)
                due = time.monotonic() + self._check_budget_seconds

    def _take_step(self, store: Store) -> int:
        """Merge and check for the time of two steps; return how much was done."""
        if store_damage.load(store.path).damages:
            # Damaged data is neither built upon nor moved.
            return 0
        merged = merge_behind(store, _STEP_SECONDS) + sweep(store)
        return merged + check_behind(store, _STEP_SECONDS, clock=self._clock)

    async def _scrub(self) -> None:
        """Check the whole store over and over, each pass within the configured hours."""
        within = self._scrub_seconds
        scrub = Scrub(self._home, self._clock)
        ended_ms = store_damage.load(self._home.store).ended_ms
        if ended_ms is not None and not self._home.scrub_journal.exists():
            since = (self._clock.now_ms() - ended_ms) / 1000
            await asyncio.sleep(min(max(0.0, within - since), within))
        await asyncio.sleep(min(_SCRUB_START_SECONDS, within * (1 - _SCRUB_SHARE)))
        began: float | None = None
        while True:
            try:
                done = await self._run_slice(scrub)
            except DiskError:
                raise
            except (LockedError, StoreError) as error:
                # `hashfed fsck` is running, or the disk is full: try again later.
                _log.warning("scrub_waits", detail=str(error))
                await asyncio.sleep(min(_SCRUB_POLL_SECONDS, within))
                continue
            now = time.monotonic()
            if began is None:
                # Another process began this pass; the time it took for its part counts.
                began = now - done.part * within * _SCRUB_SHARE * (not done.ended)
            self._report(done)
            due = began + within * (1 if done.ended else done.part * _SCRUB_SHARE)
            if done.ended:
                await asyncio.sleep(max(0.0, due - now))
                began = time.monotonic()
            else:
                await asyncio.sleep(min(_SCRUB_POLL_SECONDS, max(0.0, due - now)))

    @staticmethod
    async def _run_slice(scrub: Scrub) -> Slice:
        try:
            done = await asyncio.to_thread(scrub.step)
        except asyncio.CancelledError:
            scrub.stop()
            raise
        if done is None:
            raise asyncio.CancelledError
        return done

    def _report(self, done: Slice) -> None:
        for damage in done.found:
            _log.error(
                "damage_found",
                kind=str(damage.kind),
                origin=damage.origin,
                position=damage.position,
                detail=damage.message,
            )
        if done.found:
            self._on_damage()
        known = store_damage.load(self._home.store)
        if done.ended:
            _log.info("scrub_ended", damages=len(known.damages))
        self._metrics.scrub_part.set(done.part)
        self._metrics.show_findings(known)

    async def _gauge(self) -> None:
        """Update the gauges of the lists from time to time."""
        shown: set[str] = set()
        while True:
            self._changed.clear()
            self._metrics.show_findings(store_damage.load(self._home.store))
            found = await self._readers.run(_load_lists)
            for record, status in found:
                self._show(record, status)
            origins = {str(record.origin) for record, _ in found}
            for origin in shown - origins:
                self._metrics.forget_list(origin)
            shown = origins
            await asyncio.sleep(_GAUGE_SECONDS)
            await self._changed.wait()

    def _show(self, record: ListRecord, status: FollowStatus) -> None:
        origin = str(record.origin)
        size = record.log.size
        self._metrics.list_position.labels(origin).set(size)
        self._metrics.list_live_entries.labels(origin).set(record.log.live_count)
        self._metrics.list_lag_deltas.labels(origin).set(max(0, status.head - size))
        self._metrics.set_list_state(origin, str(status.state))
        if status.contact_ms:
            self._metrics.list_last_contact.labels(origin).set(status.contact_ms / 1000)


def _load_lists(store: Store) -> list[tuple[ListRecord, FollowStatus]]:
    known = store_damage.load(store.path)
    return [
        (
            record,
            follow_state.with_damage(
                follow_state.load_follow_status(store.connection, record.list),
                known.of(str(record.origin)),
            ),
        )
        for record in list(lists.iter_lists(store.connection))
    ]
