"""`hashfed serve`: puts the running node together, and takes it apart again.

One event loop serves peers, follows peers and waits for signals; the store is read and written in
threads. The process holds no state that is not in the store: it can be killed at any moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

from node.address import Address
from node.clock import Clock, SystemClock
from node.config import Config
from node.errors import DamageError, DiskError, LockedError, StoreError
from node.fsck.scrub import Scrub, Slice
from node.home import Home
from node.identity.certificate import load_pair
from node.ingest.checks import check_behind
from node.ingest.snapshot import sweep
from node.publish import high_water
from node.rpc.readers import Readers
from node.rpc.server import PeerServer, ServerSettings
from node.store import damage as store_damage
from node.store import follow_state, lists
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord
from node.store.runs import merge_behind
from node.sync.client import TlsIdentity
from node.sync.own_lists import OwnListGuard
from node.sync.recover import RecoveryTools
from node.sync.scheduler import Follower
from node.sync.session import Tools
from node.sync.writer import Writer
from node.system import filesystem, wake
from node.system.locks import hold
from node.telemetry.logs import get_logger
from node.telemetry.metrics import Metrics

GRACE_SECONDS: Final = 5.0
"""What calls get to end in when the node stops."""

_POLL_SECONDS: Final = 1.0
"""How often the store is looked at without a wake-up, as one may have been lost."""

_STEP_SECONDS: Final = 0.05
"""How long one step of what is done behind acceptance may keep the writer."""

_IDLE_SECONDS: Final = 1.0
"""For how long nothing was fetched or published before that begins: a change that comes while it
goes on waits for a step, and has no processor to itself."""

_SCRUB_POLL_SECONDS: Final = 60.0
"""The longest pause of the scrub: for the clock may be set, and the store may grow."""

_SCRUB_START_SECONDS: Final = 10.0

_SCRUB_SHARE: Final = 0.9
"""Of the time that a pass of the scrub may take, what its slices are spread over."""

_GAUGE_SECONDS: Final = 5.0
"""How often the gauges of the lists are brought up to date."""

_log = get_logger()


async def serve(
    home: Home,
    config: Config,
    *,
    clock: Clock | None = None,
    on_ready: Callable[[Address], None] = lambda _address: None,
) -> None:
    """Serve peers and follow peers until SIGTERM or SIGINT.

    Args:
        home: the node's files.
        config: its configuration.
        clock: the time of day; the machine's by default.
        on_ready: told the address once peers can call.

    Raises:
        LockedError: another `serve` runs on this home.
        ConfigError: keys, certificate, an address or the file system cannot be used.
        StoreError: the store cannot be used, or could not be written.
        DiskError: the disk failed; the process has to end.
    """
    filesystem.require_local(home.store.resolve().parent, config.node.allow_filesystem)
    with hold(home.lock_file("serve"), "hashfed serve"), _signals() as stop:
        async with AsyncExitStack() as stack:
            node = _Node(home, config, clock or SystemClock(), stack)
            await node.start()
            _log.info("serving", address=str(node.server.address), org=config.node.org)
            on_ready(node.server.address)
            _notify_manager("READY=1")
            await node.wait(stop)
            _log.info("stopping")
            _notify_manager("STOPPING=1")
    _log.info("stopped")


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; the second ends the process."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def handle(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class _Node:
    """The parts of a running node. What `start` opens, the stack closes, in the other order."""

    def __init__(self, home: Home, config: Config, clock: Clock, stack: AsyncExitStack) -> None:
        pair = load_pair(home.tls_key, home.tls_certificate)
        key, certificate = (pem.encode() for pem in pair)
        self._home = home
        self._config = config
        self._clock = clock
        self._stack = stack
        self._metrics = Metrics()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._woken_at = time.monotonic()
        self._writer = Writer(home.store, clock)
        self._readers = Readers(home.store, clock, threads=1)
        identity = TlsIdentity(key=key, certificate=certificate)
        self._guard = OwnListGuard(
            RecoveryTools(
                writer=self._writer,
                identity=identity,
                clock=clock,
                mark=high_water.of_node(home, config),
                lock=home.lock_file("publish"),
                needed=config.publish.peers_needed.count,
                ask_seconds=config.publish.ask_seconds,
                idle_timeout_seconds=config.sync.idle_timeout_seconds,
            ),
            interval_seconds=config.sync.interval_seconds,
            on_released=self._notice,
        )
        self.server = PeerServer(
            ServerSettings(
                store=home.store,
                listen=config.node.listen,
                key=key,
                certificate=certificate,
                heartbeat_seconds=config.sync.heartbeat_seconds,
            ),
            clock=clock,
            metrics=self._metrics,
            on_claim=self._guard.claim,
        )
        self._follower = Follower(
            Tools(
                writer=self._writer,
                identity=identity,
                clock=clock,
                idle_timeout_seconds=config.sync.idle_timeout_seconds,
                interval_seconds=config.sync.interval_seconds,
                metrics=self._metrics,
                on_accepted=self._notice,
            )
        )

    async def start(self) -> None:
        """Open everything; peers can call once this returns."""
        stack = self._stack
        # First: what keeps the store from being used is said before anything else is opened.
        stack.push_async_callback(asyncio.to_thread, self._writer.close)
        await self._writer.run(lambda _store: None)
        stack.push_async_callback(asyncio.to_thread, self._readers.close)
        watched = Store.open_reader(self._home.store, self._clock)
        stack.callback(watched.close)
        if self._config.metrics.listen is not None:
            stack.enter_context(self._metrics.serve(self._config.metrics.listen))
        stack.push_async_callback(self.server.stop, GRACE_SECONDS)
        await self.server.start()
        self._listen_for_wake_ups()
        stack.push_async_callback(self._end_tasks)
        self._tasks = [
            asyncio.create_task(self._follower.run(), name="follow"),
            asyncio.create_task(self._guard.run(), name="guard"),
            asyncio.create_task(self._watch(watched), name="watch"),
            asyncio.create_task(self._work_behind(), name="behind"),
            asyncio.create_task(self._gauge(), name="gauge"),
        ]
        if self._config.store.scrub_hours:
            self._tasks.append(asyncio.create_task(self._scrub(), name="scrub"))

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait for the signal to stop; raise what a part of the node raised before that."""
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for task in self._tasks:
            if task.done():
                await task

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _notice(self) -> None:
        """The store may have something new, from any process."""
        self.server.wakeups.notify()
        self._follower.wake()
        self._changed.set()

    def _listen_for_wake_ups(self) -> None:
        loop = asyncio.get_running_loop()
        listener = wake.open_listener(self._home)
        self._stack.callback(listener.close)

        def woken() -> None:
            wake.drain(listener)
            self._woken_at = time.monotonic()
            self._notice()

        loop.add_reader(listener.fileno(), woken)
        self._stack.callback(loop.remove_reader, listener.fileno())

    async def _watch(self, store: Store) -> None:
        """Look for commits of other processes, as a wake-up may be lost."""
        seen = -1
        while True:
            # A look at memory: no work for a thread.
            version = store.data_version
            if version != seen:
                seen = version
                self._notice()
            await asyncio.sleep(_POLL_SECONDS)

    async def _work_behind(self) -> None:
        """Do what acceptance leaves for later while nothing is fetched, or when it is due."""
        due = time.monotonic() + self._config.sync.check_budget_seconds
        while True:
            idle_seconds = min(self._writer.idle_seconds, time.monotonic() - self._woken_at)
            if idle_seconds < _IDLE_SECONDS and time.monotonic() < due:
                await asyncio.sleep(_IDLE_SECONDS / 5)
                continue
            try:
                done = await self._writer.run_aside(self._take_step)
            except LockedError:
                # Another process writes for long: what is not done now is done later.
                done = 0
            except DamageError as error:
                # The scrub names it, and has the list withheld; other lists are served until then.
                _log.error("checks_wait", detail=str(error))
                await asyncio.sleep(_SCRUB_POLL_SECONDS)
                continue
            if not done:
                await asyncio.sleep(_POLL_SECONDS)
                due = time.monotonic() + self._config.sync.check_budget_seconds

    def _take_step(self, store: Store) -> int:
        """Merge and check for two steps' time; return how much was done."""
        if store_damage.load(store.path).damages:
            # Nothing is built on what is damaged, nor moved about in it.
            return 0
        merged = merge_behind(store, _STEP_SECONDS) + sweep(store)
        return merged + check_behind(store, _STEP_SECONDS, clock=self._clock)

    async def _scrub(self) -> None:
        """Check all that is stored, again and again, each time within the hours that are set."""
        within = self._config.store.scrub_hours * 3600
        scrub = Scrub(self._home, self._clock)
        ended_ms = store_damage.load(self._home.store).ended_ms
        if ended_ms is not None and not self._home.scrub_journal.exists():
            since = (self._clock.now_ms() - ended_ms) / 1000
            await asyncio.sleep(min(max(0.0, within - since), within))
        # Who starts has more urgent things to do: peers wait.
        await asyncio.sleep(min(_SCRUB_START_SECONDS, within * (1 - _SCRUB_SHARE)))
        began: float | None = None
        while True:
            try:
                done = await self._run_slice(scrub)
            except DiskError:
                raise
            except (LockedError, StoreError) as error:
                # `hashfed fsck` is at work, or the disk is full: later.
                _log.warning("scrub_waits", detail=str(error))
                await asyncio.sleep(min(_SCRUB_POLL_SECONDS, within))
                continue
            now = time.monotonic()
            if began is None:
                # Of a pass that another process began, the part that is done took its time.
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
            self._notice()
        known = store_damage.load(self._home.store)
        if done.ended:
            _log.info("scrub_ended", damages=len(known.damages))
        self._metrics.scrub_part.set(done.part)
        self._metrics.show_findings(known)

    async def _gauge(self) -> None:
        """Keep the gauges of the lists up to date."""
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


def _notify_manager(state: str) -> None:
    """Tell a service manager such as systemd how this node is, if one asked for it."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    # A leading @ stands for the NUL byte of Linux's abstract names.
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("service_manager_not_told", state=state, detail=str(error))
