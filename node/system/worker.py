"""A second process of this program, which shares a long computation with the first.

The functions are pure functions of bytes, so the answers do not depend on which process computes
them, or on whether there is a second one. Only the time depends on the worker. It holds no lock,
opens no store, sees no key, and ends when the process that started it ends for any reason.

Questions and answers are in temporary files without names, which both processes hold open. The
messages in the pipes between them are so short that neither process ever waits for the other to
read.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, NoReturn, Self

from node.errors import NodeError
from node.system.scratch import Scratch, read_at, scratch_errors, write_at

START_BYTES: Final = 2 * 1024 * 1024
"""Bytes of questions after which a worker is started. Starting takes a tenth of a second, in which
one process answers about that many bytes."""

_COLLECT_AFTER: Final = 100_000
"""New objects after which the garbage collector looks for cycles; bulk work makes hardly any."""

_ASKED: Final = Struct(">BQB")  # slot, bytes, bytes of the function's name
_ANSWERED: Final = Struct(">iQ")  # error number of the system, bytes

Function = Callable[[bytes], bytes]
"""A function that a worker can compute: it is in a module and only needs its argument."""


class Pair:
    """This process and, once there is much to compute, a second one.

    Use it in a `with` statement, at the end of which the second one has ended.
    """

    def __init__(self, directory: Path, *, slots: int) -> None:
        """Start with this process alone.

        Args:
            directory: where temporary files without names may lie.
            slots: questions that may wait for the second process.
        """
        self._directory = directory
        self._slots = slots
        self._asked_bytes = 0
        self._worker: Worker | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def answer_all(
        self, function: Function, questions: Iterable[bytes], *, slots: int
    ) -> Generator[bytes, None, None]:
        """Yield the function of every question, in order, using two processes for many questions.

        Args:
            function: what to compute; it is found by its name in its module.
            questions: the arguments; they are read ahead of the answers.
            slots: questions that wait for the second process, at most as many as the pair has. With
                more, it stays busy while this process does other work; with fewer, both finish at
                the same time.

        Raises:
            NodeError: the second process ended.
            StoreFullError: no room left in the directory.
            Exception: the function raised it in this process. In the second process, an exception
                ends the process.
        """
        pending: deque[Task] = deque()
        for question in questions:
            answer = Task(question)
            self._asked_bytes += len(question)
            if self._worker is None and self._asked_bytes > START_BYTES:
                self._worker = self._open.enter_context(Worker(self._directory, self._slots))
            if self._worker is None or not self._worker.ask(function, answer, slots):
                answer.give(function(question))
            pending.append(answer)
            if len(pending) > 2 * slots:
                yield self._take(pending, function)
        while pending:
            yield self._take(pending, function)

    def _take(self, pending: deque[Task], function: Function) -> bytes:
        """Return the oldest answer; meanwhile compute questions that the worker has not begun."""
        answer = pending.popleft()
        while answer.data is None:
            worker = self._worker
            assert worker is not None  # noqa: S101  # it was asked
            late = next((each for each in reversed(pending) if each.data is None), None)
            if late is None and not worker.has_answered:
                # The worker is still starting, which takes longer than an answer.
                late = answer
            if not worker.collect(wait=late is None) and late is not None:
                late.give(function(late.question))
        return answer.data


@dataclass(slots=True, eq=False)
class Task:
    """A question and its answer.

    Attributes:
        question: the question; emptied when it is answered, as both may be large.
        data: the answer; None until it is known.
    """

    question: bytes
    data: bytes | None = None

    def give(self, data: bytes) -> None:
        """Set the answer."""
        self.question, self.data = b"", data


class Worker:
    """A running worker. Use it in a `with` statement, at the end of which it has ended.

    Attributes:
        has_answered: whether it has answered anything; until then it may still be starting.
    """

    def __init__(self, directory: Path, slots: int) -> None:
        """Start a worker.

        Args:
            directory: where temporary files without names may lie.
            slots: questions that it can have at a time.

        Raises:
            StoreError: no temporary file can be made in the directory.
            NodeError: the system does not start another process.
        """
        self._directory = directory
        self.has_answered = False
        self._asked = 0
        self._waiting: deque[tuple[Scratch, Task]] = deque()
        with ExitStack() as stack:
            self._slots = [stack.enter_context(Scratch(directory)) for _ in range(slots)]
            descriptors = [slot.descriptor for slot in self._slots]
            try:
                # Not multiprocessing, which would run the start of the program again in the child
                # and start a third process. -P: nothing is imported from the current folder.
                self._process = subprocess.Popen(  # noqa: S603  # this very program
                    [
                        *(sys.executable, "-P", "-m", __name__),
                        *map(str, descriptors),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    pass_fds=descriptors,
                )
            except OSError as error:
                raise NodeError(f"cannot start a second process: {error.strerror}") from error
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; it has nothing to finish."""
        with self._open, self._process:
            self._process.kill()

    def ask(self, function: Function, answer: Task, most: int) -> bool:
        """Ask a question, unless too many are waiting; return whether it was asked.

        Args:
            function: what to compute.
            answer: the question, and the place for the answer.
            most: the most questions that may wait, at most as many as there are slots.

        Raises:
            StoreFullError: no room left for the question.
            NodeError: the worker has ended.
        """
        while len(self._waiting) >= most:
            if not self.collect():
                return False
        number = self._asked % len(self._slots)
        slot = self._slots[number]
        slot.write(answer.question)
        assert self._process.stdin is not None  # noqa: S101  # a pipe
        try:
            name = f"{function.__module__}:{function.__qualname__}".encode()
            self._process.stdin.write(_ASKED.pack(number, len(answer.question), len(name)) + name)
        except OSError:
            self._ended()
        self._asked += 1
        self._waiting.append((slot, answer))
        return True

    def collect(self, *, wait: bool = False) -> bool:
        """Take the available answers; return whether there were any.

        Args:
            wait: whether to wait for one.

        Raises:
            StoreFullError: there was no room left for an answer.
            NodeError: the worker has ended.
        """
        output = self._process.stdout
        assert output is not None  # noqa: S101  # a pipe
        found = False
        while self._waiting and ((wait and not found) or select.select([output], [], [], 0)[0]):
            head = output.read(_ANSWERED.size)
            if len(head) < _ANSWERED.size:
                self._ended()
            number, size = _ANSWERED.unpack(head)
            if number:
                with scratch_errors(self._directory):
                    raise OSError(number, os.strerror(number))
            slot, answer = self._waiting.popleft()
            answer.give(slot.read(size))
            self.has_answered = found = True
        return found

    def _ended(self) -> NoReturn:
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise NodeError(
            f"the second process of this command was ended {how}",
            hint="run the command again; no change was half made",
            reason="HELPER_ENDED",
        )


def main(slots: list[int]) -> None:
    """Answer questions until nobody can ask any more.

    Args:
        slots: descriptors of the temporary files.
    """
    # Ctrl-C reaches all processes of a terminal. The process that a person started decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    while len(asked := sys.stdin.buffer.read(_ASKED.size)) == _ASKED.size:
        slot, size, name_size = _ASKED.unpack(asked)
        function = _find(sys.stdin.buffer.read(name_size).decode())
        data = function(read_at(slots[slot], size))
        number = 0
        try:
            write_at(slots[slot], data)
        except OSError as error:
            number = error.errno or errno.EIO
        sys.stdout.buffer.write(_ANSWERED.pack(number, len(data)))
        sys.stdout.buffer.flush()


@cache
def _find(name: str) -> Function:
    """Return a function by its name, `module:function`."""
    module, _, attribute = name.partition(":")
    function: Function = getattr(import_module(module), attribute)
    return function


if __name__ == "__main__":
    main(list(map(int, sys.argv[1:])))
