"""The replica: checks one list's log as a subscriber does.

Bytes go in; an accepted delta or a `PeerError` comes out. It does no I/O, keeps no entries and
reads no clock.

Rules:

1. Checks run in this order, each with its own reason: size limits; header syntax; origin; org root
   and key; signature; position, previous leaf and time; checkpoint syntax, signature and root; body
   digest; every operation well formed; the operations against the entries they name; live count.
2. Nothing is parsed before its signature or digest is verified. The one exception is the header,
   which says which key to use.
3. A failed check leaves the replica as it was. Only `conclude` advances it.
4. Between `receive` and `conclude`, the caller looks up the operations in force (`merge.Prior`) on
   the entries of a delta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from federation import header as headers
from federation import limits, merkle, wire
from federation.body import NO_OPERATIONS, Body
from federation.bucket import Extent
from federation.checkpoint import Checkpoint, open_checkpoint
from federation.errors import (
    FederationError,
    ForkError,
    LimitError,
    MalformedError,
    OperationError,
    ProofError,
    Reason,
    SequenceError,
    SignatureError,
    UsageError,
)
from federation.header import Header, LeafKind
from federation.merge import Prior, merge
from federation.merkle import CompactRange
from federation.names import Origin
from federation.snapshot import Snapshot, SnapshotOffer, check_buckets
from federation.trust.orgroot import PinnedRoot


def _check_size(what: str, data: bytes, bound: int) -> None:
    if len(data) > bound:
        raise LimitError(f"{what}: got {len(data)} bytes, at most {bound}")


class SignedDelta(NamedTuple):
    """A leaf of a log in its exact bytes, which are never re-encoded.

    Attributes:
        header: the signed record (`federation.header`).
        body: the serialized body (`federation.wire`); empty for a snapshot's leaf.
        checkpoint: the signed note of the log's size right after this delta.
    """

    header: bytes
    body: bytes
    checkpoint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """The state of a log after its first `frontier.size` leaves.

    Attributes:
        frontier: the log's tree.
        last_leaf: leaf hash of the newest leaf; zeros if there is none.
        last_time_ms: its time.
        live_count: live entries.
        state_digest: what the newest header claims (`federation.state`).
        start: position of the snapshot that replaced the deltas before it, of which only the
            entries live at that point are known; 0 if there is none.
    """

    frontier: CompactRange
    last_leaf: bytes
    last_time_ms: int
    live_count: int
    state_digest: bytes
    start: int = 0

    @classmethod
    def empty(cls) -> LogState:
        """Return the state of a log without leaves."""
        return cls(
            frontier=CompactRange(0, ()),
            last_leaf=headers.NO_LEAF,
            last_time_ms=0,
            live_count=0,
            state_digest=bytes(32),
        )

    @property
    def size(self) -> int:
        """How many leaves the log has."""
        return self.frontier.size

    def after(self, header: Header, record: bytes) -> LogState:
        """Return the state after one more leaf."""
        return _state_at(header, record, self.frontier, self.start)


def _state_at(header: Header, record: bytes, before: CompactRange, start: int) -> LogState:
    """Return the state of a log after a leaf, given its tree before that leaf."""
    leaf = headers.leaf_hash(record)
    return LogState(
        frontier=before.append(leaf),
        last_leaf=leaf,
        last_time_ms=header.time_ms,
        live_count=header.live_count,
        state_digest=header.state_digest,
        start=start,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A delta that is verified alone, but not yet against the entries of the list.

    Attributes:
        signed: the exact bytes.
        header: the header.
        body: the operations, well formed; none for a snapshot's leaf.
        state: the state of the log after it.
    """

    signed: SignedDelta
    header: Header
    body: Body
    state: LogState


class Replica:
    """Follows one list's log.

    Attributes:
        origin: the list.
        root: the owner's org root in force.
        state: the state of the log; only `conclude` advances it.
    """

    def __init__(self, origin: Origin, root: PinnedRoot, state: LogState) -> None:
        if root.document.org != origin.org:
            raise UsageError(f"org root of {root.document.org} for a list of {origin.org}")
        self.origin = origin
        self.root = root
        self.state = state
        self._origin_hash = origin.hash
        self._verifiers = root.document.log_verifiers(origin)

    def receive(self, delta: SignedDelta, *, now_ms: int) -> Candidate:
        """Check a delta alone and against the log.

        Raises:
            PeerError: a check failed; `reason` says which. The replica is as it was.
        """
        _check_size("body", delta.body, limits.MAX_BODY_BYTES)
        _check_size("checkpoint", delta.checkpoint, limits.MAX_NOTE_BYTES)
        header = Header.parse(delta.header)
        self._check_signer(header, delta.header)
        self._check_place(header, now_ms)
        state = self.state.after(header, delta.header)
        self._check_checkpoint(delta.checkpoint, state)
        body = self.read_body(header, delta.body)
        if header.kind is LeafKind.SNAPSHOT:
            self._check_unchanged(header)
        return Candidate(signed=delta, header=header, body=body, state=state)

    def conclude(self, candidate: Candidate, prior: Mapping[int, Prior]) -> LogState:
        """Check a candidate against the entries that it names, and advance.

        Args:
            candidate: the result of `receive` for this same state of the replica.
            prior: for each row whose entry the list has known, the operation in force on it.

        Raises:
            UsageError: the replica has moved on since.
            OperationError: the entries do not allow an operation, or LIVE_COUNT_MISMATCH.
        """
        if candidate.header.position != self.state.size:
            raise UsageError(f"candidate {candidate.header.position} at size {self.state.size}")
        state = self.state
        live_count = merge(candidate.body, prior, state.live_count)
        if live_count != candidate.header.live_count:
            raise OperationError(
                f"position {candidate.header.position}: got {candidate.header.live_count} live "
                f"entries claimed, {live_count} after merging",
                reason=Reason.LIVE_COUNT_MISMATCH,
            )
        self.state = candidate.state
        return self.state

    def receive_again(self, delta: SignedDelta, held: bytes) -> None:
        """Check a delta at a position that is here already; a second arrival changes nothing.

        Args:
            delta: what arrived.
            held: the signed record that is here at that position.

        Raises:
            ForkError: another delta is signed for the same position.
            PeerError: it is another delta, and is not signed either.
        """
        if delta.header == held:
            return
        header = Header.parse(delta.header)
        self._check_signer(header, delta.header)
        raise ForkError(
            f"position {header.position} of {self.origin} is signed twice, for different deltas"
        )

    # --- snapshots ----------------------------------------------------------------------------

    def receive_snapshot(self, offer: SnapshotOffer, *, now_ms: int) -> Snapshot:
        """Check a snapshot that replaces deltas that are not here. Its buckets come later.

        Args:
            offer: the snapshot without its buckets, with the proof from this replica's size.
            now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

        Raises:
            PeerError: a check failed; `reason` says which. The replica is as it was.
        """
        _check_size("checkpoint", offer.checkpoint, limits.MAX_NOTE_BYTES)
        header = Header.parse(offer.header)
        if header.kind is not LeafKind.SNAPSHOT:
            raise MalformedError(
                f"position {header.position} is not a snapshot", reason=Reason.SNAPSHOT_MISMATCH
            )
        self._check_signer(header, offer.header)
        if header.position < self.state.size:
            raise SequenceError(
                f"a snapshot at position {header.position}, at size {self.state.size}",
                reason=Reason.POSITION_REPEATED,
            )
        if header.position == self.state.size:
            self._check_previous(header)
        self._check_time(header, now_ms)
        before = CompactRange.decode(header.position, offer.frontier)
        state = _state_at(header, offer.header, before, header.position)
        self._check_checkpoint(offer.checkpoint, state)
        self._check_consistency(offer.consistency, state)
        if header.position == self.state.size:
            self._check_unchanged(header)
        hashes = check_buckets(header, offer.bucket_hashes)
        return Snapshot(offer=offer, header=header, before=before, bucket_hashes=hashes)

    def adopt(self, snapshot: Snapshot, extents: Sequence[Extent]) -> LogState:
        """Continue from a snapshot whose buckets are all here.

        Args:
            snapshot: the result of `receive_snapshot`.
            extents: the extent of each bucket, in order.

        Raises:
            UsageError: some buckets are missing, or the replica is past the snapshot.
            OperationError: OP_ORDER, buckets overlap; LIVE_COUNT_MISMATCH, the number of entries
                is not the one in its header.
        """
        if snapshot.position < self.state.size:
            raise UsageError(f"snapshot at {snapshot.position} at size {self.state.size}")
        snapshot.check_extents(extents)
        self.state = _state_at(
            snapshot.header, snapshot.offer.header, snapshot.before, snapshot.position
        )
        return self.state

    def receive_past(self, delta: SignedDelta, inclusion: Sequence[bytes]) -> Candidate:
        """Check a delta of the part of the log that a snapshot replaced.

        Args:
            delta: the delta.
            inclusion: the RFC 6962 proof that it is in the log as it is here.

        Returns:
            The delta; its `state` is the unchanged state of the log here.

        Raises:
            PeerError: a check failed; `reason` says which.
        """
        _check_size("body", delta.body, limits.MAX_BODY_BYTES)
        _check_size("checkpoint", delta.checkpoint, limits.MAX_NOTE_BYTES)
        header = self.read_leaf(delta.header)
        merkle.verify_inclusion(
            headers.leaf_hash(delta.header),
            header.position,
            self.state.size,
            inclusion,
            self.state.frontier.root(),
        )
        self.read_checkpoint(delta.checkpoint, header.position)
        body = self.read_body(header, delta.body)
        return Candidate(signed=delta, header=header, body=body, state=self.state)

    # --- the parts of a leaf, each by itself --------------------------------------------------

    def read_leaf(self, record: bytes) -> Header:
        """Check a signed record alone, at any position in the log.

        Raises:
            PeerError: it belongs to another list, or is not signed by its owner.
        """
        header = Header.parse(record)
        self._check_signer(header, record)
        return header

    def read_checkpoint(self, note: bytes, position: int) -> Checkpoint:
        """Check that a note is a signed checkpoint of the log right after a position.

        Raises:
            PeerError: it is not.
        """
        checkpoint = self._open_checkpoint(note, position)
        if checkpoint.size != position + 1:
            raise ProofError(
                f"the checkpoint sent with position {position} has size {checkpoint.size}",
                reason=Reason.CHECKPOINT_MISMATCH,
            )
        return checkpoint

    def read_body(self, header: Header, data: bytes) -> Body:
        """Check that a body is the one that a header signs; a snapshot's leaf has no body.

        Raises:
            PeerError: it is another one, or is malformed.
        """
        self._check_body(header, data)
        return self._open_body(header, data) if header.kind is LeafKind.DELTA else NO_OPERATIONS

    def _check_consistency(self, proof: Sequence[bytes], newer: LogState) -> None:
        held = self.state
        if held.size:
            merkle.verify_consistency(
                held.size, newer.size, proof, held.frontier.root(), newer.frontier.root()
            )
        elif proof:
            raise ProofError(f"consistency proof: got {len(proof)} hashes, nothing is held")

    def _check_unchanged(self, header: Header) -> None:
        """Check that a snapshot's leaf does not change the live set."""
        if header.state_digest != self.state.state_digest:
            raise ProofError(
                f"position {header.position}: a snapshot with another state digest than the "
                "leaf before it",
                reason=Reason.STATE_DIGEST_MISMATCH,
            )
        if header.live_count != self.state.live_count:
            raise OperationError(
                f"position {header.position}: a snapshot of {header.live_count} entries, "
                f"{self.state.live_count} live",
                reason=Reason.LIVE_COUNT_MISMATCH,
            )

    # --- checks -------------------------------------------------------------------------------

    def _check_signer(self, header: Header, record: bytes) -> None:
        if header.origin_hash != self._origin_hash:
            raise SequenceError(
                f"a delta of another list than {self.origin}", reason=Reason.ORIGIN_MISMATCH
            )
        root = self.root
        if header.root_version != root.document.version or header.root_hash != root.hash:
            raise SignatureError(
                f"position {header.position}: signed under org root version "
                f"{header.root_version}, not under the one in force here "
                f"(version {root.document.version})",
                reason=Reason.ROOT_MISMATCH,
            )
        headers.verify_header(record, root.document.publisher_key(header.key_id))

    def _check_place(self, header: Header, now_ms: int) -> None:
        size = self.state.size
        if header.position < size:
            raise SequenceError(
                f"position {header.position} again, at size {size}",
                reason=Reason.POSITION_REPEATED,
            )
        if header.position > size:
            raise SequenceError(
                f"position {header.position} at size {size}", reason=Reason.POSITION_GAP
            )
        self._check_previous(header)
        self._check_time(header, now_ms)

    def _check_previous(self, header: Header) -> None:
        if header.previous != self.state.last_leaf:
            raise ForkError(
                f"position {header.position} of {self.origin} is signed as the successor of "
                "another leaf than the one held here",
                reason=Reason.PREVIOUS_MISMATCH,
            )

    def _check_time(self, header: Header, now_ms: int) -> None:
        position = header.position
        if header.time_ms < self.state.last_time_ms:
            raise SequenceError(
                f"position {position} is signed for an earlier time than the one before",
                reason=Reason.TIME_BACKWARDS,
            )
        if header.time_ms > now_ms + limits.MAX_CLOCK_SKEW_MS:
            raise SequenceError(
                f"position {position} is signed for {header.time_ms - now_ms} ms from now: "
                "one of the two clocks is wrong",
                reason=Reason.TIME_IN_FUTURE,
            )

    @staticmethod
    def _check_body(header: Header, data: bytes) -> None:
        if len(data) != header.body_size or sha256(data).digest() != header.body_digest:
            raise ProofError(
                f"position {header.position}: the body is not the one that was signed",
                reason=Reason.BODY_DIGEST_MISMATCH,
            )

    def _open_checkpoint(self, note: bytes, position: int) -> Checkpoint:
        try:
            return open_checkpoint(note, str(self.origin), self._verifiers)
        except SignatureError as error:
            raise SignatureError(
                f"checkpoint of position {position}: {error}",
                reason=Reason.CHECKPOINT_SIGNATURE_INVALID,
            ) from error
        except FederationError as error:
            raise MalformedError(
                f"checkpoint of position {position}: {error}",
                reason=Reason.CHECKPOINT_MALFORMED,
            ) from error

    def _check_checkpoint(self, note: bytes, state: LogState) -> None:
        checkpoint = self._open_checkpoint(note, state.size - 1)
        if checkpoint.size != state.size or checkpoint.root_hash != state.frontier.root():
            raise ProofError(
                f"the checkpoint sent with position {state.size - 1} has size {checkpoint.size} "
                "or a root that its deltas do not hash to",
                reason=Reason.CHECKPOINT_MISMATCH,
            )

    @staticmethod
    def _open_body(header: Header, data: bytes) -> Body:
        try:
            body = wire.decode_body(data)
        except MalformedError as error:
            raise MalformedError(
                f"position {header.position}: {error}", reason=Reason.BODY_MALFORMED
            ) from error
        if body.count != header.op_count:
            raise OperationError(
                f"position {header.position}: got {body.count} operations, "
                f"{header.op_count} signed",
                reason=Reason.OP_COUNT_MISMATCH,
            )
        body.check()
        return body
