"""Calls one peer: channels and streams.

This module checks only the form of what a peer sends; `federation.replica` checks that it is true.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from federation import fields, limits
from federation.errors import PeerError
from federation.follow import Cursor, Outcome
from federation.names import OrgName, Origin
from federation.replica import SignedDelta
from federation.snapshot import SnapshotOffer
from federation.v1 import log_service_pb2
from federation.v1.log_service_pb2 import (
    FollowRequest,
    FollowResponse,
    ListLogsRequest,
    ListLogsResponse,
    LogInfo,
)
from node.errors import ProtocolError
from node.store.orgs import Peer
from node.sync.failures import IdleError, translate

_M = TypeVar("_M", bound=Message)

CONNECT_SECONDS: Final = 20.0
"""Time for name resolution, connection, handshake and the first answer."""

CALL_SECONDS: Final = 30.0
"""Time for a call with one answer."""

MAX_LIST_PAGES: Final = 64
"""How many pages of a peer's lists are fetched at most: more than any peer has."""

_KEEPALIVE_SECONDS: Final = 120
"""Time between pings; servers of this program treat less than half of it as abuse."""

# gRPC would write its own retries to stderr; the errors here say what they mean.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

_FOLLOW: Final = "/federation.v1.LogService/Follow"
_LIST_LOGS: Final = "/federation.v1.LogService/ListLogs"
_FETCH_BUCKETS: Final = "/federation.v1.LogService/FetchBuckets"
_FETCH_LEAF: Final = "/federation.v1.LogService/FetchLeaf"

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A proxy from the environment would break the pinned TLS, and DNS must not configure calls.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # The session decides when to try again, and uses a new channel for it.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_OUTCOMES: Final = {
    log_service_pb2.OUTCOME_UP_TO_DATE: Outcome.UP_TO_DATE,
    log_service_pb2.OUTCOME_DELTAS: Outcome.DELTAS,
    log_service_pb2.OUTCOME_UNAVAILABLE: Outcome.UNAVAILABLE,
    log_service_pb2.OUTCOME_CURSOR_AHEAD: Outcome.CURSOR_AHEAD,
    log_service_pb2.OUTCOME_DIVERGED: Outcome.DIVERGED,
    log_service_pb2.OUTCOME_SNAPSHOT: Outcome.SNAPSHOT,
    log_service_pb2.OUTCOME_CURSOR_TOO_OLD: Outcome.CURSOR_TOO_OLD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """What this node shows to peers.

    Attributes:
        key: the TLS key, PEM.
        certificate: the TLS certificate, PEM.
    """

    key: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The peer's answer to one cursor. `checkpoint` and `charter` are as on the wire.

    `snapshot` is set if the outcome is SNAPSHOT. The peer says that it holds every delta from the
    size `retained_from` on.
    """

    origin: str
    outcome: Outcome
    checkpoint: bytes
    charter: bytes
    size_bytes: int
    retained_from: int = 0
    snapshot: SnapshotOffer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Deltas of one list, not verified."""

    origin: str
    deltas: tuple[SignedDelta, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """A message without news. `sent_ms` is what the peer's clock says."""

    sent_ms: int
    size_bytes: int


Event = Opened | Delivered | Alive


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedList:
    """A list that a peer offers, not verified. The bytes are as on the wire."""

    origin: str
    checkpoint: bytes
    charter: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What a peer answers when it is asked for its lists.

    Attributes:
        lists: those that this node may follow there.
        sent_ms: its time, in milliseconds since 1970; None if it does not report it.
    """

    lists: tuple[OfferedList, ...]
    sent_ms: int | None


def open_channel(peer: Peer, identity: TlsIdentity) -> grpc.aio.Channel:
    """Return a channel to a peer that trusts that peer's one certificate; connects when called."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=peer.certificate.encode(),
        private_key=identity.key,
        certificate_chain=identity.certificate,
    )
    # A node is called at an address, but its certificate is for its organization's name.
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", str(peer.org)))
    return grpc.aio.secure_channel(peer.address, credentials, options=options)


async def follow(
    channel: grpc.aio.Channel,
    org: OrgName,
    cursors: Sequence[Cursor],
    *,
    live: bool,
    idle_timeout_seconds: float,
) -> AsyncIterator[Event]:
    """Ask a peer for what comes after the cursors, and yield what it sends, on demand.

    Raises:
        UnreachableError: it cannot be reached, went away, is busy, or was silent for too long.
        RefusedError: it does not know this node.
        ProtocolError: it sent something that is not a message of this protocol.
    """
    request = FollowRequest(
        cursors=[
            log_service_pb2.Cursor(
                origin=cursor.origin,
                size=cursor.size,
                root_hash=cursor.root_hash,
                charter_version=cursor.charter_version,
                deltas_only=cursor.deltas_only,
            )
            for cursor in cursors
        ],
        live=live,
    )
    # Read bytes, not messages: their length is needed, and a parse error must differ from a status.
    method = channel.unary_stream(
        _FOLLOW,
        request_serializer=FollowRequest.SerializeToString,
        response_deserializer=_keep,
    )
    call = method(request)
    patience = max(CONNECT_SECONDS, idle_timeout_seconds)
    try:
        while True:
            try:
                async with asyncio.timeout(patience):
                    data = await call.read()
            except TimeoutError:
                raise IdleError(
                    f"{org} said nothing for {patience:g} s",
                    hint="the connection is open: ask its operator whether the node works",
                ) from None
            except grpc.aio.AioRpcError as error:
                raise translate(error, org) from error
            if not isinstance(data, bytes):
                return
            patience = idle_timeout_seconds
            event = _parse(data, org)
            if event is not None:
                yield event
    finally:
        call.cancel()


def _parse(data: bytes, org: OrgName) -> Event | None:
    """Return the event of a message; None for one of a later version of the protocol."""
    message = _read(FollowResponse(), data, org)
    match message.WhichOneof("event"):
        case "opening":
            opening = message.opening
            outcome = _OUTCOMES.get(opening.outcome)
            if outcome is None:
                raise ProtocolError(f"{org} gave an answer that this protocol does not have")
            return Opened(
                origin=opening.origin,
                outcome=outcome,
                checkpoint=opening.checkpoint,
                charter=opening.charter,
                size_bytes=len(data),
                retained_from=_within(opening.retained_from, limits.MAX_TREE_SIZE, "size", org),
                snapshot=_snapshot(opening, org),
            )
        case "frame":
            frame = message.frame
            return Delivered(
                origin=frame.origin,
                deltas=tuple(
                    SignedDelta(delta.header, delta.body, delta.checkpoint)
                    for delta in frame.deltas
                ),
                size_bytes=len(data),
            )
        case "heartbeat":
            return Alive(
                sent_ms=_within(message.heartbeat.sent_ms, limits.MAX_TIME_MS, "time", org),
                size_bytes=len(data),
            )
        case None:
            return None


def _snapshot(opening: log_service_pb2.Opening, org: OrgName) -> SnapshotOffer | None:
    if (opening.outcome == log_service_pb2.OUTCOME_SNAPSHOT) is not opening.HasField("snapshot"):
        raise ProtocolError(f"{org} answered SNAPSHOT without a snapshot, or the other way round")
    if not opening.HasField("snapshot"):
        return None
    offer = opening.snapshot
    return SnapshotOffer(
        header=offer.header,
        checkpoint=offer.checkpoint,
        frontier=offer.frontier,
        bucket_hashes=offer.bucket_hashes,
        consistency=tuple(offer.consistency),
    )


async def fetch_buckets(
    channel: grpc.aio.Channel,
    org: OrgName,
    origin: Origin,
    position: int,
    numbers: Sequence[int],
    *,
    idle_timeout_seconds: float,
) -> AsyncIterator[tuple[int, bytes]]:
    """Ask a peer for buckets of a snapshot, and yield (number, bytes) of each, not verified.

    Raises:
        UnreachableError: it cannot be reached, went away, does not have them, or was silent for too
            long.
        RefusedError, ProtocolError: as `follow`.
    """
    method = channel.unary_stream(
        _FETCH_BUCKETS,
        request_serializer=log_service_pb2.FetchBucketsRequest.SerializeToString,
        response_deserializer=_keep,
    )
    call = method(
        log_service_pb2.FetchBucketsRequest(origin=str(origin), position=position, numbers=numbers)
    )
    try:
        for expected in numbers:
            try:
                async with asyncio.timeout(max(CONNECT_SECONDS, idle_timeout_seconds)):
                    data = await call.read()
            except TimeoutError:
                raise IdleError(f"{org} sent no bucket for a long time") from None
            except grpc.aio.AioRpcError as error:
                raise translate(error, org) from error
            if not isinstance(data, bytes):
                raise ProtocolError(f"{org} sent fewer buckets than it was asked for")
            bucket = _read(log_service_pb2.FetchBucketsResponse(), data, org)
            if bucket.number != expected:
                raise ProtocolError(f"{org} sent bucket {bucket.number}, not {expected}")
            yield expected, bucket.data
    finally:
        call.cancel()


async def fetch_leaf(
    channel: grpc.aio.Channel, org: OrgName, origin: Origin, position: int, size: int
) -> tuple[SignedDelta, tuple[bytes, ...]]:
    """Ask a peer for one leaf of a log and its proof in the log of a size; verify neither.

    With size 0 there is no proof; then even a peer whose list is damaged elsewhere may answer.

    Raises:
        UnreachableError: it cannot be reached, or does not have the leaf.
        RefusedError, ProtocolError: as `follow`.
    """
    method = channel.unary_unary(
        _FETCH_LEAF,
        request_serializer=log_service_pb2.FetchLeafRequest.SerializeToString,
        response_deserializer=_keep,
    )
    request = log_service_pb2.FetchLeafRequest(origin=str(origin), position=position, size=size)
    try:
        data = await method(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise translate(error, org) from error
    response = _read(log_service_pb2.FetchLeafResponse(), data, org)
    leaf = response.delta
    return SignedDelta(leaf.header, leaf.body, leaf.checkpoint), tuple(response.inclusion)


async def fetch_logs(channel: grpc.aio.Channel, org: OrgName) -> Offers:
    """Ask a peer which of its lists this node may follow, and for the time.

    Raises:
        UnreachableError, RefusedError, ProtocolError: as `follow`.
    """
    method = channel.unary_unary(
        _LIST_LOGS,
        request_serializer=ListLogsRequest.SerializeToString,
        response_deserializer=_keep,
    )
    found: list[OfferedList] = []
    token = ""
    for _ in range(MAX_LIST_PAGES):
        try:
            data = await method(ListLogsRequest(page_token=token), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise translate(error, org) from error
        page = _read(ListLogsResponse(), data, org)
        found.extend(map(_offered, page.logs))
        token = page.next_page_token
        if not token:
            sent_ms = _within(page.sent_ms, limits.MAX_TIME_MS, "time", org)
            return Offers(lists=tuple(found), sent_ms=sent_ms or None)
    raise ProtocolError(f"{org} offers more lists than any peer can have")


def _read(message: _M, data: bytes, org: OrgName) -> _M:
    """Parse a message that a peer has sent.

    Raises:
        ProtocolError: it is not a message of its type, or has too many fields.
    """
    try:
        return fields.parse(message, data, "message")
    except PeerError as error:
        raise ProtocolError(f"{org} sent what the protocol does not allow: {error}") from error


def _within(value: int, most: int, what: str, org: OrgName) -> int:
    """Return a number that a peer has sent.

    Raises:
        ProtocolError: it is more than the protocol allows.
    """
    if value > most:
        raise ProtocolError(f"{org} sent the {what} {value}, at most {most} is allowed")
    return value


def _keep(data: bytes) -> bytes:
    return data


def _offered(info: LogInfo) -> OfferedList:
    return OfferedList(origin=info.origin, checkpoint=info.checkpoint, charter=info.charter)


# --- errors -----------------------------------------------------------------------------------
