"""Imported by the fork server: a process may be of a later version, with one more schema step."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from node.cli import main as program
from node.store.schema import MIGRATIONS

LATER: Final[Mapping[str, str]] = {"FAULTS_LATER": "1"}
"""In the environment of a process that is of the later version."""

_STEP: Final = "9999_note"
_STATEMENTS: Final = ("ALTER TABLE list ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",)


@contextmanager
def later_version() -> Iterator[None]:
    """Let this process be of the later version while the block runs."""
    # The steps are read-only to the program: this is what lies behind them.
    (steps,) = gc.get_referents(MIGRATIONS)
    steps[_STEP] = _STATEMENTS
    try:
        yield
    finally:
        del steps[_STEP]


_main = program.main


def _run() -> None:
    if LATER.items() <= os.environ.items():
        with later_version():
            _main()
    else:
        _main()


program.main = _run
