"""What happens to every call before its handler, as small layers around it.

Outermost first:

1. `HideExceptions`: turns an unforeseen exception into a fixed text and an incident id.
2. `Measure`: counts and times calls, whatever the outcome.
3. `Statuses`: turns refusals of the handler and of all layers below into a status.
4. `Authentication`: finds out who calls.
5. `Limits`: limits calls and open streams per peer.
6. `Deadline`: makes every call end.

The request is read and parsed after all of them. So the bytes of a stranger are never parsed, and a
call whose request never comes counts against the peer that makes it, and ends.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from federation import fields
from federation.errors import LimitError
from federation.names import OrgName
from node.rpc.call import Call
from node.rpc.peers import certificate_digest, find_caller
from node.rpc.readers import Readers
from node.rpc.status import CallRefusedError, describe
from node.telemetry.logs import get_logger
from node.telemetry.metrics import Metrics

CALLS_PER_SECOND: Final = 10.0
"""How many calls one peer may make in the long run. A session needs at most one a minute."""

CALL_BURST: Final = 50
"""How many calls one peer may make in a row: paging through a thousand lists takes four."""

MAX_CALLS: Final = 16
"""How many calls one peer may have open, on all its connections: a small part of all calls."""

MAX_STREAMS: Final = 4
"""How many streams one peer may hold open. One follows all lists; the others are for `hashfed sync`
beside `hashfed serve`, and for connections that are about to end."""

REQUEST_SECONDS: Final = 20.0
"""How long a request may take to arrive once its call has begun."""

MAX_DEADLINE_SECONDS: Final = 3600.0
"""The latest deadline of a call with one answer. Such a call takes milliseconds."""

Proceed = Callable[[], Awaitable[object]]
Monotonic = Callable[[], float]

_log = get_logger()


class Layer(Protocol):
    """Something around the handler of a call."""

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Do what comes before, let the call proceed, do what comes after."""


class HideExceptions:
    """Keeps the text of an unforeseen exception from reaching a peer."""

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Let the call proceed."""
        try:
            return await proceed()
        except grpc.aio.BaseError:
            # An exception of gRPC itself: the call has its status, or the peer is gone.
            raise
        except Exception:  # noqa: BLE001  # whatever it is, its text stays here
            incident = secrets.token_hex(8)
            _log.exception("call_failed", method=call.method, incident=incident)
            await call.abort(grpc.StatusCode.INTERNAL, f"internal error, incident {incident}")


class Measure:
    """Counts calls and how long they take."""

    def __init__(self, metrics: Metrics, monotonic: Monotonic = time.monotonic) -> None:
        self._metrics = metrics
        self._monotonic = monotonic

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Let the call proceed."""
        began = self._monotonic()
        code = grpc.StatusCode.UNKNOWN.name
        try:
            result = await proceed()
            code = call.code.name
        except grpc.aio.BaseError:
            code = call.code.name
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL.name
            raise
        except BaseException:
            code = grpc.StatusCode.CANCELLED.name
            raise
        else:
            return result
        finally:
            self._metrics.rpc_requests.labels(call.method, code).inc()
            self._metrics.rpc_duration.labels(call.method).observe(self._monotonic() - began)


class Statuses:
    """Gives refusals their status."""

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Let the call proceed."""
        try:
            return await proceed()
        except grpc.aio.BaseError:
            raise
        except Exception as error:
            refusal = describe(error)
            if refusal is None:
                raise
            _log.info(
                "call_refused",
                method=call.method,
                peer=None if call.peer is None else call.peer.org,
                reason=refusal.reason,
                detail=str(error),
            )
            await call.refuse(refusal)


class Authentication:
    """Finds out who calls, for every call: a connection outlives a certificate's removal."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Let the call of an enrolled peer proceed."""
        digest = certificate_digest(call.context.auth_context())
        call.peer = await self._readers.run(lambda store: find_caller(store, digest))
        return await proceed()


@dataclass(slots=True)
class _Usage:
    tokens: float
    at: float
    calls: int = 0
    streams: int = 0


class Limits:
    """Keeps one peer from using up what all peers need."""

    def __init__(self, monotonic: Monotonic = time.monotonic) -> None:
        self._monotonic = monotonic
        # One for each enrolled peer that ever called: Authentication refuses all others.
        self._usage: dict[OrgName, _Usage] = {}

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Let a call within the limits proceed."""
        usage = self._take(call.caller.org)
        if usage.calls >= MAX_CALLS:
            raise _too_many("TOO_MANY_CALLS", f"{usage.calls} calls at once", MAX_CALLS)
        if call.streams and usage.streams >= MAX_STREAMS:
            raise _too_many("TOO_MANY_STREAMS", f"{usage.streams} streams are open", MAX_STREAMS)
        usage.calls += 1
        usage.streams += call.streams
        try:
            return await proceed()
        finally:
            usage.calls -= 1
            usage.streams -= call.streams

    def _take(self, org: OrgName) -> _Usage:
        now = self._monotonic()
        usage = self._usage.setdefault(org, _Usage(float(CALL_BURST), now))
        usage.tokens = min(CALL_BURST, usage.tokens + (now - usage.at) * CALLS_PER_SECOND)
        usage.at = now
        if usage.tokens < 1:
            raise CallRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_CALLS",
                f"more than {CALLS_PER_SECOND:g} calls a second",
                retry_seconds=(1 - usage.tokens) / CALLS_PER_SECOND,
            )
        usage.tokens -= 1
        return usage


def _too_many(reason: str, message: str, limit: int) -> CallRefusedError:
    return CallRefusedError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason,
        f"{message}, at most {limit}",
        retry_seconds=1.0,
    )


class Deadline:
    """Refuses a call with one answer if its deadline is missing or too late."""

    async def __call__(self, call: Call, proceed: Proceed) -> object:
        """Let a call with a deadline proceed, and every stream: streams have their own rules."""
        # The published types do not say that the deadline may be missing.
        remaining: float | None = call.context.time_remaining()
        if not call.streams and (remaining is None or remaining > MAX_DEADLINE_SECONDS):
            raise CallRefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "DEADLINE",
                f"a deadline of at most {MAX_DEADLINE_SECONDS:g} s is needed",
            )
        return await proceed()


class Chain(grpc.aio.ServerInterceptor):
    """Puts layers around every handler."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Keep the layers, outermost first."""
        self._layers = tuple(layers)

    async def intercept_service(
        self,
        # An interceptor sees the methods of all services, so their messages have no type here.
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call. Both shapes of handler are coroutines here."""
        # None for a method that this node does not serve: gRPC answers that itself.
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return None
        method = handler_call_details.method
        streams = bool(handler.response_streaming)
        serve = handler.unary_stream if streams else handler.unary_unary
        parse = handler.request_deserializer

        async def behavior(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            call = Call(method=method, streams=streams, context=context)

            async def answer() -> object:
                data = await call.read_request(REQUEST_SECONDS)
                return await serve(_parse(method, parse, data), call)

            return await self._run(call, answer)

        # On the wire, a call with one request is a stream of one. Declared as a stream, gRPC's
        # runtime starts the handler first and lets it decide whether to read.
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if streams
            else grpc.stream_unary_rpc_method_handler
        )
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            behavior, request_deserializer=None, response_serializer=_serialize
        )
        return wrapped

    async def _run(self, call: Call, handler: Proceed) -> object:
        proceed = handler
        for layer in reversed(self._layers):
            proceed = _Bound(layer, call, proceed)
        return await proceed()


@dataclass(frozen=True, slots=True)
class _Bound:
    layer: Layer
    call: Call
    proceed: Proceed

    def __call__(self) -> Awaitable[object]:
        return self.layer(self.call, self.proceed)


def _serialize(message: Message | bytes) -> bytes:
    # The servicer serializes once what many streams send.
    return message if isinstance(message, bytes) else message.SerializeToString()


@cache
def _request_type(method: str) -> Descriptor:
    """Return the type of the requests of a method, given as `/package.Service/Method`."""
    name = method.removeprefix("/").replace("/", ".")
    found: Descriptor = descriptor_pool.Default().FindMethodByName(name).input_type
    return found


def _parse(method: str, parse: Callable[[bytes], object], data: bytes) -> object:
    try:
        fields.check(_request_type(method), data, "the request")
        return parse(data)
    except LimitError as error:
        raise CallRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, error.reason, str(error)
        ) from error
    except DecodeError as error:
        raise CallRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED", "the request cannot be parsed"
        ) from error
