"""Many subscribers of one publisher: one delta is read once, and nobody waits for a slow one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types

from federation.names import OrgName, parse_org
from federation.replica import SignedDelta
from federation.v1.log_service_pb2 import (
    OUTCOME_UNAVAILABLE,
    Cursor,
    FollowRequest,
    FollowResponse,
    ListLogsRequest,
)
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceStub
from node.identity.certificate import certificate_sha256
from node.rpc.frames import MAX_BYTES
from node.rpc.server import PeerServer
from node.store import orgs
from node.sync.client import TlsIdentity
from node.telemetry.metrics import Metrics
from tests.federation.worlds import Publisher, assertion, pin_root
from tests.node.support.peering import (
    Site,
    Sites,
    build_identity,
    bulky,
    eventually,
    published,
    run,
)

MAIN = "a.example/main"
Stream = grpc.aio.UnaryStreamCall[FollowRequest, FollowResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A peer that has no node: a name, a certificate, and a stream."""

    org: OrgName
    identity: TlsIdentity

    @asynccontextmanager
    async def channel(self, owner: Site) -> AsyncIterator[grpc.aio.Channel]:
        credentials = grpc.ssl_channel_credentials(
            owner.identity.certificate, self.identity.key, self.identity.certificate
        )
        options = [
            ("grpc.ssl_target_name_override", owner.org),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        async with grpc.aio.secure_channel(owner.address, credentials, options) as channel:
            yield channel

    @asynccontextmanager
    async def following(self, owner: Site) -> AsyncIterator[Stream]:
        """Follow the list from its start, live."""
        async with self.channel(owner) as channel:
            request = FollowRequest(cursors=[Cursor(origin=MAIN)], live=True)
            call = LogServiceStub(channel).Follow(request)
            yield call
            call.cancel()


def enroll(owner: Site, count: int) -> list[Subscriber]:
    """Make so many peers of a site."""
    subscribers = [
        Subscriber(org=parse_org(org), identity=build_identity(org))
        for org in (f"s{number}.example" for number in range(count))
    ]
    with owner.store.write("peer", "many") as transaction:
        for subscriber in subscribers:
            certificate = subscriber.identity.certificate.decode()
            orgs.pin_org(transaction, pin_root(subscriber.org))
            orgs.store_peer(
                transaction,
                subscriber.org,
                address="127.0.0.1:1",
                certificate=certificate,
                certificate_sha256=certificate_sha256(certificate),
            )
    return subscribers


async def read(call: Stream) -> FollowResponse:
    async with asyncio.timeout(20):
        message = await call.read()
    assert isinstance(message, FollowResponse)
    return message


async def read_frame(call: Stream) -> list[SignedDelta]:
    message = await read(call)
    assert message.HasField("frame")
    return [SignedDelta(one.header, one.body, one.checkpoint) for one in message.frame.deltas]


@contextmanager
def frames_made(server: PeerServer, count: int) -> Iterator[None]:
    """Check that so many frames were read and serialized in a block."""
    before = sample(server, "hashfed_frames_made_total")
    yield
    assert sample(server, "hashfed_frames_made_total") - before == count


def sample(server: PeerServer, name: str, **labels: str) -> float:
    metrics: Metrics = server._metrics
    return metrics.registry.get_sample_value(name, labels) or 0.0


def sent_to(server: PeerServer, other: Subscriber) -> float:
    """Return how many frames were sent to a subscriber."""
    return sample(server, "hashfed_frames_sent_total", peer=other.org)


@pytest.fixture
def owner(sites: Sites) -> Site:
    return sites("a.example")


async def check_fan_out(owner: Site, count: int) -> None:
    publisher = published(MAIN, 1)
    owner.own(publisher)
    subscribers = enroll(owner, count + 1)
    prober = subscribers.pop()
    async with owner.serving() as server, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(subscriber.following(owner))
            for subscriber in subscribers
        ]
        channel = await stack.enter_async_context(prober.channel(owner))
        with frames_made(server, 1):
            for stream in streams:
                assert (await read(stream)).HasField("opening")
                assert await read_frame(stream) == publisher.log
        for position in range(1, 4):
            delta = publisher.publish(assertion(f"later {position}"))
            with frames_made(server, 1):
                owner.append(publisher.origin, position, delta)
                server.wakeups.notify()
                reading = [asyncio.create_task(read_frame(stream)) for stream in streams]
                began = time.perf_counter()
                await LogServiceStub(channel).ListLogs(ListLogsRequest(), timeout=10)
                health = health_pb2_grpc.HealthStub(channel)
                await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert time.perf_counter() - began < 1
                assert await asyncio.gather(*reading) == [[delta]] * count
        assert sample(server, "hashfed_followers") == count


def test_one_delta_is_read_once_for_all_who_follow(owner: Site) -> None:
    run(check_fan_out(owner, 50))


@pytest.mark.slow
def test_two_hundred_subscribers_are_served(owner: Site) -> None:
    run(check_fan_out(owner, 200))


def test_a_reader_that_takes_nothing_delays_nobody_and_is_sent_no_more(owner: Site) -> None:
    async def main() -> None:
        publisher = published(MAIN)
        owner.own(publisher)
        stuck, *others = enroll(owner, 6)
        large = bulky(MAIN, 40, 400_000)
        async with owner.serving() as server, AsyncExitStack() as stack:
            blocked = await stack.enter_async_context(stuck.following(owner))
            streams = [await stack.enter_async_context(other.following(owner)) for other in others]
            for stream in (blocked, *streams):
                assert (await read(stream)).HasField("opening")
            # Nobody reads `blocked` from here on.
            with frames_made(server, len(large.log)):
                for position, delta in enumerate(large.log):
                    owner.append(publisher.origin, position, delta)
                    server.wakeups.notify()
                    began = time.perf_counter()
                    got = await asyncio.gather(*map(read_frame, streams))
                    assert time.perf_counter() - began < 2
                    assert got == [[delta]] * len(streams)
            # A frame is counted when the connection has taken it: its reader may be faster.
            await eventually(
                lambda: {sent_to(server, other) for other in others} == {len(large.log)}
            )
            # What the windows of the connection take, and no queue behind them.
            assert sent_to(server, stuck) < len(large.log) / 2
            assert server.frames.held_bytes <= MAX_BYTES

    run(main())


def test_a_frame_that_is_held_is_for_those_alone_who_may_have_it_now(owner: Site) -> None:
    async def main() -> None:
        publisher = published(MAIN)
        owner.own(publisher)
        kept, narrowed, expelled = enroll(owner, 3)
        async with owner.serving() as server, AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(subscriber.following(owner))
                for subscriber in (kept, narrowed, expelled)
            ]
            for stream in streams:
                assert (await read(stream)).HasField("opening")
            with frames_made(server, 1):
                hidden = publisher.publish(assertion("hidden"))
                owner.append(publisher.origin, 0, hidden)
                record = owner.record(publisher.origin)
                # It is held, so that nothing but the check stands between it and everybody.
                await asyncio.to_thread(server.frames.load, owner.store, record, 0, record.log.size)
                owner.share(publisher, [kept.org, expelled.org])
                with owner.store.write("peer", expelled.org) as transaction:
                    orgs.remove_peer(transaction, expelled.org)
                server.wakeups.notify()
                opening = await read(streams[0])
                assert opening.opening.charter
                assert await read_frame(streams[0]) == [hidden]
                assert (await read(streams[1])).opening.outcome == OUTCOME_UNAVAILABLE
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await read(streams[2])
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            for subscriber in (narrowed, expelled):
                assert not sent_to(server, subscriber)

    run(main())


def test_who_may_not_go_on_gets_no_further_frame_while_it_catches_up(owner: Site) -> None:
    async def main() -> None:
        publisher = bulky(MAIN, 60, 400_000)
        owner.own(publisher)
        first, second = enroll(owner, 2)
        async with owner.serving() as server:
            async with first.following(owner) as stream:
                await read(stream)
                got = 0
                while got < len(publisher.log):
                    got += len(await read_frame(stream))
            async with second.following(owner) as stream:
                await read(stream)
                await eventually(lambda: sent_to(server, second) > 0)
                # No wake-up: the frame itself asks.
                owner.share(publisher, [first.org])
                got = 0
                while (message := await read(stream)).HasField("frame"):
                    got += len(message.frame.deltas)
                assert message.opening.outcome == OUTCOME_UNAVAILABLE
                assert got < len(publisher.log) / 2

    run(main())


def test_what_is_published_while_a_frame_is_read_is_sent_too(owner: Site) -> None:
    """Every delta arrives, in order, however wake-ups and reads fall together."""

    async def main() -> None:
        publisher: Publisher = published(MAIN)
        owner.own(publisher)
        subscribers = enroll(owner, 4)
        count = 60
        async with owner.serving() as server, AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(subscriber.following(owner))
                for subscriber in subscribers
            ]

            async def read_all(stream: Stream) -> list[SignedDelta]:
                await read(stream)
                got: list[SignedDelta] = []
                while len(got) < count:
                    got += await read_frame(stream)
                return got

            reading = [asyncio.create_task(read_all(stream)) for stream in streams]
            for position in range(count):
                owner.append(publisher.origin, position, publisher.publish(assertion(position)))
                server.wakeups.notify()
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                assert await asyncio.gather(*reading) == [publisher.log] * len(streams)

    run(main())
