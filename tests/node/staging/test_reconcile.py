"""What `node.staging.reconcile` promises about large changes, and what others publish meanwhile."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.body import Body
from federation.entry import Cause, Operation
from node.staging import batches as staging_batches
from node.staging.import_file import import_changes
from node.staging.reconcile import Effect
from tests.federation.worlds import assertion
from tests.node.support.own_list import OwnList, read_staged, to_lines


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path / "own")
    yield made
    made.close()


def test_a_first_publication_while_the_file_is_read_is_seen(own: OwnList) -> None:
    own.import_operations(assertion(1))
    read_before = own.record
    own.publish()
    data = to_lines([Operation.retraction(assertion(1).entry, Cause.WITHDRAWN)]).encode()
    report = import_changes(own.store, read_before, own.staging, io.BytesIO(data))
    assert report.errors == ()
    assert report.effect.retracted == 1


def test_a_large_change_of_every_kind_becomes_one_block_and_one_delta(own: OwnList) -> None:
    own.import_operations(*(assertion(number) for number in range(4_000)))
    own.publish()
    revised = [assertion(number, labels=("B1",)) for number in range(1_500)]
    unchanged = [assertion(number) for number in range(1_500, 1_600)]
    gone = [
        Operation.retraction(assertion(number).entry, Cause.WITHDRAWN)
        for number in range(1_600, 1_800)
    ]
    purged = [Operation.purge(assertion(number).entry) for number in range(1_800, 1_900)]
    new = [assertion(number) for number in range(4_000, 5_000)]
    drawn = [*revised, *unchanged, *gone, *purged, *new]
    random.Random(1).shuffle(drawn)
    report = own.import_operations(*drawn)
    assert report.effect == Effect(
        new=1_000, revised=1_500, unchanged=100, retracted=200, purged=100
    )
    (batch,) = own.staging.iter_batches(10_000, 10**6)
    assert isinstance(batch.operations, Body)
    assert batch.count == 2_800
    before = own.record.log.size
    assert own.publish().ops == 2_800
    assert own.record.log.size == before + 1
    live = own.live()
    assert live == {
        operation.entry: operation
        for operation in [
            *revised,
            *unchanged,
            *(assertion(number) for number in range(1_900, 5_000)),
        ]
    }


def test_what_is_compared_late_is_staged_between_what_is_new(
    own: OwnList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_batches, "BATCH_OPS", 100)
    monkeypatch.setattr("node.staging.edit.LEAST_BLOCK", 50)
    own.import_operations(*(assertion(number) for number in range(0, 1_000, 4)))
    own.publish()
    drawn = [assertion(number, labels=("B1",)) for number in range(0, 1_000, 2)]
    assert own.import_operations(*drawn).effect == Effect(new=250, revised=250)
    batches = list(own.staging.iter_batches(10_000, 10**6))
    assert all(isinstance(batch.operations, Body) for batch in batches)
    assert read_staged(own.staging) == sorted(drawn, key=lambda operation: operation.entry)
