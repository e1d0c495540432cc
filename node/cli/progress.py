"""Progress bars on stderr, for terminals only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


class Bar(Protocol):
    """A progress bar."""

    def update(self, completed: float, total: float | None = None, detail: str = "") -> None:
        """Show how much is done, of how much if that is known."""


class _NoBar:
    def update(self, completed: float, total: float | None = None, detail: str = "") -> None:
        pass


class _RichBar:
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, detail="")

    def update(self, completed: float, total: float | None = None, detail: str = "") -> None:
        self._progress.update(self._task, completed=completed, total=total, detail=detail)


@contextmanager
def progress(title: str, *, unit: str = "", quiet: bool = False) -> Iterator[Bar]:
    """Show a progress bar on stderr while a block runs, if that is a terminal.

    Args:
        title: what is being done.
        unit: `bytes` for sizes; anything else counts items.
        quiet: show none.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield _NoBar()
        return
    counts: tuple[Any, ...] = (
        (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    )
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
    ) as bar:
        yield _RichBar(bar, title)
