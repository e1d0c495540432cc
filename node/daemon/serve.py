"""`hashfed serve`: puts the running node together, and takes it apart again.

One event loop serves peers, follows peers and waits for signals; the store is read and written in
threads. The process holds no state that is not in the store: it can be killed at any moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

from node.address import Address
from node.clock import Clock, SystemClock
from node.config import Config
from node.daemon.background import Background
from node.home import Home
from node.identity.certificate import load_pair
from node.publish import high_water
from node.rpc.server import PeerServer, ServerSettings
from node.store.connection import Store
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
"""How long running calls get to end when the node stops."""

_POLL_SECONDS: Final = 1.0
"""How often the node looks at the store without a wake-up: a wake-up can be lost."""

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
    """The parts of a running node. The stack closes what `start` opens, in reverse order."""

    def __init__(self, home: Home, config: Config, clock: Clock, stack: AsyncExitStack) -> None:
        pair = load_pair(home.tls_key, home.tls_certificate)
        key, certificate = (pem.encode() for pem in pair)
        self._home = home
        self._config = config
        self._clock = clock
        self._stack = stack
        self._metrics = Metrics()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer = Writer(home.store, clock)
        self._background = Background(
            home,
            config,
            clock,
            writer=self._writer,
            metrics=self._metrics,
            on_damage=self._notice,
        )
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
        # First: if the store cannot be used, say so before anything else is opened.
        stack.push_async_callback(asyncio.to_thread, self._writer.close)
        await self._writer.run(lambda _store: None)
        stack.push_async_callback(asyncio.to_thread, self._background.close)
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
            *self._background.start(),
        ]

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
        """Note that any process may have written something new to the store."""
        self.server.wakeups.notify()
        self._follower.wake()
        self._background.refresh()

    def _listen_for_wake_ups(self) -> None:
        loop = asyncio.get_running_loop()
        listener = wake.open_listener(self._home)
        self._stack.callback(listener.close)

        def woken() -> None:
            wake.drain(listener)
            self._background.note_wake_up()
            self._notice()

        loop.add_reader(listener.fileno(), woken)
        self._stack.callback(loop.remove_reader, listener.fileno())

    async def _watch(self, store: Store) -> None:
        """Look for commits of other processes, because a wake-up can be lost."""
        seen = -1
        while True:
            # This only looks at memory, so it needs no thread.
            version = store.data_version
            if version != seen:
                seen = version
                self._notice()
            await asyncio.sleep(_POLL_SECONDS)


def _notify_manager(state: str) -> None:
    """Tell a service manager such as systemd the state of this node, if it asked for that."""
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
