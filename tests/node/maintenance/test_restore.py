"""A restore keeps the replaced files whole, even if it is stopped at any moment."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from node.store.copies import put_aside, put_back
from node.system import durable


class Killed(BaseException):
    """Stands for a process that ends."""


def make_store(folder: Path) -> Path:
    """Make a database whose newest row is in its log alone."""
    path = folder / "whole.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        for end in ("", "-wal", "-shm"):
            os.link(f"{path}{end}", folder / f"store.db{end}")
    return folder / "store.db"


def rows(path: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT x FROM t").fetchall()


def killing(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Have the process end instead of the call to the disk of that number."""
    left = iter(range(calls))

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            if next(left, None) is None:
                raise Killed
            return call(*args, **options)

        return run

    for owner, name in ((durable, "sync"), (os, "link"), (Path, "unlink"), (Path, "replace")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("calls", range(12))
def test_a_database_is_never_without_its_log(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    with monkeypatch.context() as patch:
        killing(patch, calls)
        with suppress(Killed):
            put_aside(store, 1)
    found = [path for path in (store, tmp_path / "store.db.replaced-1") if path.exists()]
    assert len(found) == 1
    if found[0] == store:
        assert put_aside(store, 2) == tmp_path / "store.db.replaced-2"
        found = [tmp_path / "store.db.replaced-2"]
    else:
        put_aside(store, 2)
    assert not list(tmp_path.glob("store.db-*"))
    assert rows(found[0]) == [(1,)]


@pytest.mark.parametrize("calls", range(12))
@pytest.mark.parametrize("more", range(12))
def test_a_replacement_that_was_cut_off_anywhere_is_taken_back(
    calls: int, more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    for act, some in ((partial(put_aside, store, 1), calls), (partial(put_back, store), more)):
        with monkeypatch.context() as patch:
            killing(patch, some)
            with suppress(Killed):
                act()
    put_back(store)
    assert rows(store) == [(1,)]


def test_what_has_the_place_of_a_store_is_not_replaced(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    put_aside(store, 1)
    for number in (2, 10):
        store.write_bytes(b"%d" % number)
        put_aside(store, number)
    put_back(store)
    assert store.read_bytes() == b"10"
    put_back(store)
    assert store.read_bytes() == b"10"


def test_without_links_the_log_follows_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    aside = put_aside(store, 1)
    assert aside is not None
    assert rows(aside) == [(1,)]
