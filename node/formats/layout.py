"""How one line of a file of changes is laid out: its fixed text, and where the hashes are."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from federation.hashtypes import HASH_TYPES

WIDTHS: Final = MappingProxyType(
    {
        hash_type.name.encode(): hash_type.widths[0]
        for hash_type in HASH_TYPES.values()
        if hash_type.widths is not None
    }
)
"""Digest size in bytes of each hash type that has only one size, by its name in a file."""


class Slot(NamedTuple):
    """A part of a line in which lines of one template differ.

    Attributes:
        start: where it starts.
        stop: where it stops.
        type: the hash type of the digest in it; empty for an entry's own id. Slots of one type
            hold the same text.
    """

    start: int
    stop: int
    type: bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the hashes are in a line.

    Its maker guarantees this: if the parser accepts the line, it also accepts any line with other
    digests of the same width, or another plain id, in the slots; and it reads both lines alike
    except for the slots.

    Attributes:
        slots: the slots, from left to right.
        end: where the ending starts, behind all slots.
    """

    slots: tuple[Slot, ...]
    end: int
