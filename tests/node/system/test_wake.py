"""What `system.wake` promises: a wake-up arrives if someone listens, and never hurts if not."""

from __future__ import annotations

import select
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.home import Home
from node.system.wake import drain, notify, open_listener


def _is_woken(listener: socket.socket, seconds: float = 0) -> bool:
    return bool(select.select([listener], [], [], seconds)[0])


@pytest.fixture(params=["short", "long"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """Homes on either side of the length that a socket address can have."""
    if request.param == "long" and sys.platform != "linux":
        pytest.skip("needs /proc")
    path = tmp_path / ("x" * 120 if request.param == "long" else "n")
    path.mkdir()
    return Home(path)


def test_a_wake_up_arrives(home: Home) -> None:
    with open_listener(home) as listener:
        assert not _is_woken(listener)
        notify(home)
        assert _is_woken(listener)


def test_a_wake_up_of_another_process_arrives(home: Home) -> None:
    program = "import sys, pathlib, node.home, node.system.wake\n"
    program += "node.system.wake.notify(node.home.Home(pathlib.Path(sys.argv[1])))"
    with open_listener(home) as listener:
        subprocess.run(
            [sys.executable, "-c", program, str(home.path)],
            check=True,
            cwd=Path(__file__).parents[3],
        )
        assert _is_woken(listener)


def test_draining_takes_every_wake_up_and_waits_for_none(home: Home) -> None:
    with open_listener(home) as listener:
        for _ in range(3):
            notify(home)
        drain(listener)
        assert not _is_woken(listener)
        drain(listener)
        notify(home)
        assert _is_woken(listener)


def test_nobody_needs_to_listen(home: Home) -> None:
    notify(home)
    open_listener(home).close()
    assert home.wake_socket.exists()
    notify(home)


def test_a_home_that_is_gone_is_no_error(tmp_path: Path) -> None:
    notify(Home(tmp_path / "gone"))
    assert not (tmp_path / "gone").exists()


def test_a_listener_that_never_reads_does_not_block_the_others(home: Home) -> None:
    with open_listener(home) as listener:
        for _ in range(2_000):
            notify(home)
        assert _is_woken(listener)


def test_what_a_dead_server_left_is_replaced(home: Home) -> None:
    open_listener(home).close()
    with open_listener(home) as listener:
        notify(home)
        assert _is_woken(listener)


def test_a_file_in_the_sockets_place_is_kept(home: Home) -> None:
    home.wake_socket.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        open_listener(home)
    assert home.wake_socket.read_text() == "precious"


def test_only_the_owner_can_wake_the_node(home: Home) -> None:
    with open_listener(home):
        assert stat.S_IMODE(home.wake_socket.stat().st_mode) == 0o600


def test_reading_the_listener_never_waits(home: Home) -> None:
    with open_listener(home) as listener, pytest.raises(BlockingIOError):
        listener.recv(1)


def test_a_missing_home_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        open_listener(Home(tmp_path / "missing"))
