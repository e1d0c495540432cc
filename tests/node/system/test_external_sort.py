"""What `node.system.external_sort` promises: a sort, in whatever memory it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.system.external_sort import Sorter, encode_run


def _sorted(items: list[bytes], run_bytes: int, pieces: int = 7) -> list[bytes]:
    with Sorter(run_bytes=run_bytes) as sorter:
        for start in range(0, len(items), pieces):
            sorter.extend(items[start : start + pieces])
        return [item for block in sorter.iter_blocks() for item in block]


@given(st.lists(st.binary(max_size=6), max_size=200), st.sampled_from([1, 500, 4_000, 10**6]))
def test_any_number_of_runs_give_the_same_order(items: list[bytes], run_bytes: int) -> None:
    assert _sorted(items, run_bytes) == sorted(items)


def test_many_runs_of_many_blocks_are_merged() -> None:
    items = [(number * 7919 % 60_000).to_bytes(8) * 4 for number in range(60_000)]
    assert _sorted(items, 2_000_000, pieces=5_000) == sorted(items)


@pytest.mark.parametrize("most", [2, 3, 10])
def test_more_runs_than_are_merged_at_a_time_give_the_same_order(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("node.system.external_sort._MAX_RUNS", most)
    items = [(number * 7919 % 2_000).to_bytes(8) for number in range(2_000)]
    assert _sorted(items, 2_000, pieces=50) == sorted(items)
    with Sorter() as sorter:
        for start in range(0, 2_000, 100):
            sorter.add_run(encode_run(items[start : start + 100]))
        assert [item for block in sorter.iter_blocks() for item in block] == sorted(items)


def test_blocks_of_large_items_are_small() -> None:
    with Sorter(run_bytes=2_000_000) as sorter:
        sorter.extend([bytes([number]) * 100_000 for number in range(100)])
        assert max(len(block) for block in sorter.iter_blocks()) <= 3


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    with Sorter(tmp_path, run_bytes=1) as sorter:
        sorter.extend([b"b"])
        sorter.extend([b"a"])
        # It has no name even while it is used: a killed process leaves nothing.
        assert list(tmp_path.iterdir()) == []
        assert list(sorter.iter_blocks()) == [[b"a"], [b"b"]]
    assert list(tmp_path.iterdir()) == []
