"""One round: everything that is measured, one after the other, on the same list."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from lists import Changes, DeltaFiles, ListFiles, write_list, write_wanted
from nodes import LIST, ORIGIN, Pair, counting, start_time, work
from processes import BenchError, run
from results import Results

PARTS: Final = ("floor", "import", "sync", "delta", "live", "lookup", "tenth")
"""What can be measured alone. `tenth`: memory at a tenth of the size, and bytes on the wire."""

_FLOOR_ROWS: Final = 1_000_000
_SMALL_LIST: Final = 1_000
_CHECKED_DELTAS: Final = 20
_PAUSE_S: Final = 0.05
_LEAST_S: Final = 0.001
"""What is left of a short command, when under load its start alone takes longer than all of it."""

# As much cache as a node has: the shell's own 2 MB would make it slower.
_CACHE: Final = "PRAGMA cache_size = -65536;\n"
_LOAD: Final = """\
CREATE TABLE h(hash TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID;
.mode csv
.import '{}' h
SELECT count(*) FROM h;
"""
_FIND: Final = """\
CREATE TEMP TABLE w(hash TEXT);
.mode csv
.import '{}' w
SELECT h.hash, h.label FROM w JOIN h USING (hash);
"""
_APPLY: Final = """\
CREATE TEMP TABLE d(op TEXT, hash TEXT, label TEXT);
.mode csv
.import '{}' d
BEGIN;
INSERT INTO h SELECT hash, label FROM d WHERE op = 'assert'
  ON CONFLICT (hash) DO UPDATE SET label = excluded.label;
DELETE FROM h WHERE hash IN (SELECT hash FROM d WHERE op = 'retract');
COMMIT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        size: entries of the list.
        rounds: how often.
        parts: which of PARTS.
        single_ops: publishes of one operation, for latency.
        batches: publishes of 1,000 operations, for latency.
        deltas: changes of 1,000 operations, for their cost.
        big_delta: operations of the one large change.
        lookups: hashes that are looked up one by one.
        bulk: hashes that are looked up in one command.
        starts: how often the start of the program is measured in a round.
    """

    size: int
    rounds: int
    parts: frozenset[str]
    single_ops: int = 50
    batches: int = 20
    deltas: int = 5
    big_delta: int = 10_000
    lookups: int = 5_000
    bulk: int = 100_000
    starts: int = 3


@dataclass(slots=True)
class Bench:
    """What all rounds share.

    Attributes:
        plan: how much is measured.
        folder: where files go.
        shell: the `sqlite3` shell.
        results: where figures go.
        say: tells the person what is going on.
    """

    plan: Plan
    folder: Path
    shell: Path
    results: Results
    say: Callable[[str], None]

    def run_all(self) -> None:
        """Measure all rounds."""
        self.say(f"writing a list of {self.plan.size:,} entries")
        files = write_list(self.folder / "list", self.plan.size)
        for number in range(self.plan.rounds):
            self.results.start_round()
            with _scratch(self.folder / "round") as folder:
                self._round(f"round {number + 1} of {self.plan.rounds}", files, folder)
        if "tenth" in self.plan.parts:
            self.say("a list of a tenth of the size")
            with _scratch(self.folder / "tenth") as folder:
                self._tenth(folder)

    def _has(self, *parts: str) -> bool:
        return not self.plan.parts.isdisjoint(parts)

    def _round(self, title: str, files: ListFiles, folder: Path) -> None:
        if self._has("floor"):
            self.say(f"{title}: append floor")
            self._floor(folder)
        table = folder / "shuffled.db"
        if self._has("import", "delta", "lookup"):
            self.say(f"{title}: .import")
            self._import_plain("import_shuffled", files.shuffled, table)
            self._import_plain("import_ordered", files.ordered, folder / "ordered.db")
        if not self._has("sync", "delta", "live", "lookup"):
            return
        self.say(f"{title}: import and publish")
        pair = Pair.create(folder / "pair")
        self._publish(pair, files)
        self.say(f"{title}: sync")
        self._sync(pair, files.count)
        changes = Changes(folder / "changes", files.count)
        if self._has("lookup"):
            self.say(f"{title}: lookups")
            self._lookup(pair, table, folder)
        if self._has("delta"):
            self.say(f"{title}: deltas")
            self._deltas(pair, changes, "")
            self._apply_plain(table, changes.mixed(self.plan.big_delta))
            self._deltas_of_small_list(folder)
        if self._has("live"):
            self.say(f"{title}: latency")
            self._latency(pair, changes)

    # --- floors and alternatives --------------------------------------------------------------

    def _floor(self, folder: Path) -> None:
        rows = min(self.plan.size, _FLOOR_ROWS)
        done = work(folder, "in_sqlite", "append_floor", path=str(folder / "floor.db"), rows=rows)
        self.results.put("floor", rows / done["seconds"])

    def _import_plain(self, name: str, source: Path, target: Path) -> None:
        script = target.with_suffix(".sql")
        script.write_text(_CACHE + _LOAD.format(source))
        used = run([self.shell, "-batch", "-bail", target], stdin=script)
        if int(used.output) != self.plan.size:
            raise BenchError(f".import has {used.output.strip()} rows, expected {self.plan.size}")
        self.results.put(name, self.plan.size / used.wall_s)
        self.results.put(f"{name}.cpu", used.cpu_s)
        self.results.put(f"{name}.peak", used.peak_mib)
        self.results.put(f"{name}.bytes", target.stat().st_size / self.plan.size)

    def _apply_plain(self, table: Path, delta: DeltaFiles) -> None:
        script = table.with_name("apply.sql")
        script.write_text(_CACHE + _APPLY.format(delta.plain))
        used = run([self.shell, "-batch", "-bail", table], stdin=script)
        self.results.put("apply_plain", used.wall_s)

    # --- first sync ---------------------------------------------------------------------------

    def _publish(self, pair: Pair, files: ListFiles, suffix: str = "") -> None:
        for name, arguments in (
            ("stage", ("import", LIST, files.changes)),
            ("publish", ("publish", LIST)),
        ):
            used = pair.publisher.run(*arguments)
            self.results.put(f"{name}{suffix}", files.count / used.wall_s)
            self.results.put(f"{name}.cpu{suffix}", used.cpu_s)
            self.results.put(f"{name}.peak{suffix}", used.peak_mib)

    def _sync(self, pair: Pair, count: int) -> None:
        start = median(start_time("sync") for _ in range(self.plan.starts))
        with pair.publisher.serving() as server:
            served = server.cpu_s
            used = pair.subscriber.run("sync", "--json")
            self.results.put("serve.cpu", server.cpu_s - served)
            self.results.put("serve.peak", server.peak_mib)
            again = pair.subscriber.run("sync")
        self.results.put("start", start)
        self.results.put("sync.wall", used.wall_s)
        self.results.put("sync.idle", again.wall_s)
        self.results.put("sync", count / used.wall_s)
        accepted_s = json.loads(used.output)["seconds"]
        self.results.put("sync.accept.wall", accepted_s)
        self.results.put("sync.accept", count / accepted_s)
        self.results.put("sync.cpu", used.cpu_s)
        self.results.put("sync.peak", used.peak_mib)
        pair.check_complete(count)
        self._check_found(pair, count)
        checked = work(
            pair.subscriber.home.parent,
            "in_node",
            "check_behind",
            home=str(pair.subscriber.home),
            name=ORIGIN,
            most=_CHECKED_DELTAS,
        )
        rate = checked["ops"] / checked["seconds"]
        self.results.put("check", rate)
        self.results.put("sync.all", 1 / (accepted_s / count + 1 / rate))
        paths = [str(pair.publisher.store), str(pair.subscriber.store)]
        for who, size in zip(
            ("publisher", "subscriber"),
            work(pair.publisher.home.parent, "in_sqlite", "database_bytes", paths=paths),
            strict=True,
        ):
            self.results.put(f"{who}.bytes", size / count)

    def _check_found(self, pair: Pair, count: int) -> None:
        """Look up entries from all over the list: `lookup` fails when one is not there."""
        wanted = pair.subscriber.home.with_name("check")
        write_wanted(wanted, random.Random(1).sample(range(count), min(count, 1000)))  # noqa: S311
        pair.subscriber.run("lookup", "--file", "-", stdin=wanted, discard_output=True)

    # --- both nodes serving -------------------------------------------------------------------

    def _live(self, pair: Pair, deltas: list[DeltaFiles]) -> dict[str, list[float]]:
        """Publish deltas while both nodes serve; return what each took."""
        with pair.publisher.serving(), pair.subscriber.serving():
            times: dict[str, list[float]] = work(
                pair.publisher.home.parent,
                "in_node",
                "live",
                publisher=str(pair.publisher.home),
                subscriber=str(pair.subscriber.home),
                name=LIST,
                deltas=[
                    {"changes": str(delta.changes), "probes": delta.probes} for delta in deltas
                ],
                pause_s=_PAUSE_S,
            )
            return times

    def _deltas(self, pair: Pair, changes: Changes, suffix: str) -> None:
        # The first one finds nothing warm; it is not counted.
        deltas = [changes.mixed(1_000) for _ in range(self.plan.deltas + 1)]
        if not suffix:
            deltas.append(changes.mixed(self.plan.big_delta))
        times = self._live(pair, deltas)
        small = slice(1, self.plan.deltas + 1)
        for name in ("stage", "publish", "after"):
            self.results.put(f"delta.{name}{suffix}", median(times[name][small]))
            if not suffix:
                self.results.put(f"big_delta.{name}", times[name][-1])

    def _deltas_of_small_list(self, folder: Path) -> None:
        files = write_list(folder / "small-list", _SMALL_LIST)
        pair = Pair.create(folder / "small-pair")
        pair.publisher.run("import", LIST, files.changes)
        pair.publisher.run("publish", LIST)
        self._deltas(pair, Changes(folder / "small-changes", files.count), ".small")

    def _latency(self, pair: Pair, changes: Changes) -> None:
        single, batches = self.plan.single_ops, self.plan.batches
        deltas = [changes.additions(1) for _ in range(single + 1)]
        deltas += [changes.additions(1_000) for _ in range(batches + 1)]
        times = self._live(pair, deltas)
        for what in ("publish", "found", "after"):
            self.results.extend(f"live.1.{what}", times[what][1 : single + 1])
            self.results.extend(f"live.1000.{what}", times[what][single + 2 :])

    # --- lookups ------------------------------------------------------------------------------

    def _lookup(self, pair: Pair, table: Path, folder: Path) -> None:
        draw = random.Random(2)  # noqa: S311  # a sample
        size = self.plan.size
        hits, misses = folder / "hits", folder / "misses"
        write_wanted(hits, draw.sample(range(size), min(size, self.plan.lookups)))
        write_wanted(misses, range(2 * size, 2 * size + self.plan.lookups))
        found = work(
            folder,
            "in_node",
            "lookups",
            home=str(pair.subscriber.home),
            plain=str(table),
            hits=str(hits),
            misses=str(misses),
        )
        for who, times in found.items():
            for what, seconds in times.items():
                self.results.extend(f"lookup.{who}.{what}", seconds)
        bulk = draw.sample(range(size), min(size, self.plan.bulk))
        wanted = folder / "bulk"
        write_wanted(wanted, bulk)
        used = pair.subscriber.run("lookup", "--file", "-", stdin=wanted, discard_output=True)
        start = median(start_time("lookup") for _ in range(self.plan.starts))
        self.results.put("bulk", len(bulk) / used.wall_s)
        self.results.put("bulk.net", len(bulk) / max(used.wall_s - start, _LEAST_S))
        self.results.put("bulk.peak", used.peak_mib)
        self._bulk_plain(table, folder, bulk)

    def _bulk_plain(self, table: Path, folder: Path, bulk: list[int]) -> None:
        wanted, script = folder / "bulk.csv", folder / "bulk.sql"
        write_wanted(wanted, bulk, prefix="")
        script.write_text(_CACHE + _FIND.format(wanted))
        used = run([self.shell, "-batch", "-bail", table], stdin=script, discard_output=True)
        self.results.put("bulk_plain", len(bulk) / used.wall_s)

    # --- a tenth of the size ------------------------------------------------------------------

    def _tenth(self, folder: Path) -> None:
        files = write_list(folder / "list", self.plan.size // 10)
        with counting() as counter:
            pair = Pair.create(folder / "pair", through=counter.port)
            counter.to = pair.publisher.port
            self._publish(pair, files, ".tenth")
            # The second sync brings nothing: what it sends is what any contact costs.
            with pair.publisher.serving() as server:
                used = pair.subscriber.run("sync")
                sent = counter.take()
                pair.subscriber.run("sync")
                idle = counter.take()
                self.results.put("serve.peak.tenth", server.peak_mib)
            self.results.put("sync.peak.tenth", used.peak_mib)
            pair.check_complete(files.count)
        self.results.put("wire.idle", idle)
        self.results.put("wire", (sent - idle) / files.count)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
