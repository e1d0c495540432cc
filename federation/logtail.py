"""Proofs from the end of a log (RFC 9162 section 2.1) when only subtrees of its start are known.

A node that joined by a snapshot has the complete subtrees of the log before it and every leaf from
there on. That is enough to prove any of those leaves, and that the log at any such size is a prefix
of the log at a later one.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation import merkle
from federation.errors import UsageError
from federation.merkle import CompactRange


class LogTail:
    """A log: the subtrees of its first `start.size` leaves, and the hashes of the others.

    A proof hashes every held leaf once: some 0.5 us a leaf.
    """

    def __init__(self, start: CompactRange, leaf_hashes: Sequence[bytes]) -> None:
        self._start = start.size
        self._leaves = leaf_hashes
        self._known: dict[tuple[int, int], bytes] = {}
        at = 0
        for height, node in zip(
            (bit for bit in range(start.size.bit_length(), -1, -1) if start.size >> bit & 1),
            start.hashes,
            strict=True,
        ):
            self._known[at, at + (1 << height)] = node
            at += 1 << height

    @property
    def size(self) -> int:
        """Leaves in the log."""
        return self._start + len(self._leaves)

    def prove_inclusion(self, index: int, size: int) -> list[bytes]:
        """Build the proof that the leaf at `index` is in the log of `size` leaves.

        Raises:
            UsageError: there is no such leaf or size here, or too little of the log is here.
        """
        if not 0 <= index < size <= self.size:
            raise UsageError(f"leaf {index} of a log of {size}, of which {self.size} are here")
        proof: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                proof.append(self._root(middle, high))
                high = middle
            else:
                proof.append(self._root(low, middle))
                low = middle
        return proof[::-1]

    def prove_consistency(self, old_size: int, size: int) -> list[bytes]:
        """Build the proof that the first `old_size` leaves are a prefix of the log of `size`.

        Raises:
            UsageError: there is no such size here, or too little of the log is here.
        """
        if not 0 < old_size <= size <= self.size:
            raise UsageError(f"sizes {old_size} and {size} of a log of {self.size}")
        # RFC 9162 section 2.1.4.1, SUBPROOF: `whole` while the old tree is a subtree of its own.
        proof: list[bytes] = []
        low, high, whole = 0, size, True
        while old_size != high:
            middle = low + _split(high - low)
            if old_size <= middle:
                proof.append(self._root(middle, high))
                high = middle
            else:
                proof.append(self._root(low, middle))
                low, whole = middle, False
        if not whole:
            proof.append(self._root(low, high))
        return proof[::-1]

    def _root(self, low: int, high: int) -> bytes:
        """Return the root over the leaves from `low` to before `high`, a node of some tree."""
        known = self._known.get((low, high))
        if known is not None:
            return known
        if low >= self._start:
            return merkle.root_hash(self._leaves[low - self._start : high - self._start])
        if high <= self._start or high - low == 1:
            raise UsageError(f"leaves {low} to {high} are not here, only subtrees of them")
        middle = low + _split(high - low)
        return merkle.node_hash(self._root(low, middle), self._root(middle, high))


def _split(count: int) -> int:
    """Return the greatest power of two below a number of leaves, which must be at least 2."""
    return 1 << ((count - 1).bit_length() - 1)
