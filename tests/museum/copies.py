"""A copy of the checkout, in which bugs can be brought back, with an environment of its own.

The environment of the checkout imports the checkout's own code, whatever folder it is called from,
and so do the programs that tests start. So the copy gets one too: all that is installed is linked,
and only the program itself is installed again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from signal import SIGKILL
from typing import Final

from tests.museum.exhibits import Exhibit

_GIT: Final = shutil.which("git") or "git"
_FAILED: Final = 1
"""The exit code of pytest when tests failed. Others say that they could not be run."""


class Outcome(Enum):
    """How a command ended."""

    PASSED = "passed"
    FAILED = "failed"
    BROKEN = "could not be run"


@dataclass(frozen=True)
class Run:
    """A command that has ended.

    Attributes:
        outcome: how.
        seconds: how long it took.
        output: all that it said.
    """

    outcome: Outcome
    seconds: float
    output: str


class Copy:
    """A copy of a checkout."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder
        # As a continuous integration does it: the same examples of every property each time. And
        # git is not to take the copy for a part of a repository that the folder may lie in.
        self._environment = {
            **os.environ,
            "CI": "true",
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
        }
        self._environment.pop("VIRTUAL_ENV", None)
        _copy_files(root, folder)
        _link_environment(root / ".venv", folder / ".venv")
        subprocess.run(
            [folder / "scripts" / "setup"], cwd=folder, env=self._environment, check=True
        )

    @contextmanager
    def broken(self, exhibit: Exhibit) -> Iterator[None]:
        """Bring the bug of an exhibit back for as long as the block runs.

        Raises:
            ExhibitError: what it replaces is not there exactly once.
        """
        sources = exhibit.break_sources(self._folder)
        sound = {file: (self._folder / file).read_text(encoding="utf-8") for file in sources}
        try:
            self._write(sources)
            yield
        finally:
            self._write(sound)

    def _write(self, sources: Mapping[Path, str]) -> None:
        for file, source in sources.items():
            (self._folder / file).write_text(source, encoding="utf-8")

    def run(self, command: str, timeout_seconds: float) -> Run:
        """Run a command from the root of the copy."""
        began = time.monotonic()
        with subprocess.Popen(
            shlex.split(command),
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                # All that the command has started: it must not write to the copy any more.
                os.killpg(process.pid, SIGKILL)
                output, _ = process.communicate()
                output += f"\nno end after {timeout_seconds} s"
            except BaseException:
                os.killpg(process.pid, SIGKILL)
                raise
        outcome = {0: Outcome.PASSED, _FAILED: Outcome.FAILED}.get(
            process.returncode, Outcome.BROKEN
        )
        return Run(outcome, time.monotonic() - began, output)


def _copy_files(root: Path, folder: Path) -> None:
    """Copy what is in the checkout, committed or not, but for what git ignores."""
    listed = subprocess.run(
        [_GIT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = root / name
        if name and source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _link_environment(old: Path, new: Path) -> None:
    """Make an environment that has all that another one has, but for this program."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", new], check=True)
    packages = Path(sysconfig.get_path("purelib"))
    for package in packages.iterdir():
        # Without its own record, the program counts as not installed.
        if "hashfed" not in package.name:
            (new / packages.relative_to(old) / package.name).symlink_to(package)
    for program in (old / "bin").iterdir():
        target = new / "bin" / program.name
        if target.exists() or program.name == "hashfed" or program.is_symlink():
            continue
        data = program.read_bytes()
        target.write_bytes(data.replace(str(old).encode(), str(new).encode(), 1))
        target.chmod(0o755)
