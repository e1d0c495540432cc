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

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Final, NamedTuple

from federation.entry import EntryId, OpKind
from federation.errors import FederationError, OperationError, Reason
from federation.merge import Prior
from node.csvfile import merge_labels
from node.pile import Pile, PileBatch
from node.sorting import Sorter
from node.stagededit import Edit
from node.stagedrow import Row, form_width, key_width, parse_annotation, prefix_width, to_row
from node.staging import Staging
from node.store import compare, log, registry
from node.store.connection import Store
from node.store.registry import ListRecord

_POSITION_BYTES: Final = 6
_ROW_BYTES: Final = 4
_COMPARED: Final = 500
"""Assertions of live entries that are compared, and then staged, at a time."""


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


@dataclass(slots=True)
class _Plan:
    """What one batch does to the staged changes.

    Attributes:
        put: rows to stage, by ascending key.
        drop: staged rows to let go of, among them those that others take the place of.
        compared: assertions of live entries, to be compared with what is in force.
    """

    put: list[Row] = field(default_factory=list)
    drop: list[Row] = field(default_factory=list)
    compared: list[bytes] = field(default_factory=list)


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

    def _settle_batch(self, batch: PileBatch, edit: Edit, revisions: Sorter) -> None:
        staged = self._staging.load(batch.keys) if self._any_staged else {}
        prior = self._load_prior(batch) if self._record.log.size else {}
        if not staged and not prior and batch.is_distinct and batch.is_asserted:
            # Most batches of a large import: nothing to settle.
            self.effect.new += len(batch.names)
            edit.put_run(batch.prefix, batch.names, batch.contents)
            return
        plan = _Plan()
        for key, said in batch.iter_entries():
            self._settle_entry(said, staged.get(key), prior.get(key), plan)
        edit.drop(plan.drop)
        if plan.compared:
            # What comes of these will be staged between the others.
            edit.put(plan.put)
            revisions.extend(plan.compared)
        elif plan.put:
            start = len(batch.prefix)
            names = [row.key[start:] for row in plan.put]
            edit.put_run(batch.prefix, names, [row.content for row in plan.put])

    def _load_prior(self, batch: PileBatch) -> dict[bytes, Prior]:
        """Return, by key, the operation in force on each entry that the list has known."""
        names = batch.names if batch.is_distinct else list(dict.fromkeys(batch.names))
        type_name = batch.prefix[: batch.prefix.index(0)].decode()
        found = compare.load_prior(self._store.connection, self._record.span, type_name, names)
        return {batch.prefix + names[index]: before for index, before in found.items()}

    def _settle_entry(
        self,
        said: list[tuple[int, Row]],
        staged: Row | None,
        prior: Prior | None,
        plan: _Plan,
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
            return
        if staged is not None:
            plan.drop.append(staged)
        if outcome is None:
            self.effect.unstaged += 1
        elif prior is not None and before is OpKind.ASSERT and outcome.kind is OpKind.ASSERT:
            # Sorted by where the assertion in force stands.
            plan.compared.append(
                prior.position.to_bytes(_POSITION_BYTES)
                + prior.row.to_bytes(_ROW_BYTES)
                + outcome.key
                + outcome.content
            )
        else:
            plan.put.append(outcome)
            self._count(outcome)

    def _count(self, outcome: Row) -> None:
        match outcome.kind:
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
            # A row of a CSV has one fingerprint: there is nothing before the annotation.
            annotation = parse_annotation(row.content[form_width(row.content) :])
            useful += bool(set(annotation.labels) - seen)
            seen.update(annotation.labels)
            annotations.append(annotation)
        number, row = said[-1]
        try:
            merged = merge_labels(annotations).canonical()
        except FederationError as error:
            self._refuse(number, row, error)
            return None
        content = row.content[: form_width(row.content)] + merged
        return len(said) - max(useful, 1) + 1, [(number, Row(row.key, content))]

    def _refuse(self, number: int, row: Row, error: FederationError | None = None) -> None:
        at = prefix_width(row.key)
        entry = EntryId(row.key[: at - 5].decode(), row.key[at:])
        if error is None and row.kind is OpKind.PURGE:
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
        for position, group in groupby(items, key=lambda item: item[:_POSITION_BYTES]):
            body = log.load_body(
                self._store.connection, self._record.list, int.from_bytes(position)
            )
            while some := list(islice(group, _COMPARED)):
                changed = []
                for item in some:
                    row_number, row = _decode_revision(item)
                    if to_row(compare.load_packed(body, row_number)) == row:
                        self.effect.unchanged += 1
                    else:
                        changed.append(row)
                self.effect.revised += len(changed)
                edit.put(changed)


def _decode_revision(item: bytes) -> tuple[int, Row]:
    at = _POSITION_BYTES + _ROW_BYTES
    rest = item[at:]
    width = key_width(rest)
    return int.from_bytes(item[_POSITION_BYTES:at]), Row(rest[:width], rest[width:])


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
        kind = row.kind
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
    return row is not None and row.kind is kind
