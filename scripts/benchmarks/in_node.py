"""Tasks with the node's own code, in one process: no start of an interpreter is in the figures."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tasks import perform

from node import administering, auditing, checking
from node.cli.main import cli
from node.clock import SystemClock
from node.store.connection import Store
from node.store.sqlite import sqlite3

_GIVE_UP_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.0003


def _hashfed(home: str, *arguments: str) -> str:
    """Run one command of the program in this process, and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["--home", home, *arguments], standalone_mode=False)
    if code:
        raise SystemExit(f"hashfed {' '.join(arguments)} exited with {code}: {err.getvalue()}")
    return out.getvalue()


def commands(runs: list[dict[str, Any]]) -> None:
    """Run commands, each for a node, some with their output to a file."""
    for one in runs:
        output = _hashfed(one["home"], *one["arguments"])
        if "output" in one:
            Path(one["output"]).write_text(output)


def live(
    publisher: str, subscriber: str, name: str, deltas: list[dict[str, Any]], pause_s: float
) -> dict[str, list[float]]:
    """Publish deltas one after the other while both nodes serve, and wait for each to be found.

    Returns:
        For each delta the seconds of its import, of `publish`, from the start of `publish` to the
        lookup that finds it at the subscriber, and from the end of `publish` to there.
    """
    result: dict[str, list[float]] = {"stage": [], "publish": [], "found": [], "after": []}
    reader = Store.open_reader(Path(subscriber) / "store.db", SystemClock())
    try:
        for delta in deltas:
            start = time.perf_counter()
            _hashfed(publisher, "--quiet", "import", name, delta["changes"])
            result["stage"].append(time.perf_counter() - start)
            if any(auditing.lookup(reader, probe) for probe in delta["probes"]):
                raise SystemExit("a hash was found before it was published")
            time.sleep(pause_s)
            start = time.perf_counter()
            _hashfed(publisher, "--quiet", "publish", name)
            published = time.perf_counter()
            while not all(auditing.lookup(reader, probe) for probe in delta["probes"]):
                if time.perf_counter() - published > _GIVE_UP_SECONDS:
                    raise SystemExit("a published delta was not found at the subscriber")
                time.sleep(_POLL_SECONDS)
            found = time.perf_counter()
            result["publish"].append(published - start)
            result["found"].append(found - start)
            result["after"].append(found - published)
            time.sleep(pause_s)
    finally:
        reader.close()
    return result


def check_behind(home: str, name: str, most: int) -> dict[str, float]:
    """Check the operations tree and the state digest of deltas from all over a list.

    Returns:
        Operations of the deltas that were checked, and the seconds that it took.
    """
    reader = Store.open_reader(Path(home) / "store.db", SystemClock())
    try:
        record = administering.find_list(reader, name)
        positions = range(0, record.log.size, max(1, record.log.size // most))
        start = time.perf_counter()
        for position in positions:
            checking.check_commitments(reader, record, position)
        seconds = time.perf_counter() - start
        wanted = set(positions)
        ops = sum(
            line.header.op_count
            for line in auditing.read_log(reader, record, None)
            if line.position in wanted
        )
        return {"ops": ops, "seconds": seconds}
    finally:
        reader.close()


def lookups(home: str, plain: str, hits: str, misses: str) -> dict[str, dict[str, list[float]]]:
    """Look hashes up one by one in a node's store, and in the table that `.import` has filled."""
    reader = Store.open_reader(Path(home) / "store.db", SystemClock())
    table = sqlite3.connect(plain)
    table.execute("PRAGMA cache_size = -65536")

    def in_table(text: str) -> list[tuple[str]]:
        return table.execute("SELECT label FROM h WHERE hash = ?", (text[7:],)).fetchall()

    def in_node(text: str) -> list[auditing.Match]:
        return auditing.lookup(reader, text)

    result = {}
    for who, find in (("node", in_node), ("table", in_table)):
        result[who] = {
            "hit": _time_each(find, Path(hits).read_text().split(), expected=True),
            "miss": _time_each(find, Path(misses).read_text().split(), expected=False),
        }
    reader.close()
    table.close()
    return result


def _time_each(find: Callable[[str], object], texts: list[str], *, expected: bool) -> list[float]:
    seconds = []
    for text in texts:
        start = time.perf_counter()
        found = find(text)
        seconds.append(time.perf_counter() - start)
        if bool(found) is not expected:
            raise SystemExit(f"{text}: found is {bool(found)}, expected {expected}")
    return seconds


if __name__ == "__main__":
    perform((check_behind, commands, live, lookups))
