"""Faults that strike a process at one of its steps: an SQL statement, or a call that changes files.

A kill is told from an error by what comes after it: of an error, the process knows and cleans up;
after a kill, nothing runs any more. So what a killed process leaves is copied at that very moment,
and what its error handling does afterwards is thrown away with the old files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, NoReturn
from unittest import mock

from node.store.sqlite import sqlite3

_FILE_CALLS: Final = ("fsync", "rename", "replace", "link", "unlink")
_WRITING: Final = ("INSERT", "UPDATE", "DELETE", "COMMIT")


class Killed(BaseException):
    """Stands for a process that ends."""


class Fault(Enum):
    """What strikes."""

    KILL = "kill"
    """The process ends before the step."""
    FULL = "full"
    """No room left for what the step writes: an error, and the process goes on."""
    BROKEN = "broken"
    """The disk fails before the step is done."""
    BROKEN_LATE = "broken, late"
    """The disk says that it failed, but the step is done: who looks later finds what it wrote."""


@dataclass
class Strike:
    """A fault that is to strike.

    Attributes:
        fault: what.
        steps: how many steps are left before it; it strikes at the first one it can.
        only_files: whether statements are no steps.
        struck: whether it has.
    """

    fault: Fault
    steps: int
    only_files: bool = False
    struck: bool = False


class _Trap:
    """What the next steps of this process meet."""

    def __init__(self) -> None:
        self.strike: Strike | None = None
        self.on_kill: Callable[[], None] = lambda: None

    def meets(self, *, is_writing: bool, is_file: bool = False) -> Fault | None:
        """Count a step; return what strikes it, if anything does."""
        strike = self.strike
        if strike is None or (strike.only_files and not is_file):
            return None
        strike.steps -= 1
        if strike.steps >= 0 or not (is_writing or strike.fault is Fault.KILL):
            return None
        self.strike = None
        strike.struck = True
        if strike.fault is Fault.KILL:
            self.on_kill()
            raise Killed
        return strike.fault


_trap = _Trap()


def _fail_statement(fault: Fault) -> NoReturn:
    if fault is Fault.FULL:
        raise sqlite3.OperationalError("database or disk is full")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    raise error


class _Connection(sqlite3.Connection):
    """Each statement is a step."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # noqa: ANN401  # what SQLite takes
        fault = _trap.meets(is_writing=sql.lstrip().startswith(_WRITING))
        if fault not in {None, Fault.BROKEN_LATE}:
            _fail_statement(fault)
        done = super().execute(sql, *args)
        if fault is not None:
            _fail_statement(fault)
        return done

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:  # noqa: ANN401  # as above
        fault = _trap.meets(is_writing=True)
        if fault is not None:
            _fail_statement(fault)
        return super().executemany(sql, *args)


def _stepping(call: Callable[..., Any]) -> Callable[..., Any]:
    def step(*args: object, **named: object) -> object:
        fault = _trap.meets(is_writing=True, is_file=True)
        if fault not in {None, Fault.BROKEN_LATE}:
            raise OSError(*_ERRORS[fault])
        done = call(*args, **named)
        if fault is not None:
            raise OSError(*_ERRORS[fault])
        return done

    return step


_ERRORS: Final = {
    Fault.FULL: (errno.ENOSPC, "No space left on device"),
    Fault.BROKEN: (errno.EIO, "Input/output error"),
    Fault.BROKEN_LATE: (errno.EIO, "Input/output error"),
}


@contextmanager
def stepping() -> Iterator[None]:
    """Let every statement and every change of a file be a step while the block runs."""
    connect_stepping = partial(sqlite3.connect, factory=_Connection)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sqlite3, "connect", connect_stepping))
        for name in _FILE_CALLS:
            stepping_call = _stepping(getattr(os, name))
            stack.enter_context(mock.patch.object(os, name, stepping_call))
        yield


@contextmanager
def struck(strike: Strike | None, on_kill: Callable[[], None]) -> Iterator[None]:
    """Let a fault strike in the block, if there is one.

    Args:
        strike: the fault.
        on_kill: called at the moment at which the process ends, before anything else is done.
    """
    _trap.strike, _trap.on_kill = strike, on_kill
    try:
        yield
    finally:
        _trap.strike = None
