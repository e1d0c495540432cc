"""Progress bars, drawn by rich. `node.cli.progress` imports this only if there is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


class RichBar:
    """A bar on the terminal."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, detail="")

    def update(self, completed: float, total: float | None = None, detail: str = "") -> None:
        """Show how much is done, and the total if it is known."""
        self._progress.update(self._task, completed=completed, total=total, detail=detail)


@contextmanager
def show(title: str, unit: str) -> Iterator[RichBar]:
    """Show a bar on stderr while a block runs."""
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
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        yield RichBar(bar, title)
