"""A disk without room: said clearly, nothing half done, and all goes on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.endtoend.conftest import Orgs
from tests.harness.forkserver import ForkServer
from tests.harness.node import PROGRAM, Node, assertion, eventually

pytestmark = pytest.mark.fault

_MIB = 1024 * 1024
_KIB = 1024
_MANY = 30_000


class Disk:
    """A small file system.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def filled(self, leaving: int) -> Iterator[None]:
        """Take all room but this many bytes while the block runs."""
        filler = self.path / "filler"
        size = shutil.disk_usage(self.path).free - leaving
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        try:
            yield
        finally:
            filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "none", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only who may mount has small disks: {mounted.stderr.decode().strip()}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def node_on(disk: Disk, forks: ForkServer) -> Iterator[Callable[[str], Node]]:
    made: list[Node] = []

    def make(org: str) -> Node:
        made.append(Node(disk.path, org, forks))
        return made[-1]

    yield make
    for node in made:
        node.kill()


def test_a_publish_without_room_signs_nothing_and_keeps_what_is_staged(
    disk: Disk, node_on: Callable[[str], Node]
) -> None:
    node = node_on("hotline.example")
    node.create("main")
    node.publish("main", 1, 2, 3)
    node.stage("main", (assertion(number) for number in range(10, 10 + _MANY)))
    before = node.content()
    with disk.filled(leaving=400 * _KIB):
        error = node.error("publish", "main", code=12)
        assert error["reason"] == "STORE_FULL"
        assert "no room left" in error["message"]
        assert "make room" in error["hint"]
        assert node.content() == before
        node.check()
        assert node("staged", "main", "--json").json()["staged"] == {"assert": _MANY}
    published = node("publish", "main", "--json").json()
    assert (published["ops"], published["live"]) == (_MANY, _MANY + 3)
    node.check()


def test_an_import_without_room_stages_nothing(
    disk: Disk, node_on: Callable[[str], Node], tmp_path: Path
) -> None:
    node = node_on("hotline.example")
    node.create("main")
    node.stage("main", [assertion(1)])
    file = tmp_path / "changes.jsonl"
    file.write_text("".join(f"{assertion(number)}\n" for number in range(10, 10 + _MANY)))
    with disk.filled(leaving=400 * _KIB):
        error = node.error("import", "main", file, code=12)
        assert error["reason"] == "STORE_FULL"
        assert node("staged", "main", "--json").json()["staged"] == {"assert": 1}
    node("import", "main", file)
    assert node("staged", "main", "--json").json()["staged"] == {"assert": _MANY + 1}


def test_a_subscriber_without_room_keeps_its_position_and_goes_on_later(
    disk: Disk, node_on: Callable[[str], Node], orgs: Orgs
) -> None:
    (owner,) = orgs("hotline")
    reader = node_on("platform.example")
    owner.meet(reader)
    origin = owner.create("main")
    owner.publish("main", 1)
    owner.serve()
    reader("follow", origin)
    reader("sync")
    before = reader.content()
    owner.publish("main", *range(10, 10 + _MANY))
    with disk.filled(leaving=400 * _KIB):
        assert reader.error("sync", code=12)["reason"] == "STORE_FULL"
        assert reader.content() == before
        # A server ends, so that its manager notices.
        reader.serve()
        server = reader.server
        assert server is not None
        assert eventually(server.poll, reader.log) == 12
        assert "no room left" in reader.log()
        assert "Traceback" not in reader.log()
        reader.kill()
        assert reader.content() == before
        reader.check()
    reader("sync")
    assert reader.export(origin) == owner.export(origin)
    reader.check()


def test_exports_and_backups_without_room_leave_no_file(
    disk: Disk, node_on: Callable[[str], Node]
) -> None:
    node = node_on("hotline.example")
    node.create("main")
    node.publish("main", *range(_MANY))
    out = disk.path / "out"
    out.mkdir()
    with disk.filled(leaving=400 * _KIB):
        for command in (("export", "main", "--output", out / "x"), ("backup", out / "x")):
            error = node.error(*command, code=12)
            assert error["reason"] == "STORE_FULL"
            assert str(out / "") in error["message"]
            assert list(out.iterdir()) == []
    node("export", "main", "--output", out / "x")
    node("backup", out / "y")


def test_with_no_byte_left_commands_fail_without_a_traceback(
    disk: Disk, node_on: Callable[[str], Node]
) -> None:
    node = node_on("hotline.example")
    node.create("main")
    node.publish("main", 1)
    with disk.filled(leaving=0):
        for command in (("status",), ("list", "create", "x", "--audience", ""), ("fsck",)):
            node.error(*command, code=12)
        assert "make room" in node("doctor", code=1).out
    node.check()


def test_a_write_that_the_system_refuses_is_an_error_and_no_damage(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    origin = node.create("main")
    node.publish("main", 1)
    node.stage("main", (assertion(number) for number in range(10, 10 + _MANY)))
    before = node.content()
    limited = subprocess.run(
        ["prlimit", "--fsize=600000", PROGRAM, "--home", node.home, "publish", "main"],
        capture_output=True,
        text=True,
        check=False,
    )
    # To SQLite that is a disk that fails: what is on it is not known.
    assert limited.returncode == 74, limited.stderr
    assert limited.stderr.startswith("error: ")
    assert "Traceback" not in limited.stderr
    assert node.content() == before
    node.check()
    node("publish", "main")
    assert node.status(origin)["live"] == _MANY + 1
