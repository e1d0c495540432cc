"""What `system.worker` promises: the same answers in the same order, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from base64 import b64encode
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from node.errors import NodeError, StoreError
from node.system import worker
from node.system.worker import START_BYTES, Function, Pair, Task, Worker
from tests.harness.node import eventually


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Collects the helpers that are started."""
    found: list[Worker] = []

    class Noted(Worker):
        def __enter__(self) -> Self:
            found.append(self)
            return self

    monkeypatch.setattr(worker, "Worker", Noted)
    return found


def questions(count: int, size: int = 100_000) -> Iterator[bytes]:
    for number in range(count):
        yield number.to_bytes(4) * (size // 4)


def answer_all(
    function: Function, asked: Iterable[bytes], directory: Path, *, slots: int
) -> Generator[bytes, None, None]:
    """Answer questions as a command does that has no others."""
    with Pair(directory, slots=slots) as pair:
        yield from pair.answer_all(function, asked, slots=slots)


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 60])
def test_answers_are_those_of_one_process_in_order(
    tmp_path: Path, started: list[Worker], count: int, slots: int
) -> None:
    answers = list(answer_all(b64encode, questions(count), tmp_path, slots=slots))
    assert answers == [b64encode(question) for question in questions(count)]
    assert len(started) == (count * 100_000 > START_BYTES)
    assert all(each._process.returncode == -signal.SIGKILL for each in started)
    assert list(tmp_path.iterdir()) == []


def test_both_processes_answer(tmp_path: Path, started: list[Worker]) -> None:
    here = []

    def count(question: bytes) -> bytes:
        here.append(question)
        return zlib.compress(question)

    # The worker finds the function by its name.
    count.__module__, count.__qualname__ = "zlib", "compress"
    asked = [os.urandom(1_000_000) for _ in range(40)]
    answers = list(answer_all(count, asked, tmp_path, slots=2))
    assert [zlib.decompress(answer) for answer in answers] == asked
    assert started
    assert 0 < len(here) < len(asked)


def test_one_worker_computes_different_functions_one_after_the_other(
    tmp_path: Path, started: list[Worker]
) -> None:
    with Pair(tmp_path, slots=4) as pair:
        for function, slots in ((b64encode, 2), (zlib.compress, 4), (b64encode, 1)):
            answers = list(pair.answer_all(function, questions(40), slots=slots))
            assert answers == [function(question) for question in questions(40)]
    assert len(started) == 1


def test_a_worker_that_is_slow_to_start_is_not_waited_for(
    tmp_path: Path, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = tmp_path / "never"
    never.write_text("#!/bin/sh\nexec sleep 600\n")
    never.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(never))
    answers = list(answer_all(b64encode, questions(30), tmp_path, slots=2))
    assert answers == [b64encode(question) for question in questions(30)]
    assert started[0]._process.returncode == -signal.SIGKILL


def test_a_worker_that_is_killed_ends_the_work_with_an_error(
    tmp_path: Path, started: list[Worker]
) -> None:
    def answer_and_kill() -> None:
        with closing(answer_all(b64encode, questions(10**6), tmp_path, slots=2)) as answers:
            for _ in answers:
                for each in started:
                    each._process.kill()

    with pytest.raises(NodeError, match=r"second process .* by signal 9") as caught:
        answer_and_kill()
    assert caught.value.reason == "HELPER_ENDED"
    assert caught.value.hint
    assert started[0]._process.returncode == -signal.SIGKILL


def test_a_worker_whose_function_fails_ends_the_work_with_an_error(tmp_path: Path) -> None:
    with Worker(tmp_path, 1) as one:
        assert one.ask(zlib.decompress, Task(b"not compressed"), 1)
        with pytest.raises(NodeError, match="exit code 1"):
            one.collect(wait=True)


def test_a_worker_is_asked_no_more_than_it_has_slots(tmp_path: Path) -> None:
    with Worker(tmp_path, 2) as one:
        asked = [Task(b"a"), Task(b"b"), Task(b"c")]
        assert one.ask(b64encode, asked[0], 2)
        assert one.ask(b64encode, asked[1], 2)
        while not one.collect(wait=True):
            pass
        assert asked[0].data == b"YQ=="
        assert one.ask(b64encode, asked[2], 2)
        while asked[2].data is None:
            one.collect(wait=True)
        assert [answer.data for answer in asked] == [b"YQ==", b"Yg==", b"Yw=="]


def test_whoever_stops_asking_leaves_no_worker(tmp_path: Path, started: list[Worker]) -> None:
    with closing(answer_all(b64encode, questions(10**6), tmp_path, slots=2)) as answers:
        while not started:
            next(answers)
    assert started[0]._process.returncode == -signal.SIGKILL


def test_an_error_of_the_questions_leaves_no_worker(tmp_path: Path, started: list[Worker]) -> None:
    def failing() -> Iterator[bytes]:
        yield from questions(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(answer_all(b64encode, failing(), tmp_path, slots=2))
    assert started[0]._process.returncode == -signal.SIGKILL


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="temporary file in"):
        list(answer_all(b64encode, questions(30), tmp_path / "missing", slots=2))


_ASK = """
import sys
from base64 import b64encode
from pathlib import Path
from node.system.worker import Task, Worker
with Worker(Path(sys.argv[1]), 2) as worker:
    worker.ask(b64encode, Task(b"x"), 2)
    worker.collect(wait=True)
    print(worker._process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault
def test_a_worker_ends_with_the_process_that_started_it_whatever_ends_that_one(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ASK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_running(pid)
        process.kill()
    eventually(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
