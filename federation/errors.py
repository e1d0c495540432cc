"""Every error that the protocol library raises.

    FederationError
    ├── PeerError                 the bytes broke a rule: never the caller's fault
    │   ├── MalformedError        they do not parse, or are not in the one allowed form
    │   │   └── FingerprintError  a hash value that no list may carry
    │   ├── LimitError            larger, longer or more numerous than `federation.limits` allows
    │   ├── KeyRefusedError       a public key that must not be trusted with anything
    │   ├── SignatureError        a signature is missing, of an unknown key, or false
    │   ├── ProofError            a Merkle proof, root or digest does not hold
    │   ├── SequenceError         a valid object at the wrong place: another list, a gap, a time
    │   ├── ForkError             two signed histories of one log
    │   └── OperationError        an operation that the state of the list does not allow
    └── UsageError                this library was called wrongly: a bug on this side

Each has a stable `reason`, which logs, metrics, `--json` and list states show. Exit codes and RPC
status codes belong to the node.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused. New words may be added, but no word changes its meaning."""

    MALFORMED = "MALFORMED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    HEADER_MALFORMED = "HEADER_MALFORMED"
    FORMAT_UNSUPPORTED = "FORMAT_UNSUPPORTED"
    ORIGIN_MISMATCH = "ORIGIN_MISMATCH"
    ROOT_MISMATCH = "ROOT_MISMATCH"
    KEY_REFUSED = "KEY_REFUSED"
    KEY_UNAUTHORISED = "KEY_UNAUTHORISED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    POSITION_GAP = "POSITION_GAP"
    POSITION_REPEATED = "POSITION_REPEATED"
    PREVIOUS_MISMATCH = "PREVIOUS_MISMATCH"
    TIME_BACKWARDS = "TIME_BACKWARDS"
    TIME_IN_FUTURE = "TIME_IN_FUTURE"
    CHECKPOINT_MALFORMED = "CHECKPOINT_MALFORMED"
    CHECKPOINT_SIGNATURE_INVALID = "CHECKPOINT_SIGNATURE_INVALID"
    CHECKPOINT_MISMATCH = "CHECKPOINT_MISMATCH"
    BODY_DIGEST_MISMATCH = "BODY_DIGEST_MISMATCH"
    BODY_MALFORMED = "BODY_MALFORMED"
    OP_MALFORMED = "OP_MALFORMED"
    OP_ORDER = "OP_ORDER"
    OP_COUNT_MISMATCH = "OP_COUNT_MISMATCH"
    DIGEST_DEGENERATE = "DIGEST_DEGENERATE"
    RETRACT_OF_ABSENT = "RETRACT_OF_ABSENT"
    PURGE_OF_ABSENT = "PURGE_OF_ABSENT"
    LIVE_COUNT_MISMATCH = "LIVE_COUNT_MISMATCH"
    OPS_ROOT_MISMATCH = "OPS_ROOT_MISMATCH"
    STATE_DIGEST_MISMATCH = "STATE_DIGEST_MISMATCH"
    SNAPSHOT_MISMATCH = "SNAPSHOT_MISMATCH"
    BUCKET_MALFORMED = "BUCKET_MALFORMED"
    PROOF_INVALID = "PROOF_INVALID"
    FORK = "FORK"
    CHARTER_ROLLBACK = "CHARTER_ROLLBACK"
    FINGERPRINT_LENGTH = "FINGERPRINT_LENGTH"
    FINGERPRINT_ALPHABET = "FINGERPRINT_ALPHABET"
    FINGERPRINT_TYPE = "FINGERPRINT_TYPE"
    USAGE = "USAGE"


class FederationError(Exception):
    """Base of every error of this library.

    Attributes:
        reason: the stable word for what was wrong.
    """

    default_reason: Reason = Reason.USAGE

    def __init__(self, message: str, *, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason if reason is not None else self.default_reason


class UsageError(FederationError):
    """The caller broke this library's contract."""


class PeerError(FederationError):
    """Bytes from elsewhere broke a rule of the protocol."""

    default_reason = Reason.MALFORMED


class MalformedError(PeerError):
    """Bytes do not parse, or are not in the one form that is allowed."""


class FingerprintError(MalformedError):
    """A hash value that no list may carry, or a text that is not a hash of its type."""

    default_reason = Reason.FINGERPRINT_ALPHABET


class LimitError(PeerError):
    """Something exceeds a bound of `federation.limits`."""

    default_reason = Reason.LIMIT_EXCEEDED


class KeyRefusedError(PeerError):
    """A public key that is not a canonical point of the prime-order group."""

    default_reason = Reason.KEY_REFUSED


class SignatureError(PeerError):
    """A signature is missing, made by a key without that role, or false."""

    default_reason = Reason.SIGNATURE_INVALID


class ProofError(PeerError):
    """A Merkle proof, a root hash or a digest does not hold."""

    default_reason = Reason.PROOF_INVALID


class SequenceError(PeerError):
    """A well-signed object that does not belong at this place of this log."""

    default_reason = Reason.POSITION_GAP


class ForkError(PeerError):
    """One log shows two signed histories."""

    default_reason = Reason.FORK


class OperationError(PeerError):
    """An operation that is malformed or that the list's state does not allow."""

    default_reason = Reason.OP_MALFORMED
