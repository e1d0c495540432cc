"""Runs commands of the program in this process, without starting an interpreter."""

from __future__ import annotations

import contextlib
import io

from node.cli.main import cli


def hashfed(home: str, *arguments: str) -> str:
    """Run one command and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["--home", home, *arguments], standalone_mode=False)
    if code:
        raise SystemExit(f"hashfed {' '.join(arguments)} exited with {code}: {err.getvalue()}")
    return out.getvalue()
