"""What `node.store.connection` promises: transactions are versions, and bad files are errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.context import Context
from node.errors import DamageError, LockedError, StoreError
from node.home import Home
from node.store import orgs
from node.store.connection import Store
from node.store.sqlite import sqlite3
from tests.federation.worlds import pin_root
from tests.node.support.own_list import TickingClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store.create(path, TickingClock())
    yield made
    made.close()


def test_a_store_is_readable_by_its_user_alone(store: Store) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_store_is_never_made_over_another(store: Store) -> None:
    with pytest.raises(StoreError, match="exists already"):
        Store.create(store.path, TickingClock())


def test_each_transaction_is_one_version_with_a_time_that_never_decreases(store: Store) -> None:
    times = []
    for number in range(3):
        with store.write("test", str(number)) as transaction:
            assert transaction.version == number + 1
            times.append(transaction.now_ms)
        store._clock._now_ms -= 10_000  # type: ignore[attr-defined]  # a TickingClock, set back
    assert store.version == 3
    assert times == sorted(times)


def test_of_a_transaction_that_fails_or_is_abandoned_nothing_is_kept(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.write("test", "") as transaction:
        orgs.store_node(transaction, "a", str(1 // 0))
    with store.write("test", "") as transaction:
        orgs.store_node(transaction, "b", "1")
        transaction.abandon()
    assert store.version == 0
    assert orgs.load_node(store.connection, "a") is None
    assert orgs.load_node(store.connection, "b") is None


def test_a_writer_that_does_not_end_is_named_as_such(store: Store) -> None:
    other = Store.open(store.path, TickingClock())
    other.connection.execute("PRAGMA busy_timeout = 10")
    with (
        store.write("test", ""),
        pytest.raises(LockedError, match="another process"),
        other.write("test", ""),
    ):
        pass
    other.close()


def test_a_reader_cannot_write(store: Store) -> None:
    reader = Store.open_reader(store.path, TickingClock())
    with pytest.raises(StoreError, match="readonly"), reader.write("test", ""):
        pass
    reader.close()


def test_a_copy_that_is_put_back_is_used_as_it_was(store: Store, tmp_path: Path) -> None:
    # A copy in one file has no write-ahead log: readers and writers of it would wait for each
    # other, an export as long as it takes.
    copy = tmp_path / "copy.db"
    target = sqlite3.connect(copy)
    store.connection.backup(target)
    target.execute("PRAGMA journal_mode = DELETE")
    target.close()
    restored = Store.open(copy, TickingClock())
    reader = Store.open_reader(copy, TickingClock())
    with reader.snapshot() as connection:
        connection.execute("SELECT count(*) FROM list").fetchone()
        restored.connection.execute("PRAGMA busy_timeout = 10")
        with restored.write("test", ""):
            pass
    assert restored.version == 1
    reader.close()
    restored.close()


def _make_other(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("hello" * 1000)
    elif kind == "database":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        connection.close()
    else:
        Store.create(path, TickingClock()).close()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE _sqlite_migrations SET name = '9999_future'")
        connection.close()


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("text", DamageError, "not a database"),
        ("database", DamageError, "is not a hashfed store"),
        ("newer", StoreError, "newer hashfed"),
    ],
)
@pytest.mark.parametrize("open_store", [Store.open, Store.open_reader])
def test_a_file_that_is_no_store_is_refused_and_let_go_of(
    path: Path, kind: str, error: type[StoreError], says: str, open_store: object
) -> None:
    _make_other(path, kind)
    before = path.read_bytes()
    with pytest.raises(error, match=says) as caught:
        open_store(path, TickingClock())  # type: ignore[operator]
    assert caught.value.exit_code == 12
    if sys.platform == "linux":
        held = {entry.resolve() for entry in Path("/proc/self/fd").iterdir()}
        assert path.resolve() not in held
    assert path.read_bytes() == before


def test_a_store_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(path, TickingClock())
    assert not path.exists()


@pytest.mark.parametrize("table", ["node", "org", "list"])
def test_a_damaged_page_is_an_error_with_a_hint_in_every_command(
    tmp_path: Path, table: str
) -> None:
    home = Home(tmp_path)
    store = Store.create(home.store, TickingClock())
    with store.write("init", "") as transaction:
        orgs.store_node(transaction, "org", "hotline.example")
        orgs.pin_org(transaction, pin_root("hotline.example"))
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (page,) = store.connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
    ).fetchone()
    (size,) = store.connection.execute("PRAGMA page_size").fetchone()
    store.close()
    with home.store.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 100)
    context = Context(home_option=str(tmp_path), as_json=False, quiet=False, environ={})
    for opened in (context.reader, context.store):
        with pytest.raises(DamageError) as caught, opened() as reader:
            reader.connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
        assert caught.value.hint == "run 'hashfed fsck'"
