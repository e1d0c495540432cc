"""The settings of the server, by their effect: gRPC ignores the name of one that it does not know.

Where a setting is longer than a test should last, a shorter one takes its place; all else is as in
production.
"""

from __future__ import annotations

import asyncio
import io
import resource
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types

from federation.v1.log_service_pb2 import (
    Cursor,
    FollowRequest,
    FollowResponse,
    ListLogsRequest,
)
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceStub
from node.config import LogFormat, LogLevel
from node.daemon.serve import GRACE_SECONDS
from node.rpc import interceptors
from node.rpc.interceptors import MAX_CALLS, MAX_STREAMS
from node.rpc.server import (
    MAX_CONCURRENT_STREAMS,
    MAX_METADATA_BYTES,
    MAX_REQUEST_BYTES,
    PeerServer,
    ServerSettings,
    TransportLimits,
)
from node.sync.scheduler import Follower
from node.telemetry.logs import configure
from node.telemetry.metrics import Metrics
from tests.federation.worlds import assertion
from tests.node.daemon.test_serve import Process
from tests.node.support import raw_http2
from tests.node.support.logs import logging_restored
from tests.node.support.peering import (
    LOOPBACK,
    Site,
    Sites,
    acquaint,
    bulky,
    eventually,
    published,
    run,
)
from tests.node.support.raw_http2 import Kind, connected, tls_context

MAIN = "a.example/main"
LIST_LOGS = "/federation.v1.LogService/ListLogs"
FOLLOW = "/federation.v1.LogService/Follow"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
LIVE = FollowRequest(cursors=[Cursor(origin=MAIN)], live=True)
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
MIB = 1024 * 1024

PRODUCTION = TransportLimits()


@pytest.fixture
def pair(sites: Sites) -> tuple[Site, Site]:
    owner, reader = sites("a.example"), sites("b.example")
    owner.own(published(MAIN, 1))
    acquaint(owner, reader)
    return owner, reader


@asynccontextmanager
async def serving(
    site: Site, transport: TransportLimits = PRODUCTION, *, heartbeat_seconds: float = 5.0
) -> AsyncIterator[PeerServer]:
    settings = ServerSettings(
        store=site.home.store,
        listen=LOOPBACK,
        key=site.identity.key,
        certificate=site.identity.certificate,
        heartbeat_seconds=heartbeat_seconds,
        transport=transport,
    )
    server = PeerServer(settings, clock=site.clock, metrics=Metrics("test"))
    await server.start()
    site.address = str(server.address)
    try:
        yield server
    finally:
        await server.stop(0.2)


async def ask(channel: grpc.aio.Channel, seconds: float = 5.0) -> None:
    await LogServiceStub(channel).ListLogs(ListLogsRequest(), timeout=seconds)


def _keep(data: bytes) -> bytes:
    return data


async def send(channel: grpc.aio.Channel, method: str, request: bytes = b"") -> bytes:
    """Call a method with bytes; return those of the answer."""
    return await channel.unary_unary(method, _keep, _keep)(request, timeout=5)


def stream(
    channel: grpc.aio.Channel, method: str, request: bytes
) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    """Call a method that streams with bytes."""
    return channel.unary_stream(method, _keep, _keep)(request)


async def refusal(call: grpc.aio.UnaryStreamCall[Any, Any]) -> grpc.aio.AioRpcError:
    """Return how a stream ends."""
    try:
        async with asyncio.timeout(10):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the stream ended without an error")


def count_calls(server: PeerServer, method: str) -> float:
    """Return how many calls of a method have ended."""
    (metric,) = server._metrics.rpc_requests.collect()
    return sum(
        sample.value
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["method"] == method
    )


async def measure_p99(channels: Sequence[grpc.aio.Channel], calls: int) -> float:
    """Return the 99th percentile of the seconds that calls take; each peer makes so many."""
    times = []
    for _ in range(calls):
        for channel in channels:
            began = time.perf_counter()
            await ask(channel)
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)
    times.sort()
    p99 = times[len(times) * 99 // 100 - 1]
    print(f"median {times[len(times) // 2] * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    return p99


# --- connections ------------------------------------------------------------------------------


def connect(site: Site) -> socket.socket:
    host, _, port = site.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """Let this process have so many open files for the time of a block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_closed(connection: socket.socket) -> bool:
    """Say whether the other side has closed a connection on which it has said nothing."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.fault
def test_the_513th_connection_is_refused_at_once(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, _ = pair
        with ExitStack() as stack:
            # Both ends of every connection are in this process.
            stack.enter_context(open_files(2_048))
            async with serving(owner):
                taken = [
                    stack.enter_context(await asyncio.to_thread(connect, owner))
                    for _ in range(PRODUCTION.connections)
                ]
                assert len(taken) == 512
                surplus = stack.enter_context(connect(owner))
                await eventually(lambda: is_closed(surplus), 2)
                assert not any(map(is_closed, taken))

    run(main())


def test_a_connection_that_ends_makes_room_for_another(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner, TransportLimits(connections=2)):
            with connect(owner), connect(owner):
                async with reader.channel(owner, OWN_CONNECTION) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await ask(channel, 1)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            async with reader.channel(owner, OWN_CONNECTION) as channel:
                stub = LogServiceStub(channel)
                await stub.ListLogs(ListLogsRequest(), timeout=5, wait_for_ready=True)

    run(main())


def say_nothing(_connection: socket.socket, _context: ssl.SSLContext, _name: str) -> None:
    return


def say_hello(connection: socket.socket, context: ssl.SSLContext, name: str) -> None:
    """Begin a TLS handshake, and leave it there."""
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    connection.sendall(outgoing.read())


def finish_tls(connection: socket.socket, context: ssl.SSLContext, name: str) -> None:
    """Finish the TLS handshake by hand, and send no HTTP/2."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(65_536))
        else:
            connection.sendall(outgoing.read())
            return


@pytest.mark.fault
@pytest.mark.parametrize("begin", [say_nothing, say_hello, finish_tls])
def test_a_connection_that_does_not_finish_its_handshake_is_closed(
    pair: tuple[Site, Site], begin: Callable[[socket.socket, ssl.SSLContext, str], None]
) -> None:
    async def main() -> None:
        owner, reader = pair

        def linger() -> float:
            began = time.perf_counter()
            with connect(owner) as connection:
                begin(connection, tls_context(owner, reader), owner.org)
                while connection.recv(65_536):
                    pass
            return time.perf_counter() - began

        async with serving(owner, TransportLimits(handshake_seconds=0.5)):
            assert 0.3 < await asyncio.to_thread(linger) < 2

    run(main())


def test_a_connection_without_calls_is_closed(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with (
            serving(owner, TransportLimits(idle_seconds=0.5)),
            connected(owner, reader) as connection,
        ):
            assert b"idle" in (await connection.read(Kind.GOAWAY)).payload
            await connection.wait_closed()

    run(main())


@pytest.mark.fault
def test_a_peer_that_is_gone_without_a_word_loses_its_connection(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        transport = TransportLimits(keepalive_seconds=0.5, keepalive_timeout_seconds=0.5)
        async with serving(owner, transport), connected(owner, reader) as connection:
            connection.begin(FOLLOW, 1)
            connection.request(1, LIVE.SerializeToString())
            # gRPC's own, to find out how fast the connection is.
            probe = await connection.read(Kind.PING)
            connection.send(Kind.PING, raw_http2.ACK, 0, probe.payload)
            await connection.read(Kind.PING)
            began = time.perf_counter()
            await connection.wait_closed()
            assert time.perf_counter() - began < 2

    run(main())


def test_a_connection_that_is_too_old_ends_and_a_follower_goes_on_without_a_loss(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published("a.example/aging", 1)
        owner.own(publisher)
        reader.follow(publisher.origin, owner)
        transport = TransportLimits(age_seconds=0.5, age_grace_seconds=0.2)
        async with serving(owner, transport) as server:
            reader.enroll(owner)
            async with reader.tools() as tools:
                follower = asyncio.create_task(Follower(tools).run())
                while count_calls(server, FOLLOW) < 3 and len(publisher.log) < 150:
                    delta = publisher.publish(assertion(f"later {len(publisher.log)}"))
                    owner.append(publisher.origin, len(publisher.log) - 1, delta)
                    server.wakeups.notify()
                    await asyncio.sleep(0.1)
                await eventually(lambda: reader.deltas(publisher.origin) == publisher.log)
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
            assert count_calls(server, FOLLOW) >= 3

    run(main())


# --- pings ------------------------------------------------------------------------------------


@pytest.mark.fault
def test_a_flood_of_pings_ends_the_connection(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), connected(owner, reader) as connection:
            answers: list[Kind] = []
            while len(answers) < 10 and Kind.GOAWAY not in answers:
                connection.send(Kind.PING, 0, 0, bytes(8))
                frame = await connection.read(Kind.PING, Kind.GOAWAY)
                answers.append(frame.kind)
            # Two strikes are let pass.
            assert answers[:2] == [Kind.PING] * 2
            assert answers[-1] is Kind.GOAWAY
            await connection.wait_closed()

    run(main())


@pytest.mark.fault
@pytest.mark.parametrize("min_ping_seconds", [0.5, PRODUCTION.min_ping_seconds])
def test_a_client_that_pings_half_as_often_as_it_may_lives_and_an_eager_one_does_not(
    pair: tuple[Site, Site], min_ping_seconds: float
) -> None:
    async def main() -> None:
        owner, reader = pair
        # gRPC's client pings once a second at most.
        pings = (("grpc.keepalive_time_ms", 1_000), ("grpc.http2.max_pings_without_data", 0))
        transport = TransportLimits(min_ping_seconds=min_ping_seconds)
        async with (
            serving(owner, transport, heartbeat_seconds=60),
            reader.channel(owner, OWN_CONNECTION, *pings) as channel,
        ):
            call = LogServiceStub(channel).Follow(LIVE)
            ending = asyncio.create_task(refusal(call))
            done, _ = await asyncio.wait([ending], timeout=4)
            if min_ping_seconds < 1:
                assert not done
                await ask(channel)
                call.cancel()
                await asyncio.wait([ending])
            else:
                error = await ending
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert "Too many pings" in (error.details() or "")

    run(main())


# --- calls ------------------------------------------------------------------------------------


@pytest.mark.fault
def test_one_connection_has_16_calls_at_once(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), connected(owner, reader) as connection:
            settings = raw_http2.parse_settings((await connection.read(Kind.SETTINGS)).payload)
            assert settings[raw_http2.MAX_CONCURRENT_STREAMS] == MAX_CONCURRENT_STREAMS == 16
            for at in range(20):
                connection.begin(LIST_LOGS, 2 * at + 1)
            refused = [(await connection.read(Kind.RST_STREAM)).stream for _ in range(4)]
            assert refused == [33, 35, 37, 39]
            with pytest.raises(TimeoutError):
                await connection.read(Kind.RST_STREAM, seconds=0.2)

    run(main())


def test_a_call_too_many_is_refused_and_not_kept_waiting(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with (
            serving(owner, TransportLimits(calls=MAX_STREAMS)),
            reader.channel(owner, OWN_CONNECTION) as channel,
        ):
            calls = [LogServiceStub(channel).Follow(LIVE) for _ in range(MAX_STREAMS)]
            for call in calls:
                await call.read()
            began = time.perf_counter()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel)
            assert time.perf_counter() - began < 0.25
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            calls.pop().cancel()
            await asyncio.sleep(0.1)
            await ask(channel)

    run(main())


@pytest.mark.fault
@pytest.mark.parametrize("method", [LIST_LOGS, FOLLOW, WATCH])
def test_calls_without_a_request_count_against_the_peer_that_makes_them(
    sites: Sites, method: str
) -> None:
    async def main() -> None:
        owner, greedy, honest = map(sites, ("a.example", "b.example", "c.example"))
        owner.own(published(MAIN, 1))
        acquaint(owner, greedy, honest)
        async with serving(owner), AsyncExitStack() as stack:
            refused = 0

            async def count(connection: raw_http2.Connection) -> None:
                nonlocal refused
                while True:
                    await connection.read(Kind.HEADERS, seconds=20)
                    refused += 1

            counting = []
            for _ in range(PRODUCTION.calls // MAX_CONCURRENT_STREAMS):
                connection = await stack.enter_async_context(connected(owner, greedy))
                counting.append(asyncio.create_task(count(connection)))
                for at in range(MAX_CONCURRENT_STREAMS):
                    connection.begin(method, 2 * at + 1)
            limit = MAX_CALLS if method == LIST_LOGS else MAX_STREAMS
            await eventually(lambda: refused >= PRODUCTION.calls - limit)
            await asyncio.sleep(0.1)
            assert refused == PRODUCTION.calls - limit
            channel = await stack.enter_async_context(honest.channel(owner, OWN_CONNECTION))
            await ask(channel)
            for task in counting:
                task.cancel()
            await asyncio.wait(counting)

    run(main())


@pytest.mark.fault
def test_a_request_that_does_not_come_ends_its_call(
    pair: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        owner, reader = pair
        monkeypatch.setattr(interceptors, "REQUEST_SECONDS", 0.2)
        async with serving(owner), connected(owner, reader) as connection:
            connection.begin(FOLLOW, 1)
            connection.send(Kind.DATA, 0, 1, b"\x00" + (100).to_bytes(4) + b"half of it")
            headers = await connection.read(Kind.HEADERS)
            assert b"no request within 0.2 s" in headers.payload

    run(main())


def test_a_call_that_ends_before_its_request_is_refused(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), connected(owner, reader) as connection:
            for stream, method in ((1, FOLLOW), (3, LIST_LOGS)):
                connection.begin(method, stream)
                connection.send(Kind.DATA, raw_http2.END_STREAM, stream)
                headers = await connection.read(Kind.HEADERS)
                assert b"the call has no request" in headers.payload

    run(main())


@pytest.mark.parametrize(
    "metadata",
    [[("x-padding", "x" * 2 * MAX_METADATA_BYTES)], [(f"x-{at}", "x" * 200) for at in range(100)]],
    ids=["one value", "many values"],
)
def test_much_metadata_is_refused_and_a_little_is_not(
    pair: tuple[Site, Site], metadata: list[tuple[str, str]]
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), reader.channel(owner, OWN_CONNECTION) as channel:
            stub = LogServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListLogs(
                    ListLogsRequest(), timeout=5, metadata=grpc.aio.Metadata(*metadata)
                )
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            little = grpc.aio.Metadata(("x-padding", "x" * (MAX_METADATA_BYTES // 2)))
            await stub.ListLogs(ListLogsRequest(), timeout=5, metadata=little)

    run(main())


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.health.v1.Health/List",
    ],
)
def test_a_node_does_not_describe_itself(pair: tuple[Site, Site], method: str) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), reader.channel(owner, OWN_CONNECTION) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await send(channel, method)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(main())


def test_health_says_that_the_node_serves_and_nothing_else(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), reader.channel(owner, OWN_CONNECTION) as channel:
            for service in ("", "federation.v1.LogService"):
                request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
                # Field 1: SERVING.
                assert await send(channel, CHECK, request) == b"\x08\x01"
            request = health_pb2.HealthCheckRequest(service=MAIN).SerializeToString()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await send(channel, CHECK, request)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=MAIN)
            )
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            watch.cancel()

    run(main())


# --- memory -----------------------------------------------------------------------------------


@contextmanager
def running(site: Site) -> Iterator[Process]:
    process = Process(site)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


def read_peak_bytes(process: Process) -> int:
    """Return the most memory that a process has had."""
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


@pytest.mark.fault
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize(
    ("size", "packed", "code", "growth"),
    [
        (64 * MIB, False, grpc.StatusCode.RESOURCE_EXHAUSTED, 16 * MIB),
        (64 * MIB, True, grpc.StatusCode.UNIMPLEMENTED, 16 * MIB),
        # Fits, and its two-byte cursors become objects.
        (MAX_REQUEST_BYTES, False, grpc.StatusCode.INVALID_ARGUMENT, 64 * MIB),
    ],
    ids=["oversized", "gzip bomb", "many empty cursors"],
)
def test_a_hostile_request_costs_little_memory(
    pair: tuple[Site, Site], size: int, packed: bool, code: grpc.StatusCode, growth: int
) -> None:
    async def main(process: Process) -> None:
        owner, reader = pair
        options = [("grpc.default_compression_algorithm", 2 if packed else 0), OWN_CONNECTION]
        async with reader.channel(owner, OWN_CONNECTION) as channel:
            await ask(channel)
        before = read_peak_bytes(process)
        async with reader.channel(owner, *options) as channel:
            request = FollowRequest(cursors=[Cursor()]).SerializeToString() * (size // 2)
            error = await refusal(stream(channel, FOLLOW, request))
        assert error.code() is code
        grown = read_peak_bytes(process) - before
        print(f"{grown / MIB:.1f} MiB")
        assert grown < growth

    with running(pair[0]) as process:
        run(main(process))


@pytest.mark.fault
def test_streams_that_nobody_reads_keep_no_part_of_the_log(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = bulky("a.example/big", 8, 400_000)
        owner.own(publisher)
        request = FollowRequest(cursors=[Cursor(origin="a.example/big")], live=True)
        async with serving(owner), connected(owner, reader, window=0) as connection:
            for at in range(MAX_STREAMS):
                connection.begin(FOLLOW, 2 * at + 1)
                connection.request(2 * at + 1, request.SerializeToString())
                await connection.read(Kind.HEADERS)
            for position, delta in enumerate(bulky("a.example/other", 60, 400_000).log):
                if position == 0:
                    owner.own(published("a.example/other"))
                owner.append(published("a.example/other").origin, position, delta)
            log = owner.home.store.with_name(f"{owner.home.store.name}-wal")
            print(f"{log.stat().st_size / MIB:.1f} MiB")
            assert log.stat().st_size < 8 * MIB

    run(main())


# --- one peer and the others ------------------------------------------------------------------


@pytest.mark.fault
def test_silent_sockets_and_idle_streams_of_one_peer_do_not_delay_others(sites: Sites) -> None:
    async def main() -> None:
        owner, idle, one, two = map(sites, ("a.example", "b.example", "c.example", "d.example"))
        owner.own(published(MAIN, 1))
        acquaint(owner, idle, one, two)
        async with serving(owner), AsyncExitStack() as stack:
            for _ in range(100):
                stack.enter_context(await asyncio.to_thread(connect, owner))
            calls = []
            for _ in range(5):
                channel = idle.channel(owner, OWN_CONNECTION)
                await stack.enter_async_context(channel)
                calls += [LogServiceStub(channel).Follow(LIVE) for _ in range(10)]
            endings = [asyncio.create_task(refusal(call)) for call in calls]
            await eventually(lambda: sum(map(asyncio.Task.done, endings)) == 50 - MAX_STREAMS)
            channels = [
                await stack.enter_async_context(site.channel(owner, OWN_CONNECTION))
                for site in (one, two)
            ]
            assert await measure_p99(channels, 50) < 0.25
            for call in calls:
                call.cancel()
            await asyncio.wait(endings)

    run(main())


@pytest.mark.fault
def test_calls_that_are_started_and_cancelled_do_not_delay_others(sites: Sites) -> None:
    async def main() -> None:
        owner, hasty, honest = map(sites, ("a.example", "b.example", "c.example"))
        owner.own(published(MAIN, 1))
        acquaint(owner, hasty, honest)

        async def reset() -> None:
            stream = 1
            while True:
                async with connected(owner, hasty) as connection:
                    for _ in range(200):
                        connection.begin(FOLLOW, stream)
                        connection.send(Kind.RST_STREAM, 0, stream, (8).to_bytes(4))
                        stream += 2
                    await asyncio.sleep(0.02)

        async with serving(owner), honest.channel(owner, OWN_CONNECTION) as channel:
            await ask(channel)
            resetting = asyncio.create_task(reset())
            assert await measure_p99([channel], 45) < 0.25
            assert not resetting.done()
            resetting.cancel()
            await asyncio.wait([resetting])

    run(main())


def test_refused_calls_of_one_peer_do_not_fill_the_log(pair: tuple[Site, Site]) -> None:
    async def main() -> str:
        owner, hostile = pair
        log = io.StringIO()
        configure(LogLevel.INFO, LogFormat.JSON, log)
        token = "\u202e" * (MAX_REQUEST_BYTES // 4)
        async with serving(owner), hostile.channel(owner, OWN_CONNECTION) as channel:
            for _ in range(300):
                with pytest.raises(grpc.aio.AioRpcError):
                    await LogServiceStub(channel).ListLogs(ListLogsRequest(page_token=token))
        return log.getvalue()

    with logging_restored():
        log = run(main())
    assert "call_refused" in log
    # Half of what a minute may bring: these calls take a few seconds.
    assert len(log) < MIB / 2
    assert max(map(len, log.splitlines())) < 8_192


@pytest.mark.parametrize(
    "flood", [b"\x0a\x00" * (MAX_REQUEST_BYTES // 2), b"\x10\x01" * (MAX_REQUEST_BYTES // 2)]
)
def test_a_request_of_very_many_fields_is_refused_and_delays_nobody(
    pair: tuple[Site, Site], flood: bytes
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner), reader.channel(owner, OWN_CONNECTION) as channel:
            await ask(channel)
            began = time.perf_counter()
            error = await refusal(stream(channel, FOLLOW, flood))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "the request has more than" in (error.details() or "")
            await ask(channel)
            assert time.perf_counter() - began < 1

    run(main())


@pytest.mark.parametrize("method", [FOLLOW, WATCH])
def test_an_idle_stream_of_a_peer_that_is_removed_ends_by_itself(
    pair: tuple[Site, Site], method: str
) -> None:
    async def main() -> None:
        owner, reader = pair
        request = LIVE.SerializeToString() if method == FOLLOW else b""
        async with (
            serving(owner, heartbeat_seconds=0.1),
            reader.channel(owner, OWN_CONNECTION) as channel,
        ):
            call = stream(channel, method, request)
            await call.read()
            owner.expel(reader)
            assert (await refusal(call)).code() is grpc.StatusCode.PERMISSION_DENIED

    run(main())


# --- the end ----------------------------------------------------------------------------------


def test_live_streams_and_watches_end_soon_after_the_node_is_told_to(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner) as server, reader.channel(owner, OWN_CONNECTION) as channel:
            follow = LogServiceStub(channel).Follow(LIVE)
            assert isinstance(await follow.read(), FollowResponse)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            began = time.perf_counter()
            await server.stop(GRACE_SECONDS)
            assert time.perf_counter() - began < 2
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            for call in (follow, watch):
                error = await refusal(call)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert error.details() == "this node is shutting down"

    run(main())


@pytest.mark.fault
@pytest.mark.parametrize(("method", "request_"), [(FOLLOW, LIVE.SerializeToString()), (WATCH, b"")])
def test_a_stream_that_nobody_reads_does_not_keep_the_node_from_stopping(
    pair: tuple[Site, Site], method: str, request_: bytes
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with serving(owner) as server, connected(owner, reader, window=0) as connection:
            connection.begin(method, 1)
            connection.request(1, request_)
            await connection.read(Kind.HEADERS)
            began = time.perf_counter()
            await server.stop(0.5)
            assert time.perf_counter() - began < 2

    run(main())


@pytest.mark.fault
def test_a_second_signal_ends_the_process_at_once(pair: tuple[Site, Site]) -> None:
    async def main(process: Process) -> None:
        owner, reader = pair
        # A stream that nobody reads makes it wait for all of its grace.
        async with connected(owner, reader, window=0) as connection:
            connection.begin(FOLLOW, 1)
            connection.request(1, LIVE.SerializeToString())
            await connection.read(Kind.HEADERS)
            process.process.send_signal(signal.SIGTERM)
            await connection.read(Kind.GOAWAY)
            assert process.process.poll() is None
            process.process.send_signal(signal.SIGTERM)
            began = time.perf_counter()
            code = await asyncio.to_thread(process.process.wait, 10)
            assert time.perf_counter() - began < 1
            assert code == 128 + signal.SIGTERM

    with running(pair[0]) as process:
        run(main(process))
