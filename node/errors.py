"""Every error that a node shows to its operator, with the exit code of the command line.

    NodeError                 1   anything else
    ├── CommandError          2   the command does not fit what is there
    ├── ConfigError          10   configuration, key or certificate files
    ├── LockedError          11   another process holds what this one needs
    ├── StoreError           12   the store cannot be used
    │   ├── DamageError      12   what is stored is not what was signed
    │   ├── StoreFullError   12   no room left
    │   └── DiskError        74   the disk failed: this process ends
    ├── RecoveringError      15   nothing may be signed for one of our lists yet
    ├── RefusedError         13   a peer or a person is not allowed to do that
    ├── ProtocolError        14   a peer broke the protocol
    ├── UnreachableError     75   a peer cannot be reached: try again
    └── UnforeseenError      70   a mistake in the program, or in what it has read

An error says what was wrong and where; its hint says what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from federation.errors import FederationError


class NodeError(Exception):
    """Base of the errors that are shown to an operator.

    Attributes:
        reason: the stable word for it, in `--json` and in logs.
        hint: what to do next, or empty.
        exit_code: the command line's exit code.
    """

    reason = "FAILED"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", reason: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if reason is not None:
            self.reason = reason


class CommandError(NodeError):
    """The command does not fit what is there: an unknown list, a name taken, a bad argument."""

    reason = "USAGE"
    exit_code = 2


class ConfigError(NodeError):
    """Configuration, a key file or a certificate cannot be used."""

    reason = "CONFIG"
    exit_code = 10


class LockedError(NodeError):
    """Another process holds what this one needs."""

    reason = "LOCKED"
    exit_code = 11


class StoreError(NodeError):
    """The store cannot be used."""

    reason = "STORE"
    exit_code = 12


class DamageError(StoreError):
    """What is stored is not what was signed."""

    reason = "DAMAGED"


class StoreFullError(StoreError):
    """There is no room left for the store."""

    reason = "STORE_FULL"


class DiskError(StoreError):
    """The disk failed during a write: nobody knows whether the data is on it.

    The process ends at once. Its view of the store may be wrong, so it signs nothing more; the
    next process reads the store again.
    """

    reason = "IO_ERROR"
    exit_code = 74

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(
            message,
            hint="nobody can say how much of that is on the disk, so this process ends: check the "
            "disk and the system's log, then run it again; it will read the store again",
            reason=reason,
        )


class RecoveringError(NodeError):
    """Nothing may be signed for one of our lists: peers may hold something newer of it."""

    reason = "RECOVERING"
    exit_code = 15


class RefusedError(NodeError):
    """Not allowed."""

    reason = "REFUSED"
    exit_code = 13


class ProtocolError(NodeError):
    """A peer broke the protocol."""

    reason = "PROTOCOL"
    exit_code = 14


class UnreachableError(NodeError):
    """A peer cannot be reached."""

    reason = "UNREACHABLE"
    exit_code = 75


class UnforeseenError(NodeError):
    """A mistake in the program, or damage in the store that nothing has noticed before."""

    reason = "UNFORESEEN"
    exit_code = 70


@contextmanager
def as_damage(what: str) -> Iterator[None]:
    """Report that something is damaged that was verified before it was stored."""
    try:
        yield
    except FederationError as error:
        raise DamageError(f"{what} is damaged: {error}", hint="run 'hashfed fsck'") from error
