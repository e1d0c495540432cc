"""Following for ever, as `hashfed serve` does: what is published arrives, whatever happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from federation.follow import FollowState
from federation.names import Origin
from federation.replica import SignedDelta
from federation.v1.log_service_pb2 import OUTCOME_DELTAS, OUTCOME_UP_TO_DATE, FollowRequest
from node.rpc.server import PeerServer
from node.sync.buffer import Buffer
from node.sync.client import Alive
from node.sync.scheduler import Follower, sync_once
from tests.federation.worlds import Publisher, assertion
from tests.node.support.peering import (
    Send,
    Site,
    Sites,
    acquaint,
    eventually,
    frame,
    misbehaving,
    opening,
    published,
    run,
)

MAIN = "a.example/main"


@asynccontextmanager
async def following(site: Site, **changes: object) -> AsyncIterator[Follower]:
    """Follow all lists of a site while the block runs."""
    async with site.tools(**changes) as tools:
        follower = Follower(tools)
        task = asyncio.create_task(follower.run())
        try:
            yield follower
            assert not task.done(), task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def node(site: Site, *peers: Site) -> AsyncIterator[PeerServer]:
    """Serve and follow, as one process would."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(site.serving())
        for peer in peers:
            peer.enroll(site)
        await stack.enter_async_context(following(site, on_accepted=server.wakeups.notify))
        yield server


def publish(owner: Site, publisher: Publisher, server: PeerServer, name: str) -> SignedDelta:
    delta = publisher.publish(assertion(name))
    owner.append(publisher.origin, len(publisher.log) - 1, delta)
    server.wakeups.notify()
    return delta


def is_current(site: Site, publisher: Publisher) -> bool:
    return site.state(publisher.origin) is FollowState.CURRENT


def size(site: Site, origin: Origin) -> int:
    return site.record(origin).log.size


def test_what_is_published_is_in_the_store_of_a_connected_peer_at_once(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        acquaint(owner, reader)
        publisher = published(MAIN, 1)
        owner.own(publisher)
        reader.follow(publisher.origin, owner)
        async with owner.serving() as server:
            reader.enroll(owner)
            async with following(reader):
                await eventually(lambda: reader.state(publisher.origin) is FollowState.CURRENT)
                times = []
                for at in range(40):
                    began = time.perf_counter()
                    publish(owner, publisher, server, f"later {at}")
                    while size(reader, publisher.origin) < len(publisher.log):  # noqa: ASYNC110  # to the millisecond
                        await asyncio.sleep(0.0005)
                    times.append(time.perf_counter() - began)
        assert reader.deltas(publisher.origin) == publisher.log
        times.sort()
        print(f"median {times[20] * 1000:.1f} ms, p90 {times[36] * 1000:.1f} ms")
        assert times[20] < 0.1

    run(main())


def test_a_relay_passes_on_what_is_published_while_it_is_connected(sites: Sites) -> None:
    async def main() -> None:
        owner, relay, reader = map(sites, ("a.example", "b.example", "c.example"))
        acquaint(owner, relay)
        acquaint(relay, reader)
        publisher = published(MAIN, 1)
        owner.own(publisher)
        relay.follow(publisher.origin, owner)
        reader.follow(publisher.origin, relay)
        async with owner.serving() as server:
            relay.enroll(owner)
            async with node(relay, reader), following(reader):
                for at in range(5):
                    publish(owner, publisher, server, f"later {at}")
                    await eventually(lambda: reader.deltas(publisher.origin) == publisher.log)
        assert reader.state(publisher.origin) is FollowState.CURRENT

    run(main())


def test_a_list_and_a_peer_that_are_added_later_are_followed(sites: Sites) -> None:
    async def main() -> None:
        one, two, reader = map(sites, ("a.example", "b.example", "c.example"))
        first, second = published("a.example/first", 1), published("a.example/second", 1)
        third = published("b.example/third", 1)
        for site, publisher in ((one, first), (one, second), (two, third)):
            if publisher is not second:
                site.own(publisher)
        acquaint(one, two, reader)
        async with one.serving() as server, two.serving():
            acquaint(one, two, reader)
            async with following(reader) as follower:
                for publisher, via in ((first, one), (second, one), (third, two)):
                    reader.follow(publisher.origin, via)
                    follower.wake()
                    await asyncio.sleep(0.05)
                for publisher in (first, third):
                    await eventually(partial(is_current, reader, publisher))
                await eventually(lambda: reader.state(second.origin) is FollowState.STALE)
                assert reader.status(second.origin).reason == "UNAVAILABLE"
                one.own(second)
                server.wakeups.notify()
                await eventually(lambda: reader.state(second.origin) is FollowState.CURRENT)
        assert reader.deltas(second.origin) == second.log

    run(main())


def test_a_peer_that_was_away_is_caught_up_with_and_delays_no_other(sites: Sites) -> None:
    async def main() -> None:
        owner, away, reader = map(sites, ("a.example", "b.example", "c.example"))
        acquaint(owner, away, reader)
        here, there = published(MAIN, 1), published("b.example/main", 1)
        owner.own(here)
        away.own(there)
        reader.follow(here.origin, owner)
        reader.follow(there.origin, away)
        async with owner.serving() as server:
            reader.enroll(owner)
            async with following(reader) as follower:
                await eventually(lambda: reader.state(there.origin) is FollowState.STALE)
                assert reader.status(there.origin).reason == "UNREACHABLE"
                publish(owner, here, server, "meanwhile")
                await eventually(lambda: reader.deltas(here.origin) == here.log)
                async with away.serving() as returned:
                    reader.enroll(away)
                    follower.wake()
                    await eventually(lambda: reader.state(there.origin) is FollowState.CURRENT)
                    address = returned.address
                # It restarts at the same address: no wake-up tells us of that.
                async with away.serving(listen=address) as returned:
                    publish(away, there, returned, "after the restart")
                    await eventually(lambda: reader.deltas(there.origin) == there.log)
                    await eventually(partial(is_current, reader, there))
                await eventually(lambda: reader.state(there.origin) is FollowState.STALE)

    run(main())


def test_a_quarantined_list_is_tried_again_and_heals(sites: Sites) -> None:
    publisher = published(MAIN, 1)
    good = published("a.example/good", 1)
    wrong = publisher.log[0]._replace(body=b"")
    asked: list[set[str]] = []

    async def script(request: FollowRequest, send: Send) -> None:
        asked.append({cursor.origin for cursor in request.cursors})
        for cursor in request.cursors:
            outcome = OUTCOME_UP_TO_DATE if cursor.size else OUTCOME_DELTAS
            await send(opening(Origin.parse(cursor.origin), outcome))
            if cursor.origin == MAIN and not cursor.size:
                tries = sum(MAIN in names for names in asked)
                await send(frame(MAIN, publisher.log if tries > 2 else [wrong]))
            elif not cursor.size:
                await send(frame(good.origin, good.log))
        await asyncio.sleep(60)

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        async with misbehaving(owner, script):
            reader.enroll(owner)
            for origin in (publisher.origin, good.origin):
                reader.follow(origin, owner)
            async with following(reader):
                await eventually(lambda: reader.state(good.origin) is FollowState.CURRENT)
                await eventually(lambda: reader.state(publisher.origin) is FollowState.CURRENT)
        assert reader.deltas(publisher.origin) == publisher.log
        assert sum(MAIN in names for names in asked) == 3

    run(main())


def test_a_forked_list_is_never_asked_for_again(sites: Sites) -> None:
    left, right = published(MAIN, 1), published(MAIN, 2)
    good = published("a.example/good", 1)
    asked: list[set[str]] = []

    async def script(request: FollowRequest, send: Send) -> None:
        asked.append({cursor.origin for cursor in request.cursors})
        for cursor in request.cursors:
            await send(opening(Origin.parse(cursor.origin), OUTCOME_DELTAS))
            if cursor.origin == MAIN:
                await send(frame(MAIN, left.log))
                await send(frame(MAIN, right.log))
            elif not cursor.size:
                await send(frame(good.origin, good.log))

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        async with misbehaving(owner, script):
            reader.enroll(owner)
            for origin in (left.origin, good.origin):
                reader.follow(origin, owner)
            async with following(reader):
                await eventually(lambda: reader.state(left.origin) is FollowState.FORKED)
                await eventually(lambda: len(asked) >= 4)
        assert [MAIN in names for names in asked[:4]] == [True, False, False, False]
        assert reader.deltas(left.origin) == left.log

    run(main())


def test_two_processes_may_take_the_same_list_at_the_same_time(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        acquaint(owner, reader)
        publisher = published(MAIN, *[1] * 30)
        owner.own(publisher)
        reader.follow(publisher.origin, owner)
        async with owner.serving() as server:
            reader.enroll(owner)
            async with (
                following(reader),
                reader.tools() as one,
                reader.tools() as two,
            ):
                for at in range(5):
                    publish(owner, publisher, server, f"later {at}")
                    await asyncio.gather(sync_once(one), sync_once(two))
                await eventually(lambda: reader.deltas(publisher.origin) == publisher.log)
        assert reader.state(publisher.origin) is FollowState.CURRENT

    run(main())


# --- parts ------------------------------------------------------------------------------------


def test_a_full_buffer_makes_the_reader_wait_and_an_empty_one_lets_it_go_on() -> None:
    async def main() -> None:
        buffer = Buffer(10_000)
        events = [Alive(sent_ms=at, size_bytes=6_000) for at in range(5)]

        async def fill() -> None:
            for event in events:
                await buffer.put(event)
            buffer.end()

        filling = asyncio.create_task(fill())
        taken = []
        sizes = []
        while (found := await buffer.take(1)) is not None:
            taken += found
            sizes.append(len(found))
            await asyncio.sleep(0.01)
        await filling
        assert taken == events
        assert max(sizes) == 2

    run(main())


def test_what_came_before_an_error_is_taken_before_it_is_raised() -> None:
    async def main() -> None:
        buffer = Buffer(10)
        await buffer.put(Alive(sent_ms=1, size_bytes=1))
        buffer.end(KeyError("why"))
        found = await buffer.take(1)
        assert found is not None
        assert len(found) == 1
        try:
            await buffer.take(1)
        except KeyError:
            return
        raise AssertionError("the error was not raised")

    run(main())
