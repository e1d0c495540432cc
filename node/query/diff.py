"""How each entry changed between two points of a list's history."""

from __future__ import annotations

from collections.abc import Iterator

from federation.body import PackedOp, unpack
from federation.bucket import LiveEntry, name_of
from node.errors import CommandError
from node.store import damage, history, spans
from node.store.by_name import iter_by_name
from node.store.connection import Store
from node.store.history import Change
from node.store.lists import ListRecord
from node.store.spans import Span


def covering_span(store: Store, record: ListRecord, size: int) -> Span:
    """Return the span of a list that shows what was live after its first `size` deltas.

    Raises:
        CommandError: a snapshot replaced the deltas around that size, so nothing here shows it.
    """
    span = spans.at(store.connection, record.list, size)
    if span is None:
        earlier = [
            str(held.stop)
            for held in spans.iter_applied(store.connection, record.list)
            if held.stop
        ]
        raise CommandError(
            f"position {size} of {record.origin} is not held here: a snapshot replaced the deltas "
            f"before position {record.start}",
            hint=f"name position:{record.start} or a later one"
            + (f", or one up to position:{earlier[-1]}" if earlier else ""),
            reason="NOT_RETAINED",
        )
    return span


def diff(store: Store, record: ListRecord, start: int, stop: int) -> Iterator[Change]:
    """Yield how each entry changed between two positions of a list.

    Where a snapshot replaced deltas between them, the two states are compared.

    Raises:
        CommandError: the second is before the first, or one of them is not held here.
        DamageError: the list is damaged here.
    """
    damage.require_sound(store.path, str(record.origin))
    if stop < start:
        raise CommandError(f"the second point (position {stop}) is before the first ({start})")
    first, last = (covering_span(store, record, size) for size in (start, stop))
    if first.span == last.span:
        yield from history.iter_changes(store.connection, last, start, stop)
    else:
        # The change is known from the leaf of the snapshot.
        yield from _compare(store, record, start, stop, last.start - 1)


def _compare(
    store: Store, record: ListRecord, start: int, stop: int, snapshot: int
) -> Iterator[Change]:
    """Compare two live sets, both by ascending name."""
    before, after = (
        iter_by_name(
            history.iter_live_packed(store.connection, record.list, size), store.path.parent
        )
        for size in (start, stop)
    )
    left, right = next(before, None), next(after, None)
    while left is not None or right is not None:
        left_name, right_name = _name(left), _name(right)
        removed = right is None or (left is not None and left_name < right_name)
        added = left is None or (right is not None and right_name < left_name)
        if not added and not removed and _said(left) != _said(right):
            yield _change(left, right, snapshot)
        elif added or removed:
            yield _change(None if added else left, None if removed else right, snapshot)
        if not added:
            left = next(before, None)
        if not removed:
            right = next(after, None)


def _name(entry: LiveEntry | None) -> bytes:
    if entry is None:
        return b""
    shape = entry.packed.shape
    return name_of(shape, entry.packed.record[: shape.key_width])


def _said(entry: LiveEntry | None) -> PackedOp | None:
    # Its position makes no difference: an entry that came back with the same content is unchanged.
    return None if entry is None else entry.packed


def _change(left: LiveEntry | None, right: LiveEntry | None, snapshot: int) -> Change:
    by = None if right is None else unpack(right.packed)
    return Change(
        before=None if left is None else unpack(left.packed),
        after=by,
        by=by,
        position=snapshot if right is None else right.position,
    )
