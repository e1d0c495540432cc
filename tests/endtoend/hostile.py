"""A dishonest node: real keys and a real certificate, and a server that does not keep the protocol.

    python -m tests.endtoend.hostile HOME PORT MODE

`forgeries` serves a list for each delta that must be refused, and an honest one beside them; the
other modes serve one list and break off the conversation in their own way. It has the time of the
forgeries, which is in the past.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc

from federation import limits, wire
from federation.names import Origin
from federation.replica import SignedDelta
from federation.trust.orgroot import PinnedRoot
from federation.v1.log_service_pb2 import FollowRequest, FollowResponse, Heartbeat
from federation.v1.log_service_pb2 import Outcome as WireOutcome
from node.clock import SystemClock
from node.home import Home
from node.identity import keys
from node.identity.certificate import load_certificate, load_tls_key
from node.store import lists as list_store
from node.store import log, orgs
from node.store.connection import Store
from tests.federation.forgeries import CASES
from tests.federation.worlds import (
    LATER,
    Forgery,
    HeaderFields,
    Publisher,
    assertion,
    make_charter,
    seal_charter,
)
from tests.node.support.peering import frame, opening

HONEST = "honest"
FOREIGN = "foreign"
FORKED = "forked"
FUTURE = "future"

# What needs another clock than the machine's is not here but in FUTURE.
FORGERIES = {
    f"case-{number:03}": case for number, case in enumerate(CASES.values()) if case.now_ms == LATER
}


class Owner:
    """A dishonest organization."""

    def __init__(self, home: Home) -> None:
        store = Store.open_reader(home.store, SystemClock())
        self.root: PinnedRoot = orgs.own_root(store)
        store.close()
        self.key = keys.load_signer(home.publisher_key)
        self.log_key = keys.load_signer(home.log_key)

    def publisher(self, name: str, *, label: str = "A2") -> Publisher:
        """Return the publisher of a list, after the two deltas that the forgeries follow."""
        made = Publisher(f"{self.root.document.org}/{name}")
        made.root, made.publisher_key, made.log_key = self.root, self.key, self.log_key
        made.publish(assertion(1), assertion(2), assertion(3, entry="case 3"))
        made.publish(assertion(1, labels=(label,)))
        return made

    def charter(self, origin: Origin) -> bytes:
        """Return a charter that lets everyone have a list."""
        return wire.encode_envelope(seal_charter(make_charter(origin, all_peers=True), self.key))


class Lists:
    """The lists of `forgeries`: what is honest of each, and the delta that is to be refused."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        names = (HONEST, FOREIGN, FORKED, FUTURE, *FORGERIES)
        self._publishers = {name: owner.publisher(name) for name in names}
        self._answers: dict[str, FollowResponse] = {}
        self._refused: dict[str, FollowResponse] = {}
        for name, publisher in self._publishers.items():
            self._answers[name] = _answer(publisher, owner.charter(publisher.origin))
            if name != HONEST:
                self._refused[name] = frame(publisher.origin, [self._forge(name)])
        self._growing: asyncio.Task[None] | None = None

    def _forge(self, name: str) -> SignedDelta:
        publisher = self._publishers[name]
        match name:
            case "foreign":
                # Valid at this very position, of another list.
                return self._owner.publisher("other").publish(assertion(4))
            case "forked":
                return self._owner.publisher(name, label="A3").log[-1]
            case "future":
                later = time.time_ns() // 1_000_000 + 2 * limits.MAX_CLOCK_SKEW_MS
                return publisher.forge(Forgery(fields=HeaderFields(time_ms=later)))
        return FORGERIES[name].make(publisher)

    async def _grow(self) -> None:
        """Let the honest list go on."""
        publisher = self._publishers[HONEST]
        while len(publisher.log) < 20:
            # Now and then, as publishers do: the others' lies come in between.
            await asyncio.sleep(0.1)
            publisher.publish(assertion(f"honest {len(publisher.log)}"))

    async def follow(self, request: FollowRequest) -> AsyncIterator[FollowResponse | bytes]:
        self._growing = self._growing or asyncio.create_task(self._grow())
        places = {cursor.origin.partition("/")[2]: cursor.size for cursor in request.cursors}
        for name, size in places.items():
            yield self._answers[name]
            publisher = self._publishers[name]
            if rest := publisher.log[size:]:
                yield frame(publisher.origin, rest)
                places[name] = size + len(rest)
            if name in self._refused:
                yield self._refused[name]
        while True:
            # Looks for what `_grow` has added.
            await asyncio.sleep(0.05)
            publisher = self._publishers[HONEST]
            if HONEST in places and (rest := publisher.log[places[HONEST] :]):
                yield frame(publisher.origin, rest)
                places[HONEST] += len(rest)


def _answer(publisher: Publisher, charter: bytes) -> FollowResponse:
    return opening(
        publisher.origin, WireOutcome.OUTCOME_DELTAS, publisher.log[-1].checkpoint, charter
    )


class Breaking:
    """One list, and a conversation that goes wrong after its first delta."""

    def __init__(self, owner: Owner, mode: str) -> None:
        self.publisher = owner.publisher("main")
        self.charter = owner.charter(self.publisher.origin)
        self.mode = mode

    async def follow(self, request: FollowRequest) -> AsyncIterator[FollowResponse | bytes]:
        origin = self.publisher.origin
        if self.mode != "unanswered":
            yield _answer(self.publisher, self.charter)
        yield frame(origin, self.publisher.log[:1])
        match self.mode:
            case "garbage":
                yield b"\xff<html>garbage</html>"
            case "unasked":
                yield frame("platform.example/main", self.publisher.log[:1])
            case "oversize":
                yield bytes(limits.MAX_MESSAGE_BYTES + 1)
            case "heartbeats":
                while True:
                    # Far more often than any peer should, and not so often as to fill a buffer.
                    await asyncio.sleep(0.1)
                    yield FollowResponse(heartbeat=Heartbeat(sent_ms=1))
        # A live stream does not end: the test ends the process.
        await asyncio.sleep(3600)


class Relay:
    """Passes on what the node holds of others' lists, with one bit of one body changed."""

    def __init__(self, home: Home) -> None:
        self.store = Store.open_reader(home.store, SystemClock())

    async def follow(self, request: FollowRequest) -> AsyncIterator[FollowResponse | bytes]:
        for cursor in request.cursors:
            record = list_store.load_list(self.store.connection, Origin.parse(cursor.origin))
            assert record is not None
            deltas = log.read_frame(
                self.store.connection, record.list, cursor.size, record.log.size
            )
            last = deltas[-1]
            changed = last.body[:-1] + bytes([last.body[-1] ^ 1])
            yield opening(record.origin, WireOutcome.OUTCOME_DELTAS, last.checkpoint)
            yield frame(record.origin, [*deltas[:-1], last._replace(body=changed)])
        # A live stream does not end: the test ends the process.
        await asyncio.sleep(3600)


_Context = grpc.aio.ServicerContext[FollowRequest, FollowResponse | bytes]


async def serve(home: Home, port: int, mode: str) -> None:
    """Serve until killed."""
    server_of: dict[str, Callable[[], Lists | Breaking | Relay]] = {
        "forgeries": lambda: Lists(Owner(home)),
        "relay": lambda: Relay(home),
    }
    lists = server_of.get(mode, lambda: Breaking(Owner(home), mode))()

    async def follow(request: FollowRequest, context: _Context) -> None:
        async for message in lists.follow(request):
            await context.write(message)

    handler = grpc.unary_stream_rpc_method_handler(
        follow,
        request_deserializer=FollowRequest.FromString,
        response_serializer=_encode,
    )
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("federation.v1.LogService", {"Follow": handler})]
    )
    key = load_tls_key(home.tls_key).encode()
    certificate = load_certificate(home.tls_certificate).encode()
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


def _encode(message: FollowResponse | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


if __name__ == "__main__":
    asyncio.run(serve(Home(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]))
