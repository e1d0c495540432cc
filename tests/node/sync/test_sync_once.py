"""`hashfed sync` between real nodes."""

from __future__ import annotations

import pytest

from federation import limits
from federation.follow import FollowState
from federation.names import Origin
from node.errors import LockedError, RefusedError, UnreachableError
from node.store import lists, orgs
from node.sync.client import fetch_logs, open_channel
from node.sync.intake import Progress
from node.sync.scheduler import sync_once
from tests.node.support.peering import Sites, acquaint, build_identity, published, run

MAIN = "a.example/main"


def test_all_deltas_arrive_byte_for_byte_and_the_list_is_current(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("hotline.example"), sites("platform.example")
        publisher = published("hotline.example/main", 3, 1, 5)
        owner.own(publisher)
        acquaint(owner, reader)
        async with owner.serving():
            reader.enroll(owner)
            reader.follow(publisher.origin, owner)
            seen: list[tuple[int, int]] = []

            def note(progress: Progress) -> None:
                seen.append((progress.size, progress.head))

            async with reader.tools(on_progress=note) as tools:
                (result,) = await sync_once(tools)
        assert (result.before, result.after, result.ops, result.state) == (0, 3, 9, "current")
        assert result.error is None
        assert result.bytes > sum(len(delta.body) for delta in publisher.log)
        assert seen[-1] == (3, 3)
        assert reader.deltas(publisher.origin) == publisher.log
        assert reader.state(publisher.origin) is FollowState.CURRENT
        assert reader.status(publisher.origin).head == 3

    run(main())


def test_a_relay_passes_bytes_on_verbatim(sites: Sites) -> None:
    async def main() -> None:
        owner, relay, reader = map(sites, ("a.example", "b.example", "c.example"))
        publisher = published("a.example/main", 2, 3)
        owner.own(publisher)
        acquaint(owner, relay)
        relay.follow(publisher.origin, owner)
        async with owner.serving():
            relay.enroll(owner)
            async with relay.tools() as tools:
                await sync_once(tools)
        # The owner is away, and the reader has never been its peer.
        acquaint(relay, reader)
        reader.follow(publisher.origin, relay)
        async with relay.serving():
            reader.enroll(relay)
            async with reader.tools() as tools:
                (result,) = await sync_once(tools)
        assert result.state is FollowState.CURRENT
        assert reader.deltas(publisher.origin) == publisher.log

    run(main())


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_sync_goes_on_from_any_delta(sites: Sites, size: int) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        publisher = published(MAIN, 1, 1, 1)
        acquaint(owner, reader)
        early = published(MAIN, *[1] * size)
        owner.own(early)
        async with owner.serving():
            reader.enroll(owner)
            reader.follow(publisher.origin, owner)
            async with reader.tools() as tools:
                (first,) = await sync_once(tools)
                for at in range(size, 3):
                    owner.append(publisher.origin, at, publisher.log[at])
                (second,) = await sync_once(tools)
        assert (first.before, first.after) == (0, size)
        assert (second.before, second.after, second.ops) == (size, 3, 3 - size)
        assert reader.deltas(publisher.origin) == publisher.log

    run(main())


def test_a_list_that_is_not_for_us_is_stale_and_says_so(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        publisher = published(MAIN, 1)
        owner.own(publisher, audience=["c.example"])
        acquaint(owner, reader)
        async with owner.serving():
            reader.enroll(owner)
            reader.follow(publisher.origin, owner)
            async with reader.tools() as tools:
                (result,) = await sync_once(tools)
        assert (result.state, result.reason) == (FollowState.STALE, "UNAVAILABLE")
        assert isinstance(result.error, RefusedError)
        assert reader.record(publisher.origin).log.size == 0

    run(main())


def test_a_peer_that_cannot_be_reached_is_an_error_of_its_own_lists_alone(sites: Sites) -> None:
    async def main() -> None:
        owner, gone, reader = map(sites, ("a.example", "b.example", "c.example"))
        acquaint(owner, gone, reader)
        publisher = published(MAIN, 1)
        lost = published("b.example/main", 1)
        owner.own(publisher)
        async with owner.serving():
            reader.enroll(owner)
            reader.follow(publisher.origin, owner)
            reader.follow(lost.origin, gone)
            async with reader.tools() as tools:
                kept, failed = await sync_once(tools)
        assert kept.state is FollowState.CURRENT
        assert (failed.state, failed.reason) == (FollowState.STALE, "UNREACHABLE")
        assert isinstance(failed.error, UnreachableError)
        assert failed.error.exit_code == 75
        assert reader.state(lost.origin) is FollowState.STALE

    run(main())


def test_a_peer_that_does_not_know_us_is_told_from_one_that_is_away(sites: Sites) -> None:
    async def main() -> None:
        owner, other, reader = map(sites, ("a.example", "b.example", "c.example"))
        acquaint(owner, other)
        origin = published(MAIN).origin
        async with owner.serving():
            reader.enroll(owner)
            reader.follow(origin, owner)
            async with reader.tools() as tools:
                (result,) = await sync_once(tools)
        assert result.state is FollowState.STALE
        assert result.error is not None
        assert "invit" in result.error.hint, result.error

    run(main())


def test_a_server_with_another_certificate_is_not_talked_to(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        publisher = published(MAIN, 1)
        owner.own(publisher)
        acquaint(owner, reader)
        # The reader's pin is of another certificate than the one that answers.
        owner.identity = build_identity("a.example")
        async with owner.serving():
            with reader.store.write("peer", "address") as transaction:
                transaction.connection.execute("UPDATE peer SET address = ?", (owner.address,))
            reader.follow(publisher.origin, owner)
            async with reader.tools() as tools:
                (result,) = await sync_once(tools)
        assert result.after == 0
        assert isinstance(result.error, UnreachableError)
        assert "handshake" in str(result.error)
        assert "peer add" in result.error.hint

    run(main())


def test_a_list_whose_peer_was_removed_is_named(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        reader.enroll(owner)
        origin = published(MAIN).origin
        reader.follow(origin, owner)
        reader.expel(owner)
        async with reader.tools() as tools:
            (result,) = await sync_once(tools)
        assert (result.state, result.reason) == (FollowState.STALE, "NO_PEER")
        assert reader.status(origin).reason == "NO_PEER"

    run(main())


def test_only_the_lists_that_are_named_are_fetched(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        acquaint(owner, reader)
        one, two = published("a.example/one", 1), published("a.example/two", 1)
        for publisher in (one, two):
            owner.own(publisher)
        async with owner.serving():
            reader.enroll(owner)
            for publisher in (one, two):
                reader.follow(publisher.origin, owner)
            async with reader.tools() as tools:
                (result,) = await sync_once(tools, [two.origin])
        assert result.origin == two.origin
        assert reader.record(one.origin).log.size == 0

    run(main())


def test_the_lists_that_a_peer_offers_can_be_fetched(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        acquaint(owner, reader)
        names = [f"a.example/{at:03}" for at in range(300)]
        with owner.store.write("list", "many") as transaction:
            for name in names:
                lists.add_list(transaction, Origin.parse(name), via=None)
        for name in names:
            owner.share(published(name))
        async with owner.serving():
            reader.enroll(owner)
            peer = orgs.load_peer(reader.store.connection, owner.org)
            assert peer is not None
            async with open_channel(peer, reader.identity) as channel:
                found = await fetch_logs(channel, owner.org)
        assert [offered.origin for offered in found.lists] == names
        assert found.sent_ms is not None
        assert abs(found.sent_ms - owner.clock.now_ms()) < limits.MAX_CLOCK_SKEW_MS

    run(main())


def test_a_store_that_another_process_keeps_is_not_the_peers_fault(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        publisher = published(MAIN, 1)
        owner.own(publisher)
        acquaint(owner, reader)
        monkeypatch.setattr("node.store.connection._BUSY_SECONDS", 0.1)
        async with owner.serving():
            reader.enroll(owner)
            reader.follow(publisher.origin, owner)
            async with reader.tools() as tools:
                with reader.store.update_status(), pytest.raises(LockedError):
                    await sync_once(tools)
                assert reader.state(publisher.origin) is FollowState.CATCHING_UP
                (result,) = await sync_once(tools)
        assert result.state is FollowState.CURRENT

    run(main())
