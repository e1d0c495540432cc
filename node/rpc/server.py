"""The server that peers call: its limits, its life.

Every limit of the transport is set here. gRPC ignores settings whose names it does not know, so
each setting that matters has a test of its effect.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]  # no types

from federation import limits
from node._grpc.federation.v1.log_service_pb2_grpc import add_LogServiceServicer_to_server
from node.address import Address
from node.clock import Clock
from node.errors import ConfigError
from node.rpc.frames import Frames
from node.rpc.health import Health
from node.rpc.interceptors import (
    Authentication,
    Chain,
    Deadline,
    HideExceptions,
    Limits,
    Measure,
    Statuses,
)
from node.rpc.log_servicer import LogServicer
from node.rpc.readers import Readers
from node.rpc.tls import PeerCertificates
from node.rpc.wakeups import Wakeups
from node.telemetry.metrics import Metrics

MAX_REQUEST_BYTES: Final = 512 * 1024
"""The largest request in bytes: a Follow with all allowed cursors is smaller. It bounds what a peer
can make a parser build: two bytes become an object of fifty."""

MAX_CONCURRENT_STREAMS: Final = 16
"""Open calls on one connection: bounds what one connection can start and cancel."""

MAX_METADATA_BYTES: Final = 8 * 1024
"""Bytes of a call's metadata. This protocol has none."""

# gRPC would write every failed handshake to stderr; refused calls are in our own log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """The limits of the transport for all peers together.

    Nodes run with the defaults. Tests set other values, as they cannot wait minutes for an effect.

    Two hundred subscribers need as many connections, with one stream on each. The rest is for those
    that connect again before their old connection has ended, for calls beside the streams, and for
    strangers in the handshake. Five hundred connections fit into the 1,024 open files that systems
    allow a process.

    Attributes:
        connections: open connections, including unfinished handshakes. One peer needs one; a
            firewall limits them by address.
        calls: open calls on all connections; one more is refused and does not wait.
        handshake_seconds: the time from connecting to the peer's HTTP/2 settings, including the TLS
            handshake. The 120 s that gRPC allows by default would favor half-open connections.
        idle_seconds: how long a connection may be without calls before it is closed.
        age_seconds: after this time a peer must connect again. So a removed certificate is shut out
            completely, and a reader that is too slow does not stay for ever.
        age_grace_seconds: how long calls may still run when a connection has reached its age.
        keepalive_seconds: the time between our pings on a connection with calls. They find peers
            that are gone and did not close the connection.
        keepalive_timeout_seconds: how long the answer to such a ping may take.
        min_ping_seconds: the least time that a client has to leave between its pings; our own
            client leaves twice that.
    """

    connections: int = 512
    calls: int = 512
    handshake_seconds: float = 5
    idle_seconds: float = 300
    age_seconds: float = 900
    age_grace_seconds: float = 60
    keepalive_seconds: float = 60
    keepalive_timeout_seconds: float = 20
    min_ping_seconds: float = 60


def _build_options(transport: TransportLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
        ("grpc.max_allowed_incoming_connections", transport.connections),
        ("grpc.server_handshake_timeout_ms", _to_ms(transport.handshake_seconds)),
        ("grpc.max_connection_idle_ms", _to_ms(transport.idle_seconds)),
        ("grpc.max_connection_age_ms", _to_ms(transport.age_seconds)),
        ("grpc.max_connection_age_grace_ms", _to_ms(transport.age_grace_seconds)),
        ("grpc.keepalive_time_ms", _to_ms(transport.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _to_ms(transport.keepalive_timeout_seconds)),
        # In grpcio 1.85, this one counts: if it is longer, gRPC never starts the timer of the
        # setting before. Its default is 60 s.
        ("grpc.http2.ping_timeout_ms", _to_ms(transport.keepalive_timeout_seconds)),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", _to_ms(transport.min_ping_seconds)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.http2.max_pings_without_data", 2),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        ("grpc.http2.max_frame_size", 16_384),
        ("grpc.http2.hpack_table_size.decoder", 4_096),
        # Bit 0 is identity: compressed requests are refused, so a few bytes cannot become many.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Otherwise a second process could bind the same port without an error and get half of the
        # calls.
        ("grpc.so_reuseport", 0),
        ("grpc.enable_channelz", 0),
        # How many seconds a call may wait for a handler before it is dropped.
        ("grpc.server_max_unrequested_time_in_server", 10),
    ]


def _to_ms(seconds: float) -> int:
    return int(seconds * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server needs to know.

    Attributes:
        store: the store's path.
        listen: where to listen; port 0 lets the system choose.
        key: this node's TLS key, PEM.
        certificate: this node's TLS certificate, PEM.
        heartbeat_seconds: how often a stream without news says so.
        transport: the limits of the transport.
    """

    store: Path
    listen: Address
    key: bytes
    certificate: bytes
    heartbeat_seconds: float
    transport: TransportLimits = TransportLimits()


class PeerServer:
    """The server that peers call. Belongs to one event loop.

    Attributes:
        wakeups: call its `notify()` when something is new in the store.
        frames: frames that are made once and sent to many streams.
        address: where it listens, once it has started.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        clock: Clock,
        metrics: Metrics,
        on_claim: Callable[[], None] = lambda: None,
    ) -> None:
        self.wakeups = Wakeups()
        self.frames = Frames(on_made=metrics.frames_made.inc)
        self.address = settings.listen
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._on_claim = on_claim
        self._readers = Readers(settings.store, clock)
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
            HideExceptions(),
            Measure(self._metrics),
            Statuses(),
            Authentication(self._readers),
            Limits(),
            Deadline(),
        )
        server = grpc.aio.server(
            interceptors=[Chain(layers)],
            options=_build_options(settings.transport),
            maximum_concurrent_rpcs=settings.transport.calls,
            compression=grpc.Compression.NoCompression,
        )
        servicer = LogServicer(
            self._readers,
            self.wakeups,
            self.frames,
            clock=self._clock,
            metrics=self._metrics,
            heartbeat_seconds=settings.heartbeat_seconds,
            on_claim=self._on_claim,
        )
        add_LogServiceServicer_to_server(servicer, server)
        health = Health(self._readers, self.wakeups, recheck_seconds=settings.heartbeat_seconds)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        try:
            port = server.add_secure_port(str(settings.listen), self._certificates.credentials())
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {settings.listen}",
                hint="another program listens there, or this machine does not have that address: "
                "stop that program, or choose another address with node.listen in config.toml",
            ) from error
        await server.start()
        self._server = server
        self.address = Address(settings.listen.host, port)

    async def stop(self, grace_seconds: float) -> None:
        """Announce that this node is stopping, end the streams, and close what `start` opened."""
        self.wakeups.close()
        if self._server is not None:
            await self._server.stop(grace_seconds)
        if self._certificates is not None:
            self._certificates.close()
        await asyncio.to_thread(self._readers.close)
