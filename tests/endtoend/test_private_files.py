"""Files of a node are for its owner alone, whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.node import Node, assertion, digest


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.slow
@pytest.mark.usefixtures("open_umask")
def test_nobody_else_may_read_what_a_node_writes(tmp_path: Path) -> None:
    seen: set[str] = set()

    def look(*places: Path) -> None:
        for place in places:
            for path in [place, *place.rglob("*")]:
                if path.is_symlink():
                    continue
                mode = stat.S_IMODE(path.stat().st_mode)
                assert mode & 0o077 == 0, (path, oct(mode))
                seen.add(path.name)

    owner, reader = (Node(tmp_path, f"{name}.example") for name in ("owner", "reader"))
    try:
        owner.meet(reader)
        origin = owner.create("main")
        owner.publish("main", *range(40))
        owner.stage("main", map(assertion, range(40, 60)))
        reader("follow", origin, "--via", owner.org)
        owner.serve()
        reader("sync")
        reader.serve()
        look(owner.home, reader.home)
        for node in (owner, reader):
            node.stop()
        owner("snapshot", "main")
        exported = tmp_path / "known.jsonl"
        reader("export", origin, "-o", exported)
        backup = tmp_path / "backup.db"
        reader("backup", backup)
        look(exported, backup)
        store = reader.home / "store.db"
        data = bytearray(store.read_bytes())
        at = data.index(bytes.fromhex(digest(7)))
        data[at] ^= 1
        store.write_bytes(data)
        reader("fsck", code=12)
        owner.serve()
        reader("fsck", "--repair")
        reader("restore", backup)
        look(owner.home, reader.home)
    finally:
        for node in (owner, reader):
            node.abandon()
    assert {"store.db", "store.db-wal", "config.toml", "publisher.key", "known.jsonl"} <= seen
    assert any("main" in name for name in seen), seen
