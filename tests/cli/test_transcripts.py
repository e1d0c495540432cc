"""Transcripts: what commands print and how they end, as it stands in the files `*.txt` here.

    $ hashfed lookup nonsense       a command, for the shell, in a folder of the transcript's own
    > more of it                    the next line of that command
    a line of stdout
    ! a line of stderr
    ? 2                             the exit code, when it is not 0
    # a remark

A line of nothing stands for nothing; {empty} is an empty line of output, {dir} the folder, and
other words in braces are what `PLACEHOLDERS` says. TRANSCRIPTS=update in the environment writes
what the commands print into the files; read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness.forkserver import ForkServer

PLACEHOLDERS = {
    "time": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z",
    "fingerprint": r"[0-9a-f]{4}( [0-9a-f]{4}){7}",
    "sha256": r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])",
    "hex16": r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])",
    "base64": r"[A-Za-z0-9+/]{43}=",
    "text": r".*",
    "number": r"[0-9]+",
    "seconds": r"[0-9]+\.[0-9]+",
}
_AUTOMATIC = ("time", "fingerprint", "sha256", "hex16", "base64")
_SECONDS = 90


@dataclass
class Step:
    """A command with what it prints."""

    source: list[str]
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    code: int = 0

    @property
    def command(self) -> str:
        return "\n".join(line[2:] for line in self.source if line[:2] in {"$ ", "> "})

    def format(self) -> list[str]:
        ending = [f"? {self.code}"] if self.code else []
        return [*self.source, *self.stdout, *(f"! {line}" for line in self.stderr), *ending]


def parse(text: str) -> list[Step]:
    steps: list[Step] = []
    remarks: list[str] = []
    for line in text.splitlines():
        mark, rest = line[:2], line[2:]
        if mark == "$ ":
            steps.append(Step([*remarks, line]))
            remarks = []
        elif not line or line.startswith("#"):
            remarks.append(line)
        elif mark == "> ":
            steps[-1].source.append(line)
        elif mark == "! ":
            steps[-1].stderr.append(rest)
        elif mark == "? ":
            steps[-1].code = int(rest)
        else:
            steps[-1].stdout.append(line)
    return steps


def run(command: str, folder: Path, forks: ForkServer) -> Step:
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        ["bash", "-uc", command],
        cwd=folder,
        env={**kept, "PATH": f"{forks.folder}:{os.defpath}", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    out, err = (
        [line.replace(str(folder), "{dir}") or "{empty}" for line in data.decode().splitlines()]
        for data in (done.stdout, done.stderr)
    )
    return Step([], out, err, done.returncode)


def matches(expected: str, line: str) -> bool:
    parts = re.split(r"\{(\w+)\}", expected)
    pattern = "".join(
        (PLACEHOLDERS.get(part) or re.escape(f"{{{part}}}")) if at % 2 else re.escape(part)
        for at, part in enumerate(parts)
    )
    return re.fullmatch(pattern, line) is not None


def merge(expected: list[str], got: list[str], source: str) -> list[str]:
    """Return what was got, in the words of what was expected where those still fit."""
    merged = []
    for at, line in enumerate(got):
        if at < len(expected) and matches(expected[at], line):
            merged.append(expected[at])
        else:
            merged.append(_generalize(line, source))
    return merged


def _generalize(line: str, source: str) -> str:
    for name in _AUTOMATIC:
        found = {match[0] for match in re.finditer(PLACEHOLDERS[name], line)}
        # What the commands themselves name is to be printed as it is.
        for text in found - {text for text in found if text in source}:
            line = line.replace(text, f"{{{name}}}")
    return line


def _transcripts() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", _transcripts(), ids=lambda path: path.stem)
def test_transcript(path: Path, tmp_path: Path, forks: ForkServer) -> None:
    text = path.read_text(encoding="utf-8")
    steps = parse(text)
    assert steps, "a transcript without a command"
    update = os.environ.get("TRANSCRIPTS") == "update"
    for number, step in enumerate(steps):
        got = run(step.command, tmp_path, forks)
        got.source = step.source
        got.stdout = merge(step.stdout, got.stdout, text)
        got.stderr = merge(step.stderr, got.stderr, text)
        assert not any("Traceback" in line for line in (*got.stdout, *got.stderr)), got.format()
        if not update:
            assert got.format() == step.format()
        steps[number] = got
    if update:
        path.write_text("".join(f"{line}\n" for step in steps for line in step.format()))
