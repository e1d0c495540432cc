"""A node with the end of a log gives the same proofs as the whole log, or says that it cannot."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Final

import pytest

from federation import merkle
from federation.errors import UsageError
from federation.logtail import LogTail
from federation.merkle import CompactRange

LEAVES: Final = [merkle.leaf_hash(b"leaf %d" % number) for number in range(70)]
ROOTS: Final = [merkle.root_hash(LEAVES[:size]) for size in range(len(LEAVES) + 1)]
SIZES: Final = range(1, len(LEAVES) + 1)
INCLUSION: Final = {
    (index, size): merkle.inclusion_proof(LEAVES[:size], index)
    for size in SIZES
    for index in range(size)
}
CONSISTENCY: Final = {
    (old, size): merkle.consistency_proof(LEAVES[:size], old)
    for old, size in combinations_with_replacement(SIZES, 2)
}


def tail(start: int) -> LogTail:
    before = CompactRange()
    for leaf in LEAVES[:start]:
        before = before.append(leaf)
    return LogTail(before, LEAVES[start:])


@pytest.mark.parametrize("start", range(len(LEAVES) + 1))
def test_every_leaf_that_is_held_is_proved_as_from_the_whole_log(start: int) -> None:
    held = tail(start)
    assert held.size == len(LEAVES)
    for size in range(start + 1, len(LEAVES) + 1):
        for index in range(start, size):
            proof = held.prove_inclusion(index, size)
            assert proof == INCLUSION[index, size]
            merkle.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


@pytest.mark.parametrize("start", range(len(LEAVES) + 1))
def test_every_size_from_the_start_on_is_proved_to_be_a_prefix(start: int) -> None:
    held = tail(start)
    for old in range(max(1, start), len(LEAVES) + 1):
        for size in range(old, len(LEAVES) + 1):
            proof = held.prove_consistency(old, size)
            assert proof == CONSISTENCY[old, size]
            merkle.verify_consistency(old, size, proof, ROOTS[old], ROOTS[size])


@pytest.mark.parametrize("start", range(1, len(LEAVES) + 1))
def test_of_what_lies_before_the_start_a_proof_is_right_or_is_not_made(start: int) -> None:
    held = tail(start)
    refused = 0
    for size in SIZES:
        for index in range(min(start, size)):
            try:
                assert held.prove_inclusion(index, size) == INCLUSION[index, size]
            except UsageError:
                refused += 1
        for old in range(1, min(start, size + 1)):
            try:
                assert held.prove_consistency(old, size) == CONSISTENCY[old, size]
            except UsageError:
                refused += 1
    # Of one leaf the subtree is the leaf itself: everything is known.
    assert (refused > 0) is (start > 1)


@pytest.mark.parametrize("start", [0, 1, 5, 70])
def test_what_the_log_does_not_have_is_not_proved(start: int) -> None:
    held = tail(start)
    for index, size in ((-1, 5), (5, 5), (0, 0), (0, 71), (70, 71)):
        with pytest.raises(UsageError):
            held.prove_inclusion(index, size)
    for old, size in ((0, 5), (-1, 5), (6, 5), (5, 71)):
        with pytest.raises(UsageError):
            held.prove_consistency(old, size)


def test_a_node_whose_leaves_are_not_held_is_not_made_up() -> None:
    # Of leaves 0 to 3 the root alone is known: neither leaf 2 nor the pair of 0 and 1.
    held = tail(4)
    for index in range(4):
        with pytest.raises(UsageError, match="are not here"):
            held.prove_inclusion(index, 70)
    with pytest.raises(UsageError, match="are not here"):
        held.prove_consistency(2, 70)
