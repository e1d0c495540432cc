"""What the program does on a terminal: it asks, shows progress and uses colours."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.forkserver import ForkServer

Terminal = Callable[..., tuple[int, str]]


@pytest.fixture
def terminal(tmp_path: Path, forks: ForkServer) -> Terminal:
    """Runs a command on a terminal on which somebody has typed."""

    def run(*argv: str, typed: str = "") -> tuple[int, str]:
        ours, theirs = pty.openpty()
        os.write(ours, typed.encode())
        process = forks.start(
            argv,
            cwd=tmp_path,
            env={"TERM": "xterm", "HOME": str(tmp_path)},
            streams=(theirs, theirs, theirs),
        )
        os.close(theirs)
        shown = b""
        # Linux says so when the last of those who had the terminal open is gone.
        with suppress(OSError):
            while data := os.read(ours, 65_536):
                shown += data
        os.close(ours)
        return process.wait(), shown.decode()

    return run


@pytest.fixture
def invitation(tmp_path: Path, terminal: Terminal) -> str:
    """Two nodes, and the invitation of the one that the other does not know."""
    for org in ("hotline", "platform"):
        code, shown = terminal(
            "--home", org, "init", "--org", f"{org}.example", "--listen", "127.0.0.1:7443"
        )
        assert code == 0, shown
    _, shown = terminal("--home", "hotline", "invite")
    text = shown[: shown.rindex("}") + 1].replace("\r\n", "\n")
    (tmp_path / "invitation").write_text(text)
    return "invitation"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_peer_is_added_once_somebody_says_that_the_fingerprint_is_right(
    terminal: Terminal, invitation: str
) -> None:
    code, shown = terminal("--home", "platform", "peer", "add", invitation, typed="y\n")
    assert code == 0
    assert "is that the fingerprint they told you? [y/N]" in shown
    assert "added hotline.example" in terminal("--home", "platform", "peer")[1] + shown


@pytest.mark.parametrize("typed", ["n\n", "\n", "\x04"], ids=["no", "enter", "eof"])
def test_no_peer_is_added_if_nobody_says_so(
    terminal: Terminal, invitation: str, typed: str
) -> None:
    code, shown = terminal("--home", "platform", "peer", "add", invitation, typed=typed)
    assert code == 130
    assert "Traceback" not in shown
    assert "no peers yet" in terminal("--home", "platform", "peer")[1]


def test_an_import_shows_how_far_it_is_and_leaves_only_its_result(
    terminal: Terminal, invitation: str, tmp_path: Path
) -> None:
    terminal("--home", "hotline", "list", "create", "main", "--audience", "all-peers")
    rows = "".join(f"md5,{number + 2**40:032x},\n" for number in range(50_000))
    (tmp_path / "many.csv").write_text(f"type,digest,label\n{rows}")
    code, shown = terminal("--home", "hotline", "import", "main", "many.csv")
    assert code == 0
    assert "reading" in plain(shown)
    assert "50000 rows; staged: 50000 new" in plain(shown)
    code, shown = terminal("--home", "hotline", "--quiet", "import", "main", "many.csv")
    assert (code, "reading" in shown) == (0, False)


def test_errors_are_coloured_and_say_what_to_do(terminal: Terminal) -> None:
    code, shown = terminal("--home", "nowhere", "status")
    assert code == 12
    assert "\x1b[31m" in shown
    assert "hint: run 'hashfed" in plain(shown)
