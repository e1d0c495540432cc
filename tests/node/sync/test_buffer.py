"""What `node.sync.buffer` promises: what a peer can make this node hold is bounded."""

from __future__ import annotations

import asyncio

import pytest

from node.sync.buffer import Buffer
from node.sync.client import Alive


def test_a_flood_of_the_smallest_events_makes_the_reader_wait() -> None:
    async def flood() -> None:
        buffer = Buffer(64 * 1024)
        for _ in range(10_000):
            await buffer.put(Alive(sent_ms=0, size_bytes=2))

    async def limited() -> None:
        await asyncio.wait_for(flood(), 0.5)

    with pytest.raises(TimeoutError):
        asyncio.run(limited())
