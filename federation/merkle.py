"""RFC 6962 Merkle trees (RFC 9162 section 2.1): roots, proofs, the right edge of a growing tree.

It only knows hashes, and not the content of leaves, checkpoints, or where hashes are stored.

Verifiers take what a peer sent and raise `ProofError` for anything wrong with it. Generators take
this node's own hashes and raise `UsageError` if they are called wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from federation import limits
from federation.errors import MalformedError, ProofError, UsageError

HASH_BYTES: Final = 32

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of the tree without leaves."""

# RFC 6962 section 2.1: two prefixes, so that no node can be passed off as a leaf.
_LEAF_PREFIX: Final = b"\x00"
_NODE_PREFIX: Final = b"\x01"


def leaf_hash(data: bytes) -> bytes:
    """Hash the bytes of one leaf."""
    return sha256(_LEAF_PREFIX + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two sibling nodes into their parent."""
    return sha256(_NODE_PREFIX + left + right).digest()


def root_hash(leaf_hashes: Sequence[bytes]) -> bytes:
    """Compute the root of the tree over these leaf hashes.

    Raises:
        UsageError: a leaf hash is not 32 bytes.
    """
    level = _checked(leaf_hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Build the proof that the leaf at `index` is in the tree: its siblings, from the leaf upward.

    Raises:
        UsageError: there is no such leaf, or a leaf hash is not 32 bytes.
    """
    level = _checked(leaf_hashes)
    if type(index) is not int or not 0 <= index < len(level):
        raise UsageError(f"leaf index out of range: got {index!r}, tree size {len(level)}")
    return _siblings(level, index)


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> list[bytes]:
    """Build the proof that the first `old_size` leaves are a prefix of this tree.

    Raises:
        UsageError: `old_size` is not between 1 and the size of the tree, or a leaf hash is not
            32 bytes.
    """
    level = _checked(leaf_hashes)
    if type(old_size) is not int or not 0 < old_size <= len(level):
        raise UsageError(f"old size out of range: got {old_size!r}, tree size {len(level)}")
    if old_size == len(level):
        return []
    # The walk starts at the old tree's last complete subtree, which the new tree holds unchanged.
    height = _trailing_zeros(old_size)
    for _ in range(height):
        level = _parents(level)
    index = (old_size >> height) - 1
    # RFC 9162 section 2.1.4.1: that subtree is left out if it is the whole old tree, as the
    # verifier has its root.
    seed = [] if index == 0 else [level[index]]
    return seed + _siblings(level, index)


def verify_inclusion(
    leaf_hash: bytes, index: int, tree_size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf at `index` of the tree with this size and root has this leaf hash.

    Raises:
        ProofError: it is not shown, whatever the reason.
    """
    _check_hash(leaf_hash, "leaf hash")
    _check_hash(root, "root hash")
    _check_size(tree_size, "tree size")
    if type(index) is not int or not 0 <= index < tree_size:
        raise ProofError(f"leaf index out of range: got {index!r}, tree size {tree_size}")
    inner, border = _path_lengths(index, tree_size)
    _check_proof(proof, inner + border)

    node = leaf_hash
    for height, sibling in enumerate(proof[:inner]):
        node = node_hash(sibling, node) if index >> height & 1 else node_hash(node, sibling)
    for sibling in proof[inner:]:
        node = node_hash(sibling, node)
    if node != root:
        raise ProofError(f"root differs: got {node.hex()}, expected {root.hex()}")


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check that the old tree is a prefix of the new one.

    An empty old tree is refused, because every tree extends it and nothing would be proved.

    Raises:
        ProofError: it is not shown, whatever the reason.
    """
    _check_hash(old_root, "old root hash")
    _check_hash(new_root, "new root hash")
    _check_size(new_size, "new size")
    if type(old_size) is not int or not 0 < old_size <= new_size:
        raise ProofError(f"old size out of range: got {old_size!r}, new size {new_size}")
    if old_size == new_size:
        _check_proof(proof, 0)
        if old_root != new_root:
            raise ProofError(f"two roots of size {new_size}: {old_root.hex()}, {new_root.hex()}")
        return

    height = _trailing_zeros(old_size)
    index = (old_size >> height) - 1
    inner, border = _path_lengths(old_size - 1, new_size)
    inner -= height
    seeds = 0 if index == 0 else 1
    _check_proof(proof, seeds + inner + border)

    # Both roots are rebuilt in one walk. Siblings on the left belong to both trees, siblings on the
    # right only to the new one.
    old_node = new_node = proof[0] if seeds else old_root
    for level, sibling in enumerate(proof[seeds : seeds + inner]):
        if index >> level & 1:
            old_node = node_hash(sibling, old_node)
            new_node = node_hash(sibling, new_node)
        else:
            new_node = node_hash(new_node, sibling)
    for sibling in proof[seeds + inner :]:
        old_node = node_hash(sibling, old_node)
        new_node = node_hash(sibling, new_node)
    if old_node != old_root:
        raise ProofError(f"old root differs: got {old_node.hex()}, expected {old_root.hex()}")
    if new_node != new_root:
        raise ProofError(f"new root differs: got {new_node.hex()}, expected {new_root.hex()}")


@dataclass(frozen=True, slots=True)
class CompactRange:
    """The complete subtrees of a tree: enough to append to it and to compute its root.

    Attributes:
        size: leaves in the tree.
        hashes: roots of the complete subtrees from left to right, one for each 1 bit of `size`.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 0 <= self.size <= limits.MAX_TREE_SIZE:
            raise UsageError(f"tree size out of range: got {self.size!r}")
        if type(self.hashes) is not tuple or len(self.hashes) != self.size.bit_count():
            raise UsageError(f"compact range of size {self.size}: wrong number of hashes")
        if not all(_is_hash(node) for node in self.hashes):
            raise UsageError(f"compact range of size {self.size}: a hash is not 32 bytes")

    @classmethod
    def decode(cls, size: int, data: bytes) -> CompactRange:
        """Parse what `encode` returned for a tree of this size.

        Raises:
            MalformedError: the size is out of range, or `data` has not one hash for each of its
                1 bits.
        """
        if type(size) is not int or not 0 <= size <= limits.MAX_TREE_SIZE:
            raise MalformedError(f"tree size out of range: got {size!r}")
        expected = size.bit_count() * HASH_BYTES
        if not isinstance(data, bytes) or len(data) != expected:
            got = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
            raise MalformedError(f"compact range of size {size}: got {got}, expected {expected}")
        return cls(size, tuple(data[at : at + HASH_BYTES] for at in range(0, expected, HASH_BYTES)))

    def encode(self) -> bytes:
        """Return the hashes, from left to right, without the size."""
        return b"".join(self.hashes)

    def append(self, leaf_hash: bytes) -> CompactRange:
        """Return the range of the tree with one more leaf.

        Raises:
            UsageError: the leaf hash is not 32 bytes, or the tree is full.
        """
        if not _is_hash(leaf_hash):
            raise UsageError(f"leaf hash must be {HASH_BYTES} bytes: got {leaf_hash!r}")
        node = leaf_hash
        kept = len(self.hashes)
        # Each trailing 1 bit of the size is a subtree that the new leaf completes to a subtree
        # twice as large.
        for _ in range(_trailing_zeros(self.size + 1)):
            kept -= 1
            node = node_hash(self.hashes[kept], node)
        return CompactRange(self.size + 1, (*self.hashes[:kept], node))

    def root(self) -> bytes:
        """Compute the root of the tree."""
        if not self.hashes:
            return EMPTY_ROOT
        node = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            node = node_hash(left, node)
        return node


def _checked(leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """Copy the leaf hashes. Sets of types and lengths cost a tenth of a loop over the leaves."""
    if not isinstance(leaf_hashes, Sequence):
        raise UsageError(f"leaf hashes must be a sequence: got {type(leaf_hashes).__name__}")
    hashes = list(leaf_hashes)
    if hashes and (set(map(type, hashes)) != {bytes} or set(map(len, hashes)) != {HASH_BYTES}):
        raise UsageError(f"every leaf hash must be {HASH_BYTES} bytes")
    return hashes


def _parents(level: list[bytes]) -> list[bytes]:
    """Hash one level into the next. A node without a sibling moves up unchanged.

    This is the hot path of a publisher. `node_hash` is inlined, since a call for each node costs a
    third more.
    """
    hash_, prefix = sha256, _NODE_PREFIX
    # With an odd number, the last one has no right sibling.
    parents = [
        hash_(prefix + left + right).digest()
        for left, right in zip(level[::2], level[1::2], strict=False)
    ]
    if len(level) & 1:
        parents.append(level[-1])
    return parents


def _siblings(level: list[bytes], index: int) -> list[bytes]:
    """Collect the siblings on the way from one node of a level to the root."""
    siblings: list[bytes] = []
    while len(level) > 1:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        level = _parents(level)
        index >>= 1
    return siblings


def _path_lengths(index: int, size: int) -> tuple[int, int]:
    """Count the siblings of a leaf in the two parts of its way to the root.

    Below the point where its path meets that of the last leaf, every level has a sibling; above
    it, only the levels where the path comes from the right, with the sibling on the left.
    """
    inner = (index ^ (size - 1)).bit_length()
    return inner, (index >> inner).bit_count()


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def _check_hash(value: bytes, name: str) -> None:
    if not _is_hash(value):
        got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise ProofError(f"{name}: got {got}, expected {HASH_BYTES} bytes")


def _check_size(size: int, name: str) -> None:
    if type(size) is not int or not 0 < size <= limits.MAX_TREE_SIZE:
        raise ProofError(f"{name} out of range: got {size!r}")


def _check_proof(proof: Sequence[bytes], expected: int) -> None:
    # The length follows from index and sizes. Checking it first also bounds the loop.
    if not isinstance(proof, Sequence):
        raise ProofError(f"proof must be a sequence: got {type(proof).__name__}")
    if len(proof) != expected:
        raise ProofError(f"proof length: got {len(proof)} hashes, expected {expected}")
    for position, node in enumerate(proof):
        _check_hash(node, f"proof hash {position}")
