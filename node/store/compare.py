"""Finds what is in force on many entries at a time, with the same join that merging uses.

Decides nothing: what an equal or another content means is for its users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from federation.body import Body, Group, Shape
from federation.entry import OpKind
from federation.merge import Prior
from node.store import entries
from node.store.schema import NUMBERS
from node.store.sqlite import sqlite3

MAX_NAMES: Final = NUMBERS
"""How many entries one question may be about."""


def load_prior(
    connection: sqlite3.Connection, span: int, type_name: str, names: Sequence[bytes]
) -> dict[int, Prior]:
    """Return, by index in `names`, the operation in force on each entry that the span has known.

    Args:
        connection: where to look.
        span: the number of the span of the list.
        type_name: the hash type of the digests that name the entries; empty for ids.
        names: the digests or ids of at most `MAX_NAMES` entries: of one width, ascending.
    """
    width, column = len(names[0]), b"".join(names)
    if type_name:
        shape = Shape(OpKind.RETRACT, named=True, id_width=0, columns=((type_name, width),))
        group = Group(shape, 0, len(names), b"", (column,), ())
    else:
        shape = Shape(OpKind.RETRACT, named=False, id_width=width, columns=())
        group = Group(shape, 0, len(names), column, (), ())
    # A body that would name these entries and do nothing else with them.
    return entries.load_prior(connection, span, Body(b"", (), (group,)))
