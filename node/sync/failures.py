"""Turns a failed call into an error that tells the operator about the peer."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # stubs not marked as such
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from federation.names import OrgName
from node.errors import NodeError, ProtocolError, RefusedError, UnreachableError

MAX_RETRY_SECONDS: Final = 3600.0
"""The longest wait that a peer can ask for: it must not keep itself from being called for ever."""

_MAX_TEXT: Final = 200


class IdleError(UnreachableError):
    """A peer is connected, but does not send what it was asked for, or not in time."""


class PeerBusyError(UnreachableError):
    """A peer asks to be called later.

    Attributes:
        retry_seconds: how long to wait, at least.
    """

    def __init__(self, message: str, *, retry_seconds: float) -> None:
        super().__init__(message, hint="try again later")
        self.retry_seconds = retry_seconds


def translate(error: grpc.aio.AioRpcError, org: OrgName) -> NodeError:
    """Return what a call's failure means and what to do about it."""
    text = clean(error.details() or "")
    reason, retry_seconds = _details(error)
    match error.code():
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return RefusedError(
                f"{org} refuses this node: {text}",
                hint="run 'hashfed invite' and ask them to add the invitation that it writes",
                reason=reason,
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if reason is None and "larger than max" in text:
            return ProtocolError(f"{org} sent a message larger than the protocol allows")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return PeerBusyError(
                f"{org} asks to be called later: {text}", retry_seconds=retry_seconds or 1.0
            )
        case grpc.StatusCode.NOT_FOUND:
            return UnreachableError(
                f"{org} does not have what this node asked for: {text}",
                hint="try again later, or try another peer",
                reason=reason,
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return ProtocolError(
                f"{org} does not offer what this node asked for: {text}",
                hint="one of the two nodes may run an older hashfed",
            )
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.FAILED_PRECONDITION:
            return ProtocolError(f"{org} does not accept our request: {text}", reason=reason)
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN | grpc.StatusCode.DATA_LOSS:
            return UnreachableError(
                f"the node of {org} failed: {text}", hint="tell them: their log has the reason"
            )
        case _ if retry_seconds is not None:
            return PeerBusyError(
                f"{org} asks to be called later: {text}", retry_seconds=retry_seconds
            )
        case _:
            return _explain_unreachable(org, text)


def _explain_unreachable(org: OrgName, text: str) -> UnreachableError:
    """Return the error for a connection that could not be opened, or that broke."""
    match text:
        case _ if _is_handshake(text):
            return UnreachableError(
                f"cannot connect to {org}: the TLS handshake failed",
                hint="one side does not know the certificate that the other shows: exchange "
                "invitations again ('hashfed invite', 'hashfed peer add')",
            )
        case _ if _is_hang_up(text):
            return UnreachableError(
                f"{org} closes the connection at once: its node may not know this one",
                hint="run 'hashfed invite' and ask them to add the invitation that it writes",
            )
        case _:
            return UnreachableError(
                f"{org} cannot be reached: {text}",
                hint="check the address with 'hashfed peer', and ask whether their node runs",
            )


def _is_handshake(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in ("handshake", "certificate", "ssl_", "tls"))


def _is_hang_up(text: str) -> bool:
    """Return whether the peer closed the connection before it was open.

    In TLS 1.3 a server checks the client's certificate when the client has finished already, so its
    refusal looks like a broken connection.
    """
    lowered = text.lower()
    return "failed to connect" in lowered and any(
        word in lowered for word in ("socket closed", "connection reset", "broken pipe")
    )


def _details(error: grpc.aio.AioRpcError) -> tuple[str | None, float | None]:
    """Return the reason and the wait in a status. The peer may have written anything into it."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return None, None
    reason: str | None = None
    retry_seconds: float | None = None
    for detail in [] if status is None else status.details[:8]:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        try:
            if detail.Unpack(info) and _is_word(info.reason):
                reason = info.reason
            elif detail.Unpack(retry):
                seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
                retry_seconds = min(max(seconds, 0.0), MAX_RETRY_SECONDS)
        except DecodeError:
            continue
    return reason, retry_seconds


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 63 and text.isascii() and text.replace("_", "").isalnum()


def clean(text: str) -> str:
    """Return a peer's text in a form that is safe to show and to keep."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]}..."
