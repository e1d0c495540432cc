"""Starts the benchmark's own processes: for one task, or for a conversation."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.benchmarks.processes import BenchError, Running, run, running, tail


def work(folder: Path, module: str, task: str, **arguments: object) -> Any:  # noqa: ANN401  # JSON
    """Run a task of a module in a new process and return its result."""
    given = folder / f"{task}.json"
    given.write_text(json.dumps(arguments))
    try:
        return json.loads(run([*_program(module), task], stdin=given).output)
    finally:
        given.unlink()


class Conversation:
    """A process that answers one question after the other.

    Attributes:
        running: the process.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.running = Running(process.pid)
        self._process = process
        self._errors = errors

    def ask(self, name: str, /, **arguments: object) -> Any:  # noqa: ANN401  # JSON
        """Call a method of the process's partner and return its result.

        Raises:
            BenchError: it failed.
        """
        return self.send([name, arguments])

    def send(self, message: object) -> Any:  # noqa: ANN401  # JSON
        """Send a line and return the result in the answer.

        Raises:
            BenchError: there was no answer.
        """
        assert self._process.stdin is not None  # noqa: S101  # opened as a pipe
        assert self._process.stdout is not None  # noqa: S101  # as stdin
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            answer = b""
        else:
            answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"a process of the benchmark has failed:\n{tail(self._errors)}")
        return json.loads(answer)


@contextmanager
def conversing(module: str, **arguments: object) -> Iterator[Conversation]:
    """Start a process for a module while the block runs.

    Raises:
        BenchError: it failed.
    """
    with (
        tempfile.NamedTemporaryFile() as errors,
        running(
            _program(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.file,
        ) as process,
    ):
        conversation = Conversation(process, Path(errors.name))
        conversation.send(arguments)
        yield conversation


def _program(module: str) -> tuple[str, ...]:
    return sys.executable, "-P", "-m", f"scripts.benchmarks.{module}"
