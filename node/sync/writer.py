"""The one thread that writes what is fetched, with its own connection to the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from node.clock import Clock
from node.store.connection import Store
from node.store.sqlite import sqlite_errors

_T = TypeVar("_T")


class Writer:
    """Runs the writes of all sessions one after the other, outside of the event loop."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._store: Store | None = None
        self._waiting = 0
        self._busy_until = 0.0

    @property
    def idle_seconds(self) -> float:
        """How long nobody has wanted to write; 0 while somebody does."""
        return 0.0 if self._waiting else time.monotonic() - self._busy_until

    async def run(self, write: Callable[[Store], _T]) -> _T:
        """Call `write` in the thread, with its store.

        Raises:
            StoreError: the store cannot be opened.
        """
        self._waiting += 1
        try:
            return await self.run_aside(write)
        finally:
            self._waiting -= 1
            self._busy_until = time.monotonic()

    async def run_aside(self, write: Callable[[Store], _T]) -> _T:
        """Like `run`, but for work that others need not wait for."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._call, write)

    def close(self) -> None:
        """Wait for running writes, and close the connection."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._store is not None:
            self._store.close()
            self._store = None

    def _call(self, write: Callable[[Store], _T]) -> _T:
        if self._store is None:
            self._store = Store.open(self._path, self._clock)
        with sqlite_errors(self._path):
            return write(self._store)
