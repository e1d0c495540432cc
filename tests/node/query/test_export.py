"""What `node.query.export` promises: the state of a position, byte for byte the same everywhere."""

from __future__ import annotations

import io
import os
import random
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.entry import Cause, Operation
from node.clock import format_ms
from node.errors import CommandError, ConfigError, StoreFullError
from node.formats.csvfile import QUOTED_HEADER, CsvReader
from node.formats.jsonl import Format, parse_change
from node.query.as_of import resolve_as_of
from node.query.export import export
from node.system.external_sort import Sorter
from tests.federation.worlds import T0, assertion, fingerprint
from tests.node.support.own_list import OwnList
from tests.node.support.texts import assertions


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    opened = OwnList(tmp_path / "node")
    yield opened
    opened.close()


def exported(own: OwnList, position: int | None = None, form: Format = Format.JSONL) -> bytes:
    out = io.BytesIO()
    size = own.record.log.size if position is None else position
    count = export(own.store, own.record, size, form, out)
    data = out.getvalue()
    assert count == data.count(b"\n") - (form is Format.CSV)
    return data


def publish(own: OwnList, *drawn: Operation) -> None:
    assert own.import_operations(*drawn).staged
    own.publish()


@settings(max_examples=25)
@given(st.lists(assertions(), min_size=1, max_size=20, unique_by=lambda operation: operation.entry))
def test_what_was_imported_is_exported(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Operation]
) -> None:
    own = OwnList(tmp_path_factory.mktemp("own"))
    publish(own, *drawn)
    data = exported(own)
    read = [parse_change(line) for line in data.split(b"\n")[:-1]]
    assert sorted(read, key=lambda operation: operation.entry) == sorted(
        drawn, key=lambda operation: operation.entry
    )
    names = [operation.entry.format().encode() for operation in read]
    assert names == sorted(names)
    # It is a file that changes nothing.
    assert own.import_text(data).effect.unchanged == len(drawn)
    own.close()


def test_two_nodes_of_one_state_write_the_same_bytes(own: OwnList, tmp_path: Path) -> None:
    drawn = [assertion(number, fingerprint(number, "md5")) for number in range(300)]
    publish(own, *drawn)
    other = OwnList(tmp_path / "other")
    publish(other, *(assertion(number, labels=("old",)) for number in range(400)))
    removed = [Operation.retraction(assertion(n).entry, Cause.WITHDRAWN) for n in range(300, 400)]
    publish(other, *random.Random(1).sample(removed + drawn, 400))
    for form in Format:
        assert exported(own, form=form) == exported(other, form=form)
    other.close()


def test_the_state_of_each_position_can_be_had(own: OwnList) -> None:
    publish(own, assertion(1), assertion(2))
    publish(own, Operation.retraction(assertion(1).entry, Cause.WITHDRAWN), assertion(3))
    publish(own, assertion(2, labels=("B2",)))
    states = [
        {parse_change(line) for line in exported(own, position).splitlines()}
        for position in range(4)
    ]
    assert states == [
        set(),
        {assertion(1), assertion(2)},
        {assertion(2), assertion(3)},
        {assertion(2, labels=("B2",)), assertion(3)},
    ]


@pytest.mark.parametrize("position", [-1, 2])
def test_a_position_that_is_not_there_is_refused(own: OwnList, position: int) -> None:
    publish(own, assertion(1))
    with pytest.raises(CommandError, match="1 positions"):
        exported(own, position)


def test_a_csv_has_each_fingerprint_and_label_once(own: OwnList) -> None:
    md5 = fingerprint(1, "md5")
    publish(
        own,
        assertion(1, md5, entry="case-1", labels=("A1", "B2")),
        assertion(2, md5, entry="case-2", labels=("A1",)),
        assertion(3, labels=()),
    )
    header, *rows = exported(own, form=Format.CSV).decode().splitlines()
    assert header == QUOTED_HEADER
    assert rows == sorted(
        [
            f'"md5","{md5.format_digest()}","A1"',
            f'"md5","{md5.format_digest()}","B2"',
            f'"sha256","{fingerprint(1).format_digest()}","A1"',
            f'"sha256","{fingerprint(1).format_digest()}","B2"',
            f'"sha256","{fingerprint(2).format_digest()}","A1"',
            f'"sha256","{fingerprint(3).format_digest()}",""',
        ]
    )
    reader = CsvReader.open(header.encode())
    assert all(reader.parse(row.encode()) for row in rows)


def test_an_exported_csv_imports_as_the_same_list(own: OwnList, tmp_path: Path) -> None:
    drawn = [
        Operation.assertion((fingerprint(number),), assertion(1, labels=labels).annotation)
        for number, labels in enumerate([(), ("a",), ("a", "b,c"), ('"',)])
    ]
    plain = [
        Operation.assertion(each.fingerprints, type(each.annotation)(labels=each.annotation.labels))
        for each in drawn
    ]
    publish(own, *plain)
    assert own.import_text(exported(own, form=Format.CSV)).effect.unchanged == 4


def test_large_lists_are_sorted_on_disk(own: OwnList, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(own, *(assertion(number) for number in range(2_500)))
    in_memory = [exported(own, form=form) for form in Format]
    monkeypatch.setattr("node.query.export.Sorter", partial(Sorter, run_bytes=50_000))
    monkeypatch.setattr("node.system.external_sort._BLOCK_BYTES", 2_000)
    assert [exported(own, form=form) for form in Format] == in_memory


# --- files ------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole_and_private(own: OwnList, tmp_path: Path) -> None:
    publish(own, assertion(1))
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    assert export(own.store, own.record, 1, Format.JSONL, out) == 1
    assert out.read_bytes() == exported(own)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node", "out.jsonl"]


def test_a_failed_export_leaves_the_old_file(
    own: OwnList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(own, assertion(1))
    out = tmp_path / "out.jsonl"
    out.write_text("old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFullError, match="no room left"):
        export(own.store, own.record, 1, Format.JSONL, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node", "out.jsonl"]


def test_a_missing_folder_is_named(own: OwnList, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        export(own.store, own.record, 0, Format.JSONL, tmp_path / "missing" / "out")


# --- as of ------------------------------------------------------------------------------------


def test_positions_versions_and_times_name_the_same_states(own: OwnList) -> None:
    moments = [(own.store.version, own.clock.now_ms())]
    for number in range(3):
        publish(own, assertion(number))
        moments.append((own.store.version, own.clock.now_ms()))
    for position, (version, now_ms) in enumerate(moments):
        for text in (
            f"position:{position}",
            f"version:{version}",
            f"time:{format_ms(now_ms)}",
            f"time:{format_ms(now_ms + 3_600_000)[:-1]}+01:00",
        ):
            assert resolve_as_of(own.store, own.record, text) == position
    assert resolve_as_of(own.store, own.record, "version:0") == 0
    assert resolve_as_of(own.store, own.record, f"time:{format_ms(T0 - 1)}") == 0
    assert resolve_as_of(own.store, own.record, "time:1970-01-01t00:00:00z") == 0
    assert resolve_as_of(own.store, own.record, "time:2999-12-31T23:59:59.123456Z") == 3


def test_a_time_ends_with_its_millisecond(own: OwnList) -> None:
    publish(own, assertion(1))
    (committed_ms,) = own.store.connection.execute(
        "SELECT committed_ms FROM version ORDER BY version DESC LIMIT 1"
    ).fetchone()
    assert resolve_as_of(own.store, own.record, f"time:{format_ms(committed_ms)}") == 1
    assert resolve_as_of(own.store, own.record, f"time:{format_ms(committed_ms - 1)}") == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected position:N"),
        ("1", "expected position:N"),
        ("2026-01-01T00:00:00Z", "expected position:N"),
        ("date:2026-01-01", "expected position:N"),
        ("position:", "expected a number"),
        ("position:-1", "expected a number"),
        ("position:1_0", "expected a number"),
        ("position:\uff11", "expected a number"),
        ("position:" + "9" * 5000, "expected a number"),
        ("position:1", "not reached yet: the newest is 0"),
        ("version:9", "not reached yet"),
        ("time:2026-01-01", "expected RFC 3339"),
        ("time:2026-01-01T00:00:00", "with Z or an offset"),
        ("time:20260101T000000Z", "expected RFC 3339"),
        ("time:2026-02-30T00:00:00Z", "is not a time"),
        ("time:2026-01-01T24:00:00Z", "is not a time"),
        ("time:2026-01-01T00:00:00+25:00", "is not a time"),
    ],
)
def test_a_text_that_names_no_state_is_refused(own: OwnList, text: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        resolve_as_of(own.store, own.record, text)
    assert words in str(caught.value)
