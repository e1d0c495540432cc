"""A conversation: looks hashes up in a node's store, or in tables that are compared with it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.admin import lists
from node.clock import SystemClock
from node.query import lookup, provenance
from node.store.connection import Store
from node.store.sqlite import sqlite3
from scripts.benchmarks.tasks import converse

Find = Callable[[str], object]

_MOST_KEPT: Final = 20_000
"""How many times of lookups are reported during a load. More would make the benchmark itself large,
and so, by the way the kernel counts, every process that it starts (`processes`)."""

_CACHE: Final = "PRAGMA cache_size = -65536"
"""The same cache size as that of a node."""


class Lookups:
    """Makes lookups one after the other: all hashes of a file, or from `start` until `stop`."""

    def __init__(self, who: str, path: str, origin: str) -> None:
        self._who = who
        self._path = path
        self._origin = origin
        self._seconds: list[float] = []
        self._failure: str | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def _open(self) -> Find:
        """Open the store or table, in the thread that does the lookups."""
        makers = {
            "node": _in_node,
            "provenance": _provenance,
            "table": _in_table,
            "floor": _by_number,
        }
        return makers[self._who](self._path, self._origin)

    def each(self, wanted: str, *, found: bool) -> list[float]:
        """Look up all hashes of a file, all present or all missing; return the seconds of each."""
        find = self._open()
        seconds = []
        for text in Path(wanted).read_text().split():
            start = time.perf_counter()
            matches = find(text)
            seconds.append(time.perf_counter() - start)
            if bool(matches) is not found:
                raise SystemExit(f"{text}: found is {bool(matches)}, expected {found}")
        return seconds

    def start(self, wanted: str) -> None:
        """Start to look up the hashes of a file, all present, and repeat the file at its end."""
        texts = Path(wanted).read_text().split()
        self._thread = threading.Thread(target=self._run, args=(texts,), daemon=True)
        self._thread.start()

    def stop(self) -> list[float]:
        """Stop; return the seconds of each lookup, or of a sample spread over the whole time."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise SystemExit(f"looking up during a load: {self._failure}")
        return self._seconds[:: 1 + len(self._seconds) // _MOST_KEPT]

    def _run(self, texts: list[str]) -> None:
        try:
            find = self._open()
            for text in itertools.cycle(texts):
                if self._stopped.is_set():
                    return
                start = time.perf_counter()
                found = find(text)
                self._seconds.append(time.perf_counter() - start)
                if not found:
                    self._failure = f"{text} was not found"
                    return
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told when asked
            self._failure = repr(error)


def _in_node(path: str, _origin: str) -> Find:
    reader = Store.open_reader(Path(path), SystemClock())
    return lambda text: lookup.lookup(reader, text)


def _provenance(path: str, origin: str) -> Find:
    reader = Store.open_reader(Path(path), SystemClock())
    record = lists.find_list(reader, origin)
    return lambda text: provenance.show(reader, record, text)


def _in_table(path: str, _origin: str) -> Find:
    rows = sqlite3.connect(path)
    rows.execute(_CACHE)
    return lambda text: rows.execute(
        "SELECT label FROM h WHERE hash = ?", (text.removeprefix("sha256:"),)
    ).fetchall()


def _by_number(path: str, _origin: str) -> Find:
    rows = sqlite3.connect(path)
    rows.execute(_CACHE)
    return lambda text: rows.execute("SELECT hash FROM entry WHERE n = ?", (int(text),)).fetchall()


if __name__ == "__main__":
    converse(Lookups)
