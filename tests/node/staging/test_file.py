"""What `staging.file` promises: one operation an entry, in order, all of an edit or nothing."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation import wire
from federation.body import Body, build_body, pack, unpack
from federation.commitment import find_ops_root
from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.fingerprint import Fingerprint
from node.errors import DamageError, LockedError, StoreError
from node.staging.edit import SortedRows
from node.staging.file import Staging
from node.staging.rows import (
    Row,
    contents_of,
    from_row,
    iter_rows,
    key_of,
    parse_annotation,
    prefix_width,
    to_body,
    to_row,
)
from node.store.sqlite import sqlite3
from tests.federation.worlds import assertion, digest, fingerprint, salt_seed
from tests.node.support.own_list import read_batch, read_staged
from tests.node.support.texts import drawn_annotations, operations


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    opened = Staging.open(tmp_path / "main.staged")
    yield opened
    opened.close()


def put(staging: Staging, *drawn: Operation) -> None:
    rows = {row.key: row for row in (to_row(pack(operation)) for operation in drawn)}
    with staging.edit() as edit:
        edit.drop(list(staging.load(rows).values()))
        edit.put([rows[key] for key in sorted(rows)])


def put_runs(staging: Staging, *drawn: Operation) -> None:
    """Stage operations as an import of new entries does."""
    rows = {row.key: row for row in (to_row(pack(operation)) for operation in drawn)}
    with staging.edit() as edit:
        edit.drop(list(staging.load(rows).values()))
        for prefix, run in groupby(sorted(rows.values()), key=prefix_of):
            names, contents = zip(*((key[len(prefix) :], said) for key, said in run), strict=True)
            edit.put_runs([SortedRows(prefix, names, contents)], find_roots)


def find_roots(bodies: Iterable[bytes]) -> Iterator[bytes]:
    return map(find_ops_root, bodies)


def prefix_of(row: Row) -> bytes:
    return row.key[: prefix_width(row.key)]


def unpack_row(row: Row) -> Operation:
    return unpack(from_row(row))


@given(drawn_annotations())
def test_annotations_are_read_back(annotation: Annotation) -> None:
    assert parse_annotation(annotation.canonical()) == annotation


@given(operations())
def test_rows_are_read_back(operation: Operation) -> None:
    assert unpack_row(to_row(pack(operation))) == operation


@given(st.lists(operations(), max_size=8))
def test_contents_of_many_are_those_of_each(drawn: list[Operation]) -> None:
    packed = list(map(pack, drawn))
    assert contents_of(packed) == [to_row(each).content for each in packed]


@given(operations(), operations())
def test_rows_are_equal_exactly_when_operations_are(one: Operation, other: Operation) -> None:
    assert (to_row(pack(one)) == to_row(pack(other))) is (one == other)
    assert (key_of(pack(one)) == key_of(pack(other))) is (one.entry == other.entry)


@given(st.lists(operations(), min_size=1, max_size=12, unique_by=lambda op: op.entry))
def test_rows_make_the_body_that_their_operations_make_and_are_read_back(
    drawn: list[Operation],
) -> None:
    everything = sorted(to_row(pack(operation)) for operation in drawn)
    prefix = prefix_of(everything[0])
    rows = [row for row in everything if prefix_of(row) == prefix]
    names = [row.key[len(prefix) :] for row in rows]
    body = to_body(prefix, names, [row.content for row in rows], salt_seed(1))
    assert body is not None
    expected = build_body(map(from_row, rows), salt_seed(1))
    assert wire.encode_body(body) == wire.encode_body(expected)
    assert sorted(iter_rows(body)) == rows


def test_rows_of_too_many_forms_make_no_body() -> None:
    rows = sorted(
        to_row(pack(assertion(number, fingerprint(number, f"type-{number}", 5))))
        for number in range(33)
    )
    prefix = prefix_of(rows[0])
    names, contents = zip(*((key[len(prefix) :], said) for key, said in rows), strict=True)
    assert to_body(prefix, names, contents, salt_seed(1)) is None
    assert to_body(prefix, names[:32], contents[:32], salt_seed(1)) is not None


def test_an_id_is_not_taken_for_a_digest() -> None:
    raw = digest(1, "md5", 16)
    named = Operation.purge(EntryId("md5", raw))
    own = Operation.purge(EntryId("", raw))
    assert key_of(pack(named)) != key_of(pack(own))


@st.composite
def _steps(draw: st.DrawFn) -> list[tuple[str, list[Operation]]]:
    kinds = st.sampled_from(["put", "put", "run", "run", "run", "undo", "drop", "remove", "clear"])
    return draw(st.lists(st.tuples(kinds, st.lists(operations(), max_size=6)), max_size=8))


@pytest.mark.parametrize("least_block", [1, 3, 2_000])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps())
def test_staging_is_a_sorted_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    least_block: int,
    steps: list[tuple[str, list[Operation]]],
) -> None:
    monkeypatch.setattr("node.staging.edit.LEAST_BLOCK", least_block)
    path = tmp_path_factory.mktemp("staging") / "main.staged"
    model: dict[bytes, Operation] = {}
    staging = Staging.open(path)
    for step, drawn in steps:
        unique = {key_of(pack(operation)): operation for operation in drawn}
        keys = set(unique)
        match step:
            case "put":
                put(staging, *drawn)
                model |= unique
            case "run":
                put_runs(staging, *drawn)
                model |= unique
            case "undo":
                with staging.edit() as edit:
                    edit.drop(list(staging.load(keys).values()))
                    edit.put([to_row(pack(operation)) for operation in unique.values()])
                    edit.keep = False
            case "drop":
                with staging.edit() as edit:
                    edit.drop(list(staging.load(keys).values()))
                model = {key: model[key] for key in model if key not in keys}
            case "remove":
                for first in itertools.islice(staging.iter_batches(2, 10**6), 1):
                    taken = [key_of(pack(operation)) for operation in read_batch(first)]
                    assert taken == sorted(model)[: len(taken)]
                    assert staging.remove(first.extent) == first.count == len(taken)
                    model = {key: model[key] for key in model if key not in taken}
            case "clear":
                assert staging.clear() == len(model)
                model = {}
        if step in {"put", "run"}:  # What was staged is there again after a restart.
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
    assert [batch.count for batch in batches] == [70] * 8 + [40]
    entries = [operation.entry for batch in batches for operation in read_batch(batch)]
    assert entries == sorted(operation.entry for operation in drawn)


def test_batches_end_by_bytes(staging: Staging) -> None:
    put(staging, *(assertion(number, labels=(f"label {number}",)) for number in range(50)))
    for batch in staging.iter_batches(10_000, 500):
        packed = list(map(pack, read_batch(batch)))
        size = sum(len(each.record) + 2 for each in packed)
        assert size + sum(len(each.annotation.canonical()) for each in packed) <= 500
    assert max(batch.count for batch in staging.iter_batches(10_000, 500)) > 1
    # One that is too large all the same comes alone.
    assert [batch.count for batch in staging.iter_batches(10_000, 1)] == [1] * 50


def test_batches_go_on_while_what_came_is_removed(staging: Staging) -> None:
    put(staging, *(assertion(number) for number in range(2_500)))
    seen = 0
    for batch in staging.iter_batches(100, 10**6):
        assert staging.remove(batch.extent) == batch.count
        seen += batch.count
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
    assert sum(batch.count for batch in taken) == 2_500
    assert staging.remove(taken[0].extent.through(taken[-1].extent)) == 2_500
    assert sum(batch.count for batch in staging.iter_batches(700, 10**6)) == 2_500


def test_an_extent_of_another_file_removes_nothing(staging: Staging, tmp_path: Path) -> None:
    put(staging, assertion(1))
    (batch,) = staging.iter_batches(10, 10**6)
    other = Staging.open(tmp_path / "other.staged")
    put(other, assertion(1))
    assert other.remove(batch.extent) == 0
    assert not other.is_empty
    other.close()


# --- blocks -----------------------------------------------------------------------------------

_MANY = 3_000


def counts(staging: Staging) -> tuple[int, int]:
    """Return how many rows and how many blocks there are."""
    execute = staging._connection.execute
    return (
        execute("SELECT count(*) FROM staged").fetchone()[0],
        execute("SELECT count(*) FROM block").fetchone()[0],
    )


def test_many_new_operations_are_one_block_and_one_batch(staging: Staging) -> None:
    put_runs(staging, *(assertion(number) for number in range(_MANY)))
    assert counts(staging) == (0, 1)
    (batch,) = staging.iter_batches(10, 1)
    assert isinstance(batch.operations, Body)
    batch.operations.check()
    assert batch.count == _MANY
    assert batch.ops_root == batch.operations.ops_root()
    assert staging.remove(batch.extent) == _MANY
    assert staging.is_empty


def test_few_operations_are_rows(staging: Staging) -> None:
    put_runs(staging, *(assertion(number) for number in range(100)))
    assert counts(staging) == (100, 0)


@pytest.mark.parametrize("what", ["replaced", "new", "dropped"])
def test_a_change_within_a_block_turns_it_into_rows_of_the_same_edit(
    staging: Staging, what: str
) -> None:
    drawn = sorted((assertion(number) for number in range(_MANY)), key=lambda op: op.entry)
    put_runs(staging, *drawn[:1_500], *drawn[1_501:])
    (batch,) = staging.iter_batches(10_000, 10**6)
    changed = {
        "replaced": Operation.retraction(drawn[7].entry, Cause.WITHDRAWN),
        "new": drawn[1_500],
        "dropped": None,
    }[what]
    if changed is not None:
        put(staging, changed)
    else:
        with staging.edit() as edit:
            edit.drop(list(staging.load([key_of(pack(drawn[7]))]).values()))
    expected = {operation.entry: operation for operation in [*drawn[:1_500], *drawn[1_501:]]}
    if changed is None:
        del expected[drawn[7].entry]
    else:
        expected[changed.entry] = changed
    assert read_staged(staging) == [expected[entry] for entry in sorted(expected)]
    assert counts(staging) == (len(expected), 0)
    # What was taken before is let go of, and what was staged since stays.
    assert staging.remove(batch.extent) == len(expected) - (changed is not None)
    assert read_staged(staging) == ([] if changed is None else [changed])


def test_a_run_beside_what_is_staged_is_a_block_and_one_around_it_is_not(staging: Staging) -> None:
    drawn = sorted((assertion(number) for number in range(3 * _MANY)), key=lambda op: op.entry)
    put(staging, drawn[_MANY])
    put_runs(staging, *drawn[:_MANY])
    assert counts(staging) == (1, 1)
    put_runs(staging, *drawn[_MANY + 1 :: 2])
    assert counts(staging) == (1, 2)
    # Between the operations of the second block.
    put_runs(staging, *drawn[_MANY + 2 :: 2])
    assert counts(staging) == (2 * _MANY, 1)
    assert read_staged(staging) == drawn


def test_what_is_too_large_for_a_body_is_no_block(staging: Staging) -> None:
    photodna = [
        Operation.assertion(
            (Fingerprint("photodna-edge", digest(number, "photodna-edge", 924)),), Annotation()
        )
        for number in range(_MANY)
    ]
    put_runs(staging, *photodna)
    assert counts(staging) == (_MANY, 0)


@pytest.mark.parametrize("column", ["body", "ops_root", "seal"])
def test_a_damaged_block_is_named(staging: Staging, column: str) -> None:
    put_runs(staging, *(assertion(number) for number in range(_MANY)))
    execute = staging._connection.execute
    (data,) = execute(f"SELECT {column} FROM block").fetchone()  # noqa: S608
    middle = len(data) // 2
    # One bit: of a body, most such make another list, and no error.
    changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    execute(f"UPDATE block SET {column} = ?", (changed,))  # noqa: S608
    with pytest.raises(DamageError, match="block of staged changes is damaged"):
        list(staging.iter_batches(10_000, 10**6))


# --- whole edits ------------------------------------------------------------------------------


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


def test_a_file_of_the_format_before_is_taken_over(tmp_path: Path, staging: Staging) -> None:
    drawn = [assertion(number) for number in range(_MANY)]
    put_runs(staging, *drawn)
    for column in ("ops_root", "seal"):
        staging._connection.execute(f"ALTER TABLE block DROP COLUMN {column}")
    staging._connection.execute("PRAGMA user_version = 2")
    again = Staging.open(staging.path)
    (batch,) = again.iter_batches(10_000, 10**6)
    assert sorted(read_batch(batch), key=lambda op: op.entry) == sorted(
        drawn, key=lambda op: op.entry
    )
    assert batch.ops_root is None
    assert again.remove(batch.extent) == _MANY
    put_runs(again, *drawn)
    (batch,) = again.iter_batches(10_000, 10**6)
    assert batch.ops_root is not None
    again.close()


def test_a_file_of_another_format_is_refused(tmp_path: Path, staging: Staging) -> None:
    staging._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99"):
        Staging.open(staging.path)
