"""Settles what an import or a command says against what is staged and what is in force.

Rules, for each entry, over the operations on it in the order in which they were said:

1. The last one counts. An assertion takes the place of whatever is staged.
2. A retraction of an entry that is live takes the place of whatever is staged. Of one that is only
   staged, it takes back what is staged. Of one that is neither, it is an error.
3. A purge is the same for an entry that the list has had and not purged.
4. An assertion of exactly what is in force is not staged, and takes back what is staged.

Everything is done in sorted batches, so that memory does not grow with the number of operations and
the store is asked about many entries at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Final, NamedTuple, Self

from federation import limits
from federation.body import PackedOp, Shape
from federation.entry import Annotation, EntryId, OpKind
from federation.errors import FederationError, LimitError, OperationError, Reason
from federation.merge import Prior
from node.csvfile import merge_labels
from node.sorting import Sorter
from node.stagedrow import Row, key_prefix, key_width, parse_annotation, prefix_width, to_row
from node.staging import Edit, Staging
from node.store import compare, log, registry
from node.store.connection import Store
from node.store.registry import ListRecord

_NUMBER_BYTES: Final = 6
_CODE_BYTES: Final = 4
_MAX_RECORD_BYTES: Final = limits.MAX_BODY_BYTES - 32 * 1024
"""Bytes of one operation: it has to fit in a body, with what a body has around it."""

_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of operations after which a batch ends."""

_COMPARED: Final = 500
"""Assertions of live entries that are compared, and then staged, at a time."""

_MAX_CACHED_ANNOTATIONS: Final = 4096


class Refusal(NamedTuple):
    """An operation that cannot be staged.

    Attributes:
        number: which, as it was numbered when it was added.
        entry: the entry it names.
        error: why.
    """

    number: int
    entry: EntryId
    error: FederationError


@dataclass(slots=True, kw_only=True)
class Effect:
    """What the operations would change, by entries.

    Attributes:
        new: entries that become live.
        revised: live entries that say something else.
        unchanged: assertions of what is in force already.
        retracted: live entries that are retracted.
        purged: entries that are purged.
        unstaged: entries of which nothing remains staged, because a retraction or purge took back
            what was.
        duplicates: operations that another one on the same entry, said later, made void.
    """

    new: int = 0
    revised: int = 0
    unchanged: int = 0
    retracted: int = 0
    purged: int = 0
    unstaged: int = 0
    duplicates: int = 0


class Pile:
    """Operations on their way to be settled, in the order in which they were said.

    Use it in a `with` statement, which frees its temporary file.

    Attributes:
        merge_repeats: assertions of one entry add up their labels.
        shapes: the operations' shapes, by what stands for them in the pile.
        sorter: where the encoded operations go.
        collapsed: operations that repeat the one before, of those that were read.
    """

    def __init__(self, directory: Path, *, merge_repeats: bool = False) -> None:
        """Start with nothing.

        Args:
            directory: where a temporary file goes if it becomes large.
            merge_repeats: assertions of one entry add up their labels, as the rows of a CSV do.
        """
        self.merge_repeats = merge_repeats
        self.collapsed = 0
        self.shapes: list[Shape] = []
        self.sorter = Sorter(directory)
        self._codes: dict[Shape, int] = {}
        self._annotations: dict[Annotation, bytes] = {}
        self._shape: Shape | None = None
        self._annotation: Annotation | None = None
        self._head = self._code = self._tail = b""
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.sorter.close()

    def encode(self, packed: PackedOp, number: int) -> bytes:
        """Return what to add for an operation: its key, number, shape and content.

        Args:
            packed: the operation, well formed.
            number: greater for what is said later; it names the operation in a `Refusal`.

        Raises:
            LimitError: the operation alone is too large for a body.
        """
        shape, record, annotation = packed
        # Of a list's rows, most are alike in these two: they are the same objects.
        if shape is not self._shape:
            self._use_shape(shape)
        if annotation is not self._annotation:
            self._use_annotation(annotation)
        width = self._width
        return b"".join(
            (
                self._head,
                record[:width],
                number.to_bytes(_NUMBER_BYTES),
                self._code,
                record[width:],
                self._tail,
            )
        )

    def code_of(self, shape: Shape) -> bytes:
        """Return what stands for a shape in this pile."""
        code = self._codes.get(shape)
        if code is None:
            code = self._codes[shape] = len(self.shapes)
            self.shapes.append(shape)
        return code.to_bytes(_CODE_BYTES)

    def _use_shape(self, shape: Shape) -> None:
        if shape.record_width > _MAX_RECORD_BYTES:
            raise LimitError(
                f"the fingerprints of one entry have {shape.record_width} bytes, "
                f"at most {_MAX_RECORD_BYTES} can be published"
            )
        self._shape = shape
        self._code = self.code_of(shape)
        self._head = key_prefix(shape)
        self._width = shape.key_width

    def _use_annotation(self, annotation: Annotation) -> None:
        tail = self._annotations.get(annotation)
        if tail is None:
            if len(self._annotations) >= _MAX_CACHED_ANNOTATIONS:
                self._annotations.clear()
            tail = self._annotations[annotation] = annotation.canonical()
        self._annotation = annotation
        self._tail = tail

    def iter_batches(self) -> Iterator[dict[bytes, list[tuple[int, Row]]]]:
        """Yield the operations by ascending key, as (number, row) lists of some thousand keys.

        All operations of one entry are in one batch. One that says just what the one before it on
        that entry said is left out, and counted in `collapsed`.
        """
        batch: dict[bytes, list[tuple[int, Row]]] = {}
        shapes = self.shapes
        prefix, width, size = b"\xff", 0, 0
        for block in self.sorter.iter_blocks():
            if batch and (len(batch) + len(block) > compare.MAX_NAMES or size > _BATCH_BYTES):
                # The block may go on with the last entry.
                last, rows = batch.popitem()
                if batch:
                    yield batch
                batch, size = {last: rows}, 0
            size += sum(map(len, block))
            for item in block:
                if not item.startswith(prefix):
                    prefix, width = item[: prefix_width(item)], key_width(item)
                key = item[:width]
                at = width + _NUMBER_BYTES
                number = int.from_bytes(item[width:at])
                shape = shapes[int.from_bytes(item[at : at + _CODE_BYTES])]
                row = Row(key, shape, item[at + _CODE_BYTES :])
                said = batch.get(key)
                if said is None:
                    batch[key] = [(number, row)]
                elif said[-1][1] == row:
                    self.collapsed += 1
                else:
                    said.append((number, row))
        if batch:
            yield batch


@dataclass(slots=True)
class _Plan:
    """What one batch does to the staged changes.

    Attributes:
        put: rows to stage, by ascending key.
        replaced: what was staged on those entries before.
        drop: staged rows to let go of.
    """

    put: list[Row] = field(default_factory=list)
    replaced: list[Row] = field(default_factory=list)
    drop: list[Row] = field(default_factory=list)


class Settlement:
    """Settles one pile. One use."""

    def __init__(
        self,
        store: Store,
        record: ListRecord,
        staging: Staging,
        pile: Pile,
        *,
        on_refusal: Callable[[Refusal], None],
    ) -> None:
        self.effect = Effect()
        self._store = store
        self._record = record
        self._staging = staging
        self._pile = pile
        self._on_refusal = on_refusal
        self._any_staged = True

    def run(self, edit: Edit) -> None:
        """Stage what has to be; refusals are told one by one, and leave it to the caller to undo.

        Raises:
            StoreError: the store or the staged changes cannot be read or written.
        """
        self._any_staged = not self._staging.is_empty
        with (
            self._store.snapshot() as connection,
            # Assertions of live entries, to be compared with what is in force, body by body.
            Sorter(self._staging.path.parent) as revisions,
        ):
            # As it is now: something may have been published while the operations were read.
            self._record = registry.load_list_by_number(connection, self._record.list)
            for batch in self._pile.iter_batches():
                self._settle_batch(batch, edit, revisions)
            self._settle_revisions(edit, revisions)
        self.effect.duplicates += self._pile.collapsed

    def _settle_batch(
        self, batch: dict[bytes, list[tuple[int, Row]]], edit: Edit, revisions: Sorter
    ) -> None:
        staged = self._staging.load(batch) if self._any_staged else {}
        prior = self._load_prior(list(batch)) if self._record.log.size else {}
        plan = _Plan()
        compared: list[bytes] = []
        for key, said in batch.items():
            row = said[0][1]
            if (
                len(said) > 1
                or key in staged
                or key in prior
                or row.shape.kind is not OpKind.ASSERT
            ):
                self._settle_entry(said, staged.get(key), prior.get(key), plan, compared)
            else:
                self.effect.new += 1
                plan.put.append(row)
        if plan.drop:
            edit.drop(plan.drop)
        if plan.put:
            edit.put(plan.put, plan.replaced)
        if compared:
            revisions.extend(compared)

    def _load_prior(self, keys: list[bytes]) -> dict[bytes, Prior]:
        prior: dict[bytes, Prior] = {}
        for start in range(0, len(keys), compare.MAX_NAMES):
            some = keys[start : start + compare.MAX_NAMES]
            names = []
            for key in some:
                at = prefix_width(key)
                names.append((key[: at - 5].decode(), key[at:]))
            found = compare.load_prior(self._store.connection, self._record.span, names)
            prior.update((some[index], before) for index, before in found.items())
        return prior

    def _settle_entry(
        self,
        said: list[tuple[int, Row]],
        staged: Row | None,
        prior: Prior | None,
        plan: _Plan,
        compared: list[bytes],
    ) -> None:
        """Settle the operations on one entry."""
        count = len(said)
        if self._pile.merge_repeats and count > 1:
            merged = self._merge(said)
            if merged is None:
                return
            count, said = merged
        self.effect.duplicates += count - 1
        before = prior.kind if prior is not None else None
        outcome, refused = _fold(said, staged, before)
        if refused is not None:
            self._refuse(*refused)
        elif outcome is None:
            self.effect.unstaged += 1
            if staged is not None:
                plan.drop.append(staged)
        elif prior is not None and before is OpKind.ASSERT and _is(outcome, OpKind.ASSERT):
            if staged is not None:
                plan.drop.append(staged)
            # Sorted by where the assertion in force stands.
            compared.append(
                prior.position.to_bytes(_NUMBER_BYTES)
                + prior.row.to_bytes(_CODE_BYTES)
                + self._pile.code_of(outcome.shape)
                + outcome.key
                + outcome.content
            )
        else:
            plan.put.append(outcome)
            if staged is not None:
                plan.replaced.append(staged)
            self._count(outcome)

    def _count(self, outcome: Row) -> None:
        match outcome.shape.kind:
            case OpKind.ASSERT:
                self.effect.new += 1
            case OpKind.RETRACT:
                self.effect.retracted += 1
            case OpKind.PURGE:
                self.effect.purged += 1

    def _merge(self, said: list[tuple[int, Row]]) -> tuple[int, list[tuple[int, Row]]] | None:
        """Make one assertion of several with the same fingerprint; count those that add no label.

        Returns:
            One more than the number of rows that add nothing, and the one assertion; None if it was
            refused.
        """
        seen: set[str] = set()
        useful = 0
        annotations = []
        for _, row in said:
            annotation = parse_annotation(row.content)
            useful += bool(set(annotation.labels) - seen)
            seen.update(annotation.labels)
            annotations.append(annotation)
        number, row = said[-1]
        try:
            content = merge_labels(annotations).canonical()
        except FederationError as error:
            self._refuse(number, row, error)
            return None
        return len(said) - max(useful, 1) + 1, [(number, row._replace(content=content))]

    def _refuse(self, number: int, row: Row, error: FederationError | None = None) -> None:
        entry = EntryId(row.shape.key_type, row.key[len(row.key) - row.shape.key_width :])
        if error is None and row.shape.kind is OpKind.PURGE:
            error = OperationError(
                f"{entry} is not in the list and never was, or is purged already",
                reason=Reason.PURGE_OF_ABSENT,
            )
        elif error is None:
            error = OperationError(
                f"{entry} is no live entry of the list and is not staged either",
                reason=Reason.RETRACT_OF_ABSENT,
            )
        self._on_refusal(Refusal(number, entry, error))

    def _settle_revisions(self, edit: Edit, revisions: Sorter) -> None:
        """Compare assertions of live entries with what is in force, each body read once."""
        items = (item for block in revisions.iter_blocks() for item in block)
        for position, group in groupby(items, key=lambda item: item[:_NUMBER_BYTES]):
            body = log.load_body(
                self._store.connection, self._record.list, int.from_bytes(position)
            )
            while some := list(islice(group, _COMPARED)):
                changed = []
                for item in some:
                    row_number, row = self._decode_revision(item)
                    if to_row(compare.load_packed(body, row_number)) == row:
                        self.effect.unchanged += 1
                    else:
                        changed.append(row)
                self.effect.revised += len(changed)
                edit.put(changed)

    def _decode_revision(self, item: bytes) -> tuple[int, Row]:
        at = _NUMBER_BYTES + _CODE_BYTES
        row_number = int.from_bytes(item[_NUMBER_BYTES:at])
        shape = self._pile.shapes[int.from_bytes(item[at : at + _CODE_BYTES])]
        rest = item[at + _CODE_BYTES :]
        width = key_width(rest)
        return row_number, Row(rest[:width], shape, rest[width:])


def _fold(
    said: list[tuple[int, Row]], staged: Row | None, before: OpKind | None
) -> tuple[Row | None, tuple[int, Row] | None]:
    """Apply what is said about one entry, in order.

    Args:
        said: operations with their numbers.
        staged: what is staged on the entry.
        before: what the operation in force on it did; None if the list never had it.

    Returns:
        What is to be staged, or None; and the operation that cannot be, or None.
    """
    outcome = staged
    for number, row in said:
        kind = row.shape.kind
        if kind is OpKind.RETRACT:
            counts = before is OpKind.ASSERT and not _is(outcome, OpKind.PURGE)
        elif kind is OpKind.PURGE:
            counts = before in (OpKind.ASSERT, OpKind.RETRACT)
        else:
            counts = True
        if counts:
            outcome = row
        elif _is(outcome, OpKind.ASSERT):
            outcome = None
        else:
            return staged, (number, row)
    return outcome, None


def _is(row: Row | None, kind: OpKind) -> bool:
    return row is not None and row.shape.kind is kind
