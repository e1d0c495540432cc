"""A task: runs a command of the program and samples where its threads are."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Final

from hashfed import hashfed
from tasks import perform

_SECONDS_BETWEEN: Final = 0.002
_OURS: Final = ("node.", "federation.")
_WAITING: Final = ("threading", "selectors", "queue")


def profile(home: str, arguments: list[str]) -> dict[str, object]:
    """Run a command.

    What is waiting is not counted. A function stands for all that it calls outside of this
    program: a statement of SQL for all that SQLite does.

    Returns:
        Seconds, and the share of samples by function.
    """
    counts: Counter[str] = Counter()
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(counts, done), daemon=True)
    sampler.start()
    start = time.perf_counter()
    hashfed(home, *arguments)
    seconds = time.perf_counter() - start
    done.set()
    sampler.join()
    shares = {name: count / counts.total() for name, count in counts.most_common()}
    return {"seconds": seconds, "shares": shares}


def _sample(counts: Counter[str], done: threading.Event) -> None:
    own = threading.get_ident()
    while not done.wait(_SECONDS_BETWEEN):
        for thread, frame in sys._current_frames().items():  # noqa: SLF001  # documented for this
            if thread != own and (name := _name(frame)) is not None:
                counts[name] += 1


def _name(frame: FrameType) -> str | None:
    """Return the innermost function of the program; None for a thread that waits or is not its."""
    if frame.f_globals.get("__name__") in _WAITING:
        return None
    at: FrameType | None = frame
    while at is not None:
        module = at.f_globals.get("__name__", "")
        if module.startswith(_OURS):
            name = at.f_code.co_qualname
            return "imports" if name == "<module>" else f"{module}.{name}"
        at = at.f_back
    return None


if __name__ == "__main__":
    perform((profile,))
