"""The machine and the programs of a run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from scripts.benchmarks.processes import BenchError

_PACKAGES: Final = ("grpcio", "protobuf", "pynacl", "pysqlite3")
_BYTES_PER_ENTRY: Final = 900
_BYTES_ALWAYS: Final = 300 * 1024 * 1024


def describe(programs: Mapping[str, str]) -> dict[str, str]:
    """Return facts about a run, by name.

    Args:
        programs: the versions of the programs that it is compared with and that it uses.
    """
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **programs,
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def check_system() -> None:
    """Refuse to start where processes cannot be measured.

    Raises:
        BenchError: this is not Linux.
    """
    if platform.system() != "Linux":
        raise BenchError(f"needs Linux: it reads /proc, and this is {platform.system()}")


def check_disk(folder: Path, entries: int) -> None:
    """Refuse to start without room for the files.

    Raises:
        BenchError: there is too little.
    """
    needed = entries * _BYTES_PER_ENTRY + _BYTES_ALWAYS
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BenchError(
            f"{folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed: "
            "name a larger folder with TMPDIR, or smaller --sizes"
        )


def find_program(name: str, package: str, say: Callable[[str], None]) -> Path:
    """Return a program; install it if that is possible without asking.

    Args:
        name: the program.
        package: its package on Debian and Ubuntu.
        say: tells the person what is going on.

    Raises:
        BenchError: it is not installed.
    """
    found, installer = shutil.which(name), shutil.which("apt-get")
    if found is None and installer is not None and os.geteuid() == 0:
        say(f"installing {package}")
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(  # its output matters only if the program is missing afterwards
                [installer, "-qq", *command],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
        found = shutil.which(name)
    if found is None:
        raise BenchError(
            f"{name}, with which this program is compared, is not installed; "
            f"on Debian or Ubuntu, run: apt-get install {package}"
        )
    return Path(found)
