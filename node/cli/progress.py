"""Progress bars on stderr, for terminals only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """A progress bar."""

    def update(self, completed: float, total: float | None = None, detail: str = "") -> None:
        """Show how much is done, and the total if it is known."""


class _NoBar:
    def update(self, completed: float, total: float | None = None, detail: str = "") -> None:
        pass


@contextmanager
def progress(title: str, *, unit: str = "", quiet: bool = False) -> Iterator[Bar]:
    """Show a progress bar on stderr while a block runs, if stderr is a terminal.

    Args:
        title: what is being done.
        unit: `bytes` for sizes; anything else counts items.
        quiet: show no bar.
    """
    if quiet or not sys.stderr.isatty():
        yield _NoBar()
        return
    from node.cli import bars  # noqa: PLC0415  # a script that imports pays nothing for them

    with bars.show(title, unit) as bar:
        yield bar
