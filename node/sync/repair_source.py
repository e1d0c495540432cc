"""Asks peers, one after the other, for signed bytes that are damaged here.

Nothing is verified here: the caller knows what the bytes have to be (`node.repair.peers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc

from federation.follow import Cursor, Outcome
from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from node.errors import NodeError, UnreachableError
from node.repair.peers import MayKnow
from node.store.orgs import Peer
from node.sync.client import (
    Delivered,
    Opened,
    TlsIdentity,
    fetch_buckets,
    fetch_leaf,
    fetch_logs,
    follow,
    open_channel,
)
from node.sync.failures import PeerBusyError
from node.telemetry.logs import get_logger

_T = TypeVar("_T")

_PEER_SECONDS: Final = 60.0
"""How long one peer may take for one answer, no matter how much it sends and how often it asks to
be called later."""

_MOST_BYTES: Final = 8 * 1024 * 1024
"""How many bytes of deltas are taken in one answer: they wait in memory."""

_log = get_logger()


class PeerSource:
    """Fetches from a node's peers. Use it as a context manager, outside of any event loop."""

    def __init__(
        self, peers: Sequence[Peer], identity: TlsIdentity, *, idle_timeout_seconds: float
    ) -> None:
        self._peers = peers
        self._identity = identity
        self._idle_timeout_seconds = idle_timeout_seconds
        self._runner = asyncio.Runner()
        # Peers that could not be reached; they are not waited for again.
        self._silent: set[OrgName] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.close()

    def deltas(
        self, origin: Origin, cursor: Cursor, count: int, may_know: MayKnow
    ) -> Iterator[tuple[OrgName, Sequence[SignedDelta]]]:
        """Yield up to `count` unverified deltas after a cursor, from each peer that has them."""

        async def ask(peer: Peer, channel: grpc.aio.Channel) -> list[SignedDelta]:
            came: list[SignedDelta] = []
            came_bytes = 0
            outcome = None
            events = follow(
                channel,
                peer.org,
                [cursor],
                live=False,
                idle_timeout_seconds=self._idle_timeout_seconds,
            )
            async with aclosing(events):  # type: ignore[type-var]  # it is a generator
                async for event in events:
                    if isinstance(event, Opened):
                        outcome = event.outcome
                        if outcome is not Outcome.DELTAS:
                            break
                    if isinstance(event, Delivered):
                        came += event.deltas
                        came_bytes += event.size_bytes
                    if len(came) >= count or came_bytes >= _MOST_BYTES:
                        break
            if outcome is Outcome.UNAVAILABLE:
                # The peer's copy may be damaged too, at other places.
                leaf, _ = await fetch_leaf(channel, peer.org, origin, cursor.size, 0)
                came = [leaf]
            return came[:count]

        return self._ask_all(origin, ask, may_know)

    def buckets(
        self, origin: Origin, position: int, numbers: Sequence[int], may_know: MayKnow
    ) -> Iterator[tuple[OrgName, Sequence[tuple[int, bytes]]]]:
        """Yield buckets of the snapshot at a position, from each peer that has them."""

        async def ask(peer: Peer, channel: grpc.aio.Channel) -> list[tuple[int, bytes]]:
            return [
                bucket
                async for bucket in fetch_buckets(
                    channel,
                    peer.org,
                    origin,
                    position,
                    numbers,
                    idle_timeout_seconds=self._idle_timeout_seconds,
                )
            ]

        return self._ask_all(origin, ask, may_know)

    def charters(self, origin: Origin) -> Iterator[tuple[OrgName, bytes]]:
        """Yield the envelope of a list's charter, from each peer that has one."""

        async def ask(peer: Peer, channel: grpc.aio.Channel) -> bytes:
            for offered in (await fetch_logs(channel, peer.org)).lists:
                if offered.origin == str(origin):
                    return offered.charter
            return b""

        # The question names no list.
        return self._ask_all(origin, ask)

    def _ask_all(
        self,
        origin: Origin,
        ask: Callable[[Peer, grpc.aio.Channel], Awaitable[_T]],
        may_know: MayKnow = lambda _: True,
    ) -> Iterator[tuple[OrgName, _T]]:
        """Ask peer after peer, the list's owner first; yield answers that are not empty."""
        for peer in sorted(self._peers, key=lambda peer: peer.org != origin.org):
            if peer.org in self._silent or not may_know(peer.org):
                continue
            try:
                found = self._runner.run(self._ask(peer, ask))
            except (NodeError, TimeoutError) as error:
                if _is_silent(error):
                    self._silent.add(peer.org)
                _log.info("repair_unanswered", peer=peer.org, origin=str(origin), detail=str(error))
                continue
            if found:
                yield peer.org, found

    async def _ask(self, peer: Peer, ask: Callable[[Peer, grpc.aio.Channel], Awaitable[_T]]) -> _T:
        channel = open_channel(peer, self._identity)
        try:
            async with asyncio.timeout(_PEER_SECONDS):
                while True:
                    try:
                        return await ask(peer, channel)
                    except PeerBusyError as error:
                        # A lot of damage takes more calls than a peer answers in a second.
                        await asyncio.sleep(error.retry_seconds)
        finally:
            await channel.close()


def _is_silent(error: Exception) -> bool:
    """Return whether a peer cannot be reached at all; it may also just lack what was asked for."""
    return isinstance(error, TimeoutError) or (
        isinstance(error, UnreachableError) and error.reason == UnreachableError.reason
    )
