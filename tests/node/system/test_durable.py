"""What `node.system.durable` promises: files are on the disk when it says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.system import durable


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was synced and renamed, in order: ("sync" or "rename", the file's number)."""
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        calls.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def note_rename(old: Path, new: Path) -> None:
        calls.append(("rename", old.stat().st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    return calls


def test_a_new_file_is_synced_before_it_is_named_and_its_folder_after(
    tmp_path: Path, done: list[tuple[str, int]]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_bytes(b"what was there")
    durable.write_new(old, b"data")
    durable.rename(old, new)
    number = new.stat().st_ino
    assert done == [("sync", number), ("rename", number), ("sync", tmp_path.stat().st_ino)]
    assert new.read_bytes() == b"data"
