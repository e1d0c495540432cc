"""What no peer can do to a node: each limit by its effect."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # stubs not marked as such
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from federation import limits
from federation.v1.log_service_pb2 import (
    Cursor,
    FollowRequest,
    FollowResponse,
    ListLogsRequest,
)
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceStub
from node.address import Address
from node.errors import ConfigError
from node.rpc import access
from node.rpc.interceptors import CALL_BURST, MAX_STREAMS, Limits
from node.rpc.server import MAX_REQUEST_BYTES
from node.rpc.status import CallRefusedError, to_message
from tests.node.support.peering import Site, Sites, acquaint, published, run

LIST_LOGS = "/federation.v1.LogService/ListLogs"
FOLLOW = "/federation.v1.LogService/Follow"


@pytest.fixture
def pair(sites: Sites) -> tuple[Site, Site]:
    owner, reader = sites("a.example"), sites("b.example")
    owner.own(published("a.example/main", 1))
    acquaint(owner, reader)
    return owner, reader


async def send(
    channel: grpc.aio.Channel,
    data: bytes,
    method: str = LIST_LOGS,
    *,
    timeout: float | None = 5.0,  # noqa: ASYNC109  # it is the call's
    metadata: Sequence[tuple[str, str]] = (),
) -> grpc.aio.AioRpcError:
    """Send bytes as a request, and return the error that it is answered with."""

    def keep(data: bytes) -> bytes:
        return data

    try:
        if method == LIST_LOGS:
            unary = channel.unary_unary(method, keep, keep)
            await unary(data, timeout=timeout, metadata=grpc.aio.Metadata(*metadata))
        else:
            async for _ in channel.unary_stream(method, keep, keep)(data):
                pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the request was answered")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert info.domain == "hashfed"
    return str(info.reason)


def test_bytes_that_are_no_message_are_refused_without_an_echo(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            for method in (LIST_LOGS, FOLLOW):
                error = await send(channel, b"\xff" * 100, method)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert error.details() == "the request cannot be parsed"
                assert reason_of(error) == "MALFORMED"

    run(main())


def test_a_request_that_is_too_large_is_refused(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            error = await send(channel, bytes(MAX_REQUEST_BYTES + 1))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(main())


def test_the_largest_request_that_is_allowed_fits() -> None:
    longest = f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}/{'e' * 63}"
    cursor = Cursor(origin=longest, size=2**62, root_hash=bytes(32), charter_version=2**31)
    request = FollowRequest(cursors=[cursor] * limits.MAX_FOLLOWED_LISTS, live=True)
    assert request.ByteSize() <= MAX_REQUEST_BYTES


def test_a_compressed_request_is_refused(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        packed = ("grpc.default_compression_algorithm", 2)
        async with owner.serving(), reader.channel(owner, packed) as channel:
            error = await send(channel, bytes(10_000))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    run(main())


@pytest.mark.parametrize("timeout", [None, 7200])
def test_a_call_without_an_end_in_sight_is_refused(
    pair: tuple[Site, Site], timeout: float | None
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            error = await send(channel, b"", timeout=timeout)
            assert reason_of(error) == "DEADLINE"

    run(main())


@pytest.mark.parametrize(
    "cursors",
    [
        [Cursor(origin="a.example/main")] * 2,
        [Cursor(origin=f"a.example/{at}") for at in range(limits.MAX_FOLLOWED_LISTS + 1)],
        [Cursor(origin="a.example/main", size=1)],
        [Cursor(origin="a.example/main", size=0, root_hash=bytes(32))],
        [Cursor(origin="a.example/main", size=2**32, root_hash=bytes(32))],
    ],
    ids=["twice", "too many", "no root", "root of nothing", "beyond any log"],
)
def test_cursors_that_cannot_be_are_refused(pair: tuple[Site, Site], cursors: list[Cursor]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            data = FollowRequest(cursors=cursors).SerializeToString()
            error = await send(channel, data, FOLLOW)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(main())


def test_one_peer_gets_so_many_streams_and_one_more_when_one_ends(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        request = FollowRequest(cursors=[Cursor(origin="a.example/main")], live=True)
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            calls = [stub.Follow(request) for _ in range(MAX_STREAMS)]
            for call in calls:
                await call.read()
            error = await send(channel, request.SerializeToString(), FOLLOW)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(error) == "TOO_MANY_STREAMS"
            calls.pop().cancel()
            await asyncio.sleep(0.1)
            calls.append(stub.Follow(request))
            assert isinstance(await calls[-1].read(), FollowResponse)

    run(main())


def test_one_peer_gets_so_many_calls_and_is_told_when_to_come_back(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            answered = 0
            error: grpc.aio.AioRpcError | None = None
            while error is None and answered < 10 * CALL_BURST:
                try:
                    await stub.ListLogs(ListLogsRequest(), timeout=5)
                    answered += 1
                except grpc.aio.AioRpcError as caught:
                    error = caught
            assert error is not None
            assert answered >= CALL_BURST
            assert reason_of(error) == "TOO_MANY_CALLS"
            retry = error_details_pb2.RetryInfo()
            assert rpc_status.from_call(error).details[1].Unpack(retry)
            assert 0 < retry.retry_delay.ToMilliseconds() <= 1000

    run(main())


@pytest.mark.parametrize("seconds", [0.0001, 0.0009999, 0.001, 1.5])
def test_a_peer_is_never_told_to_wait_less_than_it_has_to(seconds: float) -> None:
    refusal = CallRefusedError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", "too many", retry_seconds=seconds
    )
    retry = error_details_pb2.RetryInfo()
    assert to_message(refusal).details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() / 1000 >= seconds


def test_calls_are_earned_back_with_time() -> None:
    now = 0.0

    async def main() -> None:
        nonlocal now
        layer = Limits(monotonic=lambda: now)
        call: Any = type("Call", (), {"streams": False, "caller": type("C", (), {"org": "a"})})

        async def proceed() -> None:
            return

        for _ in range(CALL_BURST):
            await layer(call, proceed)
        with pytest.raises(CallRefusedError):
            await layer(call, proceed)
        now += 0.1
        await layer(call, proceed)
        with pytest.raises(CallRefusedError):
            await layer(call, proceed)

    run(main())


def test_the_text_of_an_unforeseen_error_does_not_reach_the_peer(
    pair: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret path")

    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            monkeypatch.setattr(access, "answer", fail)
            follow = FollowRequest(cursors=[Cursor(origin="a.example/main")]).SerializeToString()
            for method, request in ((LIST_LOGS, b""), (FOLLOW, follow)):
                error = await send(channel, request, method)
                assert error.code() is grpc.StatusCode.INTERNAL
                text = error.details() or ""
                assert text.startswith("internal error, incident ")
                shown = capsys.readouterr()
                assert text.rpartition(" ")[2] in shown.out + shown.err
                assert "secret path" in shown.out + shown.err

    run(main())


def test_a_store_that_cannot_be_read_does_not_show_its_path(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            hidden = owner.home.store.rename(owner.home.path / "hidden")
            error = await send(channel, b"")
            hidden.rename(owner.home.store)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == "this node cannot read its store now"
            assert reason_of(error) == "STORE"

    run(main())


def test_a_busy_port_is_named_with_what_to_do(sites: Sites) -> None:
    async def main() -> None:
        owner = sites("a.example")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = Address("127.0.0.1", other.getsockname()[1])
            with pytest.raises(ConfigError, match=str(address)) as caught:
                async with owner.serving(listen=address):
                    pass
            assert "node.listen" in caught.value.hint

    run(main())


def test_two_nodes_cannot_share_a_port(sites: Sites) -> None:
    async def main() -> None:
        first, second = sites("a.example"), sites("b.example")
        async with first.serving() as server:
            with pytest.raises(ConfigError, match="cannot listen"):
                async with second.serving(listen=server.address):
                    pass

    run(main())


def test_metadata_that_is_too_large_is_refused(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            error = await send(channel, b"", metadata=[("x-padding", "x" * 20_000)])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(main())
