"""Decides what a follower does with what arrives on a stream, and adds deltas to its copy.

`federation.replica` verifies bytes. This module decides which of them are read.
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
    """What a follower does with something that arrived."""

    TAKE = "take"
    """Verify and keep it."""
    PASS_OVER = "pass over"  # noqa: S105  # no password
    """Skip it: it is of no use here, but not the peer's fault."""
    ASK_AGAIN = "ask again"
    """Ask with another cursor: it does not follow what is here now."""
    BREAK_OFF = "break off"
    """End the whole stream: the protocol does not allow it."""


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
        outcome: the last answer of the peer; None before the first.
        head: how many deltas the peer said it has.
        taken: how many deltas this stream has brought.
        dropped: whether everything further of the list is skipped on this stream.
    """

    expected: int
    deltas_only: bool = False
    outcome: Outcome | None = None
    head: int = 0
    taken: int = 0
    dropped: bool = False

    @classmethod
    def ask(cls, log: LogState, *, deltas_only: bool, from_start: bool) -> Self:
        """Return the initial state of a list on a new stream.

        Args:
            log: the state of the log here.
            deltas_only: whether every delta is wanted, and no snapshot instead.
            from_start: whether to compare it with the peer's copy from the first delta on.
        """
        # A comparison from the start needs every delta.
        return cls(expected=0 if from_start else log.size, deltas_only=deltas_only or from_start)

    def cursor(self, origin: Origin, log: LogState, charter_version: int) -> Cursor:
        """Return the cursor to send to the peer.

        Args:
            origin: the list.
            log: the state of the log here, as in `ask`.
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
        """Decide about a frame that has arrived."""
        if self.dropped:
            return Handling.PASS_OVER
        if self.outcome is None:
            return Handling.BREAK_OFF
        return Handling.TAKE if self.outcome in FOLLOWABLE else Handling.PASS_OVER

    def judge_deltas(self, deltas: Sequence[SignedDelta], size: int) -> Handling:
        """Decide about the next deltas when they are about to be committed.

        Args:
            deltas: at least one, in the order of arrival.
            size: how many deltas are here.
        """
        start, self.expected = self.expected, self.expected + len(deltas)
        if size < start and _position(deltas[0]) == start:
            # The peer continues correctly, but the deltas before these were not kept here.
            return Handling.ASK_AGAIN
        return Handling.TAKE

    def judge_offer(self, size: int) -> Handling:
        """Decide about the offer of a snapshot.

        Args:
            size: how many deltas are here.
        """
        if self.deltas_only:
            return Handling.BREAK_OFF
        # Its proof is for the size at the start; another source may have added deltas meanwhile.
        return Handling.TAKE if size == self.expected else Handling.ASK_AGAIN

    def news(self, size: int) -> News | None:
        """Return the news in the peer's answer at this moment; None before the first answer.

        Args:
            size: how many deltas are here.
        """
        if self.outcome is None:
            return None
        if self.outcome not in FOLLOWABLE:
            return _NEWS[self.outcome]
        # Both are needed: in a comparison from the start, all deltas may be here but not compared
        # yet.
        if min(size, self.expected) >= self.head:
            return News.ALL_HERE
        return News.MORE_TAKEN if self.taken else News.MORE_MISSING


def judge_recovery(outcome: Outcome, *, from_start: bool) -> Handling:
    """Decide about the answer of a peer that shows more of our own list than we have.

    Args:
        outcome: what the peer answered.
        from_start: whether it was asked for its whole copy.

    Returns:
        TAKE if deltas follow. ASK_AGAIN to ask for its whole copy: the first delta that differs
        proves that it has another history, or that it does not tell the truth. PASS_OVER to ask
        another peer.
    """
    if outcome is Outcome.DELTAS:
        return Handling.TAKE
    if outcome is Outcome.DIVERGED and not from_start:
        return Handling.ASK_AGAIN
    return Handling.PASS_OVER


# --- what is verified --------------------------------------------------------------------------


class Copy(Protocol):
    """A follower's copy of one list's log, to which verified deltas are added."""

    @property
    def start(self) -> int:
        """The size from which every leaf must be here; a snapshot skipped those before."""

    def load_header(self, position: int) -> bytes | None:
        """Return the signed record at a position below the size; None if it is not here."""

    def require_sound(self, position: int) -> None:
        """Raise an error unless the stored leaf at a position exists and is what was signed."""

    def load_prior(self, body: Body) -> Mapping[int, Prior]:
        """Return the operations in force on the entries that a body names, by its rows."""

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        """Add a verified delta to the end of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The result of taking some deltas.

    Attributes:
        deltas: how many were new and were kept.
        ops: how many operations they had.
        error: the error of the delta after them; None if there was none.
    """

    deltas: int
    ops: int
    error: PeerError | None


def take_deltas(
    replica: Replica, deltas: Sequence[SignedDelta], copy: Copy, *, now_ms: int
) -> Taken:
    """Verify deltas and add them to a copy, up to the first that does not verify.

    Deltas that are here already are compared and skipped, so a second arrival is harmless.

    Args:
        replica: has the state of the log here; it advances with each delta that is kept.
        deltas: the deltas as they arrived.
        copy: the copy of the list.
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
        # A snapshot skipped it, so there is nothing here to compare it with.
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
        origin: the list to which it should belong.
        root: the org root of the list's owner.
        newest: the version of the charter in force here; 0 for none.

    Raises:
        PeerError: it belongs to another list, or is not signed by its owner, or is older than
            `newest`.
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
    """Return the size in a peer's newest checkpoint, if it agrees with the log here.

    Args:
        note: the checkpoint.
        origin: the list.
        root: the org root of the list's owner.
        log: the state of the log here.
        root_at: returns the root of the log at a size from 1 to the size here; None if it is not
            known, because a snapshot skipped that size.
        require_sound: as `Copy.require_sound`.

    Raises:
        PeerError: it is not signed by the list's owner.
        ForkError: it contradicts the log here.
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
