"""Commitments to the next deltas of a list, computed ahead of their signatures by two processes."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path
from struct import Struct
from typing import Final

from federation.commitment import Commitment, commit
from node.helper import answer_all

_POSITION_BYTES: Final = 8
_SLOTS: Final = 8
"""Bodies that wait for the second process: as many as keep it at work while a transaction is
committed."""

_COMMITMENT: Final = Struct(">32sQ32s32s")


def commit_all(
    bodies: Iterable[bytes], position: int, directory: Path
) -> Generator[Commitment, None, None]:
    """Yield the commitments to bodies that follow each other in one log.

    Args:
        bodies: the bodies' bytes; read some way ahead.
        position: the position of the first.
        directory: where temporary files without names may lie.

    Raises:
        NodeError, StoreFullError: as `node.helper.answer_all`.
    """
    questions = (
        at.to_bytes(_POSITION_BYTES) + body for at, body in enumerate(bodies, start=position)
    )
    with closing(answer_all(answer, questions, directory, slots=_SLOTS)) as answers:
        for data in answers:
            yield Commitment._make(_COMMITMENT.unpack(data))


def answer(question: bytes) -> bytes:
    """Compute one commitment: of a position (8 bytes) and a body, to its fields end to end."""
    at = int.from_bytes(question[:_POSITION_BYTES])
    return _COMMITMENT.pack(*commit(question[_POSITION_BYTES:], at))
