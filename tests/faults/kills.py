"""Kills processes at random moments, in a coalition that keeps running and grows older.

A case is the life of one coalition, in which a number of processes are killed by SIGKILL. What a
killed process had written survives in the system's memory, so this says nothing about power cuts.
How far a process has come when it is killed depends on the machine, even with the same seed.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults import older
from tests.faults.coalition import LIST, Coalition, wait_until
from tests.faults.invariants import KILLED
from tests.faults.nodes import Node, require_sound_file
from tests.faults.older import OlderNode
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome
from tests.faults.small_buckets import PLANTED, small_buckets
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer
from tests.harness.node import Result, assertion

KILLS_A_LIFE: Final = 25
_REVISED: Final = 1_500
"""How many entries are published three times at first, to make a snapshot cheaper than deltas."""

_UNKNOWN_SECONDS: Final = 0.3
"""The assumed duration of a command that has not run yet."""


def run(share: Share) -> Generator[Outcome, None, None]:
    """Run coalitions, one for each case."""
    planted = (PLANTED, older.PLANTED, *share.planted)
    with small_buckets(), forkserver.running(*planted) as forks:
        for case in share.cases:
            killed: Counter[str] = Counter()
            violations = judged(partial(_live, share, case, forks, killed))
            yield Outcome(case, sum(killed.values()), killed, violations)


def _live(share: Share, case: int, forks: ForkServer, killed: Counter[str]) -> None:
    with share.scratch(case) as folder:
        life = _Life(folder, forks, share.random(case), killed)
        try:
            life.begin()
            while sum(killed.values()) < KILLS_A_LIFE:
                life.round()
            life.coalition.conclude()
        finally:
            life.end()


class _Life:
    """A coalition and the faults that hit it.

    Attributes:
        coalition: the coalition.
    """

    def __init__(
        self, folder: Path, forks: ForkServer, source: random.Random, killed: Counter[str]
    ) -> None:
        self._killed = killed
        self._random = source
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._backups = 0
        self.coalition = Coalition(folder, forks, source)
        self._newcomer = Node(folder, "newcomer.example", forks)
        self._pristine = folder / "newcomer.pristine"
        self._rounds: dict[Callable[[], None], int] = {
            self._kill_import: 3,
            self._kill_publish: 6,
            self._kill_snapshot: 3,
            self._kill_server_of_owner: 4,
            self._kill_server_of_relay: 4,
            self._kill_server_of_reader: 4,
            self._kill_sync: 4,
            self._kill_join: 3,
            self._kill_backup: 3,
            self._kill_restore: 2,
            self._kill_export: 1,
            self._kill_migrate: 2,
            self._kill_repair: 2,
        }

    @property
    def _owner(self) -> Node:
        return self.coalition.owner

    @property
    def _origin(self) -> str:
        return self.coalition.origin

    def end(self) -> None:
        """Stop everything that is running."""
        self.coalition.end()
        self._newcomer.abandon()

    def begin(self) -> None:
        """Publish for the first time, and start all servers."""
        coalition = self.coalition
        for label in ("first", "second", "third"):
            live = dict.fromkeys(range(_REVISED), label)
            coalition.owner.stage(LIST, (assertion(*entry) for entry in live.items()))
            coalition.owner("publish", LIST)
            coalition.acknowledge(live)
        coalition.model.skip(_REVISED)
        coalition.owner("snapshot", LIST)
        for node in coalition.nodes:
            node.serve()
        newcomer = self._newcomer
        newcomer.meet(coalition.owner)
        newcomer("follow", coalition.origin)
        shutil.copytree(newcomer.home, self._pristine)
        # The owner asks all its peers after a restore, and a peer that does not serve is silent.
        coalition.owner("peer", "remove", newcomer.org)

    def round(self) -> None:
        """Do something, kill a process meanwhile, and do it again."""
        (chosen,) = self._random.choices(list(self._rounds), weights=list(self._rounds.values()))
        chosen()
        self.coalition.look()

    # --- what is killed -----------------------------------------------------------------------

    def _kill_import(self) -> None:
        live, lines = self.coalition.model.draw()
        self._kill("import", self._owner, "import", LIST, "-", stdin=lines)
        self._complete("import", self._owner, "import", LIST, "-", stdin=lines)
        self._publish(live)

    def _kill_publish(self) -> None:
        live = self._stage()
        result = self._kill("publish", self._owner, "publish", LIST)
        self.coalition.look()
        if result.code == 0:
            self.coalition.acknowledge(live)
        self._publish(live)

    def _kill_snapshot(self) -> None:
        self._publish(self._stage())
        size = self._owner.size(self._origin)
        self._kill("snapshot", self._owner, "snapshot", LIST)
        # A signed snapshot is not signed again while nothing new is published.
        if self._owner.size(self._origin) == size:
            self._complete("snapshot", self._owner, "snapshot", LIST)

    def _kill_server_of_owner(self) -> None:
        self._kill_server("serve, publisher", self.coalition.owner)

    def _kill_server_of_relay(self) -> None:
        self._kill_server("serve, relay", self.coalition.relay)

    def _kill_server_of_reader(self) -> None:
        self._kill_server("serve, subscriber", self.coalition.reader)

    def _kill_server(self, what: str, victim: Node) -> None:
        """Kill a server while its node publishes, serves or follows what is published."""
        live = self._stage()
        publishing = self._owner.begin("publish", LIST)
        self._sleep("publish", more=0.3)
        victim.kill()
        self._killed[what] += 1
        self.coalition.look()
        victim.serve()
        self._require_done(publishing.end(), "publish")
        self.coalition.acknowledge(live)

    def _kill_sync(self) -> None:
        """Kill a `sync` of the subscriber, whose server is down."""
        reader = self.coalition.reader
        self._require_code(reader.stop(), "serve")
        live = self._stage()
        self._publish(live)
        size = self._owner.size(self._origin)
        wait_until(lambda: self.coalition.relay.size(self._origin) >= size, lambda: "relay behind")
        self._kill("sync", reader, "sync")
        self._complete("sync", reader, "sync")
        if reader.size(self._origin) < size:
            raise Broken(f"sync reported success at {reader.size(self._origin)} of {size}")
        reader.serve()

    def _kill_join(self) -> None:
        """Kill a newcomer while it joins, by a snapshot where that is cheaper."""
        newcomer = self._newcomer
        shutil.rmtree(newcomer.home)
        shutil.copytree(self._pristine, newcomer.home)
        self._owner("peer", "add", "--yes", "-", stdin=newcomer("invite").out)
        self._kill("join", newcomer, "sync")
        for _ in range(self._random.randrange(3)):
            self._kill("join", newcomer, "sync")
        self._complete("join", newcomer, "sync")
        self._owner("peer", "remove", newcomer.org)
        self.coalition.ledger.see(newcomer.org, newcomer.headers(self._origin))
        if newcomer.export(self._origin) != self._owner.export(self._origin):
            raise Broken("the node that joined exports other bytes than the publisher")
        newcomer.check()

    def _kill_backup(self) -> None:
        """Kill a backup during a publication."""
        live = self._stage()
        publishing = self._owner.begin("publish", LIST)
        target = self._folder / "killed.db"
        target.unlink(missing_ok=True)
        self._kill("backup", self._owner, "backup", target)
        if target.exists():
            # It gets its name only once it is verified.
            require_sound_file(target, "backup")
        self._require_done(publishing.end(), "publish")
        self.coalition.acknowledge(live)
        self._backups += 1
        self._complete("backup", self._owner, "backup", self._backup)
        for leftover in self._folder.glob(".killed.db.*"):
            leftover.unlink()

    @property
    def _backup(self) -> Path:
        return self._folder / f"backup-{self._backups}.db"

    def _kill_restore(self) -> None:
        """Kill a restore of the publisher, and the recovery after it."""
        coalition = self.coalition
        if not self._backups:
            self._backups += 1
            self._complete("backup", self._owner, "backup", self._backup)
            self._publish(self._stage())
        coalition.converge()
        self._require_code(self._owner.stop(), "serve")
        held = coalition.ledger.acknowledged.pop(self._owner.org)
        self._kill("restore", self._owner, "restore", self._backup)
        self.coalition.look()
        self._complete("restore", self._owner, "restore", self._backup)
        self._kill("recover", self._owner, "recover", LIST)
        self.coalition.look()
        self._complete("recover", self._owner, "recover", LIST)
        coalition.ledger.acknowledge(self._owner.org, held)
        coalition.look()
        for replaced in self._owner.home.glob("store.db.replaced-*"):
            replaced.unlink()
        self._owner.serve()
        self._publish(self._stage())

    def _kill_export(self) -> None:
        target = self._folder / "export.jsonl"
        target.unlink(missing_ok=True)
        self._kill("export", self._owner, "export", LIST, "--output", target)
        whole = self._owner.export(self._origin)
        if target.exists() and target.read_text(encoding="utf-8") != whole:
            raise Broken("a killed export left a file that is not whole")

    def _kill_migrate(self) -> None:
        """Kill the migration of a copy of the publisher whose program has a later version."""
        self._require_code(self._owner.stop(), "serve")
        folder = self._folder / "later"
        later = OlderNode.of(self._owner, folder)
        self._owner.serve()
        for _ in range(self._random.randint(1, 3)):
            self._kill("migrate", later, "migrate")
            self.coalition.ledger.see(later.org, later.headers(self._origin))
        self._complete("migrate", later, "migrate")
        if later.export(self._origin) != self._owner.export(self._origin):
            raise Broken("a migrated store exports other bytes than the one before")
        self.coalition.ledger.see(later.org, later.headers(self._origin))
        later.check()
        shutil.rmtree(folder)

    def _kill_repair(self) -> None:
        """Kill the repair of a copy of the relay, in which a bit has flipped."""
        coalition = self.coalition
        coalition.converge()
        self._require_code(coalition.relay.stop(), "serve")
        folder = self._folder / "damaged"
        damaged = coalition.relay.copied(folder)
        coalition.relay.serve()
        damaged.damage()
        for _ in range(self._random.randint(1, 3)):
            self._kill("repair", damaged, "fsck", "--repair")
        self._complete("repair", damaged, "fsck", "--repair")
        coalition.ledger.see(damaged.org, damaged.headers(self._origin))
        if damaged.export(self._origin) != self._owner.export(self._origin):
            raise Broken("a repaired store exports other bytes than the publisher")
        damaged.check()
        shutil.rmtree(folder)

    # --- how ----------------------------------------------------------------------------------

    def _stage(self) -> dict[int, str]:
        """Stage a change set; return what is in force once it is published."""
        live, lines = self.coalition.model.draw()
        self._complete("import", self._owner, "import", LIST, "-", stdin=lines)
        return live

    def _publish(self, live: dict[int, str]) -> None:
        self._complete("publish", self._owner, "publish", LIST)
        self.coalition.acknowledge(live)

    def _kill(self, what: str, node: Node, *args: str | Path, stdin: str = "") -> Result:
        """Run a command and kill it at some moment; it may have ended by then."""
        running = node.begin(*args, stdin=stdin)
        result = running.kill_after(self._moment(what))
        if result.code == KILLED:
            self._killed[what] += 1
        else:
            self._require_done(result, what)
        return result

    def _complete(self, what: str, node: Node, *args: str | Path, stdin: str = "") -> None:
        """Run a command and require that it succeeds."""
        began = time.monotonic()
        self._require_done(node.run(*args, stdin=stdin), what)
        self._seconds[what] = time.monotonic() - began

    def _moment(self, what: str) -> float:
        return self._random.uniform(0, self._seconds.get(what, _UNKNOWN_SECONDS))

    def _sleep(self, what: str, *, more: float) -> None:
        time.sleep(self._moment(what) + self._random.uniform(0, more))

    @staticmethod
    def _require_done(result: Result, what: str) -> None:
        if result.code != 0:
            raise Broken(f"{what} ended with {result.code}: {result.err[-1000:]}")

    @staticmethod
    def _require_code(code: int, what: str) -> None:
        if code != 0:
            raise Broken(f"{what} ended with {code} after SIGTERM")


PART = Part(
    name="kills",
    summary=(
        f"lives of a coalition in each of which {KILLS_A_LIFE} processes are killed by SIGKILL"
    ),
    count=80,
    run=run,
)
