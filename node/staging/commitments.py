"""Commitments to the next deltas of a list, computed by two processes before they are signed.

Most of the work, the roots of the ops trees, can be done as soon as there are bodies, before their
positions are known.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from struct import Struct
from typing import Final

from federation.commitment import Commitment, commit, find_ops_root
from node.system.worker import Pair

SLOTS: Final = 8
"""Bodies that wait for the second process: enough to keep it busy during a commit."""

_AT: Final = Struct(">Q32s?")  # position, ops root, whether it is known
_COMMITMENT: Final = Struct(">32sQ32s32s")


def commit_all(
    bodies: Iterable[tuple[bytes, bytes | None]], position: int, pair: Pair
) -> Generator[Commitment, None, None]:
    """Yield the commitments to consecutive bodies of one log.

    Args:
        bodies: each body's bytes, and the root of its ops tree if known; they are read ahead.
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
    """Compute one commitment: from a request of `commit_all` to the fields, end to end."""
    position, root, is_known = _AT.unpack_from(question)
    return _COMMITMENT.pack(*commit(question[_AT.size :], position, root if is_known else None))


def find_roots(bodies: Iterable[bytes], pair: Pair) -> Generator[bytes, None, None]:
    """Yield the roots of the ops trees of bodies, which are read ahead.

    Raises:
        NodeError, StoreFullError: as `node.system.worker.Pair.answer_all`.
    """
    return pair.answer_all(find_ops_root, bodies, slots=SLOTS)
