"""What a Follow stream says, to whom, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from federation import limits, wire
from federation.checkpoint import Checkpoint
from federation.replica import SignedDelta
from federation.v1.log_service_pb2 import (
    OUTCOME_CURSOR_AHEAD,
    OUTCOME_DELTAS,
    OUTCOME_DIVERGED,
    OUTCOME_UNAVAILABLE,
    OUTCOME_UP_TO_DATE,
    Cursor,
    FollowRequest,
    FollowResponse,
    ListLogsRequest,
)
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceStub
from tests.federation.worlds import Publisher, assertion
from tests.node.support.peering import Site, Sites, acquaint, bulky, published, run

Call = grpc.aio.UnaryStreamCall[FollowRequest, FollowResponse]
MAIN = "a.example/main"


def cursor_at(publisher: Publisher, size: int) -> Cursor:
    root = b""
    if size:
        text, _, _ = publisher.log[size - 1].checkpoint.rpartition(b"\n\n")
        root = Checkpoint.parse(text + b"\n").root_hash
    return Cursor(origin=str(publisher.origin), size=size, root_hash=root)


@asynccontextmanager
async def following(
    owner: Site, reader: Site, *cursors: Cursor, live: bool = False
) -> AsyncIterator[Call]:
    async with reader.channel(owner, ("grpc.use_local_subchannel_pool", 1)) as channel:
        call = LogServiceStub(channel).Follow(FollowRequest(cursors=cursors, live=live))
        yield call
        call.cancel()


async def read(call: Call, seconds: float = 5.0) -> FollowResponse:
    async with asyncio.timeout(seconds):
        message = await call.read()
    assert isinstance(message, FollowResponse)
    return message


async def read_all(call: Call) -> list[FollowResponse]:
    messages = []
    while isinstance(message := await call.read(), FollowResponse):
        messages.append(message)
    return messages


def deltas(messages: list[FollowResponse], origin: str = MAIN) -> list[SignedDelta]:
    return [
        SignedDelta(delta.header, delta.body, delta.checkpoint)
        for message in messages
        if message.frame.origin == origin
        for delta in message.frame.deltas
    ]


@pytest.fixture
def pair(sites: Sites) -> tuple[Site, Site]:
    owner, reader = sites("a.example"), sites("b.example")
    acquaint(owner, reader)
    return owner, reader


def test_a_stream_resumes_at_any_delta(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published(MAIN, 2, 1, 1, 3)
        owner.own(publisher)
        async with owner.serving():
            for size in range(5):
                async with following(owner, reader, cursor_at(publisher, size)) as call:
                    opening, *rest = await read_all(call)
                expected = OUTCOME_UP_TO_DATE if size == 4 else OUTCOME_DELTAS
                assert opening.opening.outcome == expected
                assert opening.opening.checkpoint == publisher.log[-1].checkpoint
                assert deltas(rest) == publisher.log[size:]

    run(main())


def test_a_cursor_beyond_the_log_or_of_another_history_is_told_so(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published(MAIN, 1, 1)
        owner.own(publisher)
        ahead = Cursor(origin=MAIN, size=3, root_hash=bytes(32))
        other = Cursor(origin=MAIN, size=2, root_hash=bytes(32))
        async with owner.serving():
            for cursor, outcome in ((ahead, OUTCOME_CURSOR_AHEAD), (other, OUTCOME_DIVERGED)):
                async with following(owner, reader, cursor) as call:
                    (message,) = await read_all(call)
                assert message.opening.outcome == outcome
                assert message.opening.checkpoint == publisher.log[-1].checkpoint

    run(main())


def test_a_list_that_the_caller_may_not_have_looks_like_one_that_does_not_exist(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        owner.own(published("a.example/secret", 2), audience=["c.example"])
        owner.own(published("a.example/nobody", 2), audience=[])
        names = ["a.example/secret", "a.example/nobody", "a.example/absent", "no name at all"]
        async with owner.serving():
            cursors = [Cursor(origin=name) for name in names]
            async with following(owner, reader, *cursors) as call:
                messages = await read_all(call)
            async with reader.channel(owner) as channel:
                listed = await LogServiceStub(channel).ListLogs(ListLogsRequest(), timeout=5)
        assert [message.opening.origin for message in messages] == names
        for message in messages:
            message.opening.origin = ""
        assert len({message.SerializeToString() for message in messages}) == 1
        assert messages[0].opening.outcome == OUTCOME_UNAVAILABLE
        assert not listed.logs

    run(main())


def test_lists_take_turns_and_frames_are_bounded(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        names = ["a.example/one", "a.example/two"]
        for name in names:
            owner.own(bulky(name, 5, 400_000))
        async with (
            owner.serving(),
            following(owner, reader, *[Cursor(origin=name) for name in names]) as call,
        ):
            messages = await read_all(call)
        frames = [message.frame for message in messages if message.HasField("frame")]
        assert [frame.origin for frame in frames] == names * (len(frames) // 2)
        assert len(frames) == 4
        largest = limits.FRAME_TARGET_BYTES + limits.MAX_BODY_BYTES
        assert all(frame.ByteSize() < largest for frame in frames)

    run(main())


def test_a_live_stream_brings_what_is_published_later_within_milliseconds(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published(MAIN, 1)
        owner.own(publisher)
        async with (
            owner.serving() as server,
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            await read(call)
            await read(call)
            times = []
            for at in range(1, 40):
                delta = publisher.publish(assertion(f"later {at}"))
                owner.append(publisher.origin, at, delta)
                began = time.perf_counter()
                server.wakeups.notify()
                assert deltas([await read(call)]) == [delta]
                times.append(time.perf_counter() - began)
        median = sorted(times)[len(times) // 2]
        print(f"median {median * 1000:.1f} ms")
        assert median < 0.02

    run(main())


def test_a_stream_without_news_shows_that_it_is_alive(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        owner.own(published(MAIN))
        async with (
            owner.serving(heartbeat_seconds=0.05),
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            messages = [await read(call) for _ in range(3)]
        kinds = [message.WhichOneof("event") for message in messages]
        assert kinds == ["opening", "heartbeat", "heartbeat"]
        assert abs(messages[1].heartbeat.sent_ms - time.time() * 1000) < 5_000

    run(main())


def test_a_commit_without_a_wake_up_is_found_by_the_next_heartbeat(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published(MAIN)
        owner.own(publisher)
        async with (
            owner.serving(heartbeat_seconds=0.05),
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            await read(call)
            owner.append(publisher.origin, 0, publisher.publish(assertion(1)))
            async with asyncio.timeout(5):
                while not (await read(call)).HasField("frame"):
                    pass

    run(main())


def test_a_list_that_appears_later_is_followed_then(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with (
            owner.serving() as server,
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            assert (await read(call)).opening.outcome == OUTCOME_UNAVAILABLE
            publisher = published(MAIN, 1)
            owner.own(publisher)
            server.wakeups.notify()
            opening = (await read(call)).opening
            assert opening.outcome == OUTCOME_DELTAS
            assert opening.charter
            assert deltas([await read(call)]) == publisher.log

    run(main())


def test_an_audience_takes_effect_on_open_streams(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published(MAIN, 1)
        owner.own(publisher, audience=["c.example"])
        async with (
            owner.serving() as server,
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            assert (await read(call)).opening.outcome == OUTCOME_UNAVAILABLE

            owner.share(publisher, ["b.example"])
            server.wakeups.notify()
            opening = (await read(call)).opening
            assert opening.outcome == OUTCOME_DELTAS
            charter = wire.decode_charter(wire.decode_envelope(opening.charter).payload)
            assert charter.version == 2
            assert len(deltas([await read(call)])) == 1

            owner.share(publisher, ["b.example", "c.example"])
            server.wakeups.notify()
            again = (await read(call)).opening
            assert again.outcome == OUTCOME_UP_TO_DATE
            assert again.charter

            owner.share(publisher, [])
            owner.append(publisher.origin, 1, publisher.publish(assertion("hidden")))
            server.wakeups.notify()
            closed = (await read(call)).opening
            assert closed.outcome == OUTCOME_UNAVAILABLE
            assert not closed.charter
            assert not closed.checkpoint

            owner.share(publisher, ["b.example"])
            server.wakeups.notify()
            assert (await read(call)).opening.outcome == OUTCOME_DELTAS
            assert deltas([await read(call)]) == publisher.log[1:]

    run(main())


def test_a_peer_that_is_removed_gets_nothing_more_of_an_open_stream(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = published(MAIN, 1)
        owner.own(publisher)
        async with (
            owner.serving() as server,
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            await read(call)
            await read(call)
            owner.expel(reader)
            owner.append(publisher.origin, 1, publisher.publish(assertion("hidden")))
            server.wakeups.notify()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    run(main())


def test_a_peer_that_is_removed_while_catching_up_gets_no_further_frame(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        publisher = bulky(MAIN, 60, 400_000)
        owner.own(publisher)
        async with (
            owner.serving(),
            following(owner, reader, Cursor(origin=MAIN)) as call,
        ):
            await read(call)
            owner.expel(reader)
            got = 0
            code = None
            while code is None:
                try:
                    got += len((await read(call)).frame.deltas)
                except grpc.aio.AioRpcError as error:
                    code = error.code()
            assert code is grpc.StatusCode.PERMISSION_DENIED
            # What was on its way already, and not the list.
            assert got < len(publisher.log) / 2

    run(main())


def test_a_slow_reader_delays_nobody_else(sites: Sites) -> None:
    async def main() -> None:
        owner, slow, quick = map(sites, ("a.example", "b.example", "c.example"))
        acquaint(owner, slow, quick)
        publisher = bulky(MAIN, 40, 400_000)
        owner.own(publisher)
        async with (
            owner.serving(),
            following(owner, slow, Cursor(origin=MAIN)) as stuck,
        ):
            await read(stuck)
            began = time.perf_counter()
            async with following(owner, quick, Cursor(origin=MAIN)) as call:
                assert len(deltas(await read_all(call))) == len(publisher.log)
            assert time.perf_counter() - began < 3
            # Where it was left, it goes on.
            assert len(deltas(await read_all(stuck))) == len(publisher.log)

    run(main())


def test_streams_end_when_the_server_stops(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        owner.own(published(MAIN))
        async with (
            owner.serving() as server,
            following(owner, reader, Cursor(origin=MAIN), live=True) as call,
        ):
            await read(call)
            began = time.perf_counter()
            await server.stop(5)
            assert time.perf_counter() - began < 2
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)
            assert caught.value.details() == "this node is shutting down"

    run(main())


def test_lists_come_in_pages_in_the_order_of_their_names(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        names = [f"a.example/{letter}" for letter in "abcde"]
        for name in names:
            owner.own(published(name, 1))
        owner.own(published("a.example/bb", 1), audience=[])
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            found: list[str] = []
            token, pages = "", 0
            while pages == 0 or token:
                page = await stub.ListLogs(
                    ListLogsRequest(page_size=2, page_token=token), timeout=5
                )
                found += [info.origin for info in page.logs]
                assert all(info.charter and info.checkpoint for info in page.logs)
                token, pages = page.next_page_token, pages + 1
            assert found == names
            assert pages == 3
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListLogs(ListLogsRequest(page_token="no list"), timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "no list" not in (caught.value.details() or "")

    run(main())
