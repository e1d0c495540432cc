"""Checks each part of a stored leaf separately against what was signed.

`federation.replica` refuses a leaf at its first error. A check of stored leaves wants all errors,
and whatever can still be known about the log after a damaged leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final

from federation.body import Body
from federation.checkpoint import Checkpoint
from federation.errors import FederationError, ForkError, ProofError, Reason
from federation.header import NO_LEAF, Header, leaf_hash
from federation.replica import LogState, Replica, SignedDelta

UNKNOWN: Final = -1
"""The live entries after a leaf whose header is damaged."""


class Part(StrEnum):
    """A part of a leaf."""

    HEADER = "header"
    CHECKPOINT = "checkpoint"
    BODY = "body"


@dataclass(slots=True)
class Diagnosis:
    """The errors of a leaf, and what is known nevertheless.

    Attributes:
        errors: the error of each wrong part.
        header: the header, if it is the signed one.
        body: the operations, if they are the signed ones.
        state: the state of the log after the leaf; None if unknown. Its live entries are `UNKNOWN`
            if the header is damaged.
    """

    errors: dict[Part, FederationError] = field(default_factory=dict)
    header: Header | None = None
    body: Body | None = None
    state: LogState | None = None


def diagnose(
    replica: Replica,
    before: LogState | None,
    position: int,
    leaf: SignedDelta,
    following: bytes | None,
) -> Diagnosis:
    """Check each part of a stored leaf.

    Args:
        replica: checks signatures of the list; its state is not used.
        before: the state of the log before the leaf; None if unknown.
        position: the leaf's position.
        leaf: its stored bytes.
        following: the stored record of the next leaf; None if there is none.
    """
    found = Diagnosis()
    checkpoint: Checkpoint | None = None
    try:
        found.header = _read_header(replica, before, position, leaf.header)
    except FederationError as error:
        found.errors[Part.HEADER] = error
    try:
        checkpoint = replica.read_checkpoint(leaf.checkpoint, position)
    except FederationError as error:
        found.errors[Part.CHECKPOINT] = error
    found.state = _state_after(replica, before, position, leaf, found.header, following)
    root = None if found.state is None else found.state.frontier.root()
    if checkpoint is not None and root not in (None, checkpoint.root_hash):
        found.errors[Part.CHECKPOINT] = ProofError(
            f"the checkpoint of position {position} has another root than the leaves",
            reason=Reason.CHECKPOINT_MISMATCH,
        )
    if found.header is not None:
        try:
            found.body = replica.read_body(found.header, leaf.body)
        except FederationError as error:
            found.errors[Part.BODY] = error
    return found


def _read_header(replica: Replica, before: LogState | None, position: int, record: bytes) -> Header:
    header = replica.read_leaf(record)
    if header.position != position:
        raise ProofError(f"position {position}: the header is that of {header.position}")
    if before is not None and before.last_leaf and header.previous != before.last_leaf:
        raise ForkError(
            f"position {position} is signed as the successor of another leaf than the one here",
            reason=Reason.PREVIOUS_MISMATCH,
        )
    return header


def _state_after(
    replica: Replica,
    before: LogState | None,
    position: int,
    leaf: SignedDelta,
    header: Header | None,
    following: bytes | None,
) -> LogState | None:
    if before is None:
        return None
    if header is not None:
        return before.after(header, leaf.header)
    # The next leaf signs the hash of this one.
    hash_here = signed_previous(replica, position + 1, following)
    if hash_here is None:
        return None
    return LogState(
        frontier=before.frontier.append(hash_here),
        last_leaf=hash_here,
        last_time_ms=before.last_time_ms,
        live_count=UNKNOWN,
        state_digest=b"",
        start=before.start,
    )


def signed_previous(replica: Replica, position: int, record: bytes | None) -> bytes | None:
    """Return the hash of the leaf before a position that the leaf there signs; None if unknown.

    Args:
        replica: checks signatures of the list.
        position: the position of the record.
        record: the signed record stored there, or None.
    """
    if record is None:
        return None
    try:
        header = replica.read_leaf(record)
    except FederationError:
        return None
    return header.previous if header.position == position else None


def check_tail(
    replica: Replica,
    before: bytes | None,
    records: Mapping[int, bytes],
    checkpoint: bytes,
    load_body: Callable[[int], bytes | None],
) -> None:
    """Check the newest leaves of a log, and its recorded state, against what was signed.

    Args:
        replica: has the recorded state of the log.
        before: the record before these; None if these begin the log.
        records: the records up to the newest one, by ascending position.
        checkpoint: the checkpoint stored with the newest record.
        load_body: returns the body at a position; None if it is not to be checked.

    Raises:
        FederationError: something is not what was signed.
    """
    log = replica.state
    last_leaf = NO_LEAF if before is None else leaf_hash(before)
    for position, record in records.items():
        header = Header.parse(record)
        if (header.position, header.previous) != (position, last_leaf):
            raise ProofError(f"position {position} does not follow the one before")
        last_leaf = leaf_hash(record)
        if position == log.size - 1:
            # Each header signs the hash of the leaf before it, so one signature is enough.
            replica.read_leaf(record)
        body = load_body(position)
        # A snapshot's leaf signs the digest of no bytes.
        if body is not None and sha256(body).digest() != header.body_digest:
            raise ProofError(f"the body of position {position} is not the one signed")
    if records:
        signed = replica.read_checkpoint(checkpoint, log.size - 1)
        if signed.root_hash != log.frontier.root():
            raise ProofError("the root of the recorded state is not the one signed")
    if log.last_leaf != last_leaf:
        raise ProofError("the recorded state does not end with the newest delta")
