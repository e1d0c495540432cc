"""Turns an error into the status of a call.

Only texts that were written for a peer leave this node: an exception of the store contains paths,
and one of a parser can repeat what it read.
"""

from __future__ import annotations

from math import ceil
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import (  # type: ignore[import-untyped]  # its stubs are not marked as such
    error_details_pb2,
    status_pb2,
)

from federation.errors import PeerError
from node.errors import LockedError, NodeError, RefusedError, StoreError

DOMAIN: Final = "hashfed"
"""The `domain` of every ErrorInfo: it says who defines the reasons."""

_STORE_RETRY_SECONDS: Final = 5.0


class CallRefusedError(NodeError):
    """A call is refused, with a text that the peer may read.

    Attributes:
        code: the status code.
        retry_seconds: how long the peer should wait at least; None if waiting does not help.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason)
        self.code = code
        self.retry_seconds = retry_seconds


def shutting_down() -> CallRefusedError:
    """Return the status with which a stream ends when this node stops."""
    return CallRefusedError(
        grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "this node is shutting down"
    )


def describe(error: Exception) -> CallRefusedError | None:
    """Return what a peer is told about an error; None for an unforeseen one."""
    match error:
        case CallRefusedError():
            return error
        case PeerError():
            return CallRefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                error.reason,
                "the request breaks a rule of the protocol",
            )
        case LockedError() | StoreError():
            return CallRefusedError(
                grpc.StatusCode.UNAVAILABLE,
                "STORE",
                "this node cannot read its store now",
                retry_seconds=_STORE_RETRY_SECONDS,
            )
        case RefusedError():
            return CallRefusedError(grpc.StatusCode.PERMISSION_DENIED, error.reason, "not allowed")
        case _:
            return None


def to_message(refusal: CallRefusedError) -> status_pb2.Status:
    """Return the status as google.rpc.Status, with its reason as an ErrorInfo."""
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN)
    ]
    if refusal.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(ceil(refusal.retry_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.code.value[0], message=str(refusal))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
