"""Processes that want the same store at the same time: one wins, the others report that and end.

A case is the life of one node, in which a number of races are run. Another node follows its list.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from node.errors import LockedError
from node.home import Home
from tests.faults.changes import Model, exported
from tests.faults.coalition import LIST, wait_until
from tests.faults.invariants import Ledger
from tests.faults.nodes import Node, Running
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer
from tests.harness.node import Result

RACES_A_LIFE: Final = 20
_LOCKED: Final = 11
_MAY_NOT_SIGN: Final = 15
_NOTHING_NEW: Final = 2
_BAD_ROWS: Final = 1
"""The exit code of an import that retracts an entry before the other one has staged it."""
_APART_SECONDS: Final = 0.25
"""How much later than the first one the second one starts, at most."""


def run(share: Share) -> Generator[Outcome, None, None]:
    """Run nodes, one for each case."""
    with forkserver.running(*share.planted) as forks:
        for case in share.cases:
            hit: Counter[str] = Counter()
            violations = judged(partial(_live, share, case, forks, hit))
            yield Outcome(case, sum(hit.values()), hit, violations)


def _live(share: Share, case: int, forks: ForkServer, hit: Counter[str]) -> None:
    with share.scratch(case) as folder:
        life = _Life(folder, forks, share.random(case), hit)
        try:
            for _ in range(RACES_A_LIFE):
                life.race()
            life.conclude()
        finally:
            life.end()


class _Life:
    """A publisher whose store processes race for, and a node that follows its list."""

    def __init__(
        self, folder: Path, forks: ForkServer, source: random.Random, hit: Counter[str]
    ) -> None:
        self._folder = folder
        self._random = source
        self._hit = hit
        self._owner = Node(folder, "hotline.example", forks)
        self._reader = Node(folder, "platform.example", forks)
        self._owner.meet(self._reader)
        self._origin = self._owner.create(LIST)
        self._reader("follow", self._origin)
        self._reader.serve()
        self._model = Model(source)
        self._ledger = Ledger(self._origin)
        self._backups = 0
        self._races: dict[Callable[[], None], int] = {
            self._two_publishers: 4,
            self._two_servers: 3,
            self._stopped_publisher: 4,
            self._stopped_publisher_without_its_lock: 3,
            self._stopped_server: 2,
            self._publisher_and_restore: 3,
            self._publisher_and_snapshot: 1,
            self._two_imports: 2,
        }
        live = self._stage()
        self._complete("publish", LIST)
        self._acknowledge(live)
        self._follow()

    def race(self) -> None:
        """Run one race, and check what must hold after it."""
        (chosen,) = self._random.choices(list(self._races), weights=list(self._races.values()))
        chosen()
        self._look()
        self._hit[chosen.__name__.strip("_").replace("_", " ")] += 1

    def conclude(self) -> None:
        """Check that the node's follower has the same, and that it is what was published."""
        self._follow()
        first = self._owner.export(self._origin)
        if exported(first) != self._model.expected():
            raise Broken("what is in force is not what was published")
        for node in (self._owner, self._reader):
            if node.export(self._origin) != first:
                raise Broken(f"{node.org} exports other bytes than {self._owner.org}")
            node.check()
        for node in (self._owner, self._reader):
            if node.server is not None and node.stop() != 0:
                raise Broken(f"serve of {node.org} did not end with 0 after SIGTERM")
            if "Traceback" in node.log():
                raise Broken(f"serve of {node.org} wrote a traceback: {node.log()[-2000:]}")

    def end(self) -> None:
        """Stop what is running."""
        for node in (self._owner, self._reader):
            node.abandon()

    # --- races --------------------------------------------------------------------------------

    def _two_publishers(self) -> None:
        live = self._stage()
        pair = self._both(("publish", LIST, "--json"), ("publish", LIST, "--json"))
        self._require_one_publication([running.end() for running in pair])
        self._acknowledge(live)

    def _publisher_and_snapshot(self) -> None:
        live = self._stage()
        publishing, snapshotting = self._both(("publish", LIST), ("snapshot", LIST))
        self._require(publishing.end(), {0, _LOCKED})
        # If the race before made a snapshot too, the first process here may find nothing new.
        self._require(snapshotting.end(), {0, _LOCKED, _NOTHING_NEW})
        self._complete("publish", LIST)
        self._acknowledge(live)

    def _two_imports(self) -> None:
        """Stage two change sets at once: both are staged, or one command says that it failed."""
        first, lines = self._model.draw()
        self._model.live = first
        second, more = self._model.draw()
        pair = [self._owner.begin("import", LIST, "-", stdin=text) for text in (lines, more)]
        for running, codes in zip(pair, ({0, _LOCKED}, {0, _LOCKED, _BAD_ROWS}), strict=True):
            self._require(running.end(), codes)
        # Keep this order: an entry that both change gets the value of the second.
        for text in (lines, more):
            self._complete("import", LIST, "-", stdin=text)
        self._complete("publish", LIST)
        self._acknowledge(second)

    def _two_servers(self) -> None:
        self._owner.stop()
        pair = self._both(("serve",), ("serve",))
        winner, loser = self._await_one_server(pair)
        self._require(loser.end(), {_LOCKED})
        if winner.process.poll() is not None:
            raise Broken("the server that won has ended")
        self._end_server(winner)

    def _stopped_server(self) -> None:
        """Stop and continue a server while another one wants its place."""
        self._owner.stop()
        first = self._owner.begin("serve")
        time.sleep(self._random.uniform(0, 2 * _APART_SECONDS))
        first.process.send_signal(signal.SIGSTOP)
        second = self._owner.begin("serve")
        time.sleep(self._random.uniform(0, 2 * _APART_SECONDS))
        first.process.send_signal(signal.SIGCONT)
        winner, loser = self._await_one_server([first, second])
        self._require(loser.end(), {_LOCKED})
        self._end_server(winner)

    def _stopped_publisher(self) -> None:
        """Stop and continue a publisher while another one publishes, or waits in vain."""
        live = self._stage()
        first = self._owner.begin("publish", LIST, "--json")
        time.sleep(self._random.uniform(0, 2 * _APART_SECONDS))
        first.process.send_signal(signal.SIGSTOP)
        second = self._owner.begin("publish", LIST, "--json")
        time.sleep(self._random.uniform(0, 3 * _APART_SECONDS))
        self._look_past_a_stopped_one()
        first.process.send_signal(signal.SIGCONT)
        self._require_one_publication([running.end() for running in (first, second)])
        self._acknowledge(live)

    def _stopped_publisher_without_its_lock(self) -> None:
        """Remove the lock file of a stopped publisher, so that two publishers hold a lock."""
        live = self._stage()
        first = self._owner.begin("publish", LIST, "--json")
        time.sleep(self._random.uniform(0, _APART_SECONDS))
        first.process.send_signal(signal.SIGSTOP)
        Home(self._owner.home).lock_file("publish").unlink(missing_ok=True)
        second = self._owner.begin("publish", LIST, "--json")
        time.sleep(self._random.uniform(0, 3 * _APART_SECONDS))
        self._look_past_a_stopped_one()
        first.process.send_signal(signal.SIGCONT)
        results = [running.end() for running in (first, second)]
        for result in results:
            # The mark and the store are compared once more before anything is signed.
            self._require(result, {0, _LOCKED, _MAY_NOT_SIGN, 1, 12})
        self._look()
        self._complete("publish", LIST)
        self._acknowledge(live)

    def _publisher_and_restore(self) -> None:
        """Restore a backup during a publication: one happens before the other."""
        self._follow()
        self._owner.stop()
        self._backups += 1
        backup = self._folder / f"backup-{self._backups}.db"
        self._complete("backup", backup)
        live = self._stage()
        size = self._owner.size(self._origin)
        publishing, restoring = self._both(("publish", LIST, "--json"), ("restore", backup))
        published, restored = publishing.end(), restoring.end()
        self._require(published, {0, _LOCKED, _MAY_NOT_SIGN})
        self._require(restored, {0, _LOCKED})
        if published.code and restored.code:
            raise Broken("a publication and a restore have both lost")
        if restored.code == 0 and self._owner.size(self._origin) == size and published.code == 0:
            # Only the replaced store has what was released after the backup, and the mark knows.
            refused = self._owner.run("publish", LIST)
            self._require(refused, {_MAY_NOT_SIGN})
            self._put_back()
        else:
            for replaced in self._owner.home.glob("store.db.replaced-*"):
                replaced.unlink()
            self._complete("recover", LIST)
        backup.unlink()
        self._complete("publish", LIST)
        self._acknowledge(live)

    def _put_back(self) -> None:
        """Put the replaced store back, as docs/operate.md says for a list that cannot go on."""
        (replaced,) = (
            path
            for path in self._owner.home.glob("store.db.replaced-*")
            if not path.name.endswith(("-wal", "-shm"))
        )
        for end in ("", "-wal", "-shm"):
            store = self._owner.home / f"store.db{end}"
            store.unlink(missing_ok=True)
            old = replaced.with_name(f"{replaced.name}{end}")
            if old.exists():
                shutil.move(old, store)

    # --- how ----------------------------------------------------------------------------------

    def _both(self, first: tuple[str | Path, ...], second: tuple[str | Path, ...]) -> list[Running]:
        """Start two commands, one of them a little later."""
        pair = [first, second]
        late = self._random.random() < 0.5
        delay = self._random.choice([0.0, self._random.uniform(0, _APART_SECONDS)])
        started = {}
        for number in (1, 0) if late else (0, 1):
            started[number] = self._owner.begin(*pair[number])
            time.sleep(delay)
        return [started[0], started[1]]

    def _complete(self, *args: str | Path, stdin: str = "") -> None:
        self._require(self._owner.run(*args, stdin=stdin), {0})

    def _stage(self) -> dict[int, str]:
        live, lines = self._model.draw((1, 2, 10, 100, 1_000))
        self._complete("import", LIST, "-", stdin=lines)
        return live

    def _acknowledge(self, live: dict[int, str]) -> None:
        self._model.live = live
        self._ledger.acknowledge(self._owner.org, self._owner.size(self._origin))
        found = self._owner.live(self._origin)
        if found != len(live):
            raise Broken(f"{found} entries are in force, {len(live)} were published")

    def _look(self) -> None:
        self._ledger.look((self._owner, self._reader))
        self._ledger.require_mark(self._owner, (self._reader,))

    def _look_past_a_stopped_one(self) -> None:
        """Check, unless a stopped process blocks the store because it is opening or closing it."""
        with suppress(LockedError):
            self._look()

    def _follow(self) -> None:
        """Serve, and wait until the follower has everything."""
        if self._owner.server is None:
            self._owner.serve()
        size = self._owner.size(self._origin)
        wait_until(
            lambda: self._reader.size(self._origin) >= size,
            lambda: f"the follower has {self._reader.size(self._origin)} of {size} positions",
        )

    @staticmethod
    def _require(result: Result, codes: set[int]) -> None:
        if result.code not in codes:
            raise Broken(f"ended with {result.code}, not in {sorted(codes)}: {result.err[-800:]}")

    def _require_one_publication(self, results: list[Result]) -> None:
        """Require that exactly one has published and that the other one says why it has not."""
        for result in results:
            self._require(result, {0, _LOCKED})
        winners = [
            result for result in results if result.code == 0 and json.loads(result.out)["deltas"]
        ]
        if len(winners) != 1:
            raise Broken(f"{len(winners)} of two publishers have published")

    def _await_one_server(self, pair: list[Running]) -> tuple[Running, Running]:
        """Wait until one of two servers has ended; return the other one, and it."""
        wait_until(
            lambda: any(running.process.poll() is not None for running in pair),
            lambda: "two servers run on one store",
        )
        first, second = pair
        return (second, first) if first.process.poll() is not None else (first, second)

    def _end_server(self, running: Running) -> None:
        """Stop a server with one of the two signals."""
        number = self._random.choice([signal.SIGTERM, signal.SIGKILL])
        if number == signal.SIGTERM:
            wait_until(lambda: b'"serving"' in running.written(), lambda: "not serving")
        running.process.send_signal(number)
        result = running.end(killed=True)
        if number == signal.SIGTERM:
            self._require(result, {0})


PART = Part(
    name="races",
    summary=f"lives of a node in each of which {RACES_A_LIFE} pairs of processes race",
    count=50,
    run=run,
)
