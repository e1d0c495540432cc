"""A list as plain dictionaries have it: what a store must say of it, whatever has happened.

It learns from the signed bytes only which staged operations a delta was made of and in which rows;
that they are those that were to be signed, each once, is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from federation import wire
from federation.entry import EntryId, Operation, OpKind
from federation.hashtypes import find_type
from federation.header import Header, LeafKind
from federation.replica import SignedDelta
from node.formats.jsonl import format_change
from tests.federation.histories import variants
from tests.federation.worlds import slow_state_digest

Live = dict[EntryId, Operation]

POOL: Final = [
    [said for said in variants(number, own_id) if all(find_type(f.type) for f in said.fingerprints)]
    for number, own_id in (*((n, None) for n in range(5)), (3, "case 3"), (4, "case 4"))
]
"""Few entries, each in all the ways that it is asserted in: some share a fingerprint."""

PROBES: Final = {f for said in POOL for operation in said for f in operation.fingerprints}
"""Every fingerprint that any of them ever has."""


@dataclass(frozen=True)
class Moment:
    """What is so after some deltas of the list.

    Attributes:
        kinds: what the last operation on each entry did.
        live: each live entry, as last asserted.
        places: where that assertion stands: position and row.
    """

    kinds: dict[EntryId, OpKind]
    live: Live
    places: dict[EntryId, tuple[int, int]]

    def after(self, position: int, operations: Iterable[tuple[int, Operation]]) -> Moment:
        """Return what is so after one more delta."""
        kinds, live, places = dict(self.kinds), dict(self.live), dict(self.places)
        for row, operation in operations:
            entry = operation.entry
            kinds[entry] = operation.kind
            live.pop(entry, None)
            places.pop(entry, None)
            if operation.kind is OpKind.ASSERT:
                live[entry] = operation
                places[entry] = (position, row)
        return Moment(kinds, live, places)

    def is_needless(self, operation: Operation) -> bool:
        """Say whether an operation withdraws what is withdrawn, which is not signed."""
        before = self.kinds.get(operation.entry)
        if operation.kind is OpKind.RETRACT:
            return before is not OpKind.ASSERT
        return operation.kind is OpKind.PURGE and before in {None, OpKind.PURGE}

    def exported(self) -> bytes:
        """Return the entries as JSON Lines, by the bytes of their ids."""
        by_id = {entry.format().encode(): said for entry, said in self.live.items()}
        return b"".join(f"{format_change(by_id[name])}\n".encode() for name in sorted(by_id))

    def state_digest(self) -> bytes:
        """Return the digest of the live set, as the specification defines it."""
        return slow_state_digest(self.places)


@dataclass
class PlainList:
    """The list, from its first delta on, and what is staged for it.

    Attributes:
        log: what was signed, byte for byte.
        operations: the operations of each delta with their rows; none for a snapshot's leaf.
        moments: what is so after each number of deltas, from none on.
        released: how many of them may have left the publisher: these are never signed again.
        staged: what is staged, by entry.
        signed: entries whose staged operation is signed already, by a process that was killed
            before it let go of it.
    """

    log: list[SignedDelta] = field(default_factory=list)
    operations: list[list[tuple[int, Operation]]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=lambda: [Moment({}, {}, {})])
    released: int = 0
    staged: Live = field(default_factory=dict)
    signed: set[EntryId] = field(default_factory=set)

    def is_snapshot(self, position: int) -> bool:
        """Say whether a snapshot's leaf stands at a position."""
        return Header.parse(self.log[position].header).kind is LeafKind.SNAPSHOT

    # --- staging ------------------------------------------------------------------------------

    def stage(self, said: Sequence[Operation], now: Moment) -> bool:
        """Stage operations on what is so now: all, or none if one of them is refused."""
        staged, signed = dict(self.staged), set(self.signed)
        last: Live = {}
        for operation in said:
            entry, kind = operation.entry, operation.kind
            if last.get(entry) == operation:
                # Said twice is said once.
                continue
            last[entry] = operation
            before, waiting = now.kinds.get(entry), staged.get(entry)
            if kind is OpKind.ASSERT:
                counts = True
            elif kind is OpKind.RETRACT:
                is_purged = waiting is not None and waiting.kind is OpKind.PURGE
                counts = before is OpKind.ASSERT and not is_purged
            else:
                counts = before in {OpKind.ASSERT, OpKind.RETRACT}
            if counts:
                staged[entry] = operation
            elif waiting is not None and waiting.kind is OpKind.ASSERT:
                del staged[entry]
            else:
                return False
            signed.discard(entry)
        # What says just what is in force need not be said.
        touched = {operation.entry for operation in said}
        for entry in touched & staged.keys():
            if now.live.get(entry) == staged[entry]:
                del staged[entry]
        self.staged, self.signed = staged, signed
        return True

    def to_sign(self, now: Moment) -> Live:
        """Return what the next publication signs."""
        return {
            entry: operation
            for entry, operation in self.staged.items()
            if entry not in self.signed and not now.is_needless(operation)
        }

    # --- the log ------------------------------------------------------------------------------

    def learn(self, found: Sequence[SignedDelta], to_sign: Live) -> None:
        """Take in what stands in the publisher's log now.

        Args:
            found: its log from the beginning.
            to_sign: what may have been signed since the last time; what was is taken out of it.
        """
        known = len(self.log)
        assert list(found[:known]) == self.log[: len(found)], "a position has two contents"
        for delta in found[known:]:
            position = len(self.log)
            header = Header.parse(delta.header)
            operations: list[tuple[int, Operation]] = []
            if header.kind is LeafKind.DELTA:
                operations = list(wire.decode_body(delta.body).operations())
            for _, operation in operations:
                assert to_sign.pop(operation.entry, None) == operation, "signed, and not staged"
            now = self.moments[-1].after(position, operations)
            assert header.live_count == len(now.live)
            assert header.state_digest == now.state_digest()
            if self.log:
                assert header.time_ms >= Header.parse(self.log[-1].header).time_ms
            self.log.append(delta)
            self.operations.append(operations)
            self.moments.append(now)

    def forget_from(self, size: int) -> None:
        """Let go of what was committed and never released: its store is gone."""
        del self.log[size:], self.operations[size:], self.moments[size + 1 :]

    def versions(self, entry: EntryId, size: int) -> list[tuple[int, int, Operation]]:
        """Return (position, row, operation) of all that was said of an entry, oldest first."""
        return [
            (position, row, operation)
            for position, operations in enumerate(self.operations[:size])
            for row, operation in operations
            if operation.entry == entry
        ]
