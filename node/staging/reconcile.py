"""Reconciles an import or a command with the operations that are staged and in force.

The rules for the operations on one entry, in their order in the input:

1. The last one counts. An assertion replaces what is staged.
2. A retraction of a live entry replaces what is staged. A retraction of an entry that is only
   staged unstages it. A retraction of any other entry is an error.
3. The same holds for a purge, where the entry need not be live: it is enough that the list has had
   and not purged it. The protocol allows a purge of any entry; but everything that an own list had
   is known here, so a purge of another entry is most likely a mistake.
4. An assertion that equals the one in force is not staged, and unstages what is staged.

Everything is done in sorted batches, so that memory does not grow with the number of operations and
the store is asked about many entries at once. Assertions of live entries are set apart and compared
in log order of the assertions in force, so that each body is read once. Their results are sorted in
between the others before anything is staged, so that they become blocks, too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

from federation.entry import EntryId, OpKind
from federation.errors import FederationError, OperationError, Reason
from federation.merge import Prior
from node.formats.csvfile import merge_labels
from node.staging.batches import NUMBER_BYTES, Pile, PileBatch
from node.staging.commitments import find_roots
from node.staging.edit import Edit, SortedRows
from node.staging.file import Staging
from node.staging.rows import (
    Row,
    contents_of,
    form_width,
    key_width,
    parse_annotation,
    prefix_width,
)
from node.store import index as entry_index
from node.store import lists, log
from node.store.connection import Store
from node.store.lists import ListRecord
from node.system.external_sort import Sorter
from node.system.worker import Pair

_PLACE: Final = Struct(">QI")
"""Position and row of the assertion in force; they precede the item that is compared with it."""


class Refusal(NamedTuple):
    """An operation that cannot be staged.

    Attributes:
        number: the number under which it was added.
        entry: the entry that it is about.
        error: why.
    """

    number: int
    entry: EntryId
    error: FederationError


@dataclass(slots=True, kw_only=True)
class Effect:
    """What the operations would change, in numbers of entries.

    Attributes:
        new: entries that become live.
        revised: live entries with a changed content.
        unchanged: assertions that equal the ones in force.
        retracted: live entries that are retracted.
        purged: entries that are purged.
        unstaged: entries with nothing staged any more, because a retraction or purge unstaged them.
        duplicates: operations that a later one on the same entry overrides.
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
    """The changes that one batch makes to the staged changes, as items of a pile.

    Attributes:
        put: what to stage.
        compared: assertions of live entries, each preceded by the place of the one in force.
        drop: staged rows to remove, among them those that are replaced.
    """

    put: list[bytes] = field(default_factory=list)
    compared: list[bytes] = field(default_factory=list)
    drop: list[Row] = field(default_factory=list)


class Settlement:
    """Stages one pile. For one use."""

    def __init__(
        self,
        store: Store,
        record: ListRecord,
        staging: Staging,
        pile: Pile,
        pair: Pair,
        *,
        on_refusal: Callable[[Refusal], None],
    ) -> None:
        self.effect = Effect()
        self._store = store
        self._record = record
        self._staging = staging
        self._pile = pile
        self._pair = pair
        self._on_refusal = on_refusal
        self._any_staged = True

    def run(self, edit: Edit) -> None:
        """Stage the operations. Refusals are reported one by one; the caller then undoes the edit.

        Raises:
            StoreError: the store or the staged changes cannot be read or written.
        """
        self._any_staged = not self._staging.is_empty
        with self._store.snapshot() as connection:
            # The list as it is now: changes may have been published while the operations were read.
            self._record = lists.load_list_by_number(connection, self._record.list)
            with closing(self._iter_settled(edit)) as settled:
                edit.put_runs(map(_run_of, settled), partial(find_roots, pair=self._pair))
        self.effect.duplicates += self._pile.collapsed

    def _iter_settled(self, edit: Edit) -> Generator[PileBatch, None, None]:
        """Yield the operations to stage, by ascending key; remove those that they replace."""
        directory = self._staging.path.parent
        with Sorter(directory) as revisions, Pile(directory) as waiting:
            is_waiting = False
            for batch in self._pile.iter_batches():
                plan = self._settle_batch(batch)
                edit.drop(plan.drop)
                revisions.extend(plan.compared)
                # After the first comparison, its results must be merged with all that follows.
                is_waiting = is_waiting or bool(plan.compared)
                if is_waiting:
                    waiting.sorter.extend(plan.put)
                elif plan.put:
                    yield batch.with_items(plan.put)
            self._settle_revisions(revisions, waiting)
            yield from waiting.iter_batches()

    def _settle_batch(self, batch: PileBatch) -> _Plan:
        staged = self._staging.load(batch.keys) if self._any_staged else {}
        prior = self._load_prior(batch) if self._record.log.size else {}
        if batch.is_distinct and not staged:
            # Nearly all batches of an import.
            return self._settle_apart(batch, prior)
        plan = _Plan()
        for index, (key, said) in enumerate(batch.iter_entries()):
            self._settle_entry(said, staged.get(key), prior.get(index), plan)
        return plan

    def _load_prior(self, batch: PileBatch) -> dict[int, Prior]:
        """Return the operation in force on each entry that the list has known.

        The keys are the indexes of the entries in the batch.
        """
        names = batch.names if batch.is_distinct else list(dict.fromkeys(batch.names))
        return entry_index.load_prior_by_name(
            self._store.connection, self._record.span, batch.type_name, names
        )

    def _settle_apart(self, batch: PileBatch, prior: Mapping[int, Prior]) -> _Plan:
        """Handle operations on distinct entries with nothing staged."""
        kinds = batch.kinds
        compared = [
            index
            for index, before in prior.items()
            if before.kind is OpKind.ASSERT and kinds[index] == OpKind.ASSERT
        ]
        refused = []
        if kinds.count(OpKind.ASSERT) < len(kinds):
            for index, kind in enumerate(kinds):
                before = prior.get(index)
                if not _applies(kind, None if before is None else before.kind):
                    refused.append(index)
        for index in refused:
            ((_, ((number, row),)),) = batch.with_items([batch.items[index]]).iter_entries()
            self._refuse(number, row)
        apart = {*compared, *refused}
        put = [item for index, item in enumerate(batch.items) if index not in apart]
        self._count(bytes([kinds[index] for index in range(len(kinds)) if index not in apart]))
        return _Plan(
            put=put if apart else batch.items,
            compared=[_locate(prior[index]) + batch.items[index] for index in compared],
        )

    def _settle_entry(
        self,
        said: list[tuple[int, Row]],
        staged: Row | None,
        prior: Prior | None,
        plan: _Plan,
    ) -> None:
        """Handle the operations on one entry."""
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
            return
        # The last operation counts, so its number no longer matters.
        item = outcome.key + bytes(NUMBER_BYTES) + outcome.content
        if prior is not None and before is OpKind.ASSERT and outcome.kind is OpKind.ASSERT:
            plan.compared.append(_locate(prior) + item)
        else:
            plan.put.append(item)
            self._count(outcome.content[:1])

    def _count(self, kinds: bytes) -> None:
        """Count by kind the operations that are staged without a comparison."""
        self.effect.new += kinds.count(OpKind.ASSERT)
        self.effect.retracted += kinds.count(OpKind.RETRACT)
        self.effect.purged += kinds.count(OpKind.PURGE)

    def _merge(self, said: list[tuple[int, Row]]) -> tuple[int, list[tuple[int, Row]]] | None:
        """Merge several assertions with the same fingerprint; count those that add no label.

        Returns:
            One more than the number of rows that add nothing, and the merged assertion; None if it
            was refused.
        """
        seen: set[str] = set()
        useful = 0
        annotations = []
        for _, row in said:
            # A row of a CSV has one fingerprint, so nothing precedes the annotation.
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
                f"{entry} is not in the list and never was, or it is already purged",
                reason=Reason.PURGE_OF_ABSENT,
            )
        elif error is None:
            error = OperationError(
                f"{entry} is not a live entry of the list and is not staged either",
                reason=Reason.RETRACT_OF_ABSENT,
            )
        self._on_refusal(Refusal(number, entry, error))

    def _settle_revisions(self, revisions: Sorter, waiting: Pile) -> None:
        """Compare assertions of live entries with the ones in force; each body is read once."""
        for block in revisions.iter_blocks():
            items = [item[_PLACE.size :] for item in block]
            places = [(self._record.list, *_PLACE.unpack_from(item)) for item in block]
            in_force = contents_of(list(log.iter_packed(self._store.connection, places)))
            changed = [
                item
                for item, content in zip(items, in_force, strict=True)
                if item[key_width(item) + NUMBER_BYTES :] != content
            ]
            self.effect.unchanged += len(items) - len(changed)
            self.effect.revised += len(changed)
            waiting.sorter.extend(changed)


def _locate(before: Prior) -> bytes:
    return _PLACE.pack(before.position, before.row)


def _run_of(batch: PileBatch) -> SortedRows:
    return SortedRows(batch.prefix, batch.names, batch.contents)


def _applies(kind: int, before: OpKind | None) -> bool:
    """Return whether an operation can follow the one in force on its entry (None for none)."""
    match kind:
        case OpKind.RETRACT:
            return before is OpKind.ASSERT
        case OpKind.PURGE:
            return before in {OpKind.ASSERT, OpKind.RETRACT}
    return True


def _fold(
    said: list[tuple[int, Row]], staged: Row | None, before: OpKind | None
) -> tuple[Row | None, tuple[int, Row] | None]:
    """Apply the operations on one entry, in order.

    Args:
        said: operations with their numbers.
        staged: the operation staged on the entry.
        before: the kind of the operation in force on it; None if the list never had it.

    Returns:
        The operation to stage, or None; and the operation that is not allowed, or None.
    """
    outcome = staged
    for number, row in said:
        # An entry whose purge is staged cannot be retracted.
        is_gone = row.kind is OpKind.RETRACT and _is(outcome, OpKind.PURGE)
        if _applies(row.kind, before) and not is_gone:
            outcome = row
        elif _is(outcome, OpKind.ASSERT):
            outcome = None
        else:
            return staged, (number, row)
    return outcome, None


def _is(row: Row | None, kind: OpKind) -> bool:
    return row is not None and row.kind is kind
