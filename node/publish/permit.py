"""Guards the next signature of our own lists: no position is signed twice.

Whether a list may be signed for is decided by `federation.recovery`, from what is gathered here:
the store, the high-water mark, what peers have answered. The caller holds the lock on publishing.

One step of publishing: what is signed is committed; before that the raised mark is written, after
it the mark is put in place; then what was signed is released. `obtain_permit` finishes what a
crash left between any two of these, in normal operation and after a crash alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from federation.checkpoint import Checkpoint, open_checkpoint
from federation.errors import FederationError, ProofError
from federation.follow import open_charter
from federation.names import OrgName, Origin
from federation.recovery import (
    DIVERGED,
    Action,
    Decision,
    Mark,
    Obstacle,
    OwnLog,
    PeerReport,
    accept_lead,
    decide,
    standing,
    state_of,
)
from federation.replica import LogState, SignedDelta
from node.clock import Clock
from node.errors import CommandError, DamageError, RecoveringError
from node.ingest import checks
from node.ingest import deltas as ingest_deltas
from node.publish.high_water import HighWater, MarkMovedError, PreparedRaise
from node.store import damage, follow_state, lists, log, orgs
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord
from node.store.release import load_incarnation, release, released_size, settled_size

TAIL_DELTAS: Final = 32
"""Deltas that are checked before a process signs its first: twice what one step has."""


def look(
    store: Store,
    mark: HighWater,
    record: ListRecord,
    answers: Sequence[PeerReport],
    *,
    clock: Clock,
    needed: int | None = None,
    risk: bool = False,
) -> Decision:
    """Decide what is next with one of our lists; changes nothing.

    Args:
        store: the store.
        mark: the high-water mark.
        record: the list.
        answers: what peers have said, one for each peer.
        clock: tells the time.
        needed: how many peers must have answered where answers are needed; None for all.
        risk: the operator goes on without the knowledge that is missing.
    """
    return decide(
        _describe(store, record),
        mark.load(record.origin),
        answers,
        now_ms=clock.now_ms(),
        needed=needed,
        risk=risk,
    )


def unasked(store: Store) -> tuple[PeerReport, ...]:
    """Return what peers have said that nobody has asked: nothing."""
    return tuple(
        PeerReport(peer=peer.org, answered=False) for peer in orgs.iter_peers(store.connection)
    )


def record_decision(store: Store, record: ListRecord, decision: Decision, *, clock: Clock) -> bool:
    """Record for the operator how one of our lists stands; say whether that is news."""
    held = follow_state.load_follow_status(store.connection, record.list)
    noted = standing(decision, held.reason)
    if noted is None or (*noted, decision.detail) == (held.state, held.reason, held.detail):
        return False
    state, reason = noted
    with store.update_status() as connection:
        follow_state.store_follow_state(
            connection,
            record.list,
            state,
            now_ms=clock.now_ms(),
            reason=reason,
            detail=decision.detail,
        )
    return True


def status_now(store: Store, mark: HighWater, record: ListRecord, *, clock: Clock) -> FollowStatus:
    """Return how a list stands, also if nobody has compared it with the mark yet."""
    held = follow_state.load_follow_status(store.connection, record.list)
    # What peers have shown says more than the mark can.
    if not record.own or held.reason in {Obstacle.BEHIND_PEER, *DIVERGED}:
        return held
    try:
        decision = look(store, mark, record, unasked(store), clock=clock)
    except DamageError:
        # For `fsck` to say.
        return held
    # That peers have to be asked is nothing that is wrong: `publish` asks them.
    if decision.obstacle in {None, Obstacle.PEERS_SILENT}:
        return held
    return replace(
        held,
        state=state_of(decision),
        reason=str(decision.obstacle),
        detail=decision.detail,
    )


def obtain_permit(
    store: Store,
    mark: HighWater,
    origin: Origin,
    ask: Callable[[], Sequence[PeerReport]],
    *,
    clock: Clock,
    needed: int | None = None,
    risk: str | None = None,
) -> Permit:
    """Return the permit to sign the next positions of a list.

    Finishes what a crash left undone, checks the newest deltas, and notes how the list stands.
    The caller holds the lock on publishing.

    Args:
        store: the store, open for writing.
        mark: the high-water mark.
        origin: the list, which is ours.
        ask: returns what peers say, one answer for each peer; called when the newest deltas here
            are checked, so that they may be on their way meanwhile.
        clock: tells the time.
        needed: how many peers must have answered where answers are needed; None for all.
        risk: why the operator goes on without the knowledge that is missing, if that is so.

    Raises:
        CommandError: it is no list of ours.
        RecoveringError: it may not be signed for; the reason is that of `federation.recovery`.
        DamageError: its newest deltas are not what was signed, or it is known to be damaged.
        StoreError: store or mark cannot be used or written.
    """
    record = _own(store, origin)
    # First: damage must not be taken for another history.
    damage.require_sound(store.path, str(origin))
    checks.check_tail(store, record, orgs.own_root(store), TAIL_DELTAS)
    answers = ask()
    decision = look(store, mark, record, answers, clock=clock, needed=needed)
    if risk is not None and decision.overridable:
        # Written down before it has an effect.
        with store.write("recover", f"{origin}: {decision.obstacle}, at the risk of: {risk}"):
            pass
        decision = look(store, mark, record, answers, clock=clock, needed=needed, risk=True)
    if decision.action in {Action.SIGN, Action.FINISH}:
        own = _describe(store, record)
        accepted = 0 if risk is None else accept_lead(own, answers, clock.now_ms())
        mark.adopt(origin, own.checkpoint, own.incarnation, accepted_lead_ms=accepted)
        if released_size(store.connection, record) != record.log.size:
            with store.update_status() as connection:
                release(connection, record.list, record.log.size)
    record_decision(store, record, decision, clock=clock)
    if decision.doubts_mark:
        mark.doubt(origin)
    if decision.obstacle is not None:
        raise refusal(origin, decision)
    held = mark.load(origin)
    if not isinstance(held, Mark):
        raise MarkMovedError(f"{mark.path}: the mark of {origin} is gone ({held})")
    return Permit(mark, record.list, origin, held)


class Permit:
    """The right to sign the next positions of one list, for as long as nobody else does."""

    def __init__(self, mark: HighWater, list_number: int, origin: Origin, held: Mark) -> None:
        self._mark = mark
        self._list = list_number
        self._origin = origin
        self._held = held

    @contextmanager
    def step(self, store: Store) -> Iterator[Step]:
        """Guard one transaction: raise the mark when it is committed, then release what it has.

        Raises:
            MarkMovedError: the store or the mark is not what this permit is for.
            DiskError: the mark could not be raised; what was committed is released by nobody.
        """
        step = Step(self._mark, self._origin, self._held)
        try:
            yield step
        except BaseException:
            step.cancel()
            raise
        self._held = step.complete()
        if step.raised:
            with store.update_status() as connection:
                release(connection, self._list, self._held.checkpoint.size)


class Step:
    """One transaction that signs, between its beginning and the release of what it signed."""

    def __init__(self, mark: HighWater, origin: Origin, held: Mark) -> None:
        self._mark = mark
        self._origin = origin
        self._held = held
        self._next = held
        self._prepared: PreparedRaise | None = None

    @property
    def raised(self) -> bool:
        """Whether there was something to raise the mark for."""
        return self._next is not self._held

    def stage(self, before: LogState, after: LogState) -> None:
        """Write the mark that is to be in place when the transaction is committed.

        Args:
            before: where the log stood when the transaction began.
            after: where it stands at its end.

        Raises:
            MarkMovedError: it did not stand where the mark is: somebody else signs.
            StoreError: the mark cannot be written.
        """
        if _checkpoint(self._origin, before) != self._held.checkpoint:
            raise MarkMovedError(
                f"{self._origin} was changed by another process",
                hint=f"nothing was signed; run 'hashfed recover {self._origin.name}'",
            )
        if after.size == before.size:
            return
        checkpoint = _checkpoint(self._origin, after)
        self._prepared = self._mark.prepare(self._origin, self._held, checkpoint)
        self._next = replace(self._held, checkpoint=checkpoint)

    def complete(self) -> Mark:
        """Put the mark in place; return it."""
        if self._prepared is not None:
            self._prepared.complete()
        return self._next

    def cancel(self) -> None:
        """Let go of the mark that was written."""
        if self._prepared is not None:
            self._prepared.cancel()


def take_back(
    store: Store, origin: Origin, deltas: Sequence[SignedDelta], *, via: OrgName, clock: Clock
) -> int:
    """Take deltas of our own list back from a peer's copy, verified as anybody's; return its size.

    Raises:
        PeerError: one does not verify. Those before it are kept.
        StoreError: the store could not be written; nothing of the batch is kept.
    """
    with store.write("recover", f"{origin} via {via}") as transaction:
        acceptance = ingest_deltas.merge_deltas(
            transaction, _own(store, origin), deltas, via, clock
        )
        if not acceptance.deltas:
            transaction.abandon()
    if acceptance.error is not None:
        raise acceptance.error
    return acceptance.size


def take_charter(store: Store, *, origin: Origin, envelope: bytes) -> bool:
    """Put a newer charter of our own in force, which a peer holds; say whether it is newer.

    Raises:
        PeerError: it is not ours.
        StoreError: the store could not be written.
    """
    record = _own(store, origin)
    charter = open_charter(envelope, origin, orgs.own_root(store), newest=0)
    if charter.version <= record.charter_version:
        return False
    with store.write("recover", f"charter of {origin} version {charter.version}") as transaction:
        lists.store_charter(transaction, record, envelope, charter.version)
    return True


def refusal(origin: Origin, decision: Decision) -> RecoveringError:
    """Return the error that says why a list may not be signed for, and what to do."""
    obstacle = decision.obstacle
    name = origin.name
    if obstacle in DIVERGED:
        hint = (
            "two histories are signed: sign nothing more, keep this store and the mark, and see "
            "'a list that cannot go on' in docs/operate.md"
        )
    elif obstacle is Obstacle.TIME_BACKWARDS:
        hint = "set the clock right; what is staged waits"
    elif obstacle is Obstacle.CLOCK_AHEAD:
        hint = (
            "set the clock right; what is staged waits. Only if it is right already, see "
            "'a clock that is ahead' in docs/operate.md"
        )
    elif obstacle is Obstacle.BEHIND_PEER:
        hint = f"run 'hashfed recover {name}': it fetches what is missing; 'serve' does so too"
    elif obstacle is Obstacle.BEHIND_MARK:
        hint = (
            f"run 'hashfed recover {name}' when the peers that follow it can be reached; if none "
            "of them has it, see 'a list that cannot go on' in docs/operate.md"
        )
    else:
        hint = (
            f"run 'hashfed recover {name}' when the peers can be reached; only if they never will "
            "be, see 'recovering' in docs/operate.md"
        )
    return RecoveringError(
        f"{origin} may not be signed for: {decision.detail}", hint=hint, reason=obstacle
    )


def _own(store: Store, origin: Origin) -> ListRecord:
    record = lists.load_list(store.connection, origin)
    if record is None or not record.own:
        raise CommandError(
            f"{origin} is not a list of this node", hint="run 'hashfed list' to see its lists"
        )
    return record


def _describe(store: Store, record: ListRecord) -> OwnLog:
    return OwnLog(
        checkpoint=_checkpoint(record.origin, record.log),
        settled=settled_size(store.connection, record),
        incarnation=load_incarnation(store.connection),
        last_time_ms=record.log.last_time_ms,
        root_at=lambda size: _root_at(store, record, size),
        newest_ms=lists.load_newest_time(store.connection),
    )


def _root_at(store: Store, record: ListRecord, size: int) -> bytes:
    """Return the root that we signed for an earlier size of a list.

    Raises:
        DamageError: what is stored there is not what was signed.
    """
    held = log.load_record(store.connection, record.list, size - 1)
    verifiers = orgs.own_root(store).document.log_verifiers(record.origin)
    try:
        if held is None:
            raise ProofError("it is missing")
        checkpoint = open_checkpoint(held.checkpoint, str(record.origin), verifiers)
        if checkpoint.size != size:
            raise ProofError(f"it is of size {checkpoint.size}")
    except FederationError as error:
        raise DamageError(
            f"the checkpoint of size {size} of {record.origin} is damaged: {error}",
            hint="run 'hashfed fsck', keep the file, restore a backup",
        ) from error
    return checkpoint.root_hash


def _checkpoint(origin: Origin, state: LogState) -> Checkpoint:
    return Checkpoint(str(origin), state.size, state.frontier.root())
