"""Disks of any size in memory, which only this process and those that it starts can see.

They disappear with the process, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x0002_0000
_ROOMY: Final = "256m"


class SmallDisk:
    """A file system of one folder.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, room: int) -> None:
        """Leave room for this many bytes beyond those in use, rounded up to pages."""
        status = os.statvfs(self.path)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        self._resize(str(used + room))

    def leave_much(self) -> None:
        """Leave more room than anything needs."""
        self._resize(_ROOMY)

    def _resize(self, size: str) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self.path))


def have_own_mounts() -> str:
    """Hide what this process mounts from all others; return why that failed, or an empty text."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root may mount small disks"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        return f"small disks cannot be mounted: {os.strerror(ctypes.get_errno())}"
    done = subprocess.run(
        ["mount", "--make-rprivate", "/"],  # root's own
        capture_output=True,
        text=True,
        check=False,
    )
    return f"small disks cannot be mounted: {done.stderr.strip()}" if done.returncode else ""


@contextmanager
def small_disk(path: Path, content: Path) -> Iterator[SmallDisk]:
    """Make a large disk with a copy of a folder's content while the block runs."""
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={_ROOMY}", "none", str(path))
    try:
        shutil.copytree(content, path, dirs_exist_ok=True)
        yield SmallDisk(path)
    finally:
        _run("umount", "--lazy", str(path))
        path.rmdir()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
