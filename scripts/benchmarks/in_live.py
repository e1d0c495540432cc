"""A conversation: publishes changes while nodes serve, and waits for each to be found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from node.clock import SystemClock
from node.query import lookup
from node.store.connection import Store
from scripts.benchmarks.hashfed import hashfed
from scripts.benchmarks.tasks import converse

_GIVE_UP_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.0003
_PAUSE_SECONDS: Final = 0.05


class Live:
    """Publishes changes of one list, and looks for them at a follower."""

    def __init__(self, publisher: str, subscriber: str, name: str) -> None:
        self._publisher = publisher
        self._name = name
        self._reader = Store.open_reader(Path(subscriber) / "store.db", SystemClock())

    def publish(self, changes: str, probes: list[str], gone: list[str]) -> dict[str, float]:
        """Import and publish a change, and look up its hashes until it is in force.

        Returns:
            The seconds that the import took; the seconds that `publish` took; the seconds from the
            start and from the end of `publish` until it was found; and when `publish` was started.
        """
        start = time.perf_counter()
        hashfed(self._publisher, "--quiet", "import", self._name, changes)
        stage = time.perf_counter() - start
        if self._found(probes, gone):
            raise SystemExit("a change was found before it was published")
        time.sleep(_PAUSE_SECONDS)
        start = time.perf_counter()
        hashfed(self._publisher, "--quiet", "publish", self._name)
        published = time.perf_counter()
        while not self._found(probes, gone):
            if time.perf_counter() - published > _GIVE_UP_SECONDS:
                raise SystemExit("a published change was not found at the subscriber")
            time.sleep(_POLL_SECONDS)
        found = time.perf_counter()
        time.sleep(_PAUSE_SECONDS)
        return {
            "stage": stage,
            "publish": published - start,
            "found": found - start,
            "after": found - published,
            "started": start,
        }

    def _found(self, probes: list[str], gone: list[str]) -> bool:
        """Return whether a change is in force at the subscriber."""
        reader = self._reader
        return all(lookup.lookup(reader, probe) for probe in probes) and not any(
            lookup.lookup(reader, probe) for probe in gone
        )


if __name__ == "__main__":
    converse(Live)
