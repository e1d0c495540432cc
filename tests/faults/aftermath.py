"""What must hold after a power cut: the node works, has what it said, and signs nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from federation.header import Header, LeafKind
from federation.names import Origin, parse_org
from federation.replica import LogState, SignedDelta
from node.clock import SystemClock
from node.home import Home
from node.ingest import deltas as ingest_deltas
from node.store import lists, log
from node.store.connection import Store
from node.store.lists import ListRecord
from tests.faults.calling import call
from tests.faults.holdings import read_holdings
from tests.faults.part import Broken
from tests.faults.stories import LIST, Tape, Told
from tests.harness.node import assertion

_NEW: Final = 9_000
"""The entry that is published after the cut."""

_RECOVERING: Final = 15


def require_beginning(home: Home) -> None:
    """Require that a node whose `init` was interrupted works, or says what to do.

    Raises:
        Broken: it does neither.
    """
    is_node = home.config.exists()
    done = call(home.path, "init", "--org", "hotline.example", "--listen", "127.0.0.1:7443")
    if is_node or done.code == 0:
        _run(home, "list", "create", LIST, "--audience", "")
    elif "folder" not in done.err:
        raise Broken(f"init does not say what to do: {done.err}")


class Aftermath:
    """Continues the node of one story from what a power cut has left."""

    def __init__(self, tape: Tape) -> None:
        self._clock = SystemClock()
        self._logs: dict[Origin, tuple[LogState, list[SignedDelta]]] = {}
        if tape.peer is not None:
            self._via = parse_org(tape.peer.org)
            with _reading(Home(tape.peer.home)) as store:
                for record in lists.iter_lists(store.connection):
                    self._logs[record.origin] = (record.log, _deltas(store, record))

    def go_on(
        self,
        home: Home,
        backups: Path,
        told: Sequence[Told],
        released: frozenset[tuple[str, int, str]],
        *,
        later: bool,
    ) -> None:
        """Start the node again, and make it do what is next.

        Args:
            home: the node's folder.
            backups: the folder of its backups.
            told: what the program had reported; one of these must hold.
            released: what was released of its lists.
            later: whether the program has the later version now.

        Raises:
            Broken: a promise did not hold.
        """
        if not home.store.exists():
            # The moment of `restore` between the old store and the new one.
            _run(home, "restore", backups / "first.db")
        if later:
            _run(home, "migrate")
        _run(home, "fsck")
        if self._logs:
            self._follow(home)
        else:
            self._publish(home, told)
        _run(home, "fsck")
        self._require_released(home, backups, told, released)

    def _follow(self, home: Home) -> None:
        """Take what the peer has, as if it came from there."""
        store = Store.open(home.store, self._clock)
        try:
            for record in list(lists.iter_lists(store.connection)):
                state, deltas = self._logs[record.origin]
                rest = deltas[record.log.size :]
                accepted = ingest_deltas.accept(
                    store, record.origin, rest, via=self._via, clock=self._clock
                )
                found = lists.load_list_by_number(store.connection, record.list)
                if accepted.error is not None or found.log.frontier != state.frontier:
                    raise Broken(f"{record.origin} does not go on: {accepted.error}")
                if found.log.live_count != state.live_count:
                    raise Broken(f"{record.origin} has other entries than its publisher")
        finally:
            store.close()

    def _publish(self, home: Home, told: Sequence[Told]) -> None:
        """Publish what is staged and one more entry; compare everything in force after that."""
        if not all(one.listed for one in told):
            done = call(home.path, "list", "create", LIST, "--audience", "")
            if done.code not in {0, 2}:
                raise Broken(f"the list cannot be made: {done.err}")
        changes = home.path.with_name("changes.jsonl")
        changes.write_text(f"{assertion(_NEW)}\n")
        _run(home, "import", LIST, changes)
        done = call(home.path, "publish", LIST)
        if done.code == _RECOVERING and not all(one.signs for one in told):
            return
        expected = [one.with_changes([assertion(_NEW)]) for one in told if one.signs]
        if done.code or not expected:
            raise Broken(f"publish ended with {done.code}: {done.err or 'a list was signed for'}")
        exported = call(home.path, "export", LIST).out.splitlines()
        live = {entry["id"]: entry["labels"][0] for entry in map(json.loads, exported)}
        if live not in [dict(one.live) for one in expected]:
            raise Broken(f"{len(live)} entries are in force, {len(expected[0].live)} were said")
        with _reading(home) as store:
            record = next(lists.iter_lists(store.connection))
            headers = [Header.parse(delta.header) for delta in _deltas(store, record)]
        signed = sum(header.op_count for header in headers if header.kind is LeafKind.DELTA)
        if signed not in [one.operations for one in expected]:
            raise Broken(f"{signed} operations are signed, {expected[0].operations} were staged")

    def _require_released(
        self,
        home: Home,
        backups: Path,
        told: Sequence[Told],
        released: frozenset[tuple[str, int, str]],
    ) -> None:
        """Require that every position that was released is still there, with the same content."""
        now = read_holdings(home, backups).released
        places = {(name, at): header for name, at, header in now}
        for name, at, header in released:
            found = places.get((name, at))
            if found != header and not (found is None and not all(one.signs for one in told)):
                raise Broken(f"position {at} of {name} was released as {header}, now {found}")


def _run(home: Home, *args: str | Path) -> None:
    done = call(home.path, *args)
    if done.code:
        raise Broken(f"{args[0]} ended with {done.code}: {done.out}{done.err}")


def _deltas(store: Store, record: ListRecord) -> list[SignedDelta]:
    deltas: list[SignedDelta] = []
    while frame := log.read_frame(store.connection, record.list, len(deltas), record.log.size):
        deltas += frame
    return deltas


@contextmanager
def _reading(home: Home) -> Iterator[Store]:
    store = Store.open_reader(home.store, SystemClock())
    try:
        yield store
    finally:
        store.close()
