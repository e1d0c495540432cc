"""Fetches the buckets of a snapshot from every peer that has them, and hands them to the writer.

The peer that offered the snapshot is one source; others are tried beside it and dropped at their
first failure. What a source sends is checked against what the owner signed, so it matters to nobody
which one it was. At most a few chunks are in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc

from federation.errors import PeerError
from federation.names import OrgName
from node.errors import NodeError, StoreError
from node.joining import Arrival
from node.logs import get_logger
from node.store.registry import Peer
from node.sync.client import TlsIdentity, fetch_buckets, open_channel
from node.sync.intake import Intake, Progress
from node.sync.writer import Writer

CHUNK_BUCKETS: Final = 16
"""Buckets that are asked for at a time and written in one transaction: some 5 MB."""

MAX_SOURCES: Final = 3
"""Peers that are asked beside the one that offered the snapshot."""

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Whom buckets can be fetched from.

    Attributes:
        via: the peer that offered the snapshot.
        channel: an open channel to it.
        others: further peers.
        identity: what this node shows to them.
        idle_timeout_seconds: how long one may be silent.
    """

    via: OrgName
    channel: grpc.aio.Channel
    others: Sequence[Peer]
    identity: TlsIdentity
    idle_timeout_seconds: float


class Join:
    """Fetches one snapshot. One use."""

    def __init__(
        self,
        arrival: Arrival,
        intake: Intake,
        writer: Writer,
        sources: Sources,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._arrival = arrival
        self._intake = intake
        self._writer = writer
        self._sources = sources
        self._on_progress = on_progress
        missing = arrival.missing
        self._chunks = deque(
            missing[at : at + CHUNK_BUCKETS] for at in range(0, len(missing), CHUNK_BUCKETS)
        )
        self._failed: NodeError | PeerError | None = None

    async def run(self) -> None:
        """Fetch what is missing, and put the snapshot in force.

        Raises:
            PeerError: the peer that offered the snapshot sent what was not signed, or the buckets
                do not fit each other.
            NodeError: it cannot be reached, and no other peer has what is missing.
            StoreError: the store could not be written.
        """
        sources = self._sources
        others = sources.others[:MAX_SOURCES] if len(self._chunks) > 1 else ()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetch(sources.via, sources.channel))
                for peer in others:
                    group.create_task(self._fetch_aside(peer))
        except* (StoreError, PeerError) as errors:
            raise errors.exceptions[0] from None
        if self._chunks:
            raise self._failed or NodeError("the buckets of a snapshot could not be fetched")
        await self._writer.run(lambda store: self._intake.join(store, self._arrival))

    async def _fetch_aside(self, peer: Peer) -> None:
        channel = open_channel(peer, self._sources.identity)
        try:
            await self._fetch(peer.org, channel)
        finally:
            await channel.close()

    async def _fetch(self, org: OrgName, channel: grpc.aio.Channel) -> None:
        """Fetch chunks from one source until none is left, or it fails."""
        arrival = self._arrival
        writing: asyncio.Task[None] | None = None
        while self._chunks:
            chunk = self._chunks.popleft()
            try:
                buckets = [
                    item
                    async for item in fetch_buckets(
                        channel,
                        org,
                        arrival.origin,
                        arrival.opened.position,
                        chunk,
                        idle_timeout_seconds=self._sources.idle_timeout_seconds,
                    )
                ]
                if writing is not None:
                    await writing
                # One chunk is written while the next one is fetched.
                writing = asyncio.create_task(self._write(org, chunk, buckets))
            except (NodeError, PeerError) as error:
                self._give_back(org, chunk, error)
                break
        if writing is not None:
            try:
                await writing
            except (NodeError, PeerError) as error:
                self._give_back(org, (), error)

    async def _write(
        self, org: OrgName, chunk: tuple[int, ...], buckets: list[tuple[int, bytes]]
    ) -> None:
        try:
            await self._writer.run(
                partial(self._intake.arrive, arrival=self._arrival, buckets=buckets)
            )
        except PeerError as error:
            self._chunks.appendleft(chunk)
            if org == self._sources.via:
                raise
            raise NodeError(f"{org} sent a bucket that was not signed: {error}") from error

        self._on_progress(self._intake.progress_of(self._arrival.origin))

    def _give_back(
        self, org: OrgName, chunk: tuple[int, ...], error: NodeError | PeerError
    ) -> None:
        """Leave a chunk to others: this source has failed."""
        if isinstance(error, StoreError | PeerError):
            raise error
        if chunk:
            self._chunks.appendleft(chunk)
        if org == self._sources.via or self._failed is None:
            self._failed = error
        _log.info("source_dropped", peer=org, reason=error.reason, detail=str(error))
