"""What a dishonest peer can send, and its effect: its list stops, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from federation import limits, wire
from federation.follow import FollowState
from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from federation.trust.charter import MEDIA_TYPE
from federation.trust.orgroot import Role
from federation.v1.log_service_pb2 import (
    OUTCOME_CURSOR_AHEAD,
    OUTCOME_DELTAS,
    OUTCOME_DIVERGED,
    OUTCOME_UP_TO_DATE,
    FollowRequest,
    FollowResponse,
    Heartbeat,
    Opening,
)
from node.errors import NodeError, ProtocolError, UnreachableError
from node.store import lists, orgs
from node.sync.client import fetch_buckets, fetch_leaf, fetch_logs, open_channel
from node.sync.failures import translate
from node.sync.scheduler import sync_once
from node.sync.session import ListResult
from tests.federation.worlds import (
    Forgery,
    Publisher,
    assertion,
    make_charter,
    role_key,
    seal_charter,
    signing_key,
)
from tests.node.support.damage_in_sql import damage
from tests.node.support.peering import (
    Script,
    Send,
    Site,
    Sites,
    frame,
    misbehaving,
    opening,
    published,
    run,
)

MAIN = Origin.parse("a.example/main")
GOOD = Origin.parse("a.example/good")


def tampered(publisher: Publisher) -> SignedDelta:
    delta = publisher.publish(assertion("tampered"))
    return delta._replace(body=delta.body[:-1] + bytes([delta.body[-1] ^ 1]))


def of_another_list(_publisher: Publisher) -> SignedDelta:
    return published("a.example/other", 1).log[0]


def too_large(publisher: Publisher) -> SignedDelta:
    return publisher.forge(Forgery(sent_body=bytes(limits.MAX_BODY_BYTES + 1)))


def by_another_key(publisher: Publisher) -> SignedDelta:
    return publisher.forge(Forgery(publisher=signing_key("thief"), keep_key_id=True))


def with_a_gap(publisher: Publisher) -> SignedDelta:
    publisher.publish(assertion("kept back"))
    return publisher.publish(assertion("sent"))


def no_delta(_publisher: Publisher) -> SignedDelta:
    return SignedDelta(b"no header", b"", b"")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (tampered, "BODY_DIGEST_MISMATCH"),
        (of_another_list, "ORIGIN_MISMATCH"),
        (too_large, "LIMIT_EXCEEDED"),
        (by_another_key, "SIGNATURE_INVALID"),
        (with_a_gap, "POSITION_GAP"),
        (no_delta, "HEADER_MALFORMED"),
    ],
)
def test_a_list_that_does_not_verify_is_quarantined_and_others_go_on(
    sites: Sites, make: Callable[[Publisher], SignedDelta], reason: str
) -> None:
    async def main() -> None:
        bad, good = published(str(MAIN), 1), published(str(GOOD), 1, 1)
        honest = list(bad.log)
        wrong = make(bad)

        async def script(request: FollowRequest, send: Send) -> None:
            for cursor in request.cursors:
                await send(opening(Origin.parse(cursor.origin), OUTCOME_DELTAS))
            await send(frame(GOOD, good.log[:1]))
            await send(frame(MAIN, honest))
            await send(frame(MAIN, [wrong]))
            await send(frame(MAIN, [wrong]))
            await send(frame(GOOD, good.log[1:]))

        peer, reader = sites("a.example"), sites("b.example")
        kept, parked = await fetch(peer, reader, script, [GOOD, MAIN])
        assert (kept.state, kept.after) == (FollowState.CURRENT, 2)
        assert (parked.state, parked.reason, parked.after) == (
            FollowState.QUARANTINED,
            reason,
            1,
        )
        assert isinstance(parked.error, ProtocolError)
        assert parked.error.exit_code == 14
        assert reader.deltas(MAIN) == honest
        assert reader.deltas(GOOD) == good.log
        assert reader.status(MAIN).reason == reason

    run(main())


async def fetch(
    peer: Site,
    reader: Site,
    script: Script,
    origins: Sequence[Origin],
    *,
    seconds: float = 5.0,
) -> list[ListResult]:
    async with misbehaving(peer, script):
        reader.enroll(peer)
        for origin in origins:
            if origin not in known(reader):
                reader.follow(origin, peer)
        async with reader.tools(idle_timeout_seconds=seconds) as tools:
            return await sync_once(tools)


def known(site: Site) -> list[Origin]:
    return [record.origin for record in lists.iter_lists(site.store.connection)]


def test_a_peer_that_never_says_anything_makes_its_lists_stale(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.sync.client.CONNECT_SECONDS", 0.3)

    async def script(request: FollowRequest, send: Send) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        (result,) = await fetch(sites("a.example"), sites("b.example"), script, [MAIN], seconds=0.2)
        assert (result.state, result.reason) == (FollowState.STALE, "UNREACHABLE")
        assert isinstance(result.error, UnreachableError)

    run(main())


def test_a_peer_that_stalls_in_the_middle_makes_its_lists_stale_and_keeps_what_came(
    sites: Sites,
) -> None:
    publisher = published(str(MAIN), 1, 1)

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_DELTAS, publisher.log[-1].checkpoint))
        await send(frame(MAIN, publisher.log[:1]))
        await asyncio.sleep(60)

    async def main() -> None:
        reader = sites("b.example")
        (result,) = await fetch(sites("a.example"), reader, script, [MAIN], seconds=0.2)
        assert (result.state, result.after, result.head) == (FollowState.STALE, 1, 2)
        assert reader.deltas(MAIN) == publisher.log[:1]

    run(main())


def test_a_stream_that_ends_early_is_no_success(sites: Sites) -> None:
    publisher = published(str(MAIN), 1, 1)

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_DELTAS, publisher.log[-1].checkpoint))
        await send(frame(MAIN, publisher.log[:1]))

    async def main() -> None:
        (result,) = await fetch(sites("a.example"), sites("b.example"), script, [MAIN])
        assert (result.state, result.after) == (FollowState.CATCHING_UP, 1)
        assert isinstance(result.error, UnreachableError)

    run(main())


@pytest.mark.parametrize(
    "messages",
    [
        [frame(MAIN, published(str(MAIN), 1).log)],
        [opening(Origin.parse("a.example/unasked"), OUTCOME_UP_TO_DATE)],
        [frame("a.example/unasked", [])],
        [opening(MAIN, OUTCOME_UP_TO_DATE), frame(MAIN, [SignedDelta(b"", b"", b"")] * 1025)],
        [opening(MAIN, 99)],  # type: ignore[arg-type]  # no outcome
        [opening(MAIN, OUTCOME_UP_TO_DATE, checkpoint=bytes(limits.MAX_MESSAGE_BYTES))],
        [
            FollowResponse(
                opening=Opening(origin=str(MAIN), outcome=OUTCOME_UP_TO_DATE, retained_from=2**32)
            )
        ],
        [FollowResponse(heartbeat=Heartbeat(sent_ms=limits.MAX_TIME_MS + 1))],
    ],
    ids=[
        *("unanswered", "unasked opening", "unasked frame", "many deltas", "outcome", "too large"),
        *("larger than any log", "after the year 9999"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_left(
    sites: Sites, messages: list[FollowResponse]
) -> None:
    async def script(request: FollowRequest, send: Send) -> None:
        for message in messages:
            await send(message)

    async def main() -> None:
        reader = sites("b.example")
        (result,) = await fetch(sites("a.example"), reader, script, [MAIN])
        assert isinstance(result.error, ProtocolError), result
        assert (result.state, result.reason, result.after) == (FollowState.STALE, "PROTOCOL", 0)

    run(main())


def test_messages_of_a_later_version_and_signs_of_life_are_passed_over(sites: Sites) -> None:
    publisher = published(str(MAIN), 1)

    async def script(request: FollowRequest, send: Send) -> None:
        await send(FollowResponse())
        await send(opening(MAIN, OUTCOME_DELTAS))
        await send(FollowResponse(heartbeat=Heartbeat(sent_ms=1)))
        await send(frame(MAIN, []))
        await send(frame(MAIN, publisher.log))

    async def main() -> None:
        (result,) = await fetch(sites("a.example"), sites("b.example"), script, [MAIN])
        assert (result.state, result.after) == (FollowState.CURRENT, 1)

    run(main())


_USELESS: dict[str, Callable[[Publisher], FollowResponse]] = {
    "signs of life": lambda _: FollowResponse(heartbeat=Heartbeat(sent_ms=1)),
    "messages of a later version": lambda _: FollowResponse(),
    "the same answer": lambda _: opening(MAIN, OUTCOME_DELTAS),
    "empty frames": lambda _: frame(MAIN, []),
    "a delta that is here": lambda publisher: frame(MAIN, publisher.log),
}


@pytest.mark.parametrize("kind", _USELESS)
def test_a_peer_that_sends_nothing_useful_for_ever_does_not_keep_sync_from_ending(
    sites: Sites, kind: str
) -> None:
    publisher = published(str(MAIN), 1)

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_DELTAS))
        await send(frame(MAIN, publisher.log))
        while True:
            await send(_USELESS[kind](publisher))
            await asyncio.sleep(0.05)

    async def main() -> None:
        peer, reader = sites("a.example"), sites("b.example")
        (result,) = await asyncio.wait_for(fetch(peer, reader, script, [MAIN], seconds=0.5), 20)
        assert (result.after, reader.deltas(MAIN)) == (1, publisher.log)
        assert result.state in {FollowState.STALE, FollowState.CURRENT}

    run(main())


def test_a_publisher_that_signs_for_ever_does_not_keep_sync_from_ending(sites: Sites) -> None:
    publisher = published(str(MAIN), 1)

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_DELTAS))
        await send(frame(MAIN, publisher.log))
        for number in range(10_000):
            delta = publisher.publish(assertion(f"entry {number}"))
            await send(frame(MAIN, [delta]))
            await asyncio.sleep(0.05)

    async def main() -> None:
        peer, reader = sites("a.example"), sites("b.example")
        async with misbehaving(peer, script):
            reader.enroll(peer)
            reader.follow(MAIN, peer)
            async with reader.tools(deadline_seconds=2.0) as tools:
                (result,) = await asyncio.wait_for(sync_once(tools), 20)
        assert result.error is not None
        assert "after 2 s" in str(result.error)
        # What came is kept.
        held = reader.deltas(MAIN)
        assert len(held) > 5
        assert held == publisher.log[: len(held)]

    run(main())


@asynccontextmanager
async def always_answering(site: Site, method: str, answer: bytes) -> AsyncIterator[None]:
    """Serve one method with the same bytes for each call, under the site's certificate."""

    async def reply(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.write(answer)

    handler = grpc.method_handlers_generic_handler(
        "federation.v1.LogService", {method: grpc.unary_stream_rpc_method_handler(reply)}
    )
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([handler])
    credentials = grpc.ssl_server_credentials([(site.identity.key, site.identity.certificate)])
    site.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


async def longest_stall(call: Awaitable[object]) -> float:
    """Return how long the event loop stood still, at most, until a call was refused."""
    longest, refused = 0.0, asyncio.ensure_future(call)
    while not refused.done():
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - began)
    with pytest.raises(ProtocolError, match="has more than"):
        await refused
    return longest


_MANY = (limits.MAX_MESSAGE_BYTES - 64) // 2
_FLOODS: dict[str, tuple[str, bytes]] = {
    "lists": ("ListLogs", b"\x0a\x00" * _MANY),
    "proof hashes": ("FetchLeaf", b"\x12\x00" * _MANY),
    "fields of a later version": ("ListLogs", b"\x7a\x00" * _MANY),
    "data": ("FetchBuckets", b"\x12\x00" * _MANY),
}


@pytest.mark.parametrize("name", _FLOODS)
def test_a_message_of_two_million_fields_is_refused_without_a_stall(
    sites: Sites, name: str
) -> None:
    method, flood = _FLOODS[name]

    async def main() -> None:
        peer, reader = sites("a.example"), sites("b.example")
        async with always_answering(peer, method, flood):
            reader.enroll(peer)
            (known_peer,) = orgs.iter_peers(reader.store.connection)
            channel = open_channel(known_peer, reader.identity)
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "ListLogs": lambda: fetch_logs(channel, known_peer.org),
                "FetchLeaf": lambda: fetch_leaf(channel, known_peer.org, MAIN, 0, 1),
                "FetchBuckets": lambda: anext(
                    fetch_buckets(channel, known_peer.org, MAIN, 0, [0], idle_timeout_seconds=5.0)
                ),
            }
            try:
                # gRPC itself takes some time for four megabytes; eight seconds were seen before.
                assert await longest_stall(calls[method]()) < 0.5
            finally:
                await channel.close()

    run(main())


def forked_history() -> tuple[Publisher, Publisher]:
    """Two histories of one list that agree in their first delta, both signed by its owner."""
    left, right = published(str(MAIN), 1), published(str(MAIN), 1)
    left.publish(assertion("left"))
    right.publish(assertion("right"))
    right.publish(assertion("more"))
    return left, right


def answering(publisher: Publisher) -> Script:
    """Serve a list as a node does, whatever the cursor's root."""

    async def script(request: FollowRequest, send: Send) -> None:
        (cursor,) = request.cursors
        checkpoint = publisher.log[-1].checkpoint
        if cursor.size:
            await send(opening(MAIN, OUTCOME_DIVERGED, checkpoint))
            return
        await send(opening(MAIN, OUTCOME_DELTAS, checkpoint))
        await send(frame(MAIN, publisher.log))

    return script


def test_a_fork_is_proved_by_the_deltas_and_freezes_the_list(sites: Sites) -> None:
    left, right = forked_history()

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        await fetch(owner, reader, answering(left), [MAIN])
        assert reader.deltas(MAIN) == left.log
        (result,) = await fetch(owner, reader, answering(right), [MAIN])
        assert (result.state, result.reason) == (FollowState.FORKED, "FORK")
        assert reader.deltas(MAIN) == left.log
        # Nobody is asked again: only a person can decide.
        (again,) = await fetch(owner, reader, answering(left), [MAIN])
        assert (again.state, again.bytes) == (FollowState.FORKED, 0)

    run(main())


def test_a_peer_that_only_claims_another_history_cannot_freeze_a_list(sites: Sites) -> None:
    left, _ = forked_history()

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        await fetch(owner, reader, answering(left), [MAIN])
        # It says so of every cursor, and then serves the very same history.
        (result,) = await fetch(owner, reader, answering(left), [MAIN])
        assert result.state is FollowState.CURRENT
        assert reader.deltas(MAIN) == left.log

    run(main())


def test_a_peer_that_only_promises_something_better_leaves_a_list_in_quarantine(
    sites: Sites,
) -> None:
    publisher = published(str(MAIN), 1)
    honest, wrong = list(publisher.log), tampered(publisher)

    async def lying(_request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_DELTAS))
        await send(frame(MAIN, [*honest, wrong]))

    async def promising(_request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_DELTAS, publisher.log[-1].checkpoint))

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        for script in (lying, promising):
            await fetch(owner, reader, script, [MAIN])
            status = reader.status(MAIN)
            assert status.state is FollowState.QUARANTINED
            assert status.reason == "BODY_DIGEST_MISMATCH"

    run(main())


def test_a_signed_checkpoint_of_our_size_with_another_root_is_a_fork(sites: Sites) -> None:
    left, right = forked_history()

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_UP_TO_DATE, right.log[1].checkpoint))

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        await fetch(owner, reader, answering(left), [MAIN])
        (result,) = await fetch(owner, reader, script, [MAIN])
        assert result.state is FollowState.FORKED

    run(main())


def test_a_damaged_checkpoint_here_accuses_nobody_of_a_fork(sites: Sites) -> None:
    left, right = forked_history()
    lines = left.log[1].checkpoint.splitlines(keepends=True)
    lines[2] = right.log[1].checkpoint.splitlines(keepends=True)[2]

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_UP_TO_DATE, left.log[1].checkpoint))

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        await fetch(owner, reader, answering(left), [MAIN])
        newest = "UPDATE delta SET checkpoint = ? WHERE id & 0xffffffff = 1"
        damage(reader.store, newest, b"".join(lines))
        (result,) = await fetch(owner, reader, script, [MAIN])
        assert result.state is FollowState.QUARANTINED
        damage(reader.store, newest, left.log[1].checkpoint)
        (result,) = await fetch(owner, reader, script, [MAIN])
        assert result.state is FollowState.CURRENT

    run(main())


def test_a_peer_that_has_less_than_we_is_desynchronised(sites: Sites) -> None:
    left, _ = forked_history()

    async def script(request: FollowRequest, send: Send) -> None:
        await send(opening(MAIN, OUTCOME_CURSOR_AHEAD, left.log[0].checkpoint))

    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        await fetch(owner, reader, answering(left), [MAIN])
        (result,) = await fetch(owner, reader, script, [MAIN])
        assert (result.state, result.head) == (FollowState.DESYNCHRONISED, 1)

    run(main())


@pytest.mark.parametrize("signer", ["thief", "relay"])
def test_a_charter_that_its_owner_did_not_sign_is_refused(sites: Sites, signer: str) -> None:
    key = signing_key("thief") if signer == "thief" else role_key("b.example", Role.PUBLISHER)
    envelope = seal_charter(make_charter(MAIN, all_peers=True), key)
    assert envelope.payload_type == MEDIA_TYPE

    async def script(request: FollowRequest, send: Send) -> None:
        charter = wire.encode_envelope(envelope)
        await send(opening(MAIN, OUTCOME_UP_TO_DATE, charter=charter))

    async def main() -> None:
        reader = sites("b.example")
        (result,) = await fetch(sites("a.example"), reader, script, [MAIN])
        assert result.state is FollowState.QUARANTINED
        assert reader.record(MAIN).charter is None

    run(main())


def test_what_a_peer_writes_into_an_error_cannot_drive_a_terminal() -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff garbage"))
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.PERMISSION_DENIED, None, metadata, details="\x1b[2J" + "x" * 10_000
    )
    shown = translate(error, OrgName("a.example"))
    assert isinstance(shown, NodeError)
    assert str(shown).isprintable()
    assert len(str(shown)) < 300
