"""Histories of one list: operations that are allowed one after the other, cut into deltas.

Few entries are asserted in many ways, revised, retracted, purged and asserted again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum

from hypothesis import strategies as st

from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from tests.federation.worlds import Publisher, fingerprint

Live = dict[EntryId, Operation]

LABELS = [(), ("A1",), ("A1", "B2"), ("ünïcödé",)]
FURTHER = [
    (),
    (fingerprint(1, "md5"),),
    (fingerprint(1, "md5"), fingerprint(2, "md5"), fingerprint(3, "pdq")),
    (fingerprint(1, "acme-2031"), fingerprint(2, "acme-2031", 7)),
]


def variants(number: int, own_id: str | None) -> list[Operation]:
    """All that an entry may be asserted as."""
    return [
        Operation.assertion(
            (fingerprint(number), *further),
            Annotation(labels=labels),
            None if own_id is None else EntryId.parse(own_id),
        )
        for labels in LABELS
        for further in FURTHER
    ]


# Few entries, so that they are revised, retracted, purged and asserted again.
POOL = [
    *(variants(number, None) for number in range(5)),
    *(variants(number, f"case {number}") for number in (3, 4)),
    variants(9, "https://hotline.example/Fälle/9"),
    [
        Operation.assertion((fingerprint(number, "vpdq", 37 * number),), Annotation())
        for number in (1, 2)
    ],
]


class Move(Enum):
    """What a publisher does to an entry, when it can."""

    ASSERT = 1
    RETRACT = 2
    PURGE = 3


MOVES = st.lists(
    st.tuples(
        st.integers(0, len(POOL) - 1),
        st.sampled_from(Move),
        st.integers(0, len(LABELS) * len(FURTHER) - 1),
    ),
    min_size=1,
    max_size=40,
)


def operations_of(moves: Sequence[tuple[int, Move, int]]) -> list[Operation]:
    """Turn moves into operations that are allowed one after the other."""
    kinds: dict[EntryId, OpKind] = {}
    operations = []
    for index, move, variant in moves:
        assertion = POOL[index][variant % len(POOL[index])]
        entry, kind = assertion.entry, kinds.get(assertion.entry)
        if move is Move.RETRACT and kind is OpKind.ASSERT:
            operation = Operation.retraction(
                entry, Cause(1 + variant % 3), "because" * (variant % 2)
            )
        elif move is Move.PURGE and kind in {OpKind.ASSERT, OpKind.RETRACT}:
            operation = Operation.purge(entry)
        else:
            operation = assertion
        kinds[entry] = operation.kind
        operations.append(operation)
    return operations


def model_of(operations: Sequence[Operation]) -> Live:
    """What is live in the end, by the plainest of means."""
    live: Live = {}
    for operation in operations:
        live.pop(operation.entry, None)
        if operation.kind is OpKind.ASSERT:
            live[operation.entry] = operation
    return live


def publish_cut(
    operations: Sequence[Operation], cuts: set[int], snapshots: Collection[int] = ()
) -> Publisher:
    """Publish operations in deltas that end at the cuts, and where an entry comes again.

    Args:
        operations: what is published.
        cuts: the numbers of the operations before which a delta ends.
        snapshots: the positions at which a snapshot is published, if operations go on there.
    """
    publisher = Publisher()
    batch: dict[EntryId, Operation] = {}
    for number, operation in enumerate(operations):
        if batch and (number in cuts or operation.entry in batch):
            publisher.publish(*batch.values())
            batch = {}
            if publisher.state.size in snapshots:
                publisher.publish_snapshot()
        batch[operation.entry] = operation
    publisher.publish(*batch.values())
    return publisher


CUTS = st.sets(st.integers(1, 40))
