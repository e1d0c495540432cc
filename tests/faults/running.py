"""Runs a part in several processes, and counts their outcomes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

from tests.faults.part import Part, Share
from tests.faults.report import Outcome, Report

ENDLESS: Final = 2**31
"""More cases than any part has."""


class HarnessError(Exception):
    """The harness itself failed: nothing is said about the program."""


def run(
    part: Part,
    *,
    seed: int,
    count: int | None,
    cases: range,
    jobs: int = 1,
    keep: Path | None = None,
    planted: tuple[str, ...] = (),
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Try a part's cases.

    Args:
        part: the part.
        seed: determines all choices.
        count: how many cases there are in all; None for as many as there are.
        cases: the cases to try.
        jobs: how many processes share the work.
        keep: a folder for the files of cases that broke a promise.
        planted: modules that change the program, see `Share`.
        tell: told the report after every outcome.

    Returns:
        The report. If the harness fails, it says so and has what was found before.
    """
    report = Report(part=part.name, seed=seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        folder = Path(scratch) if keep is None else keep
        workers = [
            _Worker(part, replace(share, planted=planted))
            for share in _divide(seed, count, cases, jobs, folder, keep=keep is not None)
        ]
        try:
            for outcome in _outcomes(workers):
                report.add(outcome)
                report.seconds = time.monotonic() - began
                tell(report)
            report.complete = True
        except HarnessError as error:
            report.failure = str(error)
        except KeyboardInterrupt:
            pass
        finally:
            for worker in workers:
                worker.end()
    report.seconds = time.monotonic() - began
    return report


def _divide(
    seed: int, count: int | None, cases: range, jobs: int, folder: Path, *, keep: bool
) -> list[Share]:
    shares = []
    for number in range(min(jobs, len(cases))):
        own = folder / f"job-{number}"
        own.mkdir(parents=True)
        shares.append(
            Share(seed=seed, cases=cases[number::jobs], count=count, folder=own, keep=keep)
        )
    return shares


class _Worker:
    """A process that tries a share.

    Attributes:
        answers: where it reports its outcomes.
    """

    def __init__(self, part: Part, share: Share) -> None:
        context = multiprocessing.get_context("spawn")
        self.answers, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(part, share, theirs))
        self._process.start()
        theirs.close()

    def end(self) -> None:
        """Make it clean up and end."""
        self.answers.close()
        self._process.terminate()
        self._process.join()


def _outcomes(workers: list[_Worker]) -> Iterator[Outcome]:
    """Yield what the workers report, until all are done.

    Raises:
        HarnessError: a worker failed.
    """
    open_ones: list[Connection] = [worker.answers for worker in workers]
    while open_ones:
        for answers in wait(open_ones):
            assert isinstance(answers, Connection)  # nothing else was given
            try:
                said = answers.recv()
            except EOFError:
                said = "a process of the harness was killed"
            if isinstance(said, str):
                raise HarnessError(said)
            if said is None:
                open_ones.remove(answers)
            else:
                yield said


def _work(part: Part, share: Share, answers: Connection) -> None:
    """Try a share and report: outcomes, then None; or a text if the harness failed."""
    # Ctrl-C reaches all processes of a terminal. The first one decides, and ends the others in a
    # way that lets them stop what they have started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for outcome in part.run(share):
            answers.send(outcome)
        answers.send(None)
    except BrokenPipeError:
        return
    except Exception:  # noqa: BLE001  # whatever it is, somebody has to read it
        with suppress(BrokenPipeError):
            answers.send(traceback.format_exc())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
