"""Defines a part of `scripts/faults`, and the share of it that one process has."""

from __future__ import annotations

import random
import shutil
import subprocess
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.report import Outcome


class Broken(Exception):  # noqa: N818  # it says what is the matter with a promise
    """A promise did not hold; the message says which and how."""


@dataclass(frozen=True)
class Share:
    """The cases that one process is to try, in this order.

    Attributes:
        seed: determines all choices.
        cases: the numbers of the cases; without a count there are more numbers than cases.
        count: how many cases all processes try together; None for all there are. If cases are
            chosen from more, case `n` is the same one for every count.
        folder: where the share keeps its files.
        keep: whether the files of cases that broke a promise stay.
        planted: modules that change the program in every process before it runs. The tests of the
            harness plant bugs with them, to see that they are found.
    """

    seed: int
    cases: range
    count: int | None
    folder: Path
    keep: bool = False
    planted: tuple[str, ...] = ()

    def random(self, case: int) -> random.Random:
        """Return the source of a case's choices."""
        return random.Random(f"{self.seed} {case}")  # repeatable, not secret

    @contextmanager
    def scratch(self, case: int) -> Iterator[Path]:
        """Make a folder for a case; it stays only for a case that broke a promise."""
        folder = self.folder / f"case-{case}"
        folder.mkdir()
        try:
            yield folder
        except BaseException:
            if not self.keep:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def judged(attempt: Callable[[], object]) -> tuple[str, ...]:
    """Try a case; return what did not hold, if anything.

    Nodes of the end-to-end tests assert what they expect. That counts as a promise too, and so does
    the fact that a command ends.
    """
    try:
        attempt()
    except (Broken, AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
        where = traceback.extract_tb(error.__traceback__)
        steps = " < ".join(f"{step.name}:{step.lineno}" for step in reversed(where[-6:]))
        return (f"{error} [{steps}]",)
    return ()


@dataclass(frozen=True)
class Part:
    """One kind of fault.

    Attributes:
        name: its name on the command line.
        summary: what is done, in one sentence.
        count: how many cases a run has by default; None for all there are.
        run: tries the cases of a share, and yields the outcome of each. A promise that does not
            hold is an outcome with violations; an exception is an error of the harness.
    """

    name: str
    summary: str
    count: int | None
    run: Callable[[Share], Generator[Outcome, None, None]]
