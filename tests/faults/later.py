"""Imported by the fork server: lets a process have a later version, with one more schema step."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from node.cli import main as program
from node.store.schema import MIGRATIONS

LATER: Final[Mapping[str, str]] = {"FAULTS_LATER": "1"}
"""The environment of a process with the later version."""

_STEP: Final = "9999_note"
_STATEMENTS: Final = ("ALTER TABLE list ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",)


@contextmanager
def later_version() -> Iterator[None]:
    """Give this process the later version while the block runs."""
    # The program sees the steps read-only; this is the object behind them.
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
