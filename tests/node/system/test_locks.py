"""What `node.system.locks` promises: at most one holder, and never a dead one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from node.errors import ConfigError, LockedError
from node.home import Home
from node.system.locks import hold

_HOLDER = """
import sys
from pathlib import Path
from node.system.locks import hold

with hold(Path(sys.argv[1]), "hashfed serve"):
    print("held", flush=True)
    sys.stdin.read()
"""


def _start_holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_held_elsewhere_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with _start_holder(path) as process:
        with pytest.raises(LockedError) as caught, hold(path, "hashfed restore"):
            pytest.fail("two hold one lock")
        process.kill()
    assert str(caught.value) == (
        f"hashfed restore cannot start: hashfed serve is running here with pid {process.pid}"
    )
    assert f"kill {process.pid}" in caught.value.hint


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with _start_holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold(path, "hashfed serve"):
            assert path.read_text() == f"{os.getpid()} hashfed serve\n"


def test_one_process_cannot_hold_a_lock_twice(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with (
        hold(path, "hashfed serve"),
        pytest.raises(LockedError, match=f"pid {os.getpid()}"),
        hold(path, "hashfed publish"),
    ):
        pytest.fail("held twice")


def test_a_refused_attempt_takes_nothing_from_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with hold(path, "hashfed serve"):
        for _ in range(2):
            with pytest.raises(LockedError, match="hashfed serve"), hold(path, "other"):
                pytest.fail("held twice")


def test_a_lock_is_free_after_its_block_and_after_an_error_in_it(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with hold(path, "first"):
        pass
    with pytest.raises(ZeroDivisionError), hold(path, "second"):
        raise ZeroDivisionError
    with hold(path, "third"):
        assert "third" in path.read_text()
    assert path.read_text() == ""


def test_two_locks_do_not_concern_each_other(tmp_path: Path) -> None:
    with hold(tmp_path / "serve.lock", "a"), hold(tmp_path / "publish.lock", "b"):
        assert (tmp_path / "publish.lock").read_text().endswith(" b\n")


def test_a_stopped_holder_still_holds(tmp_path: Path) -> None:
    path = tmp_path / "publish.lock"
    with _start_holder(path) as process:
        process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(LockedError), hold(path, "hashfed publish"):
                pytest.fail("two hold one lock")
        process.send_signal(signal.SIGCONT)
        with pytest.raises(LockedError), hold(path, "hashfed publish"):
            pytest.fail("two hold one lock")
        process.kill()


def test_two_homes_with_one_store_have_one_lock(tmp_path: Path) -> None:
    first, second = Home(tmp_path / "first"), Home(tmp_path / "second")
    first.path.mkdir()
    second.path.mkdir()
    first.store.touch()
    second.store.symlink_to(first.store)
    with (
        hold(first.lock_file("publish"), "first"),
        pytest.raises(LockedError, match="first"),
        hold(second.lock_file("publish"), "second"),
    ):
        pytest.fail("two hold one store")


def test_a_started_program_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with hold(path, "hashfed serve"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold(path, "hashfed serve"):
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    program = """
import os, signal, sys, time
from pathlib import Path
from node.system.locks import hold

with hold(Path(sys.argv[1]), "parent"):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        try:
            with hold(path, "next"):
                os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_leaves_the_block_leaves_the_parents_lock_alone(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with hold(path, "parent"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(LockedError, match="parent"), hold(path, "other"):
            pytest.fail("the child gave the lock away")


@pytest.mark.parametrize("note", [b"", b"\xff\xfe garbage", b"serve\n", b"12x serve\n"])
def test_a_note_that_says_nothing_still_gives_a_refusal(tmp_path: Path, note: bytes) -> None:
    path = tmp_path / "serve.lock"
    with hold(path, "hashfed serve"):
        path.write_bytes(note)
        with pytest.raises(LockedError, match="another process holds"), hold(path, "other"):
            pytest.fail("held twice")


def test_a_note_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "serve.lock"
    with hold(path, "x"):
        path.write_bytes(b"7 serve\x1b[2J\n")
        with pytest.raises(LockedError) as caught, hold(path, "other"):
            pytest.fail("held twice")
    assert str(caught.value).isprintable()


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="missing does not exist"),
        hold(tmp_path / "missing" / "serve.lock", "hashfed serve"),
    ):
        pytest.fail("locked nothing")


def test_a_lock_file_is_no_symbolic_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "serve.lock").symlink_to(target)
    with pytest.raises(ConfigError), hold(tmp_path / "serve.lock", "hashfed serve"):
        pytest.fail("followed the link")
    assert target.read_text() == "precious"
