"""What a follower does with what comes on a stream, and how deltas join what it has.

Bytes are verified by `federation.replica`. Here it is decided which of them are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, Self

from federation import wire
from federation.body import Body
from federation.checkpoint import open_checkpoint
from federation.errors import FederationError, ForkError, PeerError
from federation.follow.cursors import FOLLOWABLE, Cursor, Outcome
from federation.follow.states import News
from federation.header import Header
from federation.merge import Prior
from federation.names import Origin
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.trust.charter import Charter, verify_charter
from federation.trust.orgroot import PinnedRoot


class Handling(Enum):
    """What is done with something that came."""

    TAKE = "take"
    """It is verified and kept."""
    PASS_OVER = "pass over"  # noqa: S105  # no password
    """It is of no use here, and no fault of the peer."""
    ASK_AGAIN = "ask again"
    """It does not follow what is here now: the list needs another cursor."""
    BREAK_OFF = "break off"
    """The peer sent what the protocol does not allow: the whole stream ends."""


_NEWS: Final = {
    Outcome.UNAVAILABLE: News.UNAVAILABLE,
    Outcome.SNAPSHOT: News.SNAPSHOT_OFFERED,
    Outcome.CURSOR_TOO_OLD: News.TOO_OLD,
    Outcome.CURSOR_AHEAD: News.AHEAD,
    Outcome.DIVERGED: News.DIVERGED,
}


@dataclass(slots=True, kw_only=True)
class Following:
    """One list on one stream, as the follower sees it.

    Attributes:
        expected: the position that the peer should send next.
        deltas_only: whether it was asked for every delta.
        outcome: what the peer answered last; None before it has.
        head: how many deltas the peer said it has.
        taken: how many deltas this stream has brought.
        dropped: whether nothing more of the list is taken on this stream.
    """

    expected: int
    deltas_only: bool = False
    outcome: Outcome | None = None
    head: int = 0
    taken: int = 0
    dropped: bool = False

    @classmethod
    def ask(cls, log: LogState, *, deltas_only: bool, from_start: bool) -> Self:
        """Return how a list begins on a new stream.

        Args:
            log: where the list stands here.
            deltas_only: whether no snapshot is wanted in the place of deltas.
            from_start: whether it is to be compared with the peer's from the first delta on.
        """
        # What is compared from the start is compared delta by delta.
        return cls(expected=0 if from_start else log.size, deltas_only=deltas_only or from_start)

    def cursor(self, origin: Origin, log: LogState, charter_version: int) -> Cursor:
        """Return what the peer is asked.

        Args:
            origin: the list.
            log: where the list stands here, as in `ask`.
            charter_version: the charter in force here; 0 for none.
        """
        return Cursor(
            origin=str(origin),
            size=self.expected,
            root_hash=log.frontier.root() if self.expected else b"",
            charter_version=charter_version,
            deltas_only=self.deltas_only,
        )

    def judge_frame(self) -> Handling:
        """Decide about a frame that has come."""
        if self.dropped:
            return Handling.PASS_OVER
        if self.outcome is None:
            return Handling.BREAK_OFF
        return Handling.TAKE if self.outcome in FOLLOWABLE else Handling.PASS_OVER

    def judge_deltas(self, deltas: Sequence[SignedDelta], size: int) -> Handling:
        """Decide about the deltas that come next, when they are about to be committed.

        Args:
            deltas: at least one, in the order in which they came.
            size: how many deltas are here.
        """
        start, self.expected = self.expected, self.expected + len(deltas)
        if size < start and _position(deltas[0]) == start:
            # The peer goes on rightly, but what came before did not stay here.
            return Handling.ASK_AGAIN
        return Handling.TAKE

    def judge_offer(self, size: int) -> Handling:
        """Decide about the offer of a snapshot.

        Args:
            size: how many deltas are here.
        """
        if self.deltas_only:
            return Handling.BREAK_OFF
        # It is proved from where the list stood: something else may have moved it on meanwhile.
        return Handling.TAKE if size == self.expected else Handling.ASK_AGAIN

    def news(self, size: int) -> News | None:
        """Return what the peer's answer means by now; None before there is an answer.

        Args:
            size: how many deltas are here.
        """
        if self.outcome is None:
            return None
        if self.outcome not in FOLLOWABLE:
            return _NEWS[self.outcome]
        # Both: when compared from the start, all may be here and not be compared yet.
        if min(size, self.expected) >= self.head:
            return News.ALL_HERE
        return News.MORE_TAKEN if self.taken else News.MORE_MISSING


def judge_recovery(outcome: Outcome, *, from_start: bool) -> Handling:
    """Decide what follows from the answer of a peer that shows more of our own list than we have.

    Args:
        outcome: what the peer answered.
        from_start: whether it was asked for all of its copy.

    Returns:
        TAKE: deltas follow. ASK_AGAIN, for all of its copy: the first delta that differs proves
        that it has another history, or that it does not tell the truth. PASS_OVER: another peer
        is asked.
    """
    if outcome is Outcome.DELTAS:
        return Handling.TAKE
    if outcome is Outcome.DIVERGED and not from_start:
        return Handling.ASK_AGAIN
    return Handling.PASS_OVER


# --- what is verified --------------------------------------------------------------------------


class Copy(Protocol):
    """What a follower has of one list's log, and where deltas that verify go."""

    @property
    def start(self) -> int:
        """The size from which on every leaf has to be here: a snapshot went past those before."""

    def load_header(self, position: int) -> bytes | None:
        """Return the signed record at a position below the size; None when it is not here."""

    def require_sound(self, position: int) -> None:
        """Raise unless the leaf that is here at a position is there and is what was signed."""

    def load_prior(self, body: Body) -> Mapping[int, Prior]:
        """Return what is in force on the entries that a body names, by its rows."""

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        """Keep a delta that was verified, at the end of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of some deltas.

    Attributes:
        deltas: how many were new and were kept.
        ops: how many operations they had.
        error: what was wrong with the one after them; None when nothing was.
    """

    deltas: int
    ops: int
    error: PeerError | None


def take_deltas(
    replica: Replica, deltas: Sequence[SignedDelta], copy: Copy, *, now_ms: int
) -> Taken:
    """Verify deltas and add them to a copy, up to the first that does not verify.

    Deltas that are here already are compared and passed over: arrival twice, or by two ways, is
    harmless.

    Args:
        replica: where the log stands here; it advances with each delta that is kept.
        deltas: as they came.
        copy: what is here of the list.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.
    """
    taken = ops = 0
    try:
        for delta in deltas:
            position = Header.parse(delta.header).position
            if position < replica.state.size:
                _compare(replica, delta, position, copy)
                continue
            candidate = replica.receive(delta, now_ms=now_ms)
            prior = copy.load_prior(candidate.body)
            replica.conclude(candidate, prior)
            copy.append(candidate, prior)
            taken += 1
            ops += candidate.body.count
    except PeerError as error:
        return Taken(deltas=taken, ops=ops, error=error)
    return Taken(deltas=taken, ops=ops, error=None)


def _compare(replica: Replica, delta: SignedDelta, position: int, copy: Copy) -> None:
    held = copy.load_header(position)
    if held is None:
        if position >= copy.start:
            copy.require_sound(position)
        # A snapshot went past it: there is nothing here to compare it with.
        return
    try:
        replica.receive_again(delta, held)
    except ForkError:
        # Damage is no history: a fork is for good, and only what is signed shows one.
        copy.require_sound(position)
        raise


def open_charter(data: bytes, origin: Origin, root: PinnedRoot, *, newest: int) -> Charter:
    """Verify a charter that a peer sent.

    Args:
        data: the serialized envelope.
        origin: the list that it should be of.
        root: the org root of the list's owner.
        newest: the version of the charter in force here; 0 for none.

    Raises:
        PeerError: it is not one of this list, not signed by its owner, or older than `newest`.
    """
    envelope = wire.decode_envelope(data)
    return verify_charter(
        wire.decode_charter(envelope.payload),
        envelope,
        origin=origin,
        root=root.document,
        newest=newest,
    )


def read_claim(
    note: bytes,
    origin: Origin,
    root: PinnedRoot,
    log: LogState,
    *,
    root_at: Callable[[int], bytes | None],
    require_sound: Callable[[int], None],
) -> int:
    """Return the size that a peer's newest checkpoint says, once it fits what is here.

    Args:
        note: the checkpoint.
        origin: the list.
        root: the org root of the list's owner.
        log: where the list stands here.
        root_at: the root of the log at a size from 1 to here; None where nothing here says it, as
            a snapshot went past that size.
        require_sound: as `Copy.require_sound`.

    Raises:
        PeerError: it is not signed by the list's owner.
        ForkError: it contradicts what is here.
    """
    checkpoint = open_checkpoint(note, str(origin), root.document.log_verifiers(origin))
    if not 0 < checkpoint.size <= log.size:
        return checkpoint.size
    if root_at(checkpoint.size) not in {None, checkpoint.root_hash}:
        if checkpoint.size > log.start:
            require_sound(checkpoint.size - 1)
        raise ForkError(f"{origin} has two signed checkpoints of size {checkpoint.size}")
    return checkpoint.size


def _position(delta: SignedDelta) -> int | None:
    try:
        return Header.parse(delta.header).position
    except FederationError:
        return None
