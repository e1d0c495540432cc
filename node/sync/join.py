"""Fetches the buckets of a snapshot from every peer that has them, and has them written.

The peer that offered the snapshot is one source. Others are asked as well and dropped at their
first failure. What a source sends is checked against what the owner signed, so it does not matter
which source it was. At most a few chunks are in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc

from federation.errors import PeerError
from federation.names import OrgName
from node.errors import NodeError
from node.ingest.snapshot import Arrival
from node.store.orgs import Peer
from node.sync.client import TlsIdentity, fetch_buckets, open_channel
from node.sync.failures import IdleError, PeerBusyError
from node.sync.intake import Intake
from node.sync.writer import Writer
from node.telemetry.logs import get_logger

CHUNK_BUCKETS: Final = 16
"""How many buckets are asked for at a time and written in one transaction: some 5 MB."""

MAX_SOURCES: Final = 3
"""How many peers are asked besides the one that offered the snapshot."""

_BUSY_ATTEMPTS: Final = 10
_BUSY_SECONDS: Final = 2.0
"""How often and how long to wait for a busy source: it allows one peer only a few streams at
once."""

_Chunk = tuple[int, ...]

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The peers from which buckets can be fetched.

    Attributes:
        via: the peer that offered the snapshot.
        channel: an open channel to it.
        others: further peers.
        identity: what this node shows to them.
        idle_timeout_seconds: how long a peer may be silent. A peer other than `via` may also take
            no longer than this for a chunk: a slower one is of no help.
    """

    via: OrgName
    channel: grpc.aio.Channel
    others: Sequence[Peer]
    identity: TlsIdentity
    idle_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What a source reports: the buckets of a chunk, or its end."""

    org: OrgName
    chunk: _Chunk = ()
    buckets: Sequence[tuple[int, bytes]] = ()
    error: Exception | None = None


class Join:
    """Fetches one snapshot. Use it once.

    Each source has a task that fetches chunk after chunk. One queue leads to the one place that
    writes. If a source fails, the chunks that it took and did not deliver are given back.
    """

    def __init__(
        self,
        arrival: Arrival,
        intake: Intake,
        writer: Writer,
        sources: Sources,
        on_arrived: Callable[[int], None],
    ) -> None:
        self._arrival = arrival
        self._intake = intake
        self._writer = writer
        self._sources = sources
        self._on_arrived = on_arrived
        missing = arrival.missing
        self._pending = deque(
            missing[at : at + CHUNK_BUCKETS] for at in range(0, len(missing), CHUNK_BUCKETS)
        )
        self._unwritten = set(self._pending)
        self._taken: dict[OrgName, list[_Chunk]] = {}
        self._given_back = asyncio.Event()
        # One chunk waits while another is written; sources that are faster than that wait too.
        self._fetched: asyncio.Queue[_Fetched] = asyncio.Queue(1)
        self._tasks: dict[OrgName, asyncio.Task[None]] = {}

    async def run(self) -> bool:
        """Fetch what is missing, and put the snapshot in force.

        Returns:
            Whether it was put in force; if not, the list has moved on and must be asked for again.

        Raises:
            PeerError: the peer that offered the snapshot sent what was not signed, or the buckets
                do not fit each other.
            NodeError: that peer cannot be reached, and no other peer has what is missing; or the
                store could not be written.
        """
        others = self._sources.others[:MAX_SOURCES] if len(self._pending) > 1 else ()
        via = self._sources.via
        self._tasks[via] = asyncio.create_task(self._feed(via, self._fetch_from_via))
        for peer in others:
            self._tasks[peer.org] = asyncio.create_task(
                self._feed(peer.org, partial(self._fetch_aside, peer))
            )
        tasks = list(self._tasks.values())
        try:
            if not await self._write_all():
                return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return await self._writer.run(lambda store: self._intake.join(store, self._arrival))

    # --- fetching -----------------------------------------------------------------------------

    async def _feed(self, org: OrgName, fetch: Callable[[], Awaitable[None]]) -> None:
        """Run a source until it is cancelled or fails; report its failure."""
        try:
            await fetch()
        except Exception as error:  # noqa: BLE001  # raised by who writes, unless others go on
            await self._fetched.put(_Fetched(org, error=error))

    async def _fetch_from_via(self) -> None:
        while True:
            await self._fetch_chunk(self._sources.via, self._sources.channel)

    async def _fetch_aside(self, peer: Peer) -> None:
        channel = open_channel(peer, self._sources.identity)
        try:
            while True:
                await self._fetch_chunk(
                    peer.org, channel, within=self._sources.idle_timeout_seconds
                )
        finally:
            await channel.close()

    async def _fetch_chunk(
        self, org: OrgName, channel: grpc.aio.Channel, *, within: float | None = None
    ) -> None:
        chunk = await self._take_chunk(org)
        try:
            async with asyncio.timeout(within):
                buckets = await self._ask(org, channel, chunk)
        except TimeoutError:
            raise IdleError(f"{org} took more than {within:g} s for some buckets") from None
        await self._fetched.put(_Fetched(org, chunk, buckets))

    async def _ask(
        self, org: OrgName, channel: grpc.aio.Channel, chunk: _Chunk
    ) -> Sequence[tuple[int, bytes]]:
        """Return the buckets of a chunk; wait while the source is busy, but not for ever."""
        attempts = 0
        while True:
            try:
                return [
                    bucket
                    async for bucket in fetch_buckets(
                        channel,
                        org,
                        self._arrival.origin,
                        self._arrival.opened.position,
                        chunk,
                        idle_timeout_seconds=self._sources.idle_timeout_seconds,
                    )
                ]
            except PeerBusyError as error:
                attempts += 1
                if attempts == _BUSY_ATTEMPTS:
                    raise
                await asyncio.sleep(min(error.retry_seconds, _BUSY_SECONDS))

    async def _take_chunk(self, org: OrgName) -> _Chunk:
        """Wait for a chunk that nobody is fetching, and return it."""
        while not self._pending:
            self._given_back.clear()
            await self._given_back.wait()
        chunk = self._pending.popleft()
        self._taken.setdefault(org, []).append(chunk)
        return chunk

    # --- writing ------------------------------------------------------------------------------

    async def _write_all(self) -> bool:
        """Write what the sources bring until all is here; return whether it is still awaited.

        Raises:
            PeerError: as `run`.
            NodeError: as `run`.
        """
        failed: Exception | None = None
        while self._unwritten:
            if not self._tasks:
                raise failed or NodeError("the buckets of a snapshot could not be fetched")
            item = await self._fetched.get()
            error = item.error
            if error is not None and not isinstance(error, NodeError):
                raise error
            if item.org not in self._tasks:
                # This source was dropped already, with everything that it had brought.
                continue
            if error is None:
                try:
                    if not await self._write(item):
                        return False
                except PeerError as caught:
                    if item.org == self._sources.via:
                        raise
                    error = caught
            if error is not None:
                self._drop(item.org, error)
                if item.org == self._sources.via or failed is None:
                    failed = error
        return True

    async def _write(self, item: _Fetched) -> bool:
        awaited = await self._writer.run(
            lambda store: self._intake.arrive(store, self._arrival, item.buckets)
        )
        self._unwritten.discard(item.chunk)
        self._taken[item.org].remove(item.chunk)
        if awaited:
            self._on_arrived(len(item.chunk))
        return awaited

    def _drop(self, org: OrgName, error: PeerError | NodeError) -> None:
        """Stop using a source, and leave to others what it has not brought."""
        self._tasks.pop(org).cancel()
        self._pending.extendleft(self._taken.pop(org, ()))
        self._given_back.set()
        _log.info("source_dropped", peer=org, reason=str(error.reason), detail=str(error))
