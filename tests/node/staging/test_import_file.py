"""What `staging.import_file` promises: a file becomes staged changes, all of it or nothing."""

from __future__ import annotations

import gzip
import io
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.body import pack
from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.fingerprint import Fingerprint
from node.errors import CommandError
from node.formats.jsonl import Format
from node.staging import batches, reconcile
from node.staging.file import Staging
from node.staging.import_file import import_changes, stage_operations, stage_retraction
from node.staging.reconcile import Effect
from node.staging.rows import key_of
from node.store import lists, orgs
from node.system.external_sort import Sorter
from tests.federation.worlds import assertion, digest, fingerprint, pin_root
from tests.node.support.own_list import ORIGIN, OwnList, read_staged, to_lines
from tests.node.support.texts import assertions, operations


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    opened = OwnList(tmp_path / "node")
    yield opened
    opened.close()


def staged(own: OwnList) -> dict[EntryId, Operation]:
    return {operation.entry: operation for operation in read_staged(own.staging)}


def retraction(number: int, cause: Cause = Cause.WITHDRAWN) -> Operation:
    return Operation.retraction(assertion(number).entry, cause)


def counts(effect: Effect) -> dict[str, int]:
    return {name: count for name, count in asdict(effect).items() if count}


# --- what is staged ---------------------------------------------------------------------------


def test_a_file_is_staged_and_published(own: OwnList) -> None:
    drawn = [assertion(number) for number in range(50)]
    report = own.import_operations(*drawn)
    assert (report.rows, report.staged, report.errors) == (50, True, ())
    assert counts(report.effect) == {"new": 50}
    own.publish()
    assert own.staging.is_empty
    assert list(own.live().values()) == sorted(drawn, key=lambda operation: operation.entry)


def test_what_is_in_force_already_is_not_staged(own: OwnList) -> None:
    own.import_operations(*(assertion(number) for number in range(30)))
    own.publish()
    revised = assertion(3, labels=("B2",))
    report = own.import_operations(*(assertion(n) for n in range(3)), revised, assertion(77))
    assert counts(report.effect) == {"new": 1, "revised": 1, "unchanged": 3}
    assert staged(own).keys() == {revised.entry, assertion(77).entry}


def test_another_set_of_fingerprints_is_a_revision(own: OwnList) -> None:
    own.import_operations(assertion(1))
    own.publish()
    report = own.import_operations(assertion(1, fingerprint(1, "md5")))
    assert counts(report.effect) == {"revised": 1}


def test_asserting_what_is_in_force_takes_back_what_is_staged(own: OwnList) -> None:
    own.import_operations(assertion(1), assertion(2))
    own.publish()
    own.import_operations(retraction(1), assertion(2, labels=("B2",)))
    report = own.import_operations(assertion(1), assertion(2))
    assert counts(report.effect) == {"unchanged": 2}
    assert own.staging.is_empty
    assert own.staging.count_by_kind() == {}


def test_the_last_row_on_an_entry_counts(own: OwnList) -> None:
    report = own.import_operations(
        assertion(1), assertion(2), assertion(1), assertion(1, labels=("last",))
    )
    assert counts(report.effect) == {"new": 2, "duplicates": 2}
    assert staged(own)[assertion(1).entry].annotation.labels == ("last",)


def test_a_later_import_replaces_an_earlier_one(own: OwnList) -> None:
    own.import_operations(assertion(1), assertion(2))
    own.import_operations(assertion(1, labels=("later",)))
    assert staged(own) == {
        assertion(1).entry: assertion(1, labels=("later",)),
        assertion(2).entry: assertion(2),
    }


def test_retracting_what_is_only_staged_takes_it_back(own: OwnList) -> None:
    own.import_operations(assertion(1), assertion(2))
    assert counts(own.import_operations(retraction(1)).effect) == {"unstaged": 1}
    assert staged(own).keys() == {assertion(2).entry}


def test_a_retracted_entry_can_be_asserted_anew(own: OwnList) -> None:
    for drawn, effect in (
        (assertion(1), {"new": 1}),
        (retraction(1), {"retracted": 1}),
        (assertion(1), {"new": 1}),
    ):
        assert counts(own.import_operations(drawn).effect) == effect
        own.publish()
    assert own.live() == {assertion(1).entry: assertion(1)}


def test_a_purge_needs_an_entry_that_the_list_has_had(own: OwnList) -> None:
    purge = Operation.purge(assertion(1).entry)
    assert own.import_operations(purge).errors[0].reason == "PURGE_OF_ABSENT"
    own.import_operations(assertion(1))
    assert counts(own.import_operations(purge).effect) == {"unstaged": 1}
    own.import_operations(assertion(1))
    own.publish()
    own.import_operations(retraction(1))
    own.publish()
    assert counts(own.import_operations(purge).effect) == {"purged": 1}
    own.publish()
    assert own.import_operations(purge).errors[0].reason == "PURGE_OF_ABSENT"


def test_rows_of_a_csv_add_up_their_labels(own: OwnList) -> None:
    one, other = "ab" * 32, "cd" * 32
    report = own.import_text(
        f"type,digest,label\nsha256,{one},b\nsha256,{other},\nsha256,{one.upper()},a\r\n"
        f"\nsha256,{one},b\nsha256,{one},\n"
    )
    assert (report.rows, counts(report.effect)) == (5, {"new": 2, "duplicates": 2})
    assert [operation.annotation.labels for operation in staged(own).values()] == [("a", "b"), ()]


@st.composite
def _files(draw: st.DrawFn) -> list[tuple[bool, list[Operation]]]:
    return draw(st.lists(st.tuples(st.booleans(), st.lists(operations(), max_size=8)), max_size=4))


@settings(max_examples=25)
@given(_files())
def test_imports_and_publishes_are_as_if_on_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[bool, list[Operation]]]
) -> None:
    own = OwnList(tmp_path_factory.mktemp("own"))
    in_force: dict[EntryId, Operation] = {}
    waiting: dict[EntryId, Operation] = {}
    for is_published, drawn in files:
        after, refused = dict(waiting), False
        for previous, operation in zip([None, *drawn], drawn, strict=False):
            entry, kind = operation.entry, operation.kind
            held, planned = in_force.get(entry), after.get(entry)
            if kind is OpKind.ASSERT or (
                held is not None
                and held.kind in ((OpKind.ASSERT,) if kind is OpKind.RETRACT else (1, 2))
                and (kind is OpKind.PURGE or planned is None or planned.kind is not OpKind.PURGE)
            ):
                after[entry] = operation
            elif planned is not None and planned.kind is OpKind.ASSERT:
                del after[entry]
            elif operation != previous:
                refused = True
        report = own.import_operations(*drawn) if drawn else None
        assert report is None or report.staged is not refused
        if not refused:
            waiting = {
                entry: operation
                for entry, operation in after.items()
                if operation.kind is not OpKind.ASSERT or in_force.get(entry) != operation
            }
        assert staged(own) == waiting
        if is_published:
            own.publish()
            in_force |= waiting
            waiting = {}
            assert own.live() == {
                entry: operation
                for entry, operation in in_force.items()
                if operation.kind is OpKind.ASSERT
            }
    own.close()


def test_batches_of_any_size_settle_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [assertion(number % 40, labels=(f"A{number}",)) for number in range(200)]
    results = []
    for name, size in (("large", 10_000), ("small", 1)):
        own = OwnList(tmp_path / name)
        monkeypatch.setattr(batches, "BATCH_BYTES", 100 * size)
        monkeypatch.setattr(batches, "BATCH_OPS", size)
        monkeypatch.setattr(reconcile, "Sorter", partial(Sorter, run_bytes=100 * size))
        monkeypatch.setattr("node.system.external_sort._BLOCK_BYTES", 10 * size)
        own.import_operations(*drawn[:100])
        own.publish()
        report = own.import_operations(*drawn)
        results.append((report.effect, staged(own)))
        own.close()
    assert results[0] == results[1]


# --- all or nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"op":"assert"', "MALFORMED"),
        ('{"op":"assert","fingerprints":{"sha256":"ab"}}', "FINGERPRINT_LENGTH"),
        ('{"op":"assert","fingerprints":{"sha999":"ab"}}', "FINGERPRINT_TYPE"),
        ('{"op":"assert","fingerprints":{"md5":"' + "00" * 16 + '"}}', "DIGEST_DEGENERATE"),
        ('{"op":"assert","fingerprints":{"md5":"' + "0g" * 16 + '"}}', "FINGERPRINT_ALPHABET"),
        ('{"op":"retract","id":"nothing","cause":"withdrawn"}', "RETRACT_OF_ABSENT"),
        ('{"op":"purge","id":"nothing"}', "PURGE_OF_ABSENT"),
        ('{"op":"publish"}', "OP_MALFORMED"),
        ("x" * (1024 * 1024 + 1), "LIMIT_EXCEEDED"),
    ],
)
def test_one_bad_row_leaves_what_was_staged(own: OwnList, line: str, reason: str) -> None:
    own.import_operations(assertion(1))
    good = to_lines(assertion(number) for number in range(2, 30))
    report = own.import_text(f"{good}\n{line}\n{good}")
    assert not report.staged
    assert report.error_count == 1
    (error,) = report.errors
    assert (error.line, error.reason) == (30, reason)
    assert error.message
    assert 0 < len(error.value) < 80
    assert staged(own) == {assertion(1).entry: assertion(1)}


def test_every_bad_row_is_counted_and_the_first_are_named(own: OwnList) -> None:
    report = own.import_text("{\n" * 250)
    assert (report.rows, report.error_count, len(report.errors)) == (250, 250, 100)
    assert [error.line for error in report.errors] == list(range(1, 101))


def test_refused_retractions_are_named_in_the_order_of_the_file(own: OwnList) -> None:
    drawn = [retraction(number) for number in range(20)]
    report = own.import_operations(assertion(100), *drawn)
    assert [error.line for error in report.errors] == list(range(2, 22))
    assert [error.value for error in report.errors][3] == drawn[3].entry.format()[:60] + "..."


def test_values_from_the_file_cannot_control_a_terminal(own: OwnList) -> None:
    (error,) = own.import_text(b"{\x1b[31m\xff\n").errors
    assert error.value.isprintable()


def test_a_csv_without_header_says_so_once(own: OwnList) -> None:
    report = own.import_text(f"sha256,{'ab' * 32},A1\n" * 5)
    assert (report.error_count, report.errors[0].line) == (1, 1)
    assert "header" in report.errors[0].message


def test_too_many_labels_in_a_csv_are_an_error(own: OwnList) -> None:
    rows = "".join(f"sha256,{'ab' * 32},A{number}\n" for number in range(33))
    report = own.import_text(f"type,digest,label\n{rows}")
    assert [error.reason for error in report.errors] == ["LIMIT_EXCEEDED"]
    assert own.staging.is_empty


def test_a_dry_run_reports_and_stages_nothing(own: OwnList) -> None:
    own.import_operations(assertion(1))
    own.publish()
    own.import_operations(assertion(5))
    text = to_lines((assertion(1), assertion(2), retraction(1), retraction(5)))
    rehearsed = own.import_text(text, dry_run=True)
    assert not rehearsed.staged
    assert staged(own).keys() == {assertion(5).entry}
    assert own.import_text(text).effect == rehearsed.effect


@pytest.mark.parametrize("data", [b"", gzip.compress(b"", mtime=0)], ids=["plain", "gzip"])
def test_an_empty_file_is_refused(own: OwnList, data: bytes) -> None:
    with pytest.raises(CommandError, match="is empty"):
        own.import_text(data)


def test_a_cut_off_file_leaves_what_was_staged(own: OwnList) -> None:
    own.import_operations(assertion(1))
    data = gzip.compress(to_lines(assertion(number) for number in range(500)).encode())
    with pytest.raises(CommandError, match="incomplete"):
        own.import_text(data[:-20])
    assert staged(own).keys() == {assertion(1).entry}
    assert own.import_text(data).staged


def test_the_format_can_be_told(own: OwnList) -> None:
    report = own.import_text("  \n" + to_lines([assertion(1)]), file_format=Format.CSV)
    assert "header" in report.errors[0].message
    assert own.import_text("\ufeff  \n" + to_lines([assertion(1)])).staged


def test_a_list_of_others_is_not_changed(own: OwnList) -> None:
    with own.store.write("list", "theirs") as transaction:
        orgs.pin_org(transaction, pin_root("ngo.example"))
        theirs = type(ORIGIN).parse("ngo.example/theirs")
        lists.add_list(transaction, theirs, via=theirs.org)
    record = lists.load_list(own.store.connection, theirs)
    assert record is not None
    with pytest.raises(CommandError, match="another organization"):
        import_changes(own.store, record, own.staging, io.BytesIO(b"{}"))
    with pytest.raises(CommandError, match="another organization"):
        stage_operations(own.store, record, own.staging, [assertion(1)])


def test_standard_input_is_a_source(own: OwnList, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(to_lines([assertion(1)]).encode()))
    monkeypatch.setattr(sys, "stdin", text)
    assert import_changes(own.store, own.record, own.staging, Path("-")).staged


def test_progress_reaches_the_end(own: OwnList, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(to_lines(assertion(number) for number in range(5_000)))
    seen: list[tuple[int, int | None, int]] = []
    import_changes(
        own.store, own.record, own.staging, file, on_progress=lambda *args: seen.append(args)
    )
    size = file.stat().st_size
    assert seen[-1] == (size, size, 5_000)
    assert seen == sorted(seen)
    assert len(seen) > 2


_IMPORT = """
import sys
from pathlib import Path
from node.clock import SystemClock
from node.staging.import_file import import_changes
from node.staging.file import Staging
from node.store import lists
from node.store.connection import Store
from tests.node.support.own_list import ORIGIN

folder = Path(sys.argv[1])
store = Store.open(folder / "store.db", SystemClock())
staging = Staging.open(folder / "main.staged")
record = lists.load_list(store.connection, ORIGIN)
staging._connection.execute("PRAGMA cache_size = -1024")  # so that it writes before it commits
print("ready", flush=True)
import_changes(store, record, staging, folder / "in.csv",
               on_progress=lambda read, total, rows: print(rows, flush=True))
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def large_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "in.csv"
    source = random.Random(1)
    with path.open("w") as file:
        file.write("type,digest,label\n")
        for number in range(300_000):
            file.write(f"sha256,{source.randbytes(32).hex()},A{number % 12}\n")
    return path


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("wait", ["reading", "settling"])
def test_a_killed_import_leaves_what_was_staged(tmp_path: Path, large_csv: Path, wait: str) -> None:
    own = OwnList(tmp_path)
    own.import_operations(assertion(1))
    own.close()
    (tmp_path / "in.csv").symlink_to(large_csv)
    process = subprocess.Popen(
        [sys.executable, "-c", _IMPORT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        assert line != "done\n"
        if wait == "settling" or (line != "ready\n" and int(line) > 150_000):
            break
    if wait == "settling":
        journal = tmp_path / "main.staged-wal"
        deadline = time.monotonic() + 60
        # The write-ahead log holds rows that are not committed.
        while not journal.exists() or journal.stat().st_size < 1_000_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    staging = Staging.open(tmp_path / "main.staged")
    assert read_staged(staging) == [assertion(1)]
    assert staging.count_by_kind() == {OpKind.ASSERT: 1}
    staging.close()
    assert not list(tmp_path.glob("tmp*"))


_MEASURE = (
    _IMPORT
    + """
def peak():
    # Unlike getrusage, the high-water mark of this program alone.
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1])
print("peak", peak())
"""
)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, large_csv: Path) -> None:
    peaks = []
    for rows in (100_000, 300_000):
        folder = tmp_path / str(rows)
        OwnList(folder).close()
        with large_csv.open() as source, (folder / "in.csv").open("w") as target:
            for _, line in zip(range(rows + 1), source, strict=False):
                target.write(line)
        output = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        peaks.append(int(output.split("peak ")[1]) // 1024)
        staging = Staging.open(folder / "main.staged")
        assert staging.count_by_kind() == {OpKind.ASSERT: rows}
        staging.close()
    assert peaks[1] < 150
    # Three times the rows fill what is gathered before a run is written, and nothing else.
    assert peaks[1] - peaks[0] < 50


# --- single operations ------------------------------------------------------------------------


def test_operations_of_a_command_are_staged_together_or_not_at_all(own: OwnList) -> None:
    assert stage_operations(own.store, own.record, own.staging, [assertion(1)]).new == 1
    with pytest.raises(CommandError) as caught:
        stage_operations(own.store, own.record, own.staging, [assertion(2), retraction(3)])
    assert caught.value.reason == "RETRACT_OF_ABSENT"
    assert staged(own).keys() == {assertion(1).entry}


def _retract(own: OwnList, target: str) -> tuple[EntryId, tuple[EntryId, ...]]:
    done = stage_retraction(
        own.store, own.record, own.staging, target, Cause.FALSE_POSITIVE, reason="checked"
    )
    assert done.effect == Effect(retracted=1)
    operation = staged(own)[done.entry]
    assert (operation.kind, operation.annotation.cause) == (OpKind.RETRACT, Cause.FALSE_POSITIVE)
    assert operation.annotation.reason == "checked"
    return done.entry, done.others


def test_an_entry_is_retracted_by_its_id_or_any_of_its_fingerprints(own: OwnList) -> None:
    md5 = fingerprint(1, "md5")
    entry = assertion(1, md5, entry="case-1")
    own.import_operations(entry, assertion(2))
    own.publish()
    for target in (
        "case-1",
        md5.format(),
        md5.format_digest(),
        fingerprint(1).format(),
        fingerprint(1).format_digest().upper(),
    ):
        assert _retract(own, target) == (entry.entry, ())
        own.staging.clear()


def test_a_fingerprint_longer_than_index_keys_names_its_entry(own: OwnList) -> None:
    long = Fingerprint.from_digest("photodna", digest(1, "photodna", 144))
    entry = assertion(1, long)
    own.import_operations(entry)
    own.publish()
    assert _retract(own, long.format()) == (entry.entry, ())


def test_a_fingerprint_of_several_entries_names_none(own: OwnList) -> None:
    md5 = fingerprint(1, "md5")
    own.import_operations(assertion(1, md5, entry="case-1"), assertion(2, md5, entry="case-2"))
    own.publish()
    with pytest.raises(CommandError, match=r"2 live entries .*: case-1, case-2"):
        _retract(own, md5.format())
    assert own.staging.is_empty


def test_an_entry_of_that_very_id_comes_before_others_with_the_fingerprint(own: OwnList) -> None:
    other = assertion(2, fingerprint(1), entry="case-2")
    own.import_operations(assertion(1), other)
    own.publish()
    assert _retract(own, fingerprint(1).format()) == (assertion(1).entry, (other.entry,))


def test_a_staged_entry_is_taken_back(own: OwnList) -> None:
    own.import_operations(assertion(1))
    done = stage_retraction(
        own.store, own.record, own.staging, assertion(1).entry.format(), Cause.WITHDRAWN
    )
    assert done.effect == Effect(unstaged=1)
    assert own.staging.is_empty


@pytest.mark.parametrize("target", ["case-9", "sha256:" + "ab" * 32, "ab" * 32, ""])
def test_retracting_nothing_is_refused(own: OwnList, target: str) -> None:
    own.import_operations(assertion(1))
    own.publish()
    with pytest.raises(CommandError):
        _retract(own, target)


def test_an_entry_retracted_already_is_not_retracted_again(own: OwnList) -> None:
    for drawn in (assertion(1), retraction(1)):
        own.import_operations(drawn)
        own.publish()
    with pytest.raises(CommandError) as caught:
        _retract(own, assertion(1).entry.format())
    assert caught.value.reason == "RETRACT_OF_ABSENT"


def test_a_reason_that_cannot_be_is_refused(own: OwnList) -> None:
    own.import_operations(assertion(1))
    target = assertion(1).entry.format()
    with pytest.raises(CommandError, match="control character"):
        stage_retraction(own.store, own.record, own.staging, target, Cause.WITHDRAWN, reason="a\nb")


@given(assertions())
def test_keys_name_entries(operation: Operation) -> None:
    assert key_of(pack(operation)) == key_of(pack(Operation.purge(operation.entry)))


def test_an_annotation_too_many_is_no_problem(own: OwnList) -> None:
    # More distinct annotations than are remembered.
    drawn = [
        Operation.assertion((fingerprint(number),), Annotation(reason=f"case {number}"))
        for number in range(5_000)
    ]
    assert own.import_operations(*drawn, *drawn).effect == Effect(new=5_000, duplicates=5_000)
    assert set(staged(own).values()) == set(drawn)
