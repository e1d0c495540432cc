"""What a peer has sent and the store has not taken yet: bounded by bytes.

While the writer is busy, the reader goes on up to the bound. Then HTTP/2's flow control makes the
peer wait. Everything that has arrived by then goes into one transaction.
"""

from __future__ import annotations

import asyncio
from typing import Final

from node.sync.client import Event

_EVENT_BYTES: Final = 256
"""What an event takes besides its content: a peer may send very many empty ones."""


class Buffer:
    """Events between the task that reads a stream and the task that stores them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: list[Event] = []
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def put(self, event: Event) -> None:
        """Add an event; wait first while the buffer is full."""
        await self._writable.wait()
        self._events.append(event)
        self._bytes += event.size_bytes + _EVENT_BYTES
        if self._bytes >= self._max_bytes:
            self._writable.clear()
        self._readable.set()

    def end(self, error: BaseException | None = None) -> None:
        """Record that nothing more will come, and why."""
        self._ended, self._error = True, error
        self._readable.set()

    def interrupt(self) -> None:
        """Let a waiting `take` return with nothing."""
        self._readable.set()

    async def take(self, seconds: float | None) -> list[Event] | None:
        """Return all events that are here; wait for one, but not longer than this.

        Returns:
            The events; an empty result when the time is up or it was interrupted; None at the end.

        Raises:
            BaseException: the error that `end` was given, once all events before it are taken.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._readable.wait()
        except TimeoutError:
            return []
        events, self._events = self._events, []
        self._bytes = 0
        self._writable.set()
        if events or not self._ended:
            if not self._ended:
                self._readable.clear()
            return events
        if self._error is not None:
            raise self._error
        return None
