"""Wakes the streams that wait for something new. Belongs to one event loop.

There is no queue: a stream that wakes reads the store, and many wake-ups may become one.
"""

from __future__ import annotations

import asyncio


class Wakeups:
    """A counter of changes on which streams can wait.

    Attributes:
        generation: how often something has changed.
        closed: whether the server is shutting down.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.closed = False
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Say that something may be new in the store."""
        self.generation += 1
        # A waiting stream holds the old event, so it can neither miss a change nor see it twice.
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Say that the server is shutting down: every stream is to end."""
        self.closed = True
        self.notify()

    async def wait(self, seen: int, seconds: float) -> bool:
        """Wait until `generation` is not `seen`; return False if the time is up before that."""
        if self.generation != seen:
            return True
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True
