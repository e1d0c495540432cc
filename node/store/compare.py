"""Finds what is in force on many entries at a time, with the same join that merging uses.

Decides nothing: what an equal or another content means is for its users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from federation.body import Body, Group, PackedOp, Shape
from federation.entry import OpKind
from federation.merge import Prior
from node.store import entries
from node.store.schema import NUMBERS
from node.store.sqlite import sqlite3

MAX_NAMES: Final = NUMBERS
"""How many entries one question may be about."""


def load_prior(
    connection: sqlite3.Connection, span: int, names: Sequence[tuple[str, bytes]]
) -> dict[int, Prior]:
    """Return, by index in `names`, the operation in force on each entry that the span has known.

    Args:
        connection: where to look.
        span: the number of the span of the list.
        names: hash type (empty for an id) and key of at most `MAX_NAMES` entries, in any order.
    """
    by_column: dict[tuple[str, int], list[int]] = {}
    for index, (type_name, key) in enumerate(names):
        by_column.setdefault((type_name, len(key)), []).append(index)
    groups: list[Group] = []
    order: list[int] = []
    for (type_name, width), indexes in by_column.items():
        indexes.sort(key=lambda index: names[index][1])
        column = b"".join([names[index][1] for index in indexes])
        groups.append(_naming_group(type_name, width, len(order), len(indexes), column))
        order += indexes
    # A body that would name these entries and do nothing else with them.
    body = Body(b"", (), tuple(groups))
    found = entries.load_prior(connection, span, body)
    return {order[row]: prior for row, prior in found.items()}


def _naming_group(type_name: str, width: int, first_row: int, count: int, column: bytes) -> Group:
    if type_name:
        shape = Shape(OpKind.RETRACT, named=True, id_width=0, columns=((type_name, width),))
        return Group(shape, first_row, count, b"", (column,), ())
    shape = Shape(OpKind.RETRACT, named=False, id_width=width, columns=())
    return Group(shape, first_row, count, column, (), ())


def load_packed(body: Body, row: int) -> PackedOp:
    """Return one operation of a body as it was packed."""
    group, index = body.locate(row)
    return PackedOp(group.shape, group.record(index), body.annotations[group.codes[index]])
