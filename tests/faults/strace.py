"""Runs a command under strace: finds the system calls that touch a folder, or makes one fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHANGING: Final = (
    "write",
    "pwrite64",
    "pwritev2",
    "writev",
    "sendfile",
    "copy_file_range",
    "fsync",
    "fdatasync",
    "ftruncate",
    "truncate",
    "fallocate",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "chmod",
    "fchmod",
    "fchmodat",
)
"""Calls that change a file, or make a change durable."""

READING: Final = ("read", "pread64")
"""Calls that read a file. The program loader and Python's imports make many of them, so only those
on files with names known in advance are counted."""

_OPENING: Final = "openat"
_DRAWN: Final = re.compile(r"[0-9a-f]{16}")
"""The part of a file's name that differs each time."""
_WRITABLE: Final = re.compile(r"O_(WRONLY|RDWR|CREAT)")
_LINE: Final = re.compile(r"^(\d+) +(\w+)\((.*)$")
_RUN: Final = (
    "import sys; from importlib import import_module as load; "
    "[load(name) for name in sys.argv.pop(1).split()]; sys.argv[0] = 'hashfed'; "
    "load('node.cli.main').main()"
)
"""Runs the program after importing modules that change it."""
_WAKING: Final = re.compile(r"<(anon_inode|socket|pipe):")
_TIMEOUT_SECONDS: Final = 120


@dataclass(frozen=True, order=True)
class Call:
    """A call to the system.

    Attributes:
        name: the name of the call.
        number: its number among the calls of that name in its thread, from 1 on. For a call that
            reads, only calls on files in the folder with names known in advance count.
        target: the first file in the folder that it names.
    """

    name: str
    number: int
    target: str

    @property
    def reads(self) -> bool:
        """Whether it reads a file."""
        return self.name in READING


def why_not() -> str:
    """Return why strace cannot be used here; empty if it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    tried = subprocess.run(
        ["strace", "-qq", "-e", "trace=none", "true"],  # found just now
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


class Traced:
    """Runs of the program under strace.

    Attributes:
        log: what strace has written of the last one.
    """

    def __init__(self, folder: Path, planted: Sequence[str]) -> None:
        self.log = folder / "strace.log"
        self._planted = " ".join(planted)

    def run(
        self,
        args: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        fault: tuple[str, str] | None = None,
        only: Sequence[Path] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the program.

        Args:
            args: its arguments.
            env: further variables of its environment.
            stdin: its input.
            fault: the name of the call that fails, and how it fails: `error=EIO:when=3`.
            only: the only files on which calls count; all calls count if it is empty.
        """
        names = ",".join((*CHANGING, *READING, _OPENING)) if fault is None else fault[0]
        options = ["-f", "-qq", "-y", "-s", "0", "-e", "signal=none", "-o", str(self.log)]
        options += ["-e", f"trace=?{names.replace(',', ',?')}"]
        if fault is not None:
            options += ["-e", f"inject={fault[0]}:{fault[1]}"]
        if fault is None or not fault[1].startswith("signal"):
            # Only traced calls stop the process. With this option, strace 6.1 sends no signal.
            options.append("--seccomp-bpf")
        options += [f"--trace-path={path}" for path in only]
        with subprocess.Popen(
            ["strace", *options, sys.executable, "-P", "-c", _RUN, self._planted, *args],
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout=_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                # The traced process as well: it holds locks.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self, folder: Path) -> list[Call]:
        """Return the calls of the last run, a traced one, that touch files in a folder."""
        found: dict[tuple[str, int], Call] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for line in self._lines():
            parts = _LINE.match(line)
            if parts is None:
                continue
            thread, name, rest = parts.groups()
            inside = str(folder) in rest
            target = re.split(r'[>",]', rest.partition(f"{folder}/")[2], maxsplit=1)[0]
            if name in READING and (not inside or _DRAWN.search(target)):
                continue
            counts[thread, name] += 1
            if inside and (name != _OPENING or _WRITABLE.search(rest)):
                number = counts[thread, name]
                found.setdefault((name, number), Call(name, number, target))
        return sorted(found.values())

    def hit(self) -> str:
        """Return the call of the last run that failed, or empty."""
        # The process was killed at a call that never returned.
        return next(
            (line for line in self._lines() if line.endswith(("(INJECTED)", "= ?"))),
            "",
        )

    def has_struck_a_wake_up(self) -> bool:
        """Return whether a call with which one thread wakes another failed in the last run.

        One thread may make its n-th call to wake another, while another thread's n-th call is on a
        file. gRPC and asyncio rely on such a call: the process aborts, or waits for ever.
        """
        begun: dict[str, str] = {}
        for line in self._lines():
            thread = line.partition(" ")[0]
            if line.endswith("<unfinished ...>"):
                begun[thread] = line
            elif line.endswith("(INJECTED)"):
                call = begun.get(thread, "") if "resumed>" in line else line
                if _WAKING.search(call):
                    return True
        return False

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()
