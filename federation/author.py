"""The author: makes the signed deltas and snapshots of one of our own lists.

It is the counterpart of `federation.replica` and takes its state from the same `LogState`. Nothing
that it returns may leave the process before it is durable, as a position is signed only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from federation import limits, merkle, wire
from federation import state as states
from federation.body import Body
from federation.checkpoint import Checkpoint, sign_checkpoint
from federation.commitment import Commitment, commit
from federation.errors import LimitError, Reason, SequenceError, UsageError
from federation.header import NO_BODY, Header, LeafKind
from federation.keys import Signer, key_id
from federation.merge import Prior, merge
from federation.names import Origin
from federation.note import NoteSigner
from federation.replica import LogState, SignedDelta
from federation.trust.orgroot import PinnedRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """Which deltas belong together: one import may be cut into many.

    Attributes:
        first: position of the set's first delta.
        last: whether this delta ends the set.
    """

    first: int
    last: bool


class Author:
    """Signs the deltas of one list.

    Attributes:
        origin: the list.
    """

    def __init__(self, origin: Origin, root: PinnedRoot, *, publisher: Signer, log: Signer) -> None:
        if root.document.org != origin.org:
            raise UsageError(f"org root of {root.document.org} for a list of {origin.org}")
        self.origin = origin
        self._root = root
        self._publisher = publisher
        self._log = NoteSigner(str(origin), log)

    def sign(
        self,
        body: Body,
        prior: Mapping[int, Prior],
        state: LogState,
        *,
        change_set: ChangeSet,
        now_ms: int,
        commitment: Commitment | None = None,
    ) -> SignedDelta:
        """Make the delta that follows `state`.

        Args:
            body: its operations (`federation.body.build_body`).
            prior: for each row whose entry the list has known, the operation in force on it.
            state: the state of the log.
            change_set: the deltas to which it belongs.
            now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.
            commitment: the commitment to the encoded body at this position, if already computed.

        Raises:
            SequenceError: TIME_BACKWARDS, the clock is behind the newest delta.
            OperationError: the entries do not allow one of the operations.
            UsageError: the commitment is for another body or another position.
        """
        self._check_clock(state, now_ms)
        data = wire.encode_body(body)
        if commitment is None:
            commitment = commit(data, state.size)
        elif commitment[:2] != (sha256(data).digest(), state.size):
            raise UsageError(f"position {state.size}: the commitment is to another delta")
        header = Header(
            origin_hash=self.origin.hash,
            position=state.size,
            previous=state.last_leaf,
            change_set=change_set.first,
            ends_change_set=change_set.last,
            time_ms=now_ms,
            op_count=body.count,
            body_size=len(data),
            body_digest=commitment.body_digest,
            ops_root=commitment.ops_root,
            live_count=merge(body, prior, state.live_count),
            state_digest=states.advance(
                state.state_digest, body, state.size, prior, asserted=commitment.asserted
            ),
            root_version=self._root.document.version,
            root_hash=self._root.hash,
            key_id=key_id(self._publisher.public_key),
        )
        return self._seal(header, data, state)

    def sign_snapshot(
        self, bucket_hashes: Sequence[bytes], state: LogState, *, now_ms: int
    ) -> SignedDelta:
        """Make the snapshot leaf that follows `state` and commits to the live set there.

        Args:
            bucket_hashes: the leaf hashes of the live set's buckets (`federation.bucket`).
            state: the state of the log.
            now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

        Raises:
            SequenceError: TIME_BACKWARDS, the clock is behind the newest leaf.
            LimitError: there are more buckets than a snapshot can have.
        """
        if len(bucket_hashes) > limits.MAX_SNAPSHOT_BUCKETS:
            raise LimitError(
                f"a snapshot has at most {limits.MAX_SNAPSHOT_BUCKETS} buckets: this list is "
                "too large for one"
            )
        self._check_clock(state, now_ms)
        header = Header(
            kind=LeafKind.SNAPSHOT,
            origin_hash=self.origin.hash,
            position=state.size,
            previous=state.last_leaf,
            change_set=state.size,
            ends_change_set=True,
            time_ms=now_ms,
            op_count=len(bucket_hashes),
            body_size=0,
            body_digest=NO_BODY,
            ops_root=merkle.root_hash(bucket_hashes),
            live_count=state.live_count,
            state_digest=state.state_digest,
            root_version=self._root.document.version,
            root_hash=self._root.hash,
            key_id=key_id(self._publisher.public_key),
        )
        return self._seal(header, b"", state)

    def _check_clock(self, state: LogState, now_ms: int) -> None:
        if now_ms < state.last_time_ms:
            raise SequenceError(
                f"the clock is {state.last_time_ms - now_ms} ms behind the newest delta of "
                f"{self.origin}: set it right before publishing",
                reason=Reason.TIME_BACKWARDS,
            )

    def _seal(self, header: Header, body: bytes, state: LogState) -> SignedDelta:
        """Sign a header, and the checkpoint of the log right after it."""
        record = header.sign(self._publisher)
        after = state.after(header, record)
        checkpoint = Checkpoint(str(self.origin), after.size, after.frontier.root())
        return SignedDelta(record, body, sign_checkpoint(checkpoint, self._log))
