"""The side of the processes that the benchmark starts for its own tasks.

Such a process is started with the name of a task. `perform` reads arguments on stdin as one JSON
object, prints the result, and ends; `converse` answers line by line until stdin ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable


def perform(tasks: Iterable[Callable[..., object]]) -> None:
    """Perform the task that this process was started for."""
    by_name = {task.__name__: task for task in tasks}
    json.dump(by_name[sys.argv[1]](**json.load(sys.stdin)), sys.stdout)


def converse(make: Callable[..., object]) -> None:
    """Make a partner from the arguments in the first line; let its methods answer later lines."""
    out = sys.stdout
    partner = make(**json.loads(sys.stdin.readline()))
    print("true", file=out, flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(partner, name)(**arguments)), file=out, flush=True)
