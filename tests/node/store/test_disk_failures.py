"""What the store promises of a disk that fails, as far as a process can show it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import DiskError
from node.store import orgs
from node.store.connection import Store
from tests.node.support.fault_injection import Fault, Strike, stepping, struck
from tests.node.support.own_list import TickingClock

COMMIT = 4
"""The step of `write` below that commits: BEGIN, the newest version, two rows."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with stepping():
        made = Store.create(tmp_path / "store.db", TickingClock())
        yield made
        made.connection.close()


def write(store: Store, key: str) -> None:
    with store.write("test", "") as transaction:
        orgs.store_node(transaction, key, "1")


@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.BROKEN_LATE])
@pytest.mark.parametrize("step", [2, 3, COMMIT])
def test_after_the_disk_has_failed_a_process_writes_nothing_and_the_next_one_looks(
    store: Store, tmp_path: Path, fault: Fault, step: int
) -> None:
    write(store, "before")
    with pytest.raises(DiskError), struck(Strike(fault, step), lambda: None):
        write(store, "failed")
    with pytest.raises(DiskError, match="failed before"):
        write(store, "after")
    store.close()
    # Closing folds nothing back: whatever the process believes is there stays unsaid.
    left = tmp_path / "left"
    left.mkdir()
    for end in ("", "-wal"):
        shutil.copy2(f"{store.path}{end}", left)
    found = Store.open(left / "store.db", TickingClock())
    kept = [key for key in ("before", "failed", "after") if orgs.load_node(found.connection, key)]
    late = fault is Fault.BROKEN_LATE and step == COMMIT
    assert kept == (["before", "failed"] if late else ["before"])
    found.close()


def test_a_full_disk_is_no_failure_and_the_process_goes_on(store: Store) -> None:
    for step in (2, 3, COMMIT):
        with (
            pytest.raises(Exception, match="no room left"),
            struck(Strike(Fault.FULL, step), lambda: None),
        ):
            write(store, "failed")
    write(store, "after")
    assert orgs.load_node(store.connection, "failed") is None
    assert store.version == 1


def test_every_commit_is_synced(store: Store) -> None:
    reader = Store.open_reader(store.path, TickingClock())
    again = Store.open(store.path, TickingClock())
    for each in (store, again, reader):
        # 2 is FULL: the log is synced at each commit.
        assert each.connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert each.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    again.close()
    reader.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux is told to")
def test_a_store_is_opened_from_the_disk_and_not_from_what_the_system_remembers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, "before")
    log = Path(f"{store.path}-wal")
    forgotten: list[tuple[int, int, int, int]] = []

    def note(descriptor: int, offset: int, size: int, advice: int) -> None:
        forgotten.append((os.fstat(descriptor).st_ino, offset, size, advice))

    monkeypatch.setattr(os, "posix_fadvise", note)
    Store.open(store.path, TickingClock()).close()
    # All of the log, from its beginning to its end.
    assert forgotten == [(log.stat().st_ino, 0, 0, os.POSIX_FADV_DONTNEED)]
