"""The server that peers call: its limits, its life.

Every limit of the transport is set here. gRPC ignores the name of a setting that it does not know,
so each that matters has a test of its effect.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types
from grpc_health.v1._async import HealthServicer  # type: ignore[import-untyped]  # as above

from federation import limits
from node._grpc.federation.v1.log_service_pb2_grpc import add_LogServiceServicer_to_server
from node.address import Address
from node.clock import Clock
from node.errors import ConfigError
from node.metrics import Metrics
from node.rpc.interceptors import (
    Authentication,
    Chain,
    Deadline,
    Guard,
    Limits,
    Measure,
    Statuses,
)
from node.rpc.log_servicer import LogServicer
from node.rpc.readers import Readers
from node.rpc.tls import PeerCertificates
from node.rpc.wakeups import Wakeups

SERVICE: Final = "federation.v1.LogService"
"""The name that health checks ask for."""

MAX_REQUEST_BYTES: Final = 512 * 1024
"""Bytes of a request: a Follow with all the cursors that are allowed has less. It bounds what a
parser can be made to build: two bytes become an object of fifty."""

MAX_CONNECTIONS: Final = 256
"""Connections at once. One peer needs one; a firewall limits them by address."""

MAX_CONCURRENT_STREAMS: Final = 16
"""Calls at once on one connection: bounds what one connection can start and cancel."""

MAX_CONCURRENT_CALLS: Final = 128
"""Calls at once on all connections."""

HANDSHAKE_SECONDS: Final = 5
"""From connecting to the end of the TLS handshake; gRPC's own 120 s feed half-open connections."""

CONNECTION_IDLE_SECONDS: Final = 300
"""Without any call: frees the place of a connection that nobody uses."""

CONNECTION_AGE_SECONDS: Final = 900
"""After this a peer must connect anew: a certificate that was removed is out for good, and a
reader too slow to take what it asked for does not stay for ever."""

CONNECTION_GRACE_SECONDS: Final = 60
"""What calls get to end in when a connection has reached its age."""

KEEPALIVE_SECONDS: Final = 60
"""Between our pings on a connection with calls: finds peers that are gone without a word."""

KEEPALIVE_TIMEOUT_SECONDS: Final = 20
"""For the answer to such a ping."""

MIN_PING_SECONDS: Final = 60
"""What a client has to leave between its pings; our own client leaves twice that."""

MAX_METADATA_BYTES: Final = 8 * 1024
"""Bytes of a call's metadata. This protocol has none."""

# gRPC writes every failed handshake to stderr; refused calls are in our own log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_SECONDS * 1000),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_SECONDS * 1000),
    ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_SECONDS * 1000),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_SECONDS * 1000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
    ("grpc.http2.max_frame_size", 16_384),
    ("grpc.http2.hpack_table_size.decoder", 4_096),
    # Bit 0 is identity: a compressed request is refused, so no bytes can unfold into many.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Otherwise a second process binds the same port without an error and takes half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.enable_channelz", 0),
    # Seconds that a call may wait for a handler before it is dropped.
    ("grpc.server_max_unrequested_time_in_server", 10),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server needs to know.

    Attributes:
        store: the store's path.
        listen: where to listen; port 0 lets the system choose.
        key: this node's TLS key, PEM.
        certificate: this node's TLS certificate, PEM.
        heartbeat_seconds: how often a stream without news says so.
    """

    store: Path
    listen: Address
    key: bytes
    certificate: bytes
    heartbeat_seconds: float


class PeerServer:
    """The server that peers call. Belongs to one event loop.

    Attributes:
        wakeups: `notify()` it when something is new in the store.
        address: where it listens, once started.
    """

    def __init__(self, settings: ServerSettings, *, clock: Clock, metrics: Metrics) -> None:
        self.wakeups = Wakeups()
        self.address = settings.listen
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._readers = Readers(settings.store, clock)
        self._health = HealthServicer()
        self._certificates: PeerCertificates | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ConfigError: the address cannot be listened on.
            StoreError: the store cannot be opened.
        """
        settings = self._settings
        self._certificates = PeerCertificates(
            settings.store, self._clock, key=settings.key, certificate=settings.certificate
        )
        layers = (
            Guard(),
            Measure(self._metrics),
            Statuses(),
            Authentication(self._readers),
            Limits(),
            Deadline(),
        )
        server = grpc.aio.server(
            interceptors=[Chain(layers)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
            compression=grpc.Compression.NoCompression,
        )
        servicer = LogServicer(
            self._readers,
            self.wakeups,
            clock=self._clock,
            metrics=self._metrics,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        add_LogServiceServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            port = server.add_secure_port(str(settings.listen), self._certificates.credentials())
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {settings.listen}",
                hint="another program listens there, or that is no address of this machine: stop "
                "it, or choose another with node.listen in config.toml",
            ) from error
        await server.start()
        self._server = server
        self.address = Address(settings.listen.host, port)
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Say that this node is going, end the streams, and close what `start` opened."""
        await self._health.enter_graceful_shutdown()
        self.wakeups.close()
        if self._server is not None:
            await self._server.stop(grace_seconds)
        if self._certificates is not None:
            self._certificates.close()
        await asyncio.to_thread(self._readers.close)
