"""The README: its deployment works as it stands there, its formats parse, its tables are complete.

The commands are run in order by bash, each at its own organization's node, against real processes.
Only what differs between machines is put in: addresses, fingerprints, the folder for root keys.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from node import errors
from node.errors import NodeError
from node.formats.csvfile import CsvReader
from node.formats.jsonl import parse_change
from tests.harness.node import free_port

_ROOT: Final = Path(__file__).parents[1]
_README: Final = (_ROOT / "README.md").read_text(encoding="utf-8")
_SECONDS: Final = 60.0
_START: Final = "sudo systemctl enable --now hashfed"


def _chapter(title: str) -> str:
    pattern = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, _README, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


class Machines:
    """One folder a machine, and the processes that serve there.

    Attributes:
        folder: where commands are run; files in it have come by mail to everybody.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._safe = folder / "safe"
        self._safe.mkdir()
        self._addresses: dict[str, str] = {}
        self._serving: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, block: str) -> str:
        """Run a block, and return what it printed."""
        first, *lines = block.splitlines()
        org = first.removeprefix("# at ")
        assert org.endswith(".example"), first
        script = "\n".join(lines)
        starts = script.endswith(_START)
        out = self._bash(org, self._localize(org, script.removesuffix(_START)))
        if starts:
            self._serve(org)
        self._settle()
        return out

    def _localize(self, org: str, script: str) -> str:
        address = self._addresses.setdefault(org, f"127.0.0.1:{free_port()}")
        script = script.replace("0.0.0.0:7443", address).replace(f"node.{org}:7443", address)
        script = script.replace("/media/safe", str(self._safe))
        return re.sub(r"(\S+\.invite) --fingerprint '[0-9a-f ]{39}'", self._heard, script)

    def _heard(self, found: re.Match[str]) -> str:
        invitation = json.loads((self.folder / found[1]).read_text())
        return f"{found[1]} --fingerprint '{invitation['fingerprint']}'"

    def _environment(self, org: str) -> dict[str, str]:
        kept = {key: text for key, text in os.environ.items() if not key.startswith("HASHFED_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**kept, "PATH": path, "HASHFED_HOME": str(self.folder / org)}

    def _bash(self, org: str, script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment(org),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, org: str) -> None:
        log = self.folder / f"{org}.log"
        with log.open("wb") as file:
            self._serving[org] = subprocess.Popen(
                ["hashfed", "serve"],
                env=self._environment(org),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        _await(lambda: b'"serving"' in log.read_bytes(), log)

    def _settle(self) -> None:
        """Wait until who serves has what the hotline has, as the next reader of the page would."""
        if len(self._serving) < 2:
            return
        log = self.folder / "platform.example.log"
        wanted = self._list("hotline.example")
        _await(lambda: self._list("platform.example") == wanted, log)

    def _list(self, org: str) -> list[tuple[Any, ...]]:
        lines = self._bash(org, "hashfed list --json").splitlines()
        rows = map(json.loads, lines)
        return [(row["list"], row["position"], row["charter_version"]) for row in rows]

    def close(self) -> None:
        for process in self._serving.values():
            process.terminate()
        for process in self._serving.values():
            process.wait(_SECONDS)


def _await(holds: Any, log: Path) -> None:  # noqa: ANN401  # any callable
    deadline = time.monotonic() + _SECONDS
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the README's commands are for a shell")
def test_the_first_deployment_works_command_by_command(machines: Machines) -> None:
    blocks = _blocks(_chapter("A first deployment"), "sh")

    printed = [machines.run(block) for block in blocks]

    out = "\n".join(printed)
    assert "not in force" in out
    assert re.search(r"path +hotline\.example via platform\.example", out)
    assert "ok    list hotline.example/known: own at position 3" in out
    exported = (machines.folder / "before.jsonl").read_text()
    assert [json.loads(line)["id"] for line in exported.splitlines()] == ["case-17/1", "case-17/2"]


def test_the_examples_of_json_lines_are_changes() -> None:
    (block,) = _blocks(_chapter("Formats"), "jsonl")

    kinds = [parse_change(line).kind.name for line in block.splitlines()]

    assert kinds == ["ASSERT", "ASSERT", "RETRACT", "PURGE"]


def test_the_example_of_csv_is_one() -> None:
    (block,) = _blocks(_chapter("Formats"), "csv")
    header, *rows = block.encode().splitlines()

    reader = CsvReader.open(header)

    assert [len(reader.parse_row(row).fingerprints) for row in rows] == [1, 1]


def test_every_exit_code_of_an_error_stands_in_the_table() -> None:
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, NodeError)
    }

    documented = set(map(int, re.findall(r"^\| (\d+) \|", _chapter("Exit codes"), re.MULTILINE)))

    assert documented == codes | {0, 3, 130}
