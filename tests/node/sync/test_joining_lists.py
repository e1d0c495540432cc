"""Joining lists by snapshots from real nodes: who is offered one, its sources, what fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from unittest import mock

import grpc
import pytest

from federation import follow
from federation.entry import Cause, Operation
from federation.follow import FollowState
from federation.header import Header
from federation.names import OrgName, Origin
from node.errors import LockedError, ProtocolError, StoreFullError, UnreachableError
from node.fsck.check import fsck
from node.ingest import snapshot
from node.ingest.deltas import accept
from node.ingest.snapshot import Arrival
from node.rpc import access
from node.rpc.server import PeerServer
from node.store import lists, orgs, snapshots
from node.store.connection import Store
from node.store.damage import Damage, DamageKind
from node.store.snapshots import SnapshotState
from node.sync import join as joins
from node.sync.client import fetch_buckets
from node.sync.failures import PeerBusyError
from node.sync.scheduler import Follower, sync_once
from node.sync.session import ListResult
from node.telemetry.metrics import Metrics
from tests.federation.worlds import Publisher, assertion
from tests.node.support.peering import Site, Sites, acquaint, eventually, run
from tests.node.support.small_buckets import hold, leaves, rebuild, small_buckets
from tests.node.sync.test_following import following

MAIN = "a.example/main"
ENTRIES = 40


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small_buckets(2), mock.patch.object(joins, "CHUNK_BUCKETS", 2):
        yield


def grown(origin: str = MAIN, entries: int = ENTRIES) -> Publisher:
    """Return a list with a snapshot that costs much less than the deltas before it."""
    publisher = Publisher(origin)
    for turn in range(12):
        publisher.publish(
            *(assertion(n, labels=(f"turn {turn}",)) for n in range(entries)),
        )
    publisher.publish_snapshot()
    return publisher


@dataclass
class Asked:
    """What peers were asked for: (organization that served, bucket number)."""

    buckets: list[tuple[str, int]] = field(default_factory=list)

    def numbers(self, org: str | None = None) -> list[int]:
        return sorted(number for served, number in self.buckets if org in {None, served})


@pytest.fixture
def asked() -> Iterator[Asked]:
    """Note which buckets are read for peers, and where."""
    noted = Asked()
    read_bucket = access.read_bucket

    def read(store: Store, caller: str, origin: str, position: int, number: int) -> bytes | None:
        org = orgs.load_node(store.connection, "org") or ""
        noted.buckets.append((org, number))
        return read_bucket(store, caller, origin, position, number)

    with mock.patch.object(access, "read_bucket", read):
        yield noted


async def sync(site: Site, **changes: object) -> ListResult:
    async with site.tools(**changes) as tools:
        (result,) = await sync_once(tools)
    return result


Tampering = Callable[[int, bytes | None], bytes | None]


@contextmanager
def tampering(site: Site, change: Tampering) -> Iterator[None]:
    """Let a site serve other buckets than it holds: told number and bytes of each."""
    read_bucket = access.read_bucket

    def read(store: Store, caller: str, origin: str, position: int, number: int) -> bytes | None:
        data = read_bucket(store, caller, origin, position, number)
        here = orgs.load_node(store.connection, "org") == site.org
        return change(number, data) if here else data

    with mock.patch.object(access, "read_bucket", read):
        yield


def damage(_number: int, data: bytes | None) -> bytes | None:
    return None if data is None else data[:-1] + bytes([data[-1] ^ 1])


def withhold(_number: int, _data: bytes | None) -> None:
    return None


def assert_joined(site: Site, publisher: Publisher) -> None:
    record = site.record(publisher.origin)
    assert record.log.frontier == publisher.state.frontier
    assert record.log.live_count == publisher.state.live_count
    assert site.state(publisher.origin) is FollowState.CURRENT
    assert found(site.store) == []


def found(store: Store) -> list[Damage]:
    """Return what is damaged; the keys of test organizations name no certificate of a site."""
    return [damage for damage in fsck(store) if damage.kind is not DamageKind.PEER]


def pair(sites: Sites, publisher: Publisher) -> tuple[Site, Site]:
    """Return an owner that holds the list's snapshot, and a node that follows it."""
    owner, reader = sites("a.example"), sites("z.example")
    acquaint(owner, reader)
    owner.own(publisher)
    hold(owner, publisher)
    reader.follow(publisher.origin, owner)
    return owner, reader


# --- who is offered one -----------------------------------------------------------------------


def test_who_has_nothing_is_served_a_snapshot_where_it_is_cheaper_and_the_deltas_after_it(
    sites: Sites, asked: Asked
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        for number in range(3):
            delta = publisher.publish(assertion(f"later {number}"))
            owner.append(publisher.origin, len(publisher.log) - 1, delta)
        metrics = Metrics("test")
        async with owner.serving():
            reader.enroll(owner)
            result = await sync(reader, metrics=metrics)
        assert (result.before, result.after, result.joined) == (0, 16, 12)
        assert (result.state, result.error) == (FollowState.CURRENT, None)
        assert result.ops == ENTRIES + 3
        assert asked.numbers() == list(range(ENTRIES // 2))
        assert leaves(reader, publisher.origin) == [12, 13, 14, 15]
        assert_joined(reader, publisher)
        labels = {"origin": MAIN}
        sample = metrics.registry.get_sample_value
        assert sample("hashfed_snapshots_joined_total", labels) == 1
        assert sample("hashfed_snapshot_buckets_accepted_total", labels) == ENTRIES // 2

    run(main())


def test_the_offer_says_why(sites: Sites) -> None:
    publisher = grown()
    owner, _ = pair(sites, publisher)
    cursor = follow.Cursor(origin=MAIN, size=0, root_hash=b"", charter_version=0)
    answer = access.answer(owner.store, "z.example", cursor)
    assert (answer.outcome, answer.snapshot) == (follow.Outcome.SNAPSHOT, 12)
    assert answer.reason is follow.SnapshotReason.CHEAPER
    assert answer.retained_from == 0


def test_who_has_nothing_is_served_deltas_where_they_are_as_cheap(
    sites: Sites, asked: Asked
) -> None:
    async def main() -> None:
        publisher = Publisher(MAIN)
        publisher.publish(*(assertion(number) for number in range(ENTRIES)))
        publisher.publish_snapshot()
        owner, reader = pair(sites, publisher)
        async with owner.serving():
            reader.enroll(owner)
            result = await sync(reader)
        assert (result.joined, result.after) == (None, 2)
        assert asked.buckets == []
        assert_joined(reader, publisher)

    run(main())


def test_who_wants_every_delta_gets_every_delta(sites: Sites, asked: Asked) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        with reader.store.write("follow", MAIN) as transaction:
            lists.store_deltas_only(transaction, reader.record(publisher.origin), wanted=True)
        async with owner.serving():
            reader.enroll(owner)
            result = await sync(reader)
        assert (result.joined, asked.buckets) == (None, [])
        assert reader.deltas(publisher.origin) == publisher.log
        assert_joined(reader, publisher)

    run(main())


@pytest.mark.parametrize("held", [11, 12])
def test_who_has_all_but_little_gets_the_deltas(sites: Sites, asked: Asked, held: int) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        accept(
            reader.store, publisher.origin, publisher.log[:held], via=owner.org, clock=reader.clock
        )
        async with owner.serving():
            reader.enroll(owner)
            result = await sync(reader)
        assert (result.joined, result.before, result.after) == (None, held, 13)
        assert asked.buckets == []
        assert reader.deltas(publisher.origin) == publisher.log

    run(main())


# --- several sources --------------------------------------------------------------------------


@dataclass
class Coalition:
    """Sites that serve; the reader does not."""

    owner: Site
    one: Site
    two: Site
    reader: Site
    servers: dict[str, PeerServer]


@asynccontextmanager
async def coalition(sites: Sites, publisher: Publisher) -> AsyncIterator[Coalition]:
    """An owner, two relays that hold the snapshot, and a node that follows by the owner."""
    servers: dict[str, PeerServer] = {}
    owner, one, two, reader = map(sites, ("a.example", "b.example", "c.example", "z.example"))
    acquaint(owner, one, two, reader)
    async with AsyncExitStack() as stack:
        owner.own(publisher)
        hold(owner, publisher)
        for site in (owner, one, two):
            server = await stack.enter_async_context(site.serving())
            servers[site.org] = server
            for other in (one, two, reader):
                if other is not site:
                    other.enroll(site)
        for relay in (one, two):
            relay.follow(publisher.origin, owner)
            result = await sync(relay)
            assert result.joined is not None
        reader.follow(publisher.origin, owner)
        yield Coalition(owner, one, two, reader, servers)


def test_buckets_come_from_every_peer_that_has_them_and_each_comes_once(
    sites: Sites, asked: Asked
) -> None:
    async def main() -> None:
        publisher = grown()
        async with coalition(sites, publisher) as at:
            asked.buckets.clear()
            # No source gets all of it before the others have been asked once.
            with meeting(at.owner, at.one, at.two):
                result = await sync(at.reader)
            assert result.joined == 12
            assert asked.numbers() == list(range(ENTRIES // 2))
            assert {org for org, _ in asked.buckets} == {"a.example", "b.example", "c.example"}
            assert_joined(at.reader, publisher)

    run(main())


def test_peers_outside_the_audience_are_not_asked_for_buckets(sites: Sites, asked: Asked) -> None:
    async def main() -> None:
        publisher = grown()
        owner, outsider, reader = map(sites, ("a.example", "b.example", "z.example"))
        acquaint(owner, outsider, reader)
        owner.own(publisher, [reader.org])
        hold(owner, publisher)
        async with owner.serving(), outsider.serving():
            for peer in (owner, outsider):
                reader.enroll(peer)
            reader.follow(publisher.origin, owner)
            # The outsider would be asked first, if at all: its answers come at once.
            result = await sync(reader)
        assert result.joined == 12
        assert {org for org, _ in asked.buckets} == {"a.example"}

    run(main())


@contextmanager
def meeting(*sites: Site) -> Iterator[None]:
    """Let each site bring its first chunk only when all of them have been asked for one."""
    fetch = fetch_buckets
    firsts = {site.org: asyncio.Event() for site in sites}

    async def fetch_together(
        channel: grpc.aio.Channel,
        org: OrgName,
        origin: Origin,
        position: int,
        numbers: Sequence[int],
        *,
        idle_timeout_seconds: float,
    ) -> AsyncIterator[tuple[int, bytes]]:
        firsts[org].set()
        for event in firsts.values():
            await event.wait()
        async for bucket in fetch(
            channel, org, origin, position, numbers, idle_timeout_seconds=idle_timeout_seconds
        ):
            yield bucket

    with mock.patch.object(joins, "fetch_buckets", fetch_together):
        yield


@pytest.mark.parametrize("change", [damage, withhold], ids=["damaged", "missing"])
def test_a_source_beside_the_one_that_offered_it_may_fail_and_parks_nobody(
    sites: Sites, asked: Asked, change: Tampering
) -> None:
    async def main() -> None:
        publisher = grown()
        async with coalition(sites, publisher) as at:
            asked.buckets.clear()
            with (
                tampering(at.one, change),
                meeting(at.owner, at.one, at.two),
            ):
                result = await sync(at.reader)
            assert (result.joined, result.state) == (12, FollowState.CURRENT)
            assert_joined(at.reader, publisher)
            # What it had been given was left to others.
            others = [n for org, n in asked.buckets if org != "b.example"]
            assert sorted(others) == list(range(ENTRIES // 2))

    run(main())


def test_a_source_that_goes_away_leaves_its_buckets_to_the_others(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        loop = asyncio.get_running_loop()
        async with coalition(sites, publisher) as at:
            gone = asyncio.Event()

            def leave(number: int, data: bytes | None) -> bytes | None:
                asyncio.run_coroutine_threadsafe(at.servers["b.example"].stop(0), loop)
                loop.call_soon_threadsafe(gone.set)
                return data

            with (
                tampering(at.one, leave),
                meeting(at.owner, at.one, at.two),
            ):
                result = await sync(at.reader)
            assert gone.is_set()
            assert result.joined == 12
            assert_joined(at.reader, publisher)

    run(main())


def test_a_source_that_says_nothing_holds_up_nothing_for_longer_than_the_idle_timeout(
    sites: Sites,
) -> None:
    async def main() -> None:
        publisher = grown()
        async with coalition(sites, publisher) as at:
            fetch = fetch_buckets
            silent: list[int] = []

            async def fetch_or_wait(
                channel: grpc.aio.Channel,
                org: OrgName,
                origin: Origin,
                position: int,
                numbers: Sequence[int],
                *,
                idle_timeout_seconds: float,
            ) -> AsyncIterator[tuple[int, bytes]]:
                if org == "b.example":
                    silent.extend(numbers)
                    await asyncio.Event().wait()
                async for bucket in fetch(
                    channel,
                    org,
                    origin,
                    position,
                    numbers,
                    idle_timeout_seconds=idle_timeout_seconds,
                ):
                    yield bucket

            with mock.patch.object(joins, "fetch_buckets", fetch_or_wait):
                result = await sync(at.reader, idle_timeout_seconds=0.5)
            assert len(silent) == 2
            assert result.joined == 12
            assert_joined(at.reader, publisher)

    run(main())


def test_a_peer_that_drips_its_buckets_does_not_keep_sync_from_ending(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        fetch = fetch_buckets

        async def drip(*args: object, **named: object) -> AsyncIterator[tuple[int, bytes]]:
            async for bucket in fetch(*args, **named):  # type: ignore[arg-type]  # as given
                await asyncio.sleep(0.2)
                yield bucket

        async with owner.serving():
            reader.enroll(owner)
            with mock.patch.object(joins, "fetch_buckets", drip):
                result = await asyncio.wait_for(sync(reader, deadline_seconds=1.5), 20)
            assert "after 1.5 s" in str(result.error)
            assert result.joined is None
            # What came is kept, and the next one fetches the rest.
            assert 0 < len(arriving(reader)) < ENTRIES // 2
            result = await sync(reader)
        assert result.joined == 12
        assert_joined(reader, publisher)

    run(main())


def arriving(site: Site) -> list[int]:
    """Return the numbers of the buckets that are here of an arriving snapshot."""
    connection = site.store.connection
    (held,) = snapshots.iter_of_list(connection, 1, SnapshotState.ARRIVING)
    return sorted(snapshots.held_numbers(connection, held.snapshot))


def test_the_peer_that_offered_it_may_fail_if_others_have_the_rest(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        async with coalition(sites, publisher) as at:
            with tampering(at.owner, withhold):
                result = await sync(at.reader)
            assert (result.joined, result.state) == (12, FollowState.CURRENT)
            assert_joined(at.reader, publisher)

    run(main())


# --- what fails -------------------------------------------------------------------------------


def test_the_peer_that_offered_it_and_sends_a_damaged_bucket_parks_the_list(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        async with owner.serving():
            reader.enroll(owner)
            with tampering(owner, damage):
                result = await sync(reader)
            assert (result.state, result.reason) == (
                FollowState.QUARANTINED,
                "SNAPSHOT_MISMATCH",
            )
            assert isinstance(result.error, ProtocolError)
            assert result.error.exit_code == 14
            assert reader.record(publisher.origin).log.size == 0
            assert found(reader.store) == []
            # The list may be better the next time; the node does not say so before it has seen it.
            with tampering(owner, withhold):
                result = await sync(reader)
            assert result.state is FollowState.QUARANTINED
            result = await sync(reader)
        assert (result.joined, result.state) == (12, FollowState.CURRENT)
        assert_joined(reader, publisher)

    run(main())


def test_a_snapshot_that_cannot_be_fetched_is_an_error_to_try_again_and_what_came_stays(
    sites: Sites, asked: Asked
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)

        def some(number: int, data: bytes | None) -> bytes | None:
            return None if number >= 11 else data

        async with owner.serving():
            reader.enroll(owner)
            with tampering(owner, some):
                result = await sync(reader)
            assert (result.state, result.reason) == (FollowState.STALE, "UNAVAILABLE")
            assert (result.after, result.joined) == (0, None)
            assert result.error is not None
            assert reader.state(publisher.origin) is FollowState.STALE
            asked.buckets.clear()
            result = await sync(reader)
        assert result.joined == 12
        # The chunk that was cut off is fetched again, and no other.
        assert asked.numbers() == list(range(10, ENTRIES // 2))
        assert_joined(reader, publisher)

    run(main())


def test_a_peer_that_offers_a_snapshot_where_deltas_are_wanted_breaks_the_protocol(
    sites: Sites,
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        with reader.store.write("follow", MAIN) as transaction:
            lists.store_deltas_only(transaction, reader.record(publisher.origin), wanted=True)
        answer = access.answer

        def forget(store: Store, caller: str, cursor: follow.Cursor) -> access.CursorAnswer:
            return answer(store, caller, replace(cursor, deltas_only=False))

        async with owner.serving():
            reader.enroll(owner)
            with mock.patch.object(access, "answer", forget):
                result = await sync(reader)
        assert result.state is FollowState.STALE
        assert isinstance(result.error, ProtocolError)
        assert reader.record(publisher.origin).log.size == 0

    run(main())


def test_a_list_that_somebody_else_moves_on_before_the_offer_comes_is_not_blamed_on_the_peer(
    sites: Sites,
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        answer = access.answer
        moved = False

        def overtake(store: Store, caller: str, cursor: follow.Cursor) -> access.CursorAnswer:
            nonlocal moved
            if not moved:
                moved = True
                other = Store.open(reader.store.path, reader.clock)
                accept(other, publisher.origin, publisher.log[:1], via=owner.org, clock=owner.clock)
                other.close()
            return answer(store, caller, cursor)

        async with owner.serving():
            reader.enroll(owner)
            with mock.patch.object(access, "answer", overtake):
                result = await sync(reader)
        assert (result.joined, result.state) == (12, FollowState.CURRENT)
        assert_joined(reader, publisher)
        assert leaves(reader, publisher.origin) == [0, 12]

    run(main())


def test_a_list_that_somebody_else_moves_on_while_buckets_come_is_asked_for_anew(
    sites: Sites, asked: Asked
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)

        def overtake(number: int, data: bytes | None) -> bytes | None:
            if number == 7 and reader.record(publisher.origin).log.size == 0:
                other = Store.open(reader.store.path, reader.clock)
                accept(other, publisher.origin, publisher.log[:1], via=owner.org, clock=owner.clock)
                other.close()
            return data

        async with owner.serving():
            reader.enroll(owner)
            with tampering(owner, overtake):
                result = await sync(reader)
        assert (result.joined, result.state) == (12, FollowState.CURRENT)
        assert asked.numbers() == list(range(ENTRIES // 2))
        assert_joined(reader, publisher)

    run(main())


def test_a_store_that_is_kept_by_another_process_is_nobodys_fault_but_ends_the_sync(
    sites: Sites,
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        take = snapshot.take

        def locked(
            store: Store, arrival: Arrival, buckets: Sequence[tuple[int, bytes]]
        ) -> int | None:
            if buckets[0][0] >= 6:
                raise LockedError("the store is being written by another process")
            return take(store, arrival, buckets)

        async with owner.serving():
            reader.enroll(owner)
            with (
                mock.patch.object(snapshot, "take", locked),
                pytest.raises(LockedError, match="another process"),
            ):
                await sync(reader)
            assert reader.state(publisher.origin) is FollowState.CATCHING_UP
            result = await sync(reader)
        assert result.joined == 12
        assert_joined(reader, publisher)

    run(main())


def test_an_unwritable_store_ends_who_follows_for_ever_at_once(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)

        def full(*_args: object) -> int | None:
            raise StoreFullError("no room left")

        async with owner.serving(heartbeat_seconds=60.0):
            reader.enroll(owner)
            with mock.patch.object(snapshot, "take", full):
                async with reader.tools() as tools, asyncio.timeout(5):
                    with pytest.raises(StoreFullError):
                        await Follower(tools).run()

    run(main())


# --- live -------------------------------------------------------------------------------------


def test_who_follows_for_ever_joins_and_then_follows_live(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        async with owner.serving() as server:
            reader.enroll(owner)
            async with following(reader):
                await eventually(lambda: reader.record(publisher.origin).log.size == 13)
                delta = publisher.publish(
                    Operation.retraction(assertion(1).entry, Cause.WITHDRAWN), assertion("new")
                )
                owner.append(publisher.origin, len(publisher.log) - 1, delta)
                server.wakeups.notify()
                await eventually(lambda: reader.record(publisher.origin).log.size == 14)
                await eventually(lambda: reader.state(publisher.origin) is FollowState.CURRENT)
        assert_joined(reader, publisher)

    run(main())


def test_a_relay_that_joined_serves_the_snapshot_on_and_tells_older_cursors_so(
    sites: Sites,
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, relay = pair(sites, publisher)
        third, old, exact = map(sites, ("t.example", "u.example", "v.example"))
        acquaint(owner, relay, third, old, exact)
        for site, held in ((old, 5), (exact, 12)):
            site.follow(publisher.origin, relay)
            accept(
                site.store, publisher.origin, publisher.log[:held], via=relay.org, clock=site.clock
            )
        third.follow(publisher.origin, relay)
        async with owner.serving(), relay.serving():
            relay.enroll(owner)
            await sync(relay)
            delta = publisher.publish(assertion("later"))
            owner.append(publisher.origin, len(publisher.log) - 1, delta)
            await sync(relay)
            for site in (third, old, exact):
                site.enroll(relay)
            cursor = follow.Cursor(origin=MAIN, size=0, root_hash=b"", charter_version=0)
            answer = access.answer(relay.store, "t.example", cursor)
            assert answer.reason is follow.SnapshotReason.NOT_RETAINED
            assert answer.retained_from == 12
            result = await sync(third)
            assert (result.joined, result.after, result.state) == (12, 14, FollowState.CURRENT)
            # Who holds all but the snapshot's own leaf needs no snapshot.
            result = await sync(exact)
            assert (result.joined, result.after, result.state) == (None, 14, FollowState.CURRENT)
            assert exact.deltas(publisher.origin) == publisher.log
            result = await sync(old)
        assert (result.state, result.reason) == (FollowState.DESYNCHRONISED, "CURSOR_TOO_OLD")
        assert isinstance(result.error, UnreachableError)
        assert "its owner" in result.error.hint
        assert "from position 12 on, this node has 5" in str(result.error)
        assert old.record(publisher.origin).log.size == 5
        assert_joined(third, publisher)

    run(main())


def test_who_wants_every_delta_is_told_by_a_relay_that_has_not_got_them(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        owner, relay = pair(sites, publisher)
        third = sites("t.example")
        acquaint(relay, third)
        third.follow(publisher.origin, relay)
        with third.store.write("follow", MAIN) as transaction:
            lists.store_deltas_only(transaction, third.record(publisher.origin), wanted=True)
        async with owner.serving(), relay.serving():
            relay.enroll(owner)
            await sync(relay)
            third.enroll(relay)
            result = await sync(third)
        assert (result.state, result.reason) == (FollowState.DESYNCHRONISED, "CURSOR_TOO_OLD")
        assert result.after == 0

    run(main())


def test_a_list_that_is_far_behind_is_proved_to_be_the_same_and_takes_the_snapshot(
    sites: Sites,
) -> None:
    async def main() -> None:
        publisher = grown()
        owner, reader = pair(sites, publisher)
        async with owner.serving():
            reader.enroll(owner)
            await sync(reader)
            for turn in range(12):
                publisher.publish(*(assertion(n, labels=(f"again {turn}",)) for n in range(40)))
                owner.append(publisher.origin, len(publisher.log) - 1, publisher.log[-1])
            publisher.publish_snapshot()
            owner.append(publisher.origin, len(publisher.log) - 1, publisher.log[-1])
            hold(owner, publisher)
            result = await sync(reader)
        assert (result.before, result.joined, result.after) == (13, 25, 26)
        assert_joined(reader, publisher)
        assert leaves(reader, publisher.origin) == [12, 25]

    run(main())


def test_a_relay_that_replayed_makes_the_snapshot_anew_and_serves_it(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown()
        owner, relay = pair(sites, publisher)
        third = sites("t.example")
        acquaint(relay, third)
        third.follow(publisher.origin, relay)
        with relay.store.write("follow", MAIN) as transaction:
            lists.store_deltas_only(transaction, relay.record(publisher.origin), wanted=True)
        async with owner.serving(), relay.serving():
            relay.enroll(owner)
            await sync(relay)
            made = rebuild(relay, publisher.origin)
            assert made.root_hash == Header.parse(publisher.log[12].header).ops_root
            third.enroll(relay)
            result = await sync(third)
        assert result.joined == 12
        assert_joined(third, publisher)

    run(main())


def test_more_lists_than_a_peer_allows_streams_are_joined_all_the_same(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("z.example")
        acquaint(owner, reader)
        publishers = [grown(f"a.example/list-{number}", 6) for number in range(7)]
        for publisher in publishers:
            owner.own(publisher)
            hold(owner, publisher)
            reader.follow(publisher.origin, owner)
        async with owner.serving():
            reader.enroll(owner)
            async with reader.tools() as tools:
                results = await sync_once(tools)
        assert [(result.joined, result.state) for result in results] == [
            (12, FollowState.CURRENT)
        ] * 7
        for publisher in publishers:
            assert_joined(reader, publisher)

    run(main())


def test_a_peer_that_is_busy_is_waited_for_but_not_for_ever(sites: Sites) -> None:
    async def main() -> None:
        publisher = grown(entries=4)
        owner, reader = pair(sites, publisher)
        refusals = 3

        async def busy(
            channel: grpc.aio.Channel,
            org: OrgName,
            origin: Origin,
            position: int,
            numbers: Sequence[int],
            *,
            idle_timeout_seconds: float,
        ) -> AsyncIterator[tuple[int, bytes]]:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise PeerBusyError("busy", retry_seconds=0.001)
            async for bucket in fetch_buckets(
                channel, org, origin, position, numbers, idle_timeout_seconds=idle_timeout_seconds
            ):
                yield bucket

        async with owner.serving():
            reader.enroll(owner)
            with mock.patch.object(joins, "fetch_buckets", busy):
                refusals = 1_000
                result = await sync(reader)
                assert (result.state, result.joined) == (FollowState.STALE, None)
                assert refusals > 900
                refusals = 3
                result = await sync(reader)
        assert result.joined == 12
        assert_joined(reader, publisher)

    run(main())
