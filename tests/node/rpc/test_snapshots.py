"""What FetchBuckets and FetchLeaf send, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from unittest import mock

import grpc
import pytest

from federation import limits
from federation.follow import cursors
from federation.header import Header, leaf_hash
from federation.merkle import verify_inclusion
from federation.v1.log_service_pb2 import (
    OUTCOME_CURSOR_TOO_OLD,
    OUTCOME_DELTAS,
    OUTCOME_SNAPSHOT,
    SNAPSHOT_REASON_CHEAPER,
    Cursor,
    FetchBucketsRequest,
    FetchBucketsResponse,
    FetchLeafRequest,
    FollowRequest,
)
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceStub
from node.rpc import access
from tests.federation.worlds import Publisher, assertion
from tests.node.rpc.test_follow import cursor_at, read_all
from tests.node.support.peering import Site, Sites, acquaint, run
from tests.node.support.small_buckets import hold, small_buckets

if TYPE_CHECKING:
    from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceAsyncStub

BucketCall = grpc.aio.UnaryStreamCall[FetchBucketsRequest, FetchBucketsResponse]

MAIN = "a.example/main"
FORBIDDEN = "a.example/forbidden"
UNKNOWN = "a.example/unknown"
ENTRIES = 40
POSITION = 12


def grown(origin: str = MAIN) -> Publisher:
    """Return a list with a snapshot that costs much less than the deltas before it."""
    publisher = Publisher(origin)
    for turn in range(POSITION):
        publisher.publish(*(assertion(n, labels=(f"turn {turn}",)) for n in range(ENTRIES)))
    publisher.publish_snapshot()
    return publisher


@pytest.fixture(scope="module")
def publishers() -> Iterator[tuple[Publisher, Publisher]]:
    with small_buckets(2):
        yield grown(), grown(FORBIDDEN)


@pytest.fixture
def pair(sites: Sites, publishers: tuple[Publisher, Publisher]) -> tuple[Site, Site]:
    """Return an owner of two lists and a reader who may have the first."""
    owner, reader = sites("a.example"), sites("b.example")
    acquaint(owner, reader)
    owner.own(publishers[0])
    owner.own(publishers[1], audience=["c.example"])
    for publisher in publishers:
        hold(owner, publisher)
    return owner, reader


async def fetch(
    stub: LogServiceAsyncStub, *numbers: int, origin: str = MAIN, position: int = POSITION
) -> list[FetchBucketsResponse]:
    request = FetchBucketsRequest(origin=origin, position=position, numbers=numbers)
    found: list[FetchBucketsResponse] = []
    await drain(stub.FetchBuckets(request), found)
    return found


async def drain(call: BucketCall, got: list[FetchBucketsResponse]) -> None:
    while isinstance(response := await call.read(), FetchBucketsResponse):
        got.append(response)


Refusal = tuple[grpc.StatusCode, str | None, list[tuple[str, str | bytes]]]


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Return all that the caller is told."""
    trailers = [(str(key), value) for key, value in error.trailing_metadata() or ()]
    return error.code(), error.details(), sorted(trailers, key=str)


async def refused_buckets(
    stub: LogServiceAsyncStub, origin: str, position: int, *numbers: int
) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fetch(stub, *numbers, origin=origin, position=position)
    return refusal(caught.value)


async def refused_leaf(stub: LogServiceAsyncStub, origin: str, position: int, size: int) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.FetchLeaf(
            FetchLeafRequest(origin=origin, position=position, size=size), timeout=5
        )
    return refusal(caught.value)


def test_buckets_come_as_they_were_signed_in_the_order_in_which_they_are_asked_for(
    pair: tuple[Site, Site], publishers: tuple[Publisher, Publisher]
) -> None:
    async def main() -> None:
        owner, reader = pair
        buckets = publishers[0].snapshots[0].buckets
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            got = await fetch(stub, 3, 0, 3, len(buckets) - 1)
            assert [(item.number, item.data) for item in got] == [
                (number, buckets[number]) for number in (3, 0, 3, len(buckets) - 1)
            ]
            assert await fetch(stub) == []

    run(main())


def test_what_is_not_here_and_what_is_not_for_the_caller_get_one_answer(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            expected = await refused_buckets(stub, UNKNOWN, POSITION, 0)
            assert expected[0] is grpc.StatusCode.NOT_FOUND
            for origin, position, number in (
                (MAIN, POSITION, 2**31),
                (MAIN, POSITION, 2**32 - 1),
                (MAIN, 2**32 | POSITION, 0),
                (FORBIDDEN, POSITION, 0),
                (FORBIDDEN, 3, 0),
                ("no list", POSITION, 0),
                (MAIN, POSITION - 1, 0),
                (MAIN, 2**64 - 1, 0),
                (MAIN, POSITION, ENTRIES // 2),
                # The next snapshot's first bucket, if rows were all that counted.
                (MAIN, POSITION, 2**32 - 1),
            ):
                assert await refused_buckets(stub, origin, position, number) == expected
            expected = await refused_leaf(stub, UNKNOWN, 1, 3)
            assert expected[0] is grpc.StatusCode.NOT_FOUND
            for origin, position, size in (
                (FORBIDDEN, 1, 3),
                ("no list", 1, 3),
                (MAIN, 3, 3),
                (MAIN, 1, POSITION + 2),
                (MAIN, 2**64 - 1, 2**64 - 1),
            ):
                assert await refused_leaf(stub, origin, position, size) == expected

    run(main())


def test_no_call_asks_for_more_buckets_than_the_limit(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            most = limits.MAX_BUCKETS_ASKED
            assert len(await fetch(stub, *[0] * most)) == most
            code, text, _ = await refused_buckets(stub, MAIN, POSITION, *[0] * (most + 1))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert text is not None
            assert str(most) in text

    run(main())


def test_an_audience_that_is_narrowed_meanwhile_gets_no_further_bucket(
    pair: tuple[Site, Site], publishers: tuple[Publisher, Publisher]
) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            call = LogServiceStub(channel).FetchBuckets(
                FetchBucketsRequest(origin=MAIN, position=POSITION, numbers=[0] * 1_000)
            )
            assert isinstance(await call.read(), FetchBucketsResponse)
            owner.share(publishers[0], ["c.example"])
            got: list[FetchBucketsResponse] = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drain(call, got)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            # Those that were on their way.
            assert len(got) < 999

    run(main())


def test_a_peer_that_is_removed_meanwhile_gets_no_further_bucket(pair: tuple[Site, Site]) -> None:
    async def main() -> None:
        owner, reader = pair
        async with owner.serving(), reader.channel(owner) as channel:
            call = LogServiceStub(channel).FetchBuckets(
                FetchBucketsRequest(origin=MAIN, position=POSITION, numbers=[0] * 1_000)
            )
            await call.read()
            owner.expel(reader)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drain(call, [])
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    run(main())


def test_a_leaf_comes_with_the_proof_that_it_is_in_the_log_of_the_size_that_was_asked_for(
    pair: tuple[Site, Site], publishers: tuple[Publisher, Publisher]
) -> None:
    async def main() -> None:
        owner, reader = pair
        log = publishers[0].log
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            for position, size in ((0, 1), (0, 13), (5, 6), (5, 12), (12, 13)):
                response = await stub.FetchLeaf(
                    FetchLeafRequest(origin=MAIN, position=position, size=size), timeout=5
                )
                assert response.delta.header == log[position].header
                assert response.delta.body == log[position].body
                publisher = Publisher(MAIN)
                for delta in log[:size]:
                    publisher.state = publisher.state.after(
                        Header.parse(delta.header), delta.header
                    )
                verify_inclusion(
                    leaf_hash(log[position].header),
                    position,
                    size,
                    response.inclusion,
                    publisher.state.frontier.root(),
                )

    run(main())


def test_the_offer_of_a_snapshot_says_why_and_from_where_on_deltas_are_held(
    pair: tuple[Site, Site], publishers: tuple[Publisher, Publisher]
) -> None:
    async def main() -> None:
        owner, reader = pair
        published = publishers[0].snapshots[0]
        async with owner.serving(), reader.channel(owner) as channel:
            stub = LogServiceStub(channel)
            nothing = Cursor(origin=MAIN, size=0, root_hash=b"")
            (answer,) = await read_all(stub.Follow(FollowRequest(cursors=[nothing])))
            opening = answer.opening
            assert opening.outcome == OUTCOME_SNAPSHOT
            assert opening.snapshot_reason == SNAPSHOT_REASON_CHEAPER
            assert opening.retained_from == 0
            assert opening.snapshot.header == published.leaf.header
            assert opening.snapshot.bucket_hashes == published.offer.bucket_hashes
            assert list(opening.snapshot.consistency) == []
            some = cursor_at(publishers[0], 1)
            (answer,) = await read_all(stub.Follow(FollowRequest(cursors=[some])))
            assert answer.opening.outcome == OUTCOME_SNAPSHOT
            proof = publishers[0].prove_growth(1, 13)
            assert tuple(answer.opening.snapshot.consistency) == proof
            nothing.deltas_only = True
            first, *_ = await read_all(stub.Follow(FollowRequest(cursors=[nothing])))
            assert first.opening.outcome == OUTCOME_DELTAS
            assert not first.opening.HasField("snapshot")

    run(main())


def test_a_snapshot_that_is_gone_when_it_is_to_be_offered_is_not_offered(
    pair: tuple[Site, Site],
) -> None:
    async def main() -> None:
        owner, reader = pair
        nothing = Cursor(origin=MAIN, size=0, root_hash=b"")
        with mock.patch.object(access, "offer_snapshot", return_value=None):
            async with owner.serving(), reader.channel(owner) as channel:
                stub = LogServiceStub(channel)
                first, *frames = await read_all(stub.Follow(FollowRequest(cursors=[nothing])))
                assert first.opening.outcome == OUTCOME_DELTAS
                assert len(frames) > 0
                with mock.patch.object(
                    cursors, "_outcome", return_value=cursors.Outcome.CURSOR_TOO_OLD
                ):
                    (answer,) = await read_all(stub.Follow(FollowRequest(cursors=[nothing])))
                assert answer.opening.outcome == OUTCOME_CURSOR_TOO_OLD

    run(main())
