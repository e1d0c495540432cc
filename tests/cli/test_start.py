"""What a command loads: a short one must not wait for what only others need."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from node.cli.main import COMMANDS

_ROOT = Path(__file__).parents[2]

_PROGRAM = """
import atexit, sys
from node.cli.main import main
atexit.register(lambda: print("\\nloaded:", *{name.split(".")[0] for name in sys.modules}))
main()
"""

_NETWORK = {"asyncio", "grpc", "prometheus_client", "structlog"}
_HEAVY = _NETWORK | {"cryptography", "rich", "sqlite_utils"}
_ALL = _HEAVY | {"federation", "google", "nacl", "pysqlite3"}


def run(home: Path, *argv: str) -> tuple[int, set[str], str]:
    """Run a command; return its exit code, the packages that it loaded, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *argv],
        cwd=_ROOT,
        env={"HASHFED_HOME": str(home), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    printed, _, loaded = done.stdout.rpartition("\nloaded:")
    return done.returncode, set(loaded.split()), printed + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with a list, and a change that is staged."""
    path = tmp_path_factory.mktemp("start") / "node"
    (path.parent / "batch.csv").write_text(f"type,digest,label\nmd5,{2**100:032x},a\n")
    for argv in (
        ("init", "--org", "hotline.example", "--listen", "127.0.0.1:7443"),
        ("list", "create", "main", "--audience", "all-peers"),
    ):
        code, _, printed = run(path, *argv)
        assert code == 0, printed
    return path


def test_help_loads_nothing_but_the_command_line(home: Path) -> None:
    for argv in (("--help",), ("--version",)):
        code, loaded, printed = run(home, *argv)
        assert code == 0, printed
        assert loaded & (_ALL - {"federation"}) == set(), argv


def test_commands_that_work_on_what_is_here_load_no_network_and_no_certificates(
    home: Path,
) -> None:
    for argv in (
        ("import", "main", str(home.parent / "batch.csv")),
        ("staged", "main"),
        ("publish", "main"),
        ("lookup", f"md5:{2**100:032x}"),
        ("show", "main", f"md5:{2**100:032x}"),
        ("retract", "main", f"md5:{2**100:032x}", "--cause", "withdrawn"),
        ("log", "main"),
        ("status",),
        ("list",),
        ("diff", "main", "position:0..position:1"),
        ("export", "main"),
    ):
        code, loaded, printed = run(home, *argv)
        assert code == 0, printed
        assert loaded & _HEAVY == set(), argv


def test_what_serves_does_load_them(home: Path) -> None:
    code, loaded, printed = run(home, "sync")

    assert code == 0, printed
    assert loaded >= _NETWORK - {"prometheus_client"} | {"cryptography"}
    # It makes stores, and brings them up to date; this one is.
    assert "sqlite_utils" not in loaded


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    for name, (module, sentence) in COMMANDS.items():
        commands: tuple[click.Command, ...] = import_module(f"node.cli.{module}").COMMANDS
        (command,) = (command for command in commands if command.name == name)
        listed = click.Command(name, help=sentence)
        for limit in range(10, 200, 10):
            assert listed.get_short_help_str(limit) == command.get_short_help_str(limit), name


def test_every_command_of_every_module_is_listed() -> None:
    modules = {module for module, _ in COMMANDS.values()}
    made = {
        command.name
        for module in modules
        for command in import_module(f"node.cli.{module}").COMMANDS
    }

    assert made == set(COMMANDS)
