"""What `node.store.rebuild` promises: rows fit their tables; impossible rows are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.store import rebuild
from node.store.connection import Store
from node.store.rebuild import (
    BodyRow,
    BucketRow,
    DeltaRow,
    FetchedRow,
    FollowStateRow,
    ListStateRow,
    OrgRow,
    PeerRow,
    ReleasedRow,
    Row,
    SignedExtentRow,
    SnapshotRow,
    SpanRow,
    VersionRow,
)
from node.store.sqlite import sqlite3
from tests.node.support.own_list import TickingClock


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    store = Store.create(tmp_path / "store.db", TickingClock())
    yield store.connection
    store.close()


@pytest.mark.parametrize(
    ("table", "row", "left_out"),
    [
        ("org", OrgRow, 0),
        ("peer", PeerRow, 0),
        ("version", VersionRow, 0),
        ("follow_state", FollowStateRow, 0),
        ("signed_extent", SignedExtentRow, 0),
        ("released", ReleasedRow, 0),
        ("span", SpanRow, 0),
        # How far it was checked begins again.
        ("snapshot", SnapshotRow, 2),
        ("bucket", BucketRow, 0),
        ("delta", DeltaRow, 0),
        ("body", BodyRow, 0),
        ("fetched", FetchedRow, 0),
    ],
)
def test_a_row_has_the_columns_of_its_table(
    connection: sqlite3.Connection, table: str, row: type[Row], left_out: int
) -> None:
    columns = _columns(connection, table)

    assert list(row._fields) == columns[: len(columns) - left_out]


def test_the_state_of_a_list_has_every_column_but_those_that_name_the_list(
    connection: sqlite3.Connection,
) -> None:
    naming = ["list", "org", "name", "own", "via"]

    assert [*naming, *ListStateRow._fields] == _columns(connection, "list")


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]


@pytest.mark.parametrize(
    "row",
    [
        BodyRow(id=7, bytes="text"),
        BodyRow(id=7, bytes=None),
        BodyRow(id="x", bytes=b""),
        SpanRow(span=1, list=99, start=0, stop=None, snapshot=None),
    ],
    ids=["another type", "nothing", "no number", "of no list"],
)
def test_a_row_that_cannot_be_is_left_out_where_that_is_allowed(
    connection: sqlite3.Connection, row: Row
) -> None:
    rebuild.add_if_possible(connection, row)

    assert connection.execute("SELECT count(*) FROM body").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM span").fetchone() == (0,)
    with pytest.raises(sqlite3.IntegrityError):
        rebuild.add(connection, row)


def test_a_row_that_is_there_stays_as_it_is(connection: sqlite3.Connection) -> None:
    rebuild.add(connection, BodyRow(id=7, bytes=b"first"))
    rebuild.add_if_possible(connection, BodyRow(id=7, bytes=b"second"))

    assert connection.execute("SELECT id, bytes FROM body").fetchall() == [(7, b"first")]
