"""What the benchmark does in processes of its own, as those processes see it.

Such a process is started with the name of a task. `perform` reads arguments on stdin as one JSON
object, prints the result, and is done; `converse` answers line by line until stdin ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable


def perform(tasks: Iterable[Callable[..., object]]) -> None:
    """Do what this process was started for."""
    by_name = {task.__name__: task for task in tasks}
    json.dump(by_name[sys.argv[1]](**json.load(sys.stdin)), sys.stdout)


def converse(make: Callable[..., object]) -> None:
    """Make a partner of the first line's arguments; let its methods answer the lines after it."""
    out = sys.stdout
    partner = make(**json.loads(sys.stdin.readline()))
    print("true", file=out, flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(partner, name)(**arguments)), file=out, flush=True)
