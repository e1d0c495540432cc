"""Composes the bodies of the next deltas from what is staged, as they will be signed.

Each body comes with what was in force before it and with the commitment to it. A signature needs
to know no more. This holds as long as nobody else signs for the list: the deltas of one publication
name different entries, so none of them changes what was in force before another.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from federation import limits, wire
from federation.body import SALT_SEED_BYTES, Body, PackedOp, build_body
from federation.commitment import Commitment
from federation.entry import OpKind
from federation.errors import LimitError
from federation.merge import Prior
from node.errors import CommandError
from node.staging.commitments import commit_all
from node.staging.file import Batch, StagedRange
from node.store import index
from node.store.sqlite import sqlite3
from node.system.worker import Pair


@dataclass(frozen=True, slots=True)
class Composed:
    """A body, ready to be signed.

    Attributes:
        body: the operations.
        prior: for each row whose entry the list has known, the operation in force on it.
        commitment: the commitment to it, at its position.
    """

    body: Body
    prior: Mapping[int, Prior]
    commitment: Commitment


@dataclass(slots=True)
class Part:
    """What one batch of staged operations turns into.

    Attributes:
        extent: what the batch is called.
        bodies: the bodies of its deltas.
        dropped: its withdrawals of what is withdrawn already, which cannot be signed.
    """

    extent: StagedRange
    bodies: list[Composed] = field(default_factory=list)
    dropped: int = 0


def compose(
    connection: sqlite3.Connection,
    span: int,
    position: int,
    batches: Iterable[Batch],
    pair: Pair,
) -> Generator[Part, None, None]:
    """Yield what each batch turns into, reading some batches ahead.

    Args:
        connection: where to look up what is in force.
        span: the number of the span of the list.
        position: the position of the next delta.
        batches: what is staged.
        pair: the processes that share the work.

    Raises:
        CommandError: an operation alone is larger than a delta can be.
        NodeError: as `node.system.worker.Pair.answer_all`.
    """
    waiting: deque[tuple[Part, deque[tuple[Body, Mapping[int, Prior]]]]] = deque()

    def iter_data() -> Iterator[tuple[bytes, bytes | None]]:
        for batch in batches:
            cut = _Cut(connection, span)
            cut.add(batch.operations, batch.ops_root)
            waiting.append((Part(batch.extent, dropped=cut.dropped), deque(cut.bodies)))
            yield from cut.data

    with closing(commit_all(iter_data(), position, pair)) as commitments:
        for commitment in commitments:
            while not waiting[0][1]:
                yield waiting.popleft()[0]
            part, bodies = waiting[0]
            part.bodies.append(Composed(*bodies.popleft(), commitment))
            if not bodies:
                yield waiting.popleft()[0]
    yield from (part for part, _ in waiting)


class _Cut:
    """Cuts the operations of one batch into bodies that can be signed.

    Attributes:
        bodies: each with what was in force before it.
        data: the bytes of each, and the root of its ops tree if it is known.
        dropped: the withdrawals of what is withdrawn already, which were left out.
    """

    def __init__(self, connection: sqlite3.Connection, span: int) -> None:
        self.bodies: list[tuple[Body, Mapping[int, Prior]]] = []
        self.data: list[tuple[bytes, bytes | None]] = []
        self.dropped = 0
        self._connection = connection
        self._span = span

    def add(self, operations: Body | Sequence[PackedOp], ops_root: bytes | None = None) -> None:
        """Add operations as one body, or as several where one would exceed a cap.

        Args:
            operations: the operations.
            ops_root: the root of the ops tree if they are a body and it is known.
        """
        if isinstance(operations, Body):
            body = operations
        else:
            try:
                body = build_body(operations, secrets.token_bytes(SALT_SEED_BYTES))
            except LimitError:
                self._add_halves(operations)
                return
        prior = index.load_prior(self._connection, self._span, body)
        if needless := _needless(body, prior):
            self.dropped += len(needless)
            if kept := [body.packed(row) for row in range(body.count) if row not in needless]:
                self.add(kept)
            return
        data = wire.encode_body(body)
        if len(data) > limits.MAX_BODY_BYTES:
            self._add_halves([body.packed(row) for row in range(body.count)])
            return
        self.bodies.append((body, prior))
        self.data.append((data, ops_root))

    def _add_halves(self, packed: Sequence[PackedOp]) -> None:
        half = len(packed) // 2
        if not half:
            raise CommandError("a single staged change is larger than a delta can be")
        self.add(packed[:half])
        self.add(packed[half:])


def _needless(body: Body, prior: Mapping[int, Prior]) -> set[int]:
    """Return the rows that withdraw what is withdrawn already: a person meant more than nothing."""
    needless: set[int] = set()
    for group in body.groups:
        if group.shape.kind is OpKind.ASSERT:
            continue
        gone = {OpKind.PURGE, None}
        if group.shape.kind is OpKind.RETRACT:
            gone.add(OpKind.RETRACT)
        for row in range(group.first_row, group.first_row + group.count):
            before = prior.get(row)
            if (None if before is None else before.kind) in gone:
                needless.add(row)
    return needless
