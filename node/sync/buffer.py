"""What a peer has sent and the store has not taken yet: bounded by bytes.

While the writer is busy, the reader goes on up to the bound; then the peer has to wait, by HTTP/2's
flow control. All that has come together then goes into one transaction.
"""

from __future__ import annotations

import asyncio
from typing import Final

from node.sync.client import Event

_EVENT_BYTES: Final = 256
"""What an event takes beside what was sent: a peer may send very many that say nothing."""


class Buffer:
    """Events between the one task that reads a stream and the one that writes them down."""

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
        """Say that nothing more comes, and why."""
        self._ended, self._error = True, error
        self._readable.set()

    def interrupt(self) -> None:
        """Let a `take` that waits return with nothing."""
        self._readable.set()

    async def take(self, seconds: float | None) -> list[Event] | None:
        """Return all that is here; wait for something, but not longer than this.

        Returns:
            The events; none when the time is up or it was interrupted; None at the end.

        Raises:
            BaseException: what `end` was given, once all events before it are taken.
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
