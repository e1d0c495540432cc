"""Guards the next signature of our own lists: no position is signed twice.

This module gathers the store, the high-water mark and the answers of peers. From these,
`federation.recovery` decides whether a list may be signed for. The caller holds the lock on
publishing.

One step of publishing has this order: write the raised mark, commit what is signed, put the mark
in place, release what was signed. A crash may interrupt it between any two of these. The next
`obtain_permit` finishes the step; it does the same work in normal operation.
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
"""How many deltas a process checks before its first signature: twice those of one step."""


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
    """Decide what to do next with one of our lists; change nothing.

    Args:
        store: the store.
        mark: the high-water mark.
        record: the list.
        answers: what peers have said, one for each peer.
        clock: tells the time.
        needed: how many peers must have answered where answers are needed; None for all.
        risk: whether the operator goes on without the missing knowledge.
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
    """Return no answers, for peers that have not been asked."""
    return tuple(
        PeerReport(peer=peer.org, answered=False) for peer in orgs.iter_peers(store.connection)
    )


def record_decision(store: Store, record: ListRecord, decision: Decision, *, clock: Clock) -> bool:
    """Record the state of one of our lists for the operator; return whether it has changed."""
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
    """Return the state of a list, even if nobody has compared it with the mark yet."""
    held = follow_state.load_follow_status(store.connection, record.list)
    # What peers have shown says more than the mark can.
    if not record.own or held.reason in {Obstacle.BEHIND_PEER, *DIVERGED}:
        return held
    try:
        decision = look(store, mark, record, unasked(store), clock=clock)
    except DamageError:
        # `fsck` reports that.
        return held
    # It is not a fault that peers have to be asked: `publish` asks them.
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

    Finishes what a crash left undone, checks the newest deltas, and records the state of the list.
    The caller holds the lock on publishing.

    Args:
        store: the store, open for writing.
        mark: the high-water mark.
        origin: the list, which is ours.
        ask: returns what peers say, one answer for each peer. It is called after the newest deltas
            here are checked, so the answers may be on their way during that check.
        clock: tells the time.
        needed: how many peers must have answered where answers are needed; None for all.
        risk: why the operator goes on without the missing knowledge; empty if that is not so.

    Raises:
        CommandError: it is not one of our lists.
        RecoveringError: it may not be signed for; the reason is that of `federation.recovery`.
        DamageError: its newest deltas are not what was signed, or it is known to be damaged.
        StoreError: store or mark cannot be used or written.
    """
    record = _own(store, origin)
    # Check this first: damage must not be mistaken for another history.
    damage.require_sound(store.path, str(origin))
    checks.check_tail(store, record, orgs.own_root(store), TAIL_DELTAS)
    answers = ask()
    decision = look(store, mark, record, answers, clock=clock, needed=needed)
    if risk is not None and decision.overridable:
        # Record the decision before it has an effect.
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
        """Guard one transaction: raise the mark when it is committed, then release its content.

        Raises:
            MarkMovedError: the store or the mark is not what this permit is for.
            DiskError: the mark could not be raised; nobody releases what was committed.
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
            before: the log when the transaction began.
            after: the log when it ends.

        Raises:
            MarkMovedError: `before` is not what the mark says: another process signs.
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
        """Remove the mark that was written."""
        if self._prepared is not None:
            self._prepared.cancel()


def take_back(
    store: Store, origin: Origin, deltas: Sequence[SignedDelta], *, via: OrgName, clock: Clock
) -> int:
    """Take our own deltas back from a peer's copy, fully verified; return the list's size.

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
    """Put our own charter from a peer's copy in force if it is newer; return whether it was.

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
            "two histories of it are signed: sign nothing more, keep this store and the mark, and "
            "see 'a list that cannot go on' in docs/operate.md"
        )
    elif obstacle is Obstacle.TIME_BACKWARDS:
        hint = "set the clock; staged changes wait until then"
    elif obstacle is Obstacle.CLOCK_AHEAD:
        hint = (
            "set the clock; staged changes wait until then. Only if the clock is right already, "
            "see 'a clock that is ahead' in docs/operate.md"
        )
    elif obstacle is Obstacle.BEHIND_PEER:
        hint = f"run 'hashfed recover {name}', which fetches what is missing; so does 'serve'"
    elif obstacle is Obstacle.BEHIND_MARK:
        hint = (
            f"run 'hashfed recover {name}' when its followers can be reached; if none of them has "
            "what is missing, see 'a list that cannot go on' in docs/operate.md"
        )
    else:
        hint = (
            f"run 'hashfed recover {name}' when the peers can be reached; only if they will never "
            "be reachable, see 'recovering' in docs/operate.md"
        )
    return RecoveringError(
        f"nothing may be signed for {origin}: {decision.detail}", hint=hint, reason=obstacle
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
            raise ProofError(f"its size is {checkpoint.size}")
    except FederationError as error:
        raise DamageError(
            f"the checkpoint of size {size} of {record.origin} is damaged: {error}",
            hint="run 'hashfed fsck', keep the store's file, restore a backup",
        ) from error
    return checkpoint.root_hash


def _checkpoint(origin: Origin, state: LogState) -> Checkpoint:
    return Checkpoint(str(origin), state.size, state.frontier.root())
