"""Commitments to the next deltas of a list, computed ahead of their signatures by two processes.

Most of it can be computed before it is known at which position a body will be signed: the roots of
the ops trees, as soon as there are bodies.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from struct import Struct
from typing import Final

from federation.commitment import Commitment, commit, find_ops_root
from node.system.worker import Pair

SLOTS: Final = 8
"""Bodies that wait for the second process: as many as keep it at work while a transaction is
committed."""

_AT: Final = Struct(">Q32s?")  # position, ops root, whether it is known
_COMMITMENT: Final = Struct(">32sQ32s32s")


def commit_all(
    bodies: Iterable[tuple[bytes, bytes | None]], position: int, pair: Pair
) -> Generator[Commitment, None, None]:
    """Yield the commitments to bodies that follow each other in one log.

    Args:
        bodies: each body's bytes, and the root of its ops tree if it is known; read some way ahead.
        position: the position of the first.
        pair: the processes that compute them.

    Raises:
        NodeError, StoreFullError: as `node.system.worker.Pair.answer_all`.
    """
    questions = (
        _AT.pack(at, root or b"", root is not None) + body
        for at, (body, root) in enumerate(bodies, start=position)
    )
    with closing(pair.answer_all(answer, questions, slots=SLOTS)) as answers:
        for data in answers:
            yield Commitment._make(_COMMITMENT.unpack(data))


def answer(question: bytes) -> bytes:
    """Compute one commitment: of what `commit_all` asks, to its fields end to end."""
    position, root, is_known = _AT.unpack_from(question)
    return _COMMITMENT.pack(*commit(question[_AT.size :], position, root if is_known else None))


def find_roots(bodies: Iterable[bytes], pair: Pair) -> Generator[bytes, None, None]:
    """Yield the roots of the ops trees of bodies, which are read some way ahead.

    Raises:
        NodeError, StoreFullError: as `node.system.worker.Pair.answer_all`.
    """
    return pair.answer_all(find_ops_root, bodies, slots=SLOTS)
