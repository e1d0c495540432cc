"""Commands that use a second process: whichever of the two is killed, nothing is done by half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.endtoend.conftest import Orgs
from tests.harness.node import PROGRAM, Node, assertion, eventually

pytestmark = [pytest.mark.fault, pytest.mark.slow]

_MANY = 80_000


class Command:
    """A running command and its second process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def helper(self) -> int:
        """Wait for the second process; return its id."""

        pid = self.process.pid
        # Looked up in no time: a publication is over in a fraction of a second.
        children = Path(f"/proc/{pid}/task/{pid}/children")

        def find() -> int | None:
            assert self.process.poll() is None
            for child in children.read_text().split():
                # Only when it is what it will be: while it is not, the system keeps its parent
                # waiting, for ever if the child is stopped there.
                if b"node.system.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
            return None

        return eventually(find)

    def error(self, rest: Iterable[int] = ()) -> tuple[int, dict[str, object]]:
        """Give it the rest of its input, which it may not take; return exit code and error."""
        data = "".join(f"{assertion(number)}\n" for number in rest)
        _, err = self.process.communicate(data.encode(), timeout=60)
        assert b"Traceback" not in err
        code = self.process.returncode
        return code, json.loads(err.splitlines()[-1])["error"] if code == 1 else {}


@contextmanager
def running(node: Node, *args: str) -> Iterator[Command]:
    with subprocess.Popen(
        [str(PROGRAM), "--home", str(node.home), "--json", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield Command(process)
        finally:
            process.kill()


@contextmanager
def importing(node: Node) -> Iterator[Command]:
    """Import from a pipe that has not come to its end, with two processes."""
    with running(node, "import", "main", "-") as command:
        source = command.process.stdin
        assert source is not None
        source.write("".join(f"{assertion(number)}\n" for number in range(_MANY // 2)).encode())
        source.flush()
        yield command


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def node(orgs: Orgs) -> Node:
    (made,) = orgs("hotline")
    made.create("main")
    return made


def stage_many(node: Node) -> None:
    node.stage("main", map(assertion, range(_MANY)))


def staged(node: Node) -> dict[str, int]:
    found: dict[str, int] = node("staged", "main", "--json").json()["staged"]
    return found


def test_an_import_whose_helper_is_killed_stages_nothing(node: Node) -> None:
    node.stage("main", [assertion(_MANY)])
    with importing(node) as command:
        os.kill(command.helper(), signal.SIGKILL)
        code, error = command.error(rest=range(_MANY // 2, _MANY))
    assert (code, error["reason"]) == (1, "HELPER_ENDED")
    assert staged(node) == {"assert": 1}
    stage_many(node)
    assert staged(node) == {"assert": _MANY + 1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_import_that_is_ended_stages_nothing_and_leaves_no_process(
    node: Node, number: signal.Signals
) -> None:
    with importing(node) as command:
        helper = command.helper()
        # As Ctrl-C does, to all processes of the terminal.
        os.killpg(command.process.pid, number) if number is signal.SIGINT else os.kill(
            command.process.pid, number
        )
        code, _ = command.error()
        eventually(lambda: not is_running(helper))
    assert code == (130 if number is signal.SIGINT else -number)
    assert staged(node) == {}
    stage_many(node)
    assert staged(node) == {"assert": _MANY}


@pytest.mark.parametrize("victim", ["helper", "command", "both"])
def test_a_publish_of_which_a_process_is_killed_signs_nothing_twice(
    node: Node, victim: str
) -> None:
    stage_many(node)
    with running(node, "publish", "main") as command:
        helper = command.helper()
        # It goes no further without the answers that it waits for.
        os.kill(helper, signal.SIGSTOP)
        match victim:
            case "helper":
                os.kill(helper, signal.SIGKILL)
            case "command":
                os.kill(command.process.pid, signal.SIGKILL)
            case "both":
                os.killpg(command.process.pid, signal.SIGINT)
        code, error = command.error()
        # It ends by itself, unless it was killed already.
        with suppress(ProcessLookupError):
            os.kill(helper, signal.SIGCONT)
        eventually(lambda: not is_running(helper))
    if victim == "helper":
        # Whoever has computed all of it alone by then does not miss it.
        assert (code, error.get("reason")) in {(1, "HELPER_ENDED"), (0, None)}
    else:
        assert code == {"command": -signal.SIGKILL, "both": 130}[victim]
    node.check()
    result = node("publish", "main", "--json").json()
    assert result["live"] == _MANY
    assert staged(node) == {}
    signed = node("log", "main", "--json").json_lines()
    assert sum(line["ops"] for line in signed) == _MANY
    node.check()
