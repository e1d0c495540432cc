"""The merge rules: a pure function of a delta and the operations in force before it.

The merged state of a list is a function of its verified log alone; nothing local enters it.
This module does not know storage, clocks and peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.body import Body
from federation.entry import OpKind
from federation.errors import OperationError, Reason


@dataclass(frozen=True, slots=True)
class Prior:
    """The operation that was in force on an entry before a delta.

    Attributes:
        position: the position of its delta.
        row: its row in that delta's body.
        kind: what it did.
    """

    position: int
    row: int
    kind: OpKind


def merge(body: Body, prior: Mapping[int, Prior], live_count: int) -> int:
    """Return the number of live entries after a delta.

    Every operation of the delta comes into force, and the operation in `prior` of the same row, if
    any, is no longer in force: that is the whole effect on the entries.

    Args:
        body: the delta's operations, well formed (`Body.check`).
        prior: for each row whose entry is known, the operation in force on it before. A subscriber
            that joined by a snapshot does not know the retractions before it, so no rule depends on
            more than whether an entry is live.
        live_count: live entries before.

    Raises:
        OperationError: RETRACT_OF_ABSENT, an entry is retracted that is not live.
    """
    for group in body.groups:
        rows = range(group.first_row, group.first_row + group.count)
        match group.shape.kind:
            case OpKind.ASSERT:
                live_count += group.count
                for row in prior.keys() & rows if prior else ():
                    live_count -= prior[row].kind is OpKind.ASSERT
            case OpKind.RETRACT:
                for row in rows:
                    before = prior.get(row)
                    if before is None or before.kind is not OpKind.ASSERT:
                        raise OperationError(
                            f"row {row} retracts an entry that is not live",
                            reason=Reason.RETRACT_OF_ABSENT,
                        )
                live_count -= group.count
            case OpKind.PURGE:
                # Any entry may be purged, known or not: a purge is to leave nothing behind.
                for row in prior.keys() & rows:
                    live_count -= prior[row].kind is OpKind.ASSERT
    return live_count
