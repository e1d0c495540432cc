"""grpc.health.v1.Health: says whether this node serves, and nothing more.

gRPC's own implementation holds a lock while it writes to a watcher. A watcher that reads nothing
would keep this node from stopping.
"""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types

from node.rpc.call import Call
from node.rpc.peers import check_enrolled
from node.rpc.readers import Readers
from node.rpc.status import CallRefusedError, shutting_down
from node.rpc.wakeups import Wakeups

SERVICE: Final = "federation.v1.LogService"
"""The name that health checks ask for, if they do not ask for the whole node."""

_NAMES: Final = ("", SERVICE)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # as above
    """Its methods get the interceptors' `Call` in place of gRPC's context."""

    def __init__(self, readers: Readers, wakeups: Wakeups, *, recheck_seconds: float) -> None:
        """Keep the sources of the state.

        Args:
            readers: tell whether a watcher is still a peer.
            wakeups: tell whether this node is shutting down.
            recheck_seconds: the longest time between two checks that a watcher is a peer.
        """
        self._readers = readers
        self._wakeups = wakeups
        self._recheck_seconds = recheck_seconds

    async def Check(
        self, request: health_pb2.HealthCheckRequest, _call: Call
    ) -> health_pb2.HealthCheckResponse:
        """Say whether this node serves."""
        if request.service not in _NAMES:
            raise CallRefusedError(
                grpc.StatusCode.NOT_FOUND, "UNKNOWN_SERVICE", "this node has no such service"
            )
        return self._state(request.service)

    async def Watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        """Say whether this node serves, and say it again before it stops."""
        await call.write(self._state(request.service))
        while not self._wakeups.closed:
            await self._wakeups.wait(self._wakeups.generation, self._recheck_seconds)
            await self._readers.run(lambda store: check_enrolled(store, call.caller))
        await call.write(self._state(request.service))
        raise shutting_down()

    async def List(
        self, _request: health_pb2.HealthListRequest, _call: Call
    ) -> health_pb2.HealthListResponse:
        """Refuse the call: nobody needs it."""
        raise CallRefusedError(
            grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD", "this node does not list services"
        )

    def _state(self, service: str) -> health_pb2.HealthCheckResponse:
        response = health_pb2.HealthCheckResponse
        if service not in _NAMES:
            return response(status=response.SERVICE_UNKNOWN)
        return response(status=response.NOT_SERVING if self._wakeups.closed else response.SERVING)
