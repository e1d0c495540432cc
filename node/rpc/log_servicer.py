"""federation.v1.LogService: what this node offers its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import grpc

from federation import limits
from federation.follow import CLAIMS, Cursor, StreamCursor
from federation.names import Origin
from federation.replica import SignedDelta
from federation.v1 import delta_pb2
from federation.v1.log_service_pb2 import (
    FetchBucketsRequest,
    FetchBucketsResponse,
    FetchLeafRequest,
    FetchLeafResponse,
    FollowRequest,
    FollowResponse,
    Heartbeat,
    ListLogsRequest,
    ListLogsResponse,
    LogInfo,
)
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceServicer
from node.clock import Clock
from node.rpc import access, follow
from node.rpc.call import Call
from node.rpc.frames import EncodedFrame, Frames
from node.rpc.heads import Heads
from node.rpc.peers import check_enrolled
from node.rpc.readers import Readers
from node.rpc.status import CallRefusedError, shutting_down
from node.rpc.wakeups import Wakeups
from node.store.connection import Store
from node.telemetry.metrics import Metrics

_TURNS: Final = 4
"""How many streams wait for a reading thread at once. One delta wakes all streams. The others queue
here, so that a call with one answer waits for a few reads and not for all of them."""

_T = TypeVar("_T")


class LogServicer(LogServiceServicer):
    """Serves logs to peers. Its methods get the interceptors' `Call` in place of gRPC's context."""

    def __init__(
        self,
        readers: Readers,
        wakeups: Wakeups,
        frames: Frames,
        *,
        clock: Clock,
        metrics: Metrics,
        heartbeat_seconds: float,
        on_claim: Callable[[], None] = lambda: None,
    ) -> None:
        self._readers = readers
        self._wakeups = wakeups
        self._clock = clock
        self._metrics = metrics
        self._heartbeat_seconds = heartbeat_seconds
        self._frames = frames
        self._heads = Heads()
        self._turns = asyncio.Semaphore(_TURNS)
        self._on_claim = on_claim

    async def ListLogs(  # type: ignore[override]  # the interceptors' Call, not gRPC's context
        self, request: ListLogsRequest, call: Call
    ) -> ListLogsResponse:
        """List what the caller may follow here."""
        caller = call.caller.org
        response = await self._readers.run(lambda store: _list_logs(store, caller, request))
        response.sent_ms = self._clock.now_ms()
        return response

    async def Follow(  # type: ignore[override]  # as above
        self, request: FollowRequest, call: Call
    ) -> None:
        """Send what comes after the caller's cursors.

        A frame is only made once the connection has taken the one before. So there is no queue, and
        a slow reader holds one frame.
        """
        places = follow.parse_request(request)
        with self._metrics.followers.track_inprogress():
            await self._follow(call, places, live=request.live)

    async def FetchBuckets(  # type: ignore[override]  # as above
        self, request: FetchBucketsRequest, call: Call
    ) -> None:
        """Send buckets of a snapshot; read each once the connection has taken the one before."""
        for number in request.numbers:
            data = await self._readers.run(partial(_read_bucket, call, request, number))
            await call.write(FetchBucketsResponse(number=number, data=data))
            if self._wakeups.closed:
                raise shutting_down()

    async def FetchLeaf(  # type: ignore[override]  # as above
        self, request: FetchLeafRequest, call: Call
    ) -> FetchLeafResponse:
        """Send one leaf of a log with its proof."""
        return await self._readers.run(partial(_read_leaf, call, request))

    async def _follow(self, call: Call, places: list[StreamCursor], *, live: bool) -> None:
        caller = call.caller
        seen = -1
        while not self._wakeups.closed:
            if seen != self._wakeups.generation:
                seen = self._wakeups.generation
                for news in await self._read(
                    partial(
                        follow.survey,
                        heads=self._heads,
                        frames=self._frames,
                        caller=caller,
                        places=places,
                    )
                ):
                    await self._send(call, news)
                if any(place.outcome in CLAIMS for place in places):
                    # If it is our own list, this node may lack something of it.
                    self._on_claim()
            if any(place.behind for place in places):
                await self._send_round(call, places)
                continue
            if not live:
                return
            if not await self._wakeups.wait(seen, self._heartbeat_seconds):
                await call.write(FollowResponse(heartbeat=Heartbeat(sent_ms=self._clock.now_ms())))
                # Look at the store again even without a wake-up, because one may have been lost.
                seen = -1
        raise shutting_down()

    async def _send_round(self, call: Call, places: list[StreamCursor]) -> None:
        """Send one frame of each list that has more, so no list waits until another catches up."""
        for place in places:
            if not place.behind:
                continue
            found = await self._read(
                partial(follow.read, frames=self._frames, caller=call.caller, place=place)
            )
            await self._send(call, found)
            if self._wakeups.closed:
                return

    async def _send(self, call: Call, news: FollowResponse | EncodedFrame) -> None:
        if isinstance(news, EncodedFrame):
            await call.write(news.data)
            self._metrics.frames_sent.labels(call.caller.org).inc()
        else:
            await call.write(news)

    async def _read(self, read: Callable[[Store], _T]) -> _T:
        async with self._turns:
            return await self._readers.run(read)


def _unavailable() -> CallRefusedError:
    # The answer must not tell whether it is not here or the caller may not have it.
    return CallRefusedError(grpc.StatusCode.NOT_FOUND, "UNAVAILABLE", "not here, or not for you")


def _read_bucket(call: Call, request: FetchBucketsRequest, number: int, store: Store) -> bytes:
    check_enrolled(store, call.caller)
    data = access.read_bucket(store, call.caller.org, request.origin, request.position, number)
    if data is None:
        raise _unavailable()
    return data


def _read_leaf(call: Call, request: FetchLeafRequest, store: Store) -> FetchLeafResponse:
    found: tuple[SignedDelta, list[bytes]] | None
    if not request.size:
        alone = access.read_lone_leaf(store, call.caller.org, request.origin, request.position)
        found = None if alone is None else (alone, [])
    else:
        found = access.read_leaf(
            store, call.caller.org, request.origin, request.position, request.size
        )
    if found is None:
        raise _unavailable()
    leaf, inclusion = found
    return FetchLeafResponse(
        delta=delta_pb2.SignedDelta(header=leaf.header, body=leaf.body, checkpoint=leaf.checkpoint),
        inclusion=inclusion,
    )


def _list_logs(store: Store, caller: str, request: ListLogsRequest) -> ListLogsResponse:
    after = Origin.parse(request.page_token) if request.page_token else None
    size = min(request.page_size or limits.MAX_PAGE_LISTS, limits.MAX_PAGE_LISTS)
    response = ListLogsResponse()
    taken = 0
    for record in access.iter_available(store, caller):
        if after is not None and record.origin <= after:
            continue
        if len(response.logs) == size or taken >= limits.FRAME_TARGET_BYTES:
            response.next_page_token = response.logs[-1].origin
            break
        cursor = Cursor(origin=str(record.origin), size=0, root_hash=b"", charter_version=0)
        answer = access.answer(store, caller, cursor)
        info = LogInfo(
            origin=cursor.origin,
            checkpoint=answer.checkpoint,
            charter=answer.charter,
            retained_from=answer.retained_from,
        )
        taken += info.ByteSize()
        response.logs.append(info)
    return response
