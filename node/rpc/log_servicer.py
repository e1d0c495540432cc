"""federation.v1.LogService: what this node offers its peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from federation import limits
from federation.names import Origin
from federation.v1.log_service_pb2 import (
    FollowRequest,
    FollowResponse,
    Heartbeat,
    ListLogsRequest,
    ListLogsResponse,
    LogInfo,
)
from node import serving
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceServicer
from node.clock import Clock
from node.metrics import Metrics
from node.rpc import follow
from node.rpc.call import Call
from node.rpc.readers import Readers
from node.rpc.status import shutting_down
from node.rpc.wakeups import Wakeups
from node.serving import Cursor, Outcome
from node.store.connection import Store

MAX_PAGE: Final = 256
"""Lists in one answer of ListLogs."""

_CLAIMS: Final = (Outcome.CURSOR_AHEAD, Outcome.DIVERGED)


class LogServicer(LogServiceServicer):
    """Serves logs to peers. Its methods get the interceptors' `Call` in place of gRPC's context."""

    def __init__(
        self,
        readers: Readers,
        wakeups: Wakeups,
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
        self._on_claim = on_claim

    async def ListLogs(  # type: ignore[override]  # the interceptors' Call, not gRPC's context
        self, request: ListLogsRequest, call: Call
    ) -> ListLogsResponse:
        """List what the caller may follow here."""
        caller = call.caller.org
        return await self._readers.run(lambda store: _list_logs(store, caller, request))

    async def Follow(  # type: ignore[override]  # as above
        self, request: FollowRequest, call: Call
    ) -> None:
        """Send what comes after the caller's cursors.

        A frame is read when the connection has taken the one before: there is no queue, and a slow
        reader holds one frame.
        """
        places = follow.parse_request(request)
        with self._metrics.followers.track_inprogress():
            await self._follow(call, places, live=request.live)

    async def _follow(self, call: Call, places: list[follow.Place], *, live: bool) -> None:
        caller = call.caller
        seen = -1
        while not self._wakeups.closed:
            if seen != self._wakeups.generation:
                seen = self._wakeups.generation
                for opening in await self._readers.run(
                    lambda store: follow.survey(store, caller, places)
                ):
                    await call.write(opening)
                if any(place.outcome in _CLAIMS for place in places):
                    # If it is our own list, something of it may be missing here.
                    self._on_claim()
            if any(place.behind for place in places):
                await self._send_round(call, places)
                continue
            if not live:
                return
            if not await self._wakeups.wait(seen, self._heartbeat_seconds):
                await call.write(FollowResponse(heartbeat=Heartbeat(sent_ms=self._clock.now_ms())))
                # Looks at the store again even if no wake-up came: one may have been lost.
                seen = -1
        raise shutting_down()

    async def _send_round(self, call: Call, places: list[follow.Place]) -> None:
        """Send one frame of each list that has more: none waits for another to catch up."""
        for place in places:
            if not place.behind:
                continue
            message = await self._readers.run(partial(_read, call, place))
            if message is not None:
                await call.write(message)
                self._metrics.frames_sent.labels(call.caller.org).inc()
            if self._wakeups.closed:
                return


def _read(call: Call, place: follow.Place, store: Store) -> FollowResponse | None:
    return follow.read(store, call.caller, place)


def _list_logs(store: Store, caller: str, request: ListLogsRequest) -> ListLogsResponse:
    after = Origin.parse(request.page_token) if request.page_token else None
    size = min(request.page_size or MAX_PAGE, MAX_PAGE)
    response = ListLogsResponse()
    taken = 0
    for record in serving.iter_available(store, caller):
        if after is not None and record.origin <= after:
            continue
        if len(response.logs) == size or taken >= limits.FRAME_TARGET_BYTES:
            response.next_page_token = response.logs[-1].origin
            break
        cursor = Cursor(origin=str(record.origin), size=0, root_hash=b"", charter_version=0)
        answer = serving.answer(store, caller, cursor)
        info = LogInfo(origin=cursor.origin, checkpoint=answer.checkpoint, charter=answer.charter)
        taken += info.ByteSize()
        response.logs.append(info)
    return response
