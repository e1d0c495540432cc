"""What `node.store.schema.pack` promises: every list and snapshot has rows of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from node.errors import DamageError
from node.store import log, snapshots
from node.store.schema import MAX_NUMBER

numbers = st.integers(0, MAX_NUMBER)
places = st.integers(0, 2**32 - 1)


@given(numbers, places, numbers, places)
def test_rows_stand_in_the_order_of_their_lists_and_positions(
    number: int, place: int, other: int, other_place: int
) -> None:
    one, two = log.delta_id(number, place), log.delta_id(other, other_place)
    assert (one < two) is ((number, place) < (other, other_place))
    assert (one == two) is ((number, place) == (other, other_place))
    assert 0 <= one < 2**63, "an integer of SQLite"


def test_every_position_and_size_that_can_be_signed_has_a_row() -> None:
    assert log.delta_id(0, limits.MAX_TREE_SIZE) < log.delta_id(1, 0)
    assert snapshots.bucket_id(0, limits.MAX_SNAPSHOT_BUCKETS) < snapshots.bucket_id(1, 0)


@pytest.mark.parametrize(
    ("number", "place"),
    [(1, 2 << 32 | 1), (1, 2**32), (1, -1), (-1, 0), (2**31, 0), (2**40, 1), (1, 2**64)],
)
def test_no_row_is_named_by_numbers_out_of_range(number: int, place: int) -> None:
    for row_id in (log.delta_id, snapshots.bucket_id):
        with pytest.raises(DamageError, match="cannot be in a store"):
            row_id(number, place)
