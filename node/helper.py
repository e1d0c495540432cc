"""A second process of this program, which shares a long computation with the first.

What is computed is one pure function of bytes, over and over: by which of the two processes, and
whether there is a second one at all, changes no answer. So nothing depends on the helper but time:
it holds no lock, opens no store, sees no key, and ends when the process that started it ends,
whatever ends that one.

Questions and answers lie in temporary files without names, which both processes hold open. What
goes over the pipes between them is short enough that neither ever waits for the other to read it.
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
from importlib import import_module
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, NoReturn, Self

from node.errors import NodeError
from node.scratch import Scratch, read_at, scratch_errors, write_at

START_BYTES: Final = 1024 * 1024
"""Bytes of questions after which a helper is started. It takes a tenth of a second to start, in
which a process answers about as many by itself."""

_COLLECT_AFTER: Final = 100_000
"""New objects after which the garbage collector looks for cycles: bulk work makes hardly any."""

_ASKED: Final = Struct(">BQ")  # slot, bytes
_ANSWERED: Final = Struct(">iQ")  # error number of the system, bytes

Function = Callable[[bytes], bytes]
"""What a helper can compute: a function of a module, which needs nothing but its argument."""


def answer_all(
    function: Function, questions: Iterable[bytes], directory: Path, *, slots: int
) -> Generator[bytes, None, None]:
    """Yield the function of every question, in order, using two processes for many questions.

    Args:
        function: what to compute; it is found by its name in its module.
        questions: what to compute it of; read some way ahead of the answers.
        directory: where temporary files without names may lie.
        slots: questions that wait for the second process. More keep it at work while this one does
            something else than asking; fewer let both finish at the same time.

    Raises:
        NodeError: the second process ended.
        StoreFullError: no room left in the directory.
        Exception: whatever the function raises here. In the second process, an exception ends it.
    """
    pending: deque[Answer] = deque()
    helper: Helper | None = None
    size = 0
    with ExitStack() as stack:
        for question in questions:
            size += len(question)
            if helper is None and size > START_BYTES:
                helper = stack.enter_context(Helper(function, directory, slots))
            answer = Answer(question)
            if helper is None or not helper.ask(answer):
                answer.data = function(question)
            pending.append(answer)
            if len(pending) > 2 * slots:
                yield _take(pending, function, helper)
        while pending:
            yield _take(pending, function, helper)


def _take(pending: deque[Answer], function: Function, helper: Helper | None) -> bytes:
    """Return the oldest answer. Rather than wait, compute what the helper has not come to yet."""
    answer = pending.popleft()
    while answer.data is None:
        assert helper is not None  # noqa: S101  # it was asked
        late = next((each for each in reversed(pending) if each.data is None), None)
        if not helper.collect(wait=late is None) and late is not None:
            late.data = function(late.question)
    return answer.data


@dataclass(slots=True, eq=False)
class Answer:
    """What a question is answered with.

    Attributes:
        question: the question.
        data: the answer; None as long as it is not known.
    """

    question: bytes
    data: bytes | None = None


class Helper:
    """A running helper. Use it in a `with` statement, at the end of which it has ended."""

    def __init__(self, function: Function, directory: Path, slots: int) -> None:
        """Start a helper.

        Args:
            function: what it computes.
            directory: where temporary files without names may lie.
            slots: questions that it has at a time.

        Raises:
            StoreError: no temporary file can be made in the directory.
            NodeError: the system starts no more processes.
        """
        self._directory = directory
        self._asked = 0
        self._waiting: deque[tuple[Scratch, Answer]] = deque()
        with ExitStack() as stack:
            self._slots = [stack.enter_context(Scratch(directory)) for _ in range(slots)]
            descriptors = [slot.descriptor for slot in self._slots]
            try:
                # Not multiprocessing: it would run the start of the program anew in the child, and
                # a third process that tidies up. -P: nothing of the folder that this was started in
                # is imported.
                self._process = subprocess.Popen(  # noqa: S603  # this very program
                    [
                        *(sys.executable, "-P", "-m", __name__),
                        f"{function.__module__}:{function.__qualname__}",
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
        """End it: it has nothing that would have to be finished."""
        with self._open, self._process:
            self._process.kill()

    def ask(self, answer: Answer) -> bool:
        """Ask a question, unless there are as many as it can have at a time; say whether it was.

        Raises:
            StoreFullError: no room left for the question.
            NodeError: the helper has ended.
        """
        if len(self._waiting) == len(self._slots) and not self.collect():
            return False
        number = self._asked % len(self._slots)
        slot = self._slots[number]
        slot.write(answer.question)
        assert self._process.stdin is not None  # noqa: S101  # a pipe
        try:
            self._process.stdin.write(_ASKED.pack(number, len(answer.question)))
        except OSError:
            self._ended()
        self._asked += 1
        self._waiting.append((slot, answer))
        return True

    def collect(self, *, wait: bool = False) -> bool:
        """Take the answers that are there; say whether there were any.

        Args:
            wait: until there is one.

        Raises:
            StoreFullError: there was no room left for an answer.
            NodeError: the helper has ended.
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
            answer.data = slot.read(size)
            found = True
        return found

    def _ended(self) -> NoReturn:
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise NodeError(
            f"the second process of this command was ended {how}",
            hint="run the command again; nothing was done by half",
            reason="HELPER_ENDED",
        )


def main(name: str, slots: list[int]) -> None:
    """Answer questions until nobody can ask any more.

    Args:
        name: the function, as `module:function`.
        slots: descriptors of the temporary files.
    """
    # Ctrl-C reaches all processes of a terminal. The one that was started by a person decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    module, _, attribute = name.partition(":")
    function: Function = getattr(import_module(module), attribute)
    while len(asked := sys.stdin.buffer.read(_ASKED.size)) == _ASKED.size:
        slot, size = _ASKED.unpack(asked)
        data = function(read_at(slots[slot], size))
        number = 0
        try:
            write_at(slots[slot], data)
        except OSError as error:
            number = error.errno or errno.EIO
        sys.stdout.buffer.write(_ANSWERED.pack(number, len(data)))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], list(map(int, sys.argv[2:])))
