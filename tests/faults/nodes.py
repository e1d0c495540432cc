"""Nodes that faults hit: their processes are forked, and their content is read without a command.

The program's own code reads it, in a process without planted bugs.
"""

from __future__ import annotations

import copy
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from federation.names import Origin, parse_org
from federation.recovery import Mark, Obstacle
from node.clock import SystemClock
from node.fsck import check as fsck_check
from node.home import Home
from node.publish.high_water import HighWater
from node.query.status import read_log
from node.store import damage as store_damage
from node.store import lists
from node.store.connection import Store
from tests.faults.invariants import require_documented
from tests.faults.part import Broken
from tests.harness import node
from tests.harness.node import END_SECONDS, Process, Result
from tests.node.support import damaged_node


@dataclass(frozen=True)
class Leaf:
    """A position of a list, as a node holds it.

    Attributes:
        delta: the hash of what was signed.
        time_ms: the time that was signed.
    """

    delta: str
    time_ms: int


class Running(node.Running):
    """A watched command: it has to end in a documented way."""

    def kill_after(self, seconds: float) -> Result:
        """Kill it after a while, unless it has ended by then."""
        time.sleep(seconds)
        self.process.kill()
        return self.end(killed=True)

    def end(self, timeout: float = END_SECONDS, *, killed: bool = False) -> Result:
        """Wait for its end.

        Args:
            timeout: how long it may take, in seconds.
            killed: whether it may have been killed.

        Raises:
            Broken: it has not ended in a documented way, or not at all.
        """
        try:
            result = super().end(timeout)
        except TimeoutError as error:
            raise Broken(str(error)) from None
        require_documented(result.code, result.err, of=self.what, killed=killed)
        return result


class Node(node.Node):
    """A node that faults hit."""

    patience = END_SECONDS

    def begin(self, *args: str | Path, stdin: str = "") -> Running:
        """Start a command."""
        return Running(self, args, stdin)

    def run(self, *args: str | Path, stdin: str = "") -> Result:
        """Run a command to any documented end."""
        return self.begin(*args, stdin=stdin).end()

    def copied(self, folder: Path) -> Node:
        """Return the same node in another folder, which is a copy of this one's."""
        twin = copy.copy(self)
        twin.home = folder / self.home.name
        twin.server = None
        twin.running = []
        twin._log = folder / self._log.name  # of the same class
        shutil.copytree(self.home, twin.home, symlinks=True, ignore=_no_sockets)
        return twin

    def damage(self) -> None:
        """Flip a bit of signed data, in the file of a node that is not running."""
        path = Home(self.home).store
        connection = sqlite3.connect(path)
        try:
            # Fold everything into one file.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        damaged_node.flip("body", "bytes", "1", 60)(path)

    def _start_server(self, wrap: Iterable[str], settings: Mapping[str, str], log: int) -> Process:
        assert not wrap  # a fork has no other program around it
        return self.start("serve", out=log, err=log, settings=settings)

    # --- what is here, read without a command -------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """Open the store for reading."""
        store = Store.open_reader(Home(self.home).store, SystemClock())
        try:
            yield store
        finally:
            store.close()

    def has_store(self) -> bool:
        """Return whether there is a store: a killed restore may have left none."""
        return Home(self.home).store.exists()

    def leaves(self, origin: str) -> dict[int, Leaf]:
        """Return what the node holds of a list's log, by position; nothing without a store."""
        if not self.has_store():
            return {}
        with self.reading() as store, store.snapshot() as connection:
            record = lists.load_list(connection, Origin.parse(origin))
            if record is None or store_damage.load(store.path).of(origin):
                return {}
            return {
                line.position: Leaf(line.delta_hash.hex(), line.header.time_ms)
                for line in read_log(store, record, None)
            }

    def headers(self, origin: str) -> dict[int, str]:
        """Return the hash of each position, by position."""
        return {position: leaf.delta for position, leaf in self.leaves(origin).items()}

    def live(self, origin: str) -> int:
        """Return how many entries of a list are in force."""
        with self.reading() as store:
            record = lists.load_list(store.connection, Origin.parse(origin))
            return 0 if record is None else record.log.live_count

    def size(self, origin: str) -> int:
        """Return how many positions of a list's log are here."""
        with self.reading() as store:
            record = lists.load_list(store.connection, Origin.parse(origin))
            return 0 if record is None else record.log.size

    def mark(self, origin: str) -> Mark | Obstacle:
        """Return the high-water mark of a list of this node."""
        return HighWater(Home(self.home).mark, parse_org(self.org)).load(Origin.parse(origin))

    def check(self) -> None:
        """Require that everything stored is what was signed.

        Raises:
            Broken: something is not.
        """
        with self.reading() as store:
            require_sound(store, self.org)


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]


def require_sound(store: Store, whose: str) -> None:
    """Require that everything in a store is what was signed.

    Raises:
        Broken: something is not.
    """
    damages = [damage.message for damage in fsck_check.fsck(store)]
    if damages:
        raise Broken(f"{whose}: fsck finds {len(damages)} damages: {damages[0]}")


def require_sound_file(path: Path, whose: str) -> None:
    """Require that a file, such as a backup, is a complete store.

    Raises:
        Broken: it is not.
    """
    store = Store.open_reader(path, SystemClock())
    try:
        require_sound(store, f"{whose} {path.name}")
    finally:
        store.close()


@contextmanager
def ending(*made: Node) -> Iterator[None]:
    """Stop everything that nodes have started when the block ends."""
    try:
        yield
    finally:
        for node in made:
            node.abandon()
