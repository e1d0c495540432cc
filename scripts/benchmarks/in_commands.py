"""A conversation: runs commands that are not measured as processes, all in one process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from node.admin import lists
from node.clock import SystemClock
from node.ingest import checks
from node.query import status
from node.store.connection import Store
from node.store.sqlite import sqlite3
from scripts.benchmarks.hashfed import hashfed
from scripts.benchmarks.tasks import converse


class Commands:
    """Runs commands of the program, and looks into the stores of nodes."""

    def run(
        self, home: str, arguments: list[str], output: str | None, environment: Mapping[str, str]
    ) -> None:
        """Run a command, with its output to a file if one is named."""
        os.environ.update(environment)
        printed = hashfed(home, *arguments)
        for name in environment:
            del os.environ[name]
        if output is not None:
            Path(output).write_text(printed)

    def publish(self, home: str, name: str, files: list[str]) -> float:
        """Import and publish changes one after the other; return the seconds that they all took."""
        start = time.perf_counter()
        for file in files:
            hashfed(home, "--quiet", "import", name, file)
            hashfed(home, "--quiet", "publish", name)
        return time.perf_counter() - start

    def live_entries(self, home: str, origin: str) -> int | None:
        """Return how many entries of a list are in force; None if there is no such list."""
        rows = map(json.loads, hashfed(home, "list", "--json").splitlines())
        return next((int(row["live"]) for row in rows if row["list"] == origin), None)

    def find_all(self, home: str, wanted: str) -> None:
        """Look up all hashes of a file; `lookup` fails if one of them is not found."""
        hashfed(home, "lookup", "--file", wanted)

    def check_behind(self, home: str, origin: str, most: int) -> dict[str, float]:
        """Check the operations tree and the state digest of deltas from all over a list.

        Returns:
            How many operations the checked deltas have, and how many seconds the check took.
        """
        reader = Store.open_reader(Path(home) / "store.db", SystemClock())
        try:
            record = lists.find_list(reader, origin)
            positions = range(0, record.log.size, max(1, record.log.size // most))
            start = time.perf_counter()
            for position in positions:
                checks.check_commitments(reader, record, position)
            seconds = time.perf_counter() - start
            wanted = set(positions)
            ops = sum(
                line.header.op_count
                for line in status.read_log(reader, record, None)
                if line.position in wanted
            )
            return {"ops": ops, "seconds": seconds}
        finally:
            reader.close()

    def database_bytes(self, path: str) -> int:
        """Return the size of a database in bytes, after folding back its write-ahead log."""
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()
        return Path(path).stat().st_size


if __name__ == "__main__":
    converse(Commands)
