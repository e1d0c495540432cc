"""How a simulated publisher signs: the steps of `node.publish`, in order.

Each is a generator that stops after every step, so that a process can end between any two. What is
in memory is in the generator; what is on the disk is in the store and in the mark.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from federation import diagnosis, merkle
from federation.author import ChangeSet
from federation.body import build_body, pack
from federation.entry import EntryId, Operation, OpKind
from federation.errors import FederationError
from federation.header import Header, LeafKind, leaf_hash
from federation.merkle import CompactRange
from federation.names import Origin
from federation.recovery import Action, Mark, Obstacle, PeerReport, accept_lead
from federation.replica import Replica, SignedDelta
from federation.snapshot import SnapshotOffer, build_buckets
from federation.trust.orgroot import PinnedRoot
from tests.simulation.disk import DamageError, Held, HeldSnapshot, Intent, MarkContent
from tests.simulation.parties import assertion, retraction

if TYPE_CHECKING:
    from tests.simulation.member import Member

Steps = Generator[str, Sequence[PeerReport] | None, None]
"""Yields the name of each step that is done; ASK is answered with what peers say."""

ASK: Final = "ask"

_BODY_INTENTS: Final = 3
_STEP_DELTAS: Final = 2
_TAIL_DELTAS: Final = 2 * _STEP_DELTAS
"""As in production: twice what one step has."""

CRASH_WINDOWS: Final = (
    "asked",
    "permit mark written",
    "permit mark renamed",
    "permit",
    "signed",
    "mark written",
    "committed",
    "mark renamed",
    "mark synced",
    "released",
    "let go",
)
"""The steps that a process can end after; docs/adr/0011 names the windows between them."""


def check_tail(held: Held, root: PinnedRoot) -> None:
    """Check that the newest leaves are what was signed.

    Raises:
        DamageError: they are not.
    """
    start = max(held.log.start, held.size - _TAIL_DELTAS)
    before, newest = held.leaf(start - 1), held.leaf(held.size - 1)
    tail = dict(enumerate((leaf.delta for leaf in held.leaves[start - held.log.start :]), start))
    try:
        diagnosis.check_tail(
            Replica(held.origin, root, held.log),
            None if before is None else before.header,
            {position: delta.header for position, delta in tail.items()},
            b"" if newest is None else newest.checkpoint,
            lambda position: tail[position].body,
        )
    except FederationError as error:
        raise DamageError(str(error)) from error


class Publisher:
    """Signs for the lists of one node."""

    def __init__(self, member: Member) -> None:
        self.member = member

    def publish(self, origin: Origin, *, risk: bool = False, snapshot: bool = False) -> Steps:
        """Sign what is staged, as `hashfed publish`; then a snapshot, if one is wanted.

        Raises:
            DamageError, DiskFullError, DiskFailedError: as the disk does.
        """
        member = self.member
        answers = yield ASK
        yield "asked"
        yield from self.permit(origin, answers or (), risk=risk)
        while (permit := member.permits.get(origin)) is not None:
            held, staged = member.store[origin], member.staged(origin)
            if staged:
                after = self.sign(held, staged)
            elif snapshot:
                after, snapshot = self._sign_snapshot(held), False
            else:
                break
            yield "signed"
            yield from self._step(held, after, permit)
            member.wake()
        else:
            return
        member.tools.oracle.acknowledge(origin, member.store[origin].released)
        if member.store[origin].released:
            member.tools.hits["publication acknowledged"] += 1

    def permit(self, origin: Origin, answers: Sequence[PeerReport], *, risk: bool = False) -> Steps:
        """Finish what a crash left, and say whether the list may be signed for."""
        member = self.member
        member.permits.pop(origin, None)
        held = member.store[origin]
        check_tail(held, member.party.root)
        decision = member.decide(held, answers)
        risked = risk and decision.overridable
        if risked:
            member.tools.hits["risk taken"] += 1
            decision = member.decide(held, answers, risk=True)
        if decision.action in {Action.SIGN, Action.FINISH}:
            member.tools.check_permit(member, held, answers, risk=risked)
            own, now_ms = member.describe(held), member.now_ms()
            yield from self._adopt(held, accept_lead(own, answers, now_ms) if risked else 0)
            if held.released != held.size:
                self.release(held, max(held.released, held.size))
            yield "permit"
        member.note_own(member.store[origin], decision)
        if decision.doubts_mark:
            member.mark.known.pop(origin, None)
        if decision.obstacle is not None:
            return
        mark = member.mark.load(origin)
        if isinstance(mark, Mark):
            member.permits[origin] = mark

    def _adopt(self, held: Held, accepted_lead_ms: int) -> Steps:
        """Make the mark what was found out."""
        mark = self.member.mark
        if isinstance(mark.content, Obstacle):
            # Put aside under another name: what there is now has no records.
            mark.rename({})
            mark.sync()
        raised = mark.raised(held, self.member.store.incarnation)
        if raised != mark.content:
            mark.write()
            yield "permit mark written"
            mark.rename(raised)
            yield "permit mark renamed"
        # Also when it is in place already: who put it there may have been killed before this.
        mark.sync()
        mark.known[held.origin] = accepted_lead_ms or mark.known.get(held.origin, 0)

    def _step(self, held: Held, after: Held, permit: Mark) -> Steps:
        """Commit one step, raise the mark, release, and let go of what was staged."""
        member, mark, origin = self.member, self.member.mark, held.origin
        if held.checkpoint() != permit.checkpoint or mark.load(origin) != permit:
            member.permits.pop(origin)
            return
        mark.write()
        yield "mark written"
        member.commit_signed(after)
        yield "committed"
        if mark.load(origin) != permit:
            # Somebody has put another mark in place: nothing is released.
            member.permits.pop(origin)
            return
        yield from self.seal(after, mark.raised(after, permit.incarnation))
        member.permits[origin] = replace(permit, checkpoint=after.checkpoint())
        member.staging[origin] = member.staged(origin)
        yield "let go"

    def seal(self, after: Held, raised: MarkContent) -> Steps:
        """Put the raised mark in place, and release what it has."""
        mark = self.member.mark
        mark.rename(raised)
        yield "mark renamed"
        mark.sync()
        yield "mark synced"
        self.release(self.member.store[after.origin], after.size)
        yield "released"

    def release(self, held: Held, size: int) -> None:
        """Let deltas up to a size leave, for the oracle to see."""
        self.member.commit(replace(held, released=size))
        released = self.member.store[held.origin]
        self.member.tools.oracle.release(released, size, self.member.mark)

    # --- signing ------------------------------------------------------------------------------

    def sign(self, held: Held, staged: list[Intent]) -> Held:
        """Return the list with the next step's deltas."""
        member = self.member
        author = member.party.author(held.origin)
        replica = member.tools.replica(held)
        entries, leaves, first = held.entries, held.leaves, held.size
        taken = staged[: _BODY_INTENTS * _STEP_DELTAS]
        for at in range(0, len(taken), _BODY_INTENTS):
            some = taken[at : at + _BODY_INTENTS]
            operations = list(_resolve(some, entries.kinds()).values())
            if not operations:
                continue
            seed = sha256(f"{held.origin} {some[0].number}".encode()).digest()
            body = build_body(map(pack, operations), seed)
            prior, state, now_ms = entries.prior(body), replica.state, member.now_ms()
            change_set = ChangeSet(first=first, last=at + _BODY_INTENTS >= len(taken))
            delta = author.sign(body, prior, state, change_set=change_set, now_ms=now_ms)
            candidate = replica.receive(delta, now_ms=now_ms)
            replica.conclude(candidate, prior)
            member.tools.oracle.sign(held.origin, delta, operations)
            entries = entries.after(state.size, candidate.body)
            leaves = (*leaves, member.store.leaf(delta))
        extent = taken[-1].number
        return replace(
            held, log=replica.state, entries=entries, leaves=leaves, signed_extent=extent
        )

    def _sign_snapshot(self, held: Held) -> Held:
        """Return the list with a snapshot's leaf."""
        member = self.member
        buckets, hashes = _build(held)
        now_ms = member.now_ms()
        leaf = member.party.author(held.origin).sign_snapshot(hashes, held.log, now_ms=now_ms)
        replica = member.tools.replica(held)
        replica.conclude(replica.receive(leaf, now_ms=now_ms), {})
        member.tools.oracle.sign(held.origin, leaf, ())
        member.tools.hits["snapshot signed"] += 1
        after = replace(held, log=replica.state, leaves=(*held.leaves, member.store.leaf(leaf)))
        return _serve(after, leaf, held.log.frontier, buckets, hashes)


def rebuild_snapshot(held: Held) -> Held:
    """Return a list with the snapshot that its newest leaf is, rebuilt to be served.

    Raises:
        DamageError: what is in force here is not what was signed.
    """
    newest = held.leaf(held.size - 1)
    header = None if newest is None else Header.parse(newest.header)
    if newest is None or header is None or header.kind is not LeafKind.SNAPSHOT:
        return held
    buckets, hashes = _build(held)
    if merkle.root_hash(hashes) != header.ops_root:
        raise DamageError(f"the snapshot at {header.position} of {held.origin} is another one")
    before = held.before
    for leaf in held.leaves[:-1]:
        before = before.append(leaf_hash(leaf.delta.header))
    if before.append(leaf_hash(newest.header)).root() != held.root_at(held.size):
        # An earlier header is damaged here: nobody could join by that.
        return held
    return _serve(held, newest, before, buckets, hashes)


def _build(held: Held) -> tuple[tuple[bytes, ...], list[bytes]]:
    """Return the buckets of what is in force, and their hashes."""
    buckets = tuple(data for _, data in build_buckets(held.entries.live()))
    return buckets, [merkle.leaf_hash(data) for data in buckets]


def _serve(
    held: Held,
    leaf: SignedDelta,
    before: CompactRange,
    buckets: tuple[bytes, ...],
    hashes: list[bytes],
) -> Held:
    """Return a list with the snapshot of its newest leaf, for others to join by."""
    offer = SnapshotOffer(leaf.header, leaf.checkpoint, before.encode(), b"".join(hashes))
    snapshot = HeldSnapshot(position=held.size - 1, offer=offer, buckets=buckets)
    return replace(held, snapshots=(*held.snapshots, snapshot))


def _resolve(intents: Sequence[Intent], kinds: dict[EntryId, OpKind]) -> dict[EntryId, Operation]:
    """Return what intents mean for the entries of now; what is withdrawn already is left out."""
    operations: dict[EntryId, Operation] = {}
    for intent in intents:
        if intent.kind == "assert":
            operation = assertion(intent.value, f"revision-{intent.number}")
        else:
            purges = intent.kind == "purge"
            wanted = {OpKind.ASSERT, OpKind.RETRACT} if purges else {OpKind.ASSERT}
            there = {entry for entry, kind in kinds.items() if kind in wanted}
            fitting = sorted(there - operations.keys(), key=lambda entry: entry.key)
            if not fitting:
                continue
            entry = fitting[intent.value % len(fitting)]
            operation = Operation.purge(entry) if purges else retraction(entry)
        operations[operation.entry] = operation
    return operations
