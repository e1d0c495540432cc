"""RFC 6962 trees: published values, the recursive definition, and tampered proofs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from federation import limits, merkle
from federation.errors import FederationError, MalformedError, ProofError, UsageError
from federation.merkle import CompactRange

# A value of any type, for callers whom no type checker stops.
Wrong = Any

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "rfc6962.json").read_text())
LEAVES = [merkle.leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
HASHES = [merkle.leaf_hash(b"%d" % number) for number in range(300)]
OTHER = sha256(b"other").digest()

sizes = st.integers(1, 300)


def unhex(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


def split(size: int) -> int:
    """RFC 6962 section 2.1: the largest power of two smaller than the size."""
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def defined_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as it is written there, but over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha256(b"\x01" + defined_root(leaves[:k]) + defined_root(leaves[k:])).digest()


def defined_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*defined_path(index, leaves[:k]), defined_root(leaves[k:])]
    return [*defined_path(index - k, leaves[k:]), defined_root(leaves[:k])]


def defined_consistency(old: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """PROOF and SUBPROOF of RFC 6962 section 2.1.2."""
    if old == len(leaves):
        return [] if whole else [defined_root(leaves)]
    k = split(len(leaves))
    if old <= k:
        return [*defined_consistency(old, leaves[:k], whole=whole), defined_root(leaves[k:])]
    return [
        *defined_consistency(old - k, leaves[k:], whole=False),
        defined_root(leaves[:k]),
    ]


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8 % len(value)] ^= 1 << bit % 8
    return bytes(changed)


def mutations(proof: list[bytes], bit: int) -> list[list[bytes]]:
    """Every proof that differs in one hash, lacks one, has one more, or has two in other order."""
    changed = [[*proof[:i], flipped(h, bit), *proof[i + 1 :]] for i, h in enumerate(proof)]
    changed += [[*proof[:i], *proof[i + 1 :]] for i in range(len(proof))]
    changed += [[*proof[:i], OTHER, *proof[i:]] for i in range(len(proof) + 1)]
    changed += [
        [*proof[:i], proof[i + 1], proof[i], *proof[i + 2 :]] for i in range(len(proof) - 1)
    ]
    return changed


# --- published values -------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_tree(size: int) -> None:
    assert merkle.root_hash(LEAVES[:size]) == ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.root_hash([]).hex() == merkle.EMPTY_ROOT.hex() == expected


@pytest.mark.parametrize(
    "case", VECTORS["inclusion"], ids=lambda case: f"{case['index']}-{case['size']}"
)
def test_inclusion_proofs_are_those_of_the_reference_code(case: dict[str, Any]) -> None:
    index, size, proof = case["index"], case["size"], unhex(case["proof"])
    assert merkle.inclusion_proof(LEAVES[:size], index) == proof
    merkle.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size - 1])


@pytest.mark.parametrize(
    "case", VECTORS["consistency"], ids=lambda case: f"{case['old_size']}-{case['new_size']}"
)
def test_consistency_proofs_are_those_of_the_reference_code(case: dict[str, Any]) -> None:
    old, new, proof = case["old_size"], case["new_size"], unhex(case["proof"])
    assert merkle.consistency_proof(LEAVES[:new], old) == proof
    merkle.verify_consistency(old, new, proof, ROOTS[old - 1], ROOTS[new - 1])


# --- against the definition -------------------------------------------------------------------


@given(st.lists(st.binary(max_size=4), max_size=130))
def test_root_is_the_recursive_definition(leaves: list[bytes]) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert merkle.root_hash(hashes) == defined_root(hashes)
    assert merkle.root_hash(tuple(hashes)) == defined_root(hashes)


def test_building_a_tree_leaves_the_callers_list_as_it_was() -> None:
    leaves = HASHES[:7]
    merkle.root_hash(leaves)
    merkle.inclusion_proof(leaves, 6)
    merkle.consistency_proof(leaves, 3)
    assert leaves == HASHES[:7]


@given(sizes, st.data())
def test_inclusion_proofs_are_the_recursive_definition_and_verify(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = HASHES[:size]
    proof = merkle.inclusion_proof(leaves, index)
    assert proof == defined_path(index, leaves)
    merkle.verify_inclusion(leaves[index], index, size, proof, defined_root(leaves))


@given(sizes, st.data())
def test_consistency_proofs_are_the_recursive_definition_and_verify(
    size: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, size))
    leaves = HASHES[:size]
    proof = merkle.consistency_proof(leaves, old)
    assert proof == defined_consistency(old, leaves)
    merkle.verify_consistency(old, size, proof, defined_root(leaves[:old]), defined_root(leaves))


# --- tampering --------------------------------------------------------------------------------


@given(sizes, st.data())
def test_a_changed_inclusion_proof_fails(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 255))
    leaf, root = HASHES[index], merkle.root_hash(HASHES[:size])
    proof = merkle.inclusion_proof(HASHES[:size], index)
    for changed in mutations(proof, bit):
        with pytest.raises(ProofError):
            merkle.verify_inclusion(leaf, index, size, changed, root)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(flipped(leaf, bit), index, size, proof, root)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(leaf, index, size, proof, flipped(root, bit))


@given(sizes, st.data())
def test_an_inclusion_proof_fails_for_every_other_index(size: int, data: st.DataObject) -> None:
    index, claimed = data.draw(st.tuples(*[st.integers(0, size - 1)] * 2))
    assume(index != claimed)
    proof = merkle.inclusion_proof(HASHES[:size], index)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(
            HASHES[index], claimed, size, proof, merkle.root_hash(HASHES[:size])
        )


def test_the_index_after_the_last_leaf_is_refused_even_if_the_hashes_would_fit() -> None:
    # A walk that only follows the bits of index and size would take this for a tree of two.
    with pytest.raises(ProofError, match="leaf index out of range"):
        merkle.verify_inclusion(LEAVES[1], 1, 1, [LEAVES[0]], ROOTS[1])


@given(st.integers(2, 150), st.integers(1, 300), st.data())
def test_an_inclusion_proof_that_has_the_length_of_another_size_fails_with_its_root(
    size: int, claimed: int, data: st.DataObject
) -> None:
    assume(size != claimed)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(HASHES[:size], index)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(
            HASHES[index], index, claimed, proof, merkle.root_hash(HASHES[:claimed])
        )


@given(sizes, st.data())
def test_a_changed_consistency_proof_fails(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    bit = data.draw(st.integers(0, 255))
    old_root, root = merkle.root_hash(HASHES[:old]), merkle.root_hash(HASHES[:size])
    proof = merkle.consistency_proof(HASHES[:size], old)
    for changed in mutations(proof, bit):
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, size, changed, old_root, root)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, size, proof, flipped(old_root, bit), root)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, size, proof, old_root, flipped(root, bit))


@given(sizes, st.data())
def test_a_consistency_proof_fails_with_swapped_sizes_or_roots(
    size: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, size))
    assume(old != size)
    old_root, root = merkle.root_hash(HASHES[:old]), merkle.root_hash(HASHES[:size])
    proof = merkle.consistency_proof(HASHES[:size], old)
    for sizes_ in ((size, old), (old, old), (size, size)):
        with pytest.raises(ProofError):
            merkle.verify_consistency(*sizes_, proof, old_root, root)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, size, proof, root, old_root)


@given(sizes, st.data())
def test_no_proof_made_from_a_fork_shows_it_consistent(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    rewritten = data.draw(st.integers(0, old - 1))
    forked = [*HASHES[:size]]
    forked[rewritten] = OTHER
    with pytest.raises(ProofError):
        merkle.verify_consistency(
            old,
            size,
            merkle.consistency_proof(forked, old),
            merkle.root_hash(HASHES[:old]),
            merkle.root_hash(forked),
        )


def test_equal_sizes_are_consistent_only_with_equal_roots_and_an_empty_proof() -> None:
    merkle.verify_consistency(5, 5, [], ROOTS[4], ROOTS[4])
    with pytest.raises(ProofError, match="two roots"):
        merkle.verify_consistency(5, 5, [], ROOTS[4], OTHER)
    with pytest.raises(ProofError, match="proof length"):
        merkle.verify_consistency(5, 5, [ROOTS[4]], ROOTS[4], ROOTS[4])


def test_an_empty_old_tree_proves_nothing() -> None:
    for new_size in (0, 1, 8):
        with pytest.raises(ProofError):
            merkle.verify_consistency(0, new_size, [], merkle.EMPTY_ROOT, ROOTS[7])


def test_a_node_is_never_accepted_as_a_leaf() -> None:
    # The shape of a second-preimage attack: the two children of a node, offered as leaf data.
    leaf_data = LEAVES[0] + LEAVES[1]
    node = merkle.node_hash(LEAVES[0], LEAVES[1])
    assert merkle.leaf_hash(leaf_data) != node
    with pytest.raises(ProofError):
        merkle.verify_inclusion(
            merkle.leaf_hash(leaf_data), 0, 2, [merkle.node_hash(*LEAVES[2:4])], ROOTS[3]
        )


# --- anything else a peer may send ------------------------------------------------------------

numbers = st.one_of(
    st.integers(),
    st.integers(-2, 20),
    st.sampled_from([2**32 - 1, 2**32, 2**63, 2**64, 2**400, -(2**70)]),
    st.sampled_from([None, True, 1.0, "1", b"1", 1j]),
)
hashes = st.one_of(
    st.sampled_from([*LEAVES, *ROOTS, merkle.EMPTY_ROOT]),
    st.binary(max_size=40),
    st.sampled_from([None, 7, "0" * 32, bytearray(32), [0] * 32]),
)
proofs = st.one_of(
    st.lists(hashes, max_size=70),
    st.sampled_from([None, 7, b"", b"\x00" * 32, "proof", {}, {b"": b""}, iter([ROOTS[0]])]),
)


@given(hashes, numbers, numbers, proofs, hashes)
def test_verify_inclusion_raises_nothing_but_proof_errors(
    leaf: Wrong, index: Wrong, size: Wrong, proof: Wrong, root: Wrong
) -> None:
    try:
        merkle.verify_inclusion(leaf, index, size, proof, root)
    except ProofError:
        return
    assert LEAVES[index] == leaf
    assert ROOTS[size - 1] == root


@given(numbers, numbers, proofs, hashes, hashes)
def test_verify_consistency_raises_nothing_but_proof_errors(
    old: Wrong, new: Wrong, proof: Wrong, old_root: Wrong, new_root: Wrong
) -> None:
    try:
        merkle.verify_consistency(old, new, proof, old_root, new_root)
    except ProofError:
        return
    assert 0 < old <= new
    assert old_root == new_root or (old_root, new_root) == (ROOTS[old - 1], ROOTS[new - 1])


def test_a_tree_larger_than_the_bound_is_refused_with_any_proof() -> None:
    root = leaf = OTHER
    proof = [OTHER] * 32
    for _ in proof:
        root = merkle.node_hash(root, OTHER)
    merkle.verify_inclusion(leaf, 0, limits.MAX_TREE_SIZE, proof, root)
    with pytest.raises(ProofError, match="tree size out of range"):
        merkle.verify_inclusion(leaf, 0, limits.MAX_TREE_SIZE + 1, proof, root)
    with pytest.raises(ProofError, match="new size out of range"):
        merkle.verify_consistency(1, limits.MAX_TREE_SIZE + 1, proof, leaf, root)


@pytest.mark.parametrize("index", [-1, 8, 2**70, None, "0", 1.0])
def test_an_inclusion_proof_of_no_leaf_is_a_usage_error(index: Wrong) -> None:
    with pytest.raises(UsageError):
        merkle.inclusion_proof(LEAVES, index)


@pytest.mark.parametrize("old_size", [-1, 0, 9, 2**70, None, "1", 1.0])
def test_a_consistency_proof_from_no_prefix_is_a_usage_error(old_size: Wrong) -> None:
    with pytest.raises(UsageError):
        merkle.consistency_proof(LEAVES, old_size)


@pytest.mark.parametrize(
    "leaf_hashes", [[LEAVES[0], b""], [LEAVES[0], b"x" * 33], ["0" * 32], [None], None, 5]
)
def test_leaf_hashes_that_are_none_are_usage_errors(leaf_hashes: Wrong) -> None:
    for call in (
        lambda: merkle.root_hash(leaf_hashes),
        lambda: merkle.inclusion_proof(leaf_hashes, 0),
        lambda: merkle.consistency_proof(leaf_hashes, 1),
    ):
        with pytest.raises(UsageError):
            call()


# --- the right edge of a growing tree ---------------------------------------------------------


def test_compact_range_has_the_root_of_the_tree_at_every_size_up_to_200() -> None:
    edge = CompactRange()
    for size in range(201):
        assert edge.size == size
        assert len(edge.hashes) == size.bit_count()
        assert edge.root() == merkle.root_hash(HASHES[:size])
        assert CompactRange.decode(size, edge.encode()) == edge
        edge = edge.append(HASHES[size])


def test_appending_leaves_the_shorter_range_as_it_was() -> None:
    before = CompactRange().append(LEAVES[0])
    before.append(LEAVES[1])
    assert before.root() == ROOTS[0]
    with pytest.raises(AttributeError):
        before.size = 9  # type: ignore[misc]


@given(numbers, st.one_of(st.binary(max_size=100), st.sampled_from([None, "", bytearray(32)])))
def test_decoding_a_compact_range_raises_nothing_but_malformed_errors(
    size: Wrong, data: Wrong
) -> None:
    try:
        edge = CompactRange.decode(size, data)
    except MalformedError:
        return
    assert edge.encode() == data
    assert len(data) == 32 * size.bit_count()


@pytest.mark.parametrize("length", [0, 31, 32, 63, 65, 96])
def test_a_compact_range_with_another_number_of_hashes_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match="expected 64"):
        CompactRange.decode(6, bytes(length))


@pytest.mark.parametrize(
    ("size", "edge"),
    [
        (1, ()),
        (0, (OTHER,)),
        (1, (b"",)),
        (-1, ()),
        (2**32, (OTHER,)),
        (1, [OTHER]),
        (True, (OTHER,)),
    ],
)
def test_a_compact_range_cannot_be_made_wrongly(size: Wrong, edge: Wrong) -> None:
    with pytest.raises(FederationError):
        CompactRange(size, edge)


def test_a_full_tree_takes_no_further_leaf() -> None:
    full = CompactRange(limits.MAX_TREE_SIZE, (OTHER,) * 32)
    with pytest.raises(UsageError, match="out of range"):
        full.append(OTHER)


def test_only_a_leaf_hash_can_be_appended() -> None:
    with pytest.raises(UsageError, match="leaf hash"):
        CompactRange().append(b"leaf data")
