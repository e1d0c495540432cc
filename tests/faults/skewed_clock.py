"""Imported by the fork server: a file sets the clock of a node's processes.

FAULTS_CLOCK names the file. It is read whenever the program asks for the time, so that the clock of
a running process can jump. The program itself does not know of this.
"""

from __future__ import annotations

import os
from pathlib import Path

from node.clock import SystemClock
from tests.faults.clock_setting import VARIABLE, Setting


def _now_ms(_: SystemClock) -> int:
    try:
        setting = Setting.parse(Path(os.environ[VARIABLE]).read_text(encoding="ascii"))
    except (KeyError, FileNotFoundError):
        setting = Setting()
    return setting.now_ms()


SystemClock.now_ms = _now_ms  # type: ignore[assignment, method-assign]  # the whole purpose
