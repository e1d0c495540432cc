"""Runs commands of the program a hundred times faster than as new processes.

They run in this process, or in a fork of it, which has already done its imports.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from node.cli.main import COMMANDS, main
from tests.faults.invariants import require_documented


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        out: what it printed.
        err: what it wrote to stderr.
    """

    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401  # whatever the command prints
        """Return what it printed."""
        return json.loads(self.out)

    def error(self) -> dict[str, Any]:
        """Return its error object."""
        error: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return error


def call(home: Path, *args: str | Path) -> Ended:
    """Run a command with `--json`, in this process, to any documented end.

    Raises:
        Broken: it ended in another way.
    """
    # Exports go to the bytes below the text.
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    code: object = 0
    with (
        mock.patch.object(sys, "argv", _words(home, args)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)  # what `main` exits with
    out.seek(0)
    return _documented(Ended(code, out.read(), err.getvalue()), args)


def call_apart(home: Path, *args: str | Path, largest_file: int | None = None) -> Ended:
    """Run a command with `--json`, in a forked process, to any documented end.

    This process must have no other threads.

    Args:
        home: the node's folder.
        args: the command's arguments.
        largest_file: the size in bytes that no file may exceed; None for no limit.

    Raises:
        Broken: it ended in another way.
    """
    for module, _ in COMMANDS.values():
        import_module(f"node.cli.{module}")
    # Not into files: their size would be limited too. A command's output fits into a pipe.
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(its_out, 1)
        os.dup2(its_err, 2)
        _become(_words(home, args), largest_file)
    texts = []
    for ours, its in ((out, its_out), (err, its_err)):
        os.close(its)
        with open(ours, encoding="utf-8") as said:  # noqa: PTH123  # a descriptor
            texts.append(said.read())
    _, status = os.waitpid(pid, 0)
    return _documented(Ended(os.waitstatus_to_exitcode(status), *texts), args)


def _become(words: list[str], largest_file: int | None) -> None:
    """Run a command as the interpreter would, and end this process."""
    code = 70
    try:
        sys.argv, sys.stdin = words, io.StringIO()
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # as the interpreter says it
        traceback.print_exc()
        code = 1
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _words(home: Path, args: tuple[str | Path, ...]) -> list[str]:
    return ["hashfed", "--home", str(home), "--json", *map(str, args)]


def _documented(ended: Ended, args: tuple[str | Path, ...]) -> Ended:
    require_documented(ended.code, ended.err, of=f"hashfed {' '.join(map(str, args))}")
    return ended
