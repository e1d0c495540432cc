"""What `node.staging` promises: one operation an entry, in order, all of an edit or nothing."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.body import PackedOp, pack, unpack
from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.fingerprint import Fingerprint
from node.errors import DamageError, LockedError, StoreError
from node.stagedrow import Row, key_of, parse_annotation, to_row
from node.staging import Staging
from node.store.sqlite import sqlite3
from tests.federation.worlds import assertion, digest, fingerprint
from tests.node.own_list import read_staged
from tests.node.texts import drawn_annotations, operations


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    opened = Staging.open(tmp_path / "main.staged")
    yield opened
    opened.close()


def put(staging: Staging, *drawn: Operation) -> None:
    rows = {row.key: row for row in (to_row(pack(operation)) for operation in drawn)}
    with staging.edit() as edit:
        edit.put([rows[key] for key in sorted(rows)], staging.load(rows).values())


def unpack_row(row: Row) -> Operation:
    key, shape, content = row
    width = shape.record_width - shape.key_width
    record = key[len(key) - shape.key_width :] + content[:width]
    return unpack(PackedOp(shape, record, parse_annotation(content[width:])))


@given(drawn_annotations())
def test_annotations_are_read_back(annotation: Annotation) -> None:
    assert parse_annotation(annotation.canonical()) == annotation


@given(operations())
def test_rows_are_read_back(operation: Operation) -> None:
    assert unpack_row(to_row(pack(operation))) == operation


@given(operations(), operations())
def test_rows_are_equal_exactly_when_operations_are(one: Operation, other: Operation) -> None:
    assert (to_row(pack(one)) == to_row(pack(other))) is (one == other)
    assert (key_of(pack(one)) == key_of(pack(other))) is (one.entry == other.entry)


def test_an_id_is_not_taken_for_a_digest() -> None:
    raw = digest(1, "md5", 16)
    named = Operation.purge(EntryId("md5", raw))
    own = Operation.purge(EntryId("", raw))
    assert key_of(pack(named)) != key_of(pack(own))


@st.composite
def _steps(draw: st.DrawFn) -> list[tuple[str, list[Operation]]]:
    kinds = st.sampled_from(["put", "put", "put", "undo", "drop", "remove", "clear"])
    return draw(st.lists(st.tuples(kinds, st.lists(operations(), max_size=6)), max_size=8))


@settings(max_examples=40)
@given(_steps())
def test_staging_is_a_sorted_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[Operation]]]
) -> None:
    path = tmp_path_factory.mktemp("staging") / "main.staged"
    model: dict[bytes, Operation] = {}
    staging = Staging.open(path)
    for step, drawn in steps:
        keys = {key_of(pack(operation)) for operation in drawn}
        match step:
            case "put":
                put(staging, *drawn)
                model |= {key_of(pack(operation)): operation for operation in drawn}
            case "undo":
                with staging.edit() as edit:
                    edit.put([to_row(pack(operation)) for operation in drawn])
                    edit.keep = False
            case "drop":
                with staging.edit() as edit:
                    edit.drop(list(staging.load(keys).values()))
                model = {key: model[key] for key in model if key not in keys}
            case "remove":
                for first in itertools.islice(staging.iter_batches(2, 10**6), 1):
                    assert staging.remove(first.extent) == len(first.packed)
                model = {key: model[key] for key in sorted(model)[2:]}
            case "clear":
                assert staging.clear() == len(model)
                model = {}
        if step == "put":  # What was staged is there again after a restart.
            staging.close()
            staging = Staging.open(path)
        assert read_staged(staging) == [model[key] for key in sorted(model)]
        assert staging.is_empty is (not model)
        assert staging.count_by_kind() == Counter(operation.kind for operation in model.values())
        found = {key: unpack_row(row) for key, row in staging.load(keys).items()}
        assert found == {key: model[key] for key in keys & model.keys()}
    staging.close()


def test_batches_ascend_by_type_and_digest(staging: Staging) -> None:
    drawn = [assertion(number) for number in range(300)]
    drawn += [
        Operation.assertion((fingerprint(number, "md5"),), Annotation()) for number in range(300)
    ]
    put(staging, *random.Random(1).sample(drawn, len(drawn)))
    batches = list(staging.iter_batches(70, 10**6))
    assert [len(batch.packed) for batch in batches] == [70] * 8 + [40]
    entries = [unpack(packed).entry for batch in batches for packed in batch.packed]
    assert entries == sorted(operation.entry for operation in drawn)


def test_batches_end_by_bytes(staging: Staging) -> None:
    put(staging, *(assertion(number, labels=(f"label {number}",)) for number in range(50)))
    for batch in staging.iter_batches(10_000, 500):
        size = sum(len(packed.record) + 2 for packed in batch.packed)
        assert size + sum(len(packed.annotation.canonical()) for packed in batch.packed) <= 500
    assert max(len(batch.packed) for batch in staging.iter_batches(10_000, 500)) > 1
    # One that is too large all the same comes alone.
    assert [len(batch.packed) for batch in staging.iter_batches(10_000, 1)] == [1] * 50


def test_batches_go_on_while_what_came_is_removed(staging: Staging) -> None:
    put(staging, *(assertion(number) for number in range(2_500)))
    seen = 0
    for batch in staging.iter_batches(100, 10**6):
        assert staging.remove(batch.extent) == len(batch.packed)
        seen += len(batch.packed)
    assert seen == 2_500
    assert staging.is_empty
    assert staging.count_by_kind() == {}


def test_what_took_the_place_of_a_taken_operation_is_not_removed(staging: Staging) -> None:
    put(staging, assertion(1), assertion(2))
    (batch,) = staging.iter_batches(10, 10**6)
    newer = Operation.retraction(assertion(1).entry, Cause.WITHDRAWN)
    put(staging, newer)
    assert staging.remove(batch.extent) == 1
    assert read_staged(staging) == [newer]
    assert staging.count_by_kind() == {OpKind.RETRACT: 1}


def test_what_is_staged_while_batches_are_read_waits_and_is_never_removed(
    staging: Staging,
) -> None:
    put(staging, *(assertion(number) for number in range(0, 5_000, 2)))
    batches = staging.iter_batches(700, 10**6)
    taken = [next(batches)]
    put(staging, *(assertion(number) for number in range(1, 5_000, 2)))
    taken += batches
    assert sum(len(batch.packed) for batch in taken) == 2_500
    assert staging.remove(taken[0].extent.through(taken[-1].extent)) == 2_500
    assert sum(len(batch.packed) for batch in staging.iter_batches(700, 10**6)) == 2_500


def test_an_extent_of_another_file_removes_nothing(staging: Staging, tmp_path: Path) -> None:
    put(staging, assertion(1))
    (batch,) = staging.iter_batches(10, 10**6)
    other = Staging.open(tmp_path / "other.staged")
    put(other, assertion(1))
    assert other.remove(batch.extent) == 0
    assert not other.is_empty
    other.close()


def test_a_failing_edit_leaves_everything_as_it_was(staging: Staging) -> None:
    put(staging, assertion(1))

    def fail() -> None:
        with staging.edit() as edit:
            edit.put([to_row(pack(assertion(2)))])
            edit.drop([to_row(pack(assertion(1)))])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read_staged(staging) == [assertion(1)]
    assert staging.count_by_kind() == {OpKind.ASSERT: 1}


def test_very_large_digests_are_staged(staging: Staging) -> None:
    large = Fingerprint.from_digest("tmk-pdqf", digest(1, "tmk-pdqf", 263_344))
    operation = Operation.assertion((large,), Annotation(labels=("A1",)))
    put(staging, operation, assertion(1))
    assert sorted(read_staged(staging), key=lambda each: each.entry) == sorted(
        [operation, assertion(1)], key=lambda each: each.entry
    )


def test_another_writer_is_waited_for_and_then_named(staging: Staging) -> None:
    staging._connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(staging.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockedError):
        put(staging, assertion(1))
    # Readers are not kept waiting.
    assert staging.is_empty
    other.execute("ROLLBACK")
    other.close()
    put(staging, assertion(1))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(1).randbytes(10_000))
    with pytest.raises(DamageError):
        Staging.open(noise)
    database = tmp_path / "database"
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(DamageError, match="not a file of staged changes"):
        Staging.open(database)


def test_a_file_of_another_format_is_refused(tmp_path: Path, staging: Staging) -> None:
    staging._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99"):
        Staging.open(staging.path)
