"""Reads the store for the event loop: a few threads, each with its own connection.

No transaction stays open between two reads, so a slow peer cannot stop SQLite from folding back its
write-ahead log.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from node.clock import Clock
from node.store.connection import Store
from node.store.sqlite import sqlite_errors

_T = TypeVar("_T")

_THREADS: Final = 2
"""Reading takes little time compared with sending. With two threads, one slow disk read does not
delay every peer."""

_CACHE_KIB: Final = 4096
"""Serving reads each delta once, in order: a large page cache would only hold pages no longer
needed."""


class Readers:
    """A bounded pool of threads that read the store."""

    def __init__(self, path: Path, clock: Clock, threads: int = _THREADS) -> None:
        self._path = path
        self._clock = clock
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._stores: list[Store] = []  # Guarded by _lock.

    async def run(self, read: Callable[[Store], _T]) -> _T:
        """Call `read` in one of the threads, with its store.

        Raises:
            StoreError: the store cannot be opened.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._call, read)

    def close(self) -> None:
        """Wait for running reads, and close the connections."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            while self._stores:
                self._stores.pop().close()

    def _call(self, read: Callable[[Store], _T]) -> _T:
        store: Store | None = getattr(self._local, "store", None)
        if store is None:
            store = Store.open_reader(self._path, self._clock)
            store.limit_cache(_CACHE_KIB)
            self._local.store = store
            with self._lock:
                self._stores.append(store)
        with sqlite_errors(self._path):
            return read(store)
