"""Child processes: measures their cost, and makes sure that none outlives the benchmark.

The measuring process itself stays small. The kernel counts the memory of the parent at the moment
of the fork as the child's, so a large parent would hide what its children need.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests.harness.signals import signals_held

_MIB: Final = 1024 * 1024
_STOP_SECONDS: Final = 15.0
_TAIL_CHARS: Final = 2_000

_running: set[subprocess.Popen[bytes]] = set()


class BenchError(Exception):
    """The benchmark cannot go on; the message is for the person who started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one process cost.

    Attributes:
        wall_s: seconds from its start to its end.
        cpu_s: seconds of processor time, user and system.
        peak_mib: the most memory that was resident at any time.
        output: its output on stdout.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str = ""


def total(uses: Sequence[Usage]) -> Usage:
    """Return the total cost of processes that ran one after the other."""
    return Usage(
        wall_s=sum(used.wall_s for used in uses),
        cpu_s=sum(used.cpu_s for used in uses),
        peak_mib=max(used.peak_mib for used in uses),
    )


def run(
    command: Sequence[str | Path],
    *,
    stdin: Path | None = None,
    env: Mapping[str, str] | None = None,
    discard_output: bool = False,
) -> Usage:
    """Run a command to its end.

    Raises:
        BenchError: it failed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _open(stdin) as source:
        start = time.perf_counter()
        process = _start(
            command,
            stdin=source,
            stdout=subprocess.DEVNULL if discard_output else out,
            stderr=err,
            env=env,
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - start
            # Popen has not seen the end, because wait4 has. Without this it would signal a process
            # id that may belong to another process by now.
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            _stop(process)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            text = (err.read() + out.read()).decode(errors="replace").strip()[-_TAIL_CHARS:]
            raise BenchError(f"{show(command)} exited with {process.returncode}:\n{text}")
        return Usage(
            wall_s=wall_s,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_mib=used.ru_maxrss * 1024 / _MIB,
            output=out.read().decode(),
        )


@contextmanager
def _open(stdin: Path | None) -> Iterator[int]:
    descriptor = os.open(os.devnull if stdin is None else stdin, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def show(command: Sequence[str | Path]) -> str:
    """Return a command for a message: its program without the folder."""
    return " ".join(Path(part).name if at == 0 else str(part) for at, part in enumerate(command))


class Running:
    """A running process whose cost can be read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time until now."""
        # The name of the program, in parentheses, may contain spaces.
        text = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_mib(self) -> float:
        """The most memory that was resident until now."""
        text = Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _MIB
        raise BenchError("the kernel does not report the peak memory of processes (VmHWM)")


@contextmanager
def running(
    command: Sequence[str | Path], *, stdin: int, stdout: int | IO[bytes], stderr: int | IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process while the block runs, and stop it then."""
    process = _start(command, stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        yield process
    finally:
        _stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def tail(log: Path) -> str:
    """Return the end of what a process wrote, for a message."""
    return log.read_text(errors="replace").strip()[-_TAIL_CHARS:]


def _start(
    command: Sequence[str | Path],
    *,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that `stop_all` knows about from the first moment."""
    with signals_held():
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else {**os.environ, **env},
        )
        _running.add(process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop; kill it if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _running.discard(process)


def stop_all() -> None:
    """Stop everything that is still running."""
    for process in list(_running):
        _stop(process)
