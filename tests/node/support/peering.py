"""Nodes that call each other: real stores, real certificates, real gRPC on the loopback device."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from federation import wire
from federation.follow import FollowState
from federation.header import Header
from federation.names import Origin, parse_org
from federation.replica import SignedDelta
from federation.trust.charter import Audience
from federation.trust.orgroot import PinnedRoot
from federation.v1 import delta_pb2
from federation.v1.log_service_pb2 import (
    FollowRequest,
    FollowResponse,
    Frame,
    Opening,
    Outcome,
)
from node.address import Address
from node.clock import SystemClock
from node.home import Home
from node.identity.certificate import build_certificate, certificate_sha256
from node.rpc.server import PeerServer, ServerSettings
from node.store import follow_state, lists, log, orgs
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord
from node.store.release import release
from node.sync.client import TlsIdentity
from node.sync.session import Tools
from node.sync.writer import Writer
from node.telemetry.metrics import Metrics
from tests.federation.worlds import (
    Forgery,
    Publisher,
    assertion,
    make_charter,
    pin_root,
    seal_charter,
)

_T = TypeVar("_T")

LOOPBACK: Final = Address("127.0.0.1", 0)
EVERYONE: Final = Audience(all_peers=True, orgs=())


@cache
def _runner() -> asyncio.Runner:
    # gRPC's asyncio runtime belongs to one event loop of a process.
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a test's coroutine, but not for ever."""

    async def limited() -> _T:
        async with asyncio.timeout(30):
            return await main

    return _runner().run(limited())


def build_identity(org: str) -> TlsIdentity:
    """Return a new TLS key and certificate."""
    key, certificate = build_certificate(parse_org(org), SystemClock().now_ms())
    return TlsIdentity(key=key.encode(), certificate=certificate.encode())


class Site:
    """The files of one node, and its peers.

    Attributes:
        org: its organization.
        root: its keys; those of `pin_root`, which name another certificate, unless given.
        home: its files.
        store: its store, for the test.
        identity: its TLS key and certificate.
        address: where it serves, once it does.
    """

    def __init__(
        self,
        folder: Path,
        org: str,
        *,
        identity: TlsIdentity | None = None,
        root: PinnedRoot | None = None,
    ) -> None:
        self.org = parse_org(org)
        self.root = pin_root(org) if root is None else root
        self.home = Home(folder / org)
        self.home.path.mkdir(parents=True)
        self.clock = SystemClock()
        self.store = Store.create(self.home.store, self.clock)
        self.identity = build_identity(org) if identity is None else identity
        self.address = "127.0.0.1:1"
        with self.store.write("init", org) as transaction:
            orgs.store_node(transaction, "org", self.org)
            orgs.pin_org(transaction, self.root)

    def enroll(self, other: Site, address: str | None = None) -> None:
        """Take another site as a peer, or give it its address of now."""
        with self.store.write("peer", other.org) as transaction:
            orgs.pin_org(transaction, other.root)
            orgs.store_peer(
                transaction,
                other.org,
                address=address or other.address,
                certificate=other.identity.certificate.decode(),
                certificate_sha256=certificate_sha256(other.identity.certificate.decode()),
            )

    def expel(self, other: Site) -> None:
        """Remove a peer."""
        with self.store.write("peer", other.org) as transaction:
            orgs.remove_peer(transaction, other.org)

    def own(self, publisher: Publisher, audience: Iterable[str] | None = None) -> None:
        """Make a list this site's own, for all peers or for an audience."""
        with self.store.write("list", str(publisher.origin)) as transaction:
            lists.add_list(transaction, publisher.origin, via=None)
        self.share(publisher, audience)
        for position, delta in enumerate(publisher.log):
            self.append(publisher.origin, position, delta)

    def share(self, publisher: Publisher, audience: Iterable[str] | None = None) -> None:
        """Sign the next charter of a list."""
        version = self.record(publisher.origin).charter_version + 1
        charter = make_charter(
            publisher.origin, orgs=audience or (), all_peers=audience is None, version=version
        )
        envelope = wire.encode_envelope(seal_charter(charter))
        with self.store.write("charter", str(publisher.origin)) as transaction:
            lists.store_charter(transaction, self.record(publisher.origin), envelope, version)

    def append(self, origin: Origin, position: int, delta: SignedDelta) -> None:
        """Put a delta into a list, whatever it says."""
        record = self.record(origin)
        state = record.log.after(Header.parse(delta.header), delta.header)
        with self.store.write("publish", str(origin)) as transaction:
            log.append(
                transaction,
                record.list,
                position,
                delta,
                via=None,
                received_ms=transaction.now_ms,
            )
            lists.store_log_state(transaction, record.list, state)
            if record.own:
                release(transaction.connection, record.list, state.size)

    def follow(self, origin: Origin, via: Site) -> None:
        """Follow a list by a peer."""
        with self.store.write("follow", str(origin)) as transaction:
            orgs.pin_org(transaction, pin_root(origin.org))
            lists.add_list(transaction, origin, via=via.org)

    def record(self, origin: Origin) -> ListRecord:
        record = lists.load_list(self.store.connection, origin)
        assert record is not None
        return record

    def status(self, origin: Origin) -> FollowStatus:
        return follow_state.load_follow_status(self.store.connection, self.record(origin).list)

    def state(self, origin: Origin) -> FollowState:
        return self.status(origin).state

    def deltas(self, origin: Origin) -> list[SignedDelta]:
        """Return all deltas of a list, byte for byte as they lie in the store."""
        record = self.record(origin)
        found: list[SignedDelta] = []
        while frame := log.read_frame(
            self.store.connection, record.list, len(found), record.log.size
        ):
            found += frame
        return found

    @asynccontextmanager
    async def serving(
        self, *, heartbeat_seconds: float = 5.0, listen: Address = LOOPBACK
    ) -> AsyncIterator[PeerServer]:
        """Serve peers while the block runs."""
        settings = ServerSettings(
            store=self.home.store,
            listen=listen,
            key=self.identity.key,
            certificate=self.identity.certificate,
            heartbeat_seconds=heartbeat_seconds,
        )
        server = PeerServer(settings, clock=self.clock, metrics=Metrics("test"))
        try:
            await server.start()
            self.address = str(server.address)
            yield server
        finally:
            await server.stop(0.2)

    @asynccontextmanager
    async def tools(self, **changes: object) -> AsyncIterator[Tools]:
        """What the sessions of this site share; short waits."""
        writer = Writer(self.home.store, self.clock)
        tools = Tools(
            writer=writer,
            identity=self.identity,
            clock=self.clock,
            idle_timeout_seconds=10.0,
            interval_seconds=0.2,
        )
        try:
            yield replace(tools, **changes)  # type: ignore[arg-type]  # fields of Tools
        finally:
            await asyncio.to_thread(writer.close)

    def channel(self, other: Site, *options: tuple[str, Any]) -> grpc.aio.Channel:
        """Return a channel to another site with no setting of the client under test."""
        credentials = grpc.ssl_channel_credentials(
            other.identity.certificate, self.identity.key, self.identity.certificate
        )
        named = [("grpc.ssl_target_name_override", other.org), *options]
        return grpc.aio.secure_channel(other.address, credentials, options=named)


class Sites:
    """Makes sites in a folder, and closes their stores."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sites: list[Site] = []

    def __call__(self, org: str) -> Site:
        site = Site(self._folder, org)
        self._sites.append(site)
        return site

    def close(self) -> None:
        for site in self._sites:
            site.store.close()


def acquaint(*sites: Site) -> None:
    """Make all sites peers of each other, at their addresses of now."""
    for site in sites:
        for other in sites:
            if other is not site:
                site.enroll(other)


async def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # it is another process's doing, as often as not
            await asyncio.sleep(0.005)


def published(origin: str, *sizes: int) -> Publisher:
    """Return a list with one delta for each size, of so many entries."""
    publisher = Publisher(origin)
    number = 0
    for size in sizes:
        publisher.publish(*(assertion(f"{origin} {number + at}") for at in range(size)))
        number += size
    return publisher


def bulky(origin: str, deltas: int, body_bytes: int) -> Publisher:
    """Return a list of large deltas, signed, but with bodies that no subscriber would take."""
    publisher = Publisher(origin)
    for at in range(deltas):
        delta = publisher.forge(Forgery(body=bytes([at]) * body_bytes))
        publisher.state = publisher.state.after(Header.parse(delta.header), delta.header)
        publisher.log.append(delta)
    return publisher


# --- dishonest peers --------------------------------------------------------------------------

Send = Callable[[FollowResponse], Awaitable[None]]
Script = Callable[[FollowRequest, Send], Awaitable[None]]


@asynccontextmanager
async def misbehaving(site: Site, script: Script) -> AsyncIterator[None]:
    """Serve Follow with a script in place of a node, under the site's certificate."""

    async def follow(
        request: FollowRequest, context: grpc.aio.ServicerContext[FollowRequest, FollowResponse]
    ) -> None:
        await script(request, context.write)

    handler = grpc.method_handlers_generic_handler(
        "federation.v1.LogService",
        {
            "Follow": grpc.unary_stream_rpc_method_handler(
                follow,
                request_deserializer=FollowRequest.FromString,
                response_serializer=FollowResponse.SerializeToString,
            )
        },
    )
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([handler])
    credentials = grpc.ssl_server_credentials([(site.identity.key, site.identity.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    site.address = f"127.0.0.1:{port}"
    try:
        yield
    finally:
        await server.stop(0)


def opening(
    origin: Origin, outcome: Outcome.ValueType, checkpoint: bytes = b"", charter: bytes = b""
) -> FollowResponse:
    return FollowResponse(
        opening=Opening(origin=str(origin), outcome=outcome, checkpoint=checkpoint, charter=charter)
    )


def frame(origin: Origin | str, deltas: Sequence[SignedDelta]) -> FollowResponse:
    return FollowResponse(
        frame=Frame(
            origin=str(origin),
            deltas=[
                delta_pb2.SignedDelta(
                    header=delta.header, body=delta.body, checkpoint=delta.checkpoint
                )
                for delta in deltas
            ],
        )
    )
