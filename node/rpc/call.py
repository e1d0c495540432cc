"""One call on its way through the interceptors to the servicer.

This object carries what an interceptor found out: gRPC's Python runtime does not reliably pass
context variables to the handler.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Never

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status  # type: ignore[import-untyped]  # the package ships no types

from node.errors import NodeError
from node.rpc.peers import Caller
from node.rpc.status import CallRefusedError, to_message


@dataclass(slots=True, kw_only=True)
class Call:
    """One call.

    Attributes:
        method: its full name, `/federation.v1.LogService/Follow`.
        streams: whether it answers with a stream.
        context: gRPC's own.
        code: the status that was sent; OK until another one is sent.
        peer: who calls, once that is known.
    """

    method: str
    streams: bool
    # Interceptors see calls of every type.
    context: grpc.aio.ServicerContext[Any, Any]
    code: grpc.StatusCode = grpc.StatusCode.OK
    peer: Caller | None = None

    @property
    def caller(self) -> Caller:
        """Who calls.

        Raises:
            NodeError: no interceptor has found out: one is missing.
        """
        if self.peer is None:
            raise NodeError("a call reached its handler without authentication")
        return self.peer

    async def read_request(self, seconds: float) -> bytes:
        """Return the one message that the peer sends.

        Raises:
            CallRefusedError: it sends no message, or not within that time.
        """
        try:
            async with asyncio.timeout(seconds):
                data = await self.context.read()
        except TimeoutError:
            raise CallRefusedError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "SLOW_REQUEST",
                f"no request within {seconds:g} s",
            ) from None
        if not isinstance(data, bytes):
            raise CallRefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED", "the call has no request"
            )
        return data

    async def write(self, message: Message | bytes) -> None:
        """Send one message of a stream, or its bytes; return when the connection has taken it."""
        await self.context.write(message)

    async def refuse(self, refusal: CallRefusedError) -> Never:
        """End the call with that status."""
        self.code = refusal.code
        await self.context.abort_with_status(rpc_status.to_status(to_message(refusal)))

    async def abort(self, code: grpc.StatusCode, details: str = "") -> Never:
        """End the call with that status and text, and no reason."""
        self.code = code
        await self.context.abort(code, details)
