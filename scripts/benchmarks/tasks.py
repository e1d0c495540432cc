"""Tasks that the benchmark gives to processes of their own.

Such a process is started with the name of a task, gets its arguments on stdin as JSON, and prints
its result as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable


def perform(tasks: Iterable[Callable[..., object]]) -> None:
    """Do what this process was started for."""
    by_name = {task.__name__: task for task in tasks}
    json.dump(by_name[sys.argv[1]](**json.load(sys.stdin)), sys.stdout)
