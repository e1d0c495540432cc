"""The oracle: knows all that was signed and released, and what every node must hold.

It sees operations as their publisher meant them, before they are encoded, and keeps the state after
each leaf as a plain dictionary. It shares no code with the merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from federation.entry import Annotation, EntryId, Operation, OpKind
from federation.follow import FollowState
from federation.header import Header, leaf_hash
from federation.names import OrgName, Origin
from federation.recovery import PeerReport
from federation.replica import SignedDelta
from tests.simulation.disk import Entries, Held, MarkFile


class ViolationError(Exception):
    """A promise was broken.

    Attributes:
        promise: which one, in stable words.
    """

    def __init__(self, promise: str, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise


Said = Mapping[EntryId, tuple[int, Annotation]]
"""The live entries: where each was last asserted, and what was said of it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the oracle knows of one signed leaf."""

    origin: Origin
    position: int
    previous: bytes
    live: Said
    gone: frozenset[EntryId]


@dataclass(slots=True)
class Ledger:
    """What the oracle knows of one list.

    Attributes:
        owner: the number of the node that signs it.
        honest: whether that node is.
        released: the leaf hashes of all positions that were released.
        acknowledged: how many of them a publisher was told to be released.
        lost: why nobody can be held to what was released, if that is so.
    """

    owner: int
    honest: bool
    released: list[bytes] = field(default_factory=list)
    acknowledged: int = 0
    lost: str = ""


class Oracle:
    """Knows everything."""

    def __init__(self, hits: Counter[str]) -> None:
        self.ledgers: dict[Origin, Ledger] = {}
        self.leaves: dict[bytes, Known] = {}
        self.forks: dict[Origin, int] = {}
        self._hits = hits
        self._signed_at: dict[tuple[Origin, int], bytes] = {}
        self._sizes: dict[tuple[int, Origin], int] = {}
        self._checked: dict[tuple[int, Origin], Entries] = {}
        self._frozen: dict[tuple[int, Origin], int] = {}

    def add(self, origin: Origin, owner: int, *, honest: bool) -> None:
        """Take note of a list."""
        self.ledgers[origin] = Ledger(owner, honest)

    # --- publishers ---------------------------------------------------------------------------

    def sign(self, origin: Origin, delta: SignedDelta, operations: Sequence[Operation]) -> None:
        """Take note of what was signed, as its publisher meant it."""
        header = Header.parse(delta.header)
        leaf, position, previous = leaf_hash(delta.header), header.position, header.previous
        before = self.leaves.get(previous)
        live = {} if before is None else dict(before.live)
        gone = set() if before is None else set(before.gone)
        for operation in operations:
            if operation.kind is OpKind.ASSERT:
                live[operation.entry] = (position, operation.annotation)
                gone.discard(operation.entry)
            else:
                live.pop(operation.entry, None)
                gone.add(operation.entry)
        self.leaves[leaf] = Known(origin, position, previous, live, frozenset(gone))
        first = self._signed_at.setdefault((origin, position), leaf)
        if first != leaf:
            self.forks[origin] = min(position, self.forks.get(origin, position))

    def permit(
        self,
        held: Held,
        mark: MarkFile,
        answers: Sequence[PeerReport],
        holding: Mapping[OrgName, int],
        *,
        needed: int | None,
        risk: bool,
    ) -> None:
        """Check that a publisher may go on from here.

        Args:
            held: what its store has.
            mark: its mark, before it is brought up to the store.
            answers: what its peers have said.
            holding: what each honest peer holds now.
            needed: how many answers the operator asks for; None for all.
            risk: the operator goes on without them.
        """
        ledger = self.ledgers[held.origin]
        size = held.size
        if not ledger.honest or size >= len(ledger.released):
            return
        missing = len(ledger.released) - size
        record = mark.record_durable(held.origin)
        if record is not None and record.size > size and not ledger.lost:
            raise ViolationError(
                "nothing signed over", f"{held.origin}: the mark has {missing} more"
            )
        unheard = False
        for answer in answers:
            shown = answer.checkpoint.size if answer.checkpoint is not None else 0
            if answer.answered and answer.peer in holding and shown > size:
                raise ViolationError(
                    "nothing signed over",
                    f"{held.origin}: {answer.peer} showed {shown}, not {size}",
                )
            unheard |= not answer.answered and holding.get(answer.peer, 0) > size
        if unheard and not risk and needed is None:
            raise ViolationError(
                "nothing signed over", f"{held.origin}: a peer holds more and was not heard"
            )
        # Nobody who had to be asked has it: what the guide for operators calls lost.
        if risk:
            ledger.lost = "at a named risk"
        else:
            ledger.lost = "with fewer peers asked" if unheard else "with every witness"
        self._hits[f"list lost {ledger.lost}"] += 1
        del ledger.released[size:]

    def release(self, held: Held, size: int, mark: MarkFile) -> None:
        """Check what is about to leave its publisher."""
        ledger = self.ledgers[held.origin]
        if not ledger.honest:
            return
        # Not what it says now: somebody may have taken it away since.
        if (held.origin, size, held.root_at(size)) not in mark.synced:
            raise ViolationError("marked before released", f"{held.origin}: size {size}")
        chain = self.chain(held.log.last_leaf)[:size]
        shared = min(len(chain), len(ledger.released))
        if chain[:shared] != ledger.released[:shared]:
            if ledger.lost:
                return
            at = next(at for at in range(shared) if chain[at] != ledger.released[at])
            raise ViolationError("one history", f"{held.origin}: position {at} released twice")
        ledger.released += chain[shared:]

    def acknowledge(self, origin: Origin, size: int) -> None:
        """Take note that a publisher was told that its list is released up to a size."""
        ledger = self.ledgers[origin]
        ledger.acknowledged = max(ledger.acknowledged, size)

    def chain(self, leaf: bytes) -> list[bytes]:
        """Return the leaves up to one, from the first."""
        found = []
        while (known := self.leaves.get(leaf)) is not None:
            found.append(leaf)
            leaf = known.previous
        return found[::-1]

    # --- every node ---------------------------------------------------------------------------

    def check(self, number: int, held: Held) -> None:
        """Check what one node holds of one list, after each of its commits."""
        origin, where = held.origin, f"node {number}, {held.origin}"
        ledger = self.ledgers[origin]
        before = self._sizes.get((number, origin), 0)
        if held.size < before:
            raise ViolationError("never fewer", f"{where}: {held.size} after {before}")
        self._sizes[number, origin] = held.size
        if held.size and self._checked.get((number, origin)) is not held.entries:
            self._check_state(where, held)
            self._checked[number, origin] = held.entries
        if held.state is not FollowState.FORKED:
            return
        frozen = self._frozen.setdefault((number, origin), held.size)
        if not held.own and held.size != frozen:
            raise ViolationError("forked lists stay", f"{where}: {held.size} after {frozen}")
        # Who signed twice may find out by what was put back here, though nobody was shown anything.
        shown = ledger.lost or held.own
        if origin not in self.forks or (ledger.honest and not shown):
            raise ViolationError("no false fork", f"{where}: {held.reason}")

    def _check_state(self, where: str, held: Held) -> None:
        known = self.leaves.get(held.log.last_leaf)
        if known is None or known.origin != held.origin or known.position != held.size - 1:
            raise ViolationError("only what was signed", f"{where}: size {held.size}")
        live = held.entries.said()
        if live == known.live:
            return
        if back := live.keys() & known.gone:
            raise ViolationError(
                "retracted is not active", f"{where}, size {held.size}: {min(map(str, back))}"
            )
        raise ViolationError("state follows from the log", f"{where}, size {held.size}")

    def put_back(self, number: int) -> None:
        """Take note that a node's store was put back: it may hold less than before."""
        for at in [at for at in self._sizes if at[0] == number]:
            del self._sizes[at]
        for at in [at for at in self._frozen if at[0] == number]:
            del self._frozen[at]
