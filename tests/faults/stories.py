"""Lives of nodes whose power may be cut at any moment: real commands, recorded one by one.

Each command states what must hold once it has succeeded, as the user was told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from node.home import Home
from tests.faults.disk import Make, Operation, Sync
from tests.faults.later import LATER
from tests.faults.leaving import LEAVING, LEFT
from tests.faults.recording import Recorded, Recorder
from tests.faults.running import HarnessError
from tests.harness.node import Node, assertion, digest

LIST: Final = "main"
_PUBLISHER: Final = "hotline.example"
_SUBSCRIBER: Final = "platform.example"


@dataclass(frozen=True)
class Told:
    """What the user was told.

    Attributes:
        made: whether the node is made.
        listed: whether it has the list.
        live: the label of each entry that is in force once everything staged is published.
        operations: how many operations are signed by then.
        signs: whether its list may be signed for.
    """

    made: bool = False
    listed: bool = False
    live: tuple[tuple[str, str], ...] = ()
    operations: int = 0
    signs: bool = True

    def with_changes(self, changes: Iterable[str]) -> Told:
        """Return what holds once some more changes are staged."""
        live, operations = dict(self.live), self.operations
        for change in map(json.loads, changes):
            operations += 1
            if change["op"] == "assert":
                live[f"sha256:{change['fingerprints']['sha256']}"] = change["labels"][0]
            else:
                del live[change["id"]]
        return replace(self, live=tuple(sorted(live.items())), operations=operations)


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: the command.
        start: how many operations were done before it.
        stop: how many are done at its end.
        before: what the user was told before it began.
        after: what it tells the user.
        later: whether the program has the later version from here on.
    """

    name: str
    start: int
    stop: int
    before: Told
    after: Told
    later: bool


class Tape:
    """A recorded life of a node.

    Attributes:
        name: which story it is.
        root: the folder that was recorded, with all that is below it.
        home: the node's folder.
        backups: the folder of its backups.
        operations: what was done to the disk.
        steps: the commands that did it.
        peer: the node that it follows, if there is one.
        told: what the user was told last.
        later: whether the program has the later version from now on.
    """

    def __init__(self, name: str, folder: Path, recorder: Recorder) -> None:
        self.name = name
        self.root = folder
        self.home = Home(folder / "node")
        self.backups = folder / "backups"
        self.steps: list[Step] = []
        self.peer: Node | None = None
        self.told = Told()
        self.later = False
        self._recorder = recorder
        self.backups.mkdir(parents=True)
        self.operations: list[Operation] = [Make(str(self.backups), folder=True), Sync(str(folder))]

    def __call__(
        self, *args: str | Path, stdin: str = "", told: Told | None = None, leaving: bool = False
    ) -> Recorded:
        """Run a command and require that it succeeds.

        Args:
            args: its arguments.
            stdin: its input.
            told: what the user is told afterwards; None for no change.
            leaving: whether it ends as if it were killed.
        """
        env = {"HOME": str(self.root), "PATH": os.defpath}
        for wanted, setting in ((leaving, LEAVING), (self.later, LATER)):
            env |= setting if wanted else {}
        words = ["--home", str(self.home.path), *map(str, args)]
        done = self._recorder.record(words, env=env, stdin=stdin)
        if done.code != (LEFT if leaving else 0):
            raise HarnessError(f"{self.name}: {words} ended with {done.code}: {done.err}")
        before, self.told = self.told, self.told if told is None else told
        start = len(self.operations)
        self.operations += done.operations
        name, stop = str(args[0]), len(self.operations)
        self.steps.append(Step(name, start, stop, before, self.told, self.later))
        return done


def publisher(tape: Tape) -> None:
    """Make a list, publish, sign a snapshot, back up, be killed, restore an outdated backup."""
    _make(tape, _PUBLISHER)
    _create(tape)
    _stage(tape, map(assertion, range(40)))
    tape("publish", LIST)
    changes = [assertion(number, "B") for number in range(0, 60, 7)]
    _stage(tape, [*changes, _retraction(3), _retraction(4), _purge(5)])
    tape("publish", LIST)
    tape("snapshot", LIST)
    backed_up = tape.told
    tape("backup", tape.backups / "first.db")
    _stage(tape, map(assertion, range(100, 130)))
    tape("publish", LIST, leaving=True)
    tape("restore", tape.backups / "first.db", told=replace(backed_up, signs=False))


def returned(tape: Tape) -> None:
    """Restore a backup that lacks nothing, and go on."""
    _make(tape, _PUBLISHER)
    _create(tape)
    _stage(tape, map(assertion, range(5)))
    tape("publish", LIST)
    tape("backup", tape.backups / "first.db")
    _stage(tape, [assertion(200)])
    tape("restore", tape.backups / "first.db", told=replace(tape.told, signs=False))
    tape("recover", LIST, "--accept-risk", "drill", told=replace(tape.told, signs=True))
    _stage(tape, map(assertion, range(10, 15)))
    tape("publish", LIST)


def upgraded(tape: Tape) -> None:
    """Migrate to the schema of a later version, with changes staged, and go on."""
    _make(tape, _PUBLISHER)
    _create(tape)
    _stage(tape, map(assertion, range(20)))
    tape("publish", LIST)
    _stage(tape, [assertion(number, "B") for number in range(10, 30)])
    tape.later = True
    tape("migrate")
    tape("publish", LIST)


def subscriber(tape: Tape, peer: Node) -> None:
    """Follow a list as it grows, join another one at its snapshot, back up and restore."""
    tape.peer = peer
    origin = peer.create(LIST)
    joined = peer.create("joined")
    peer.publish(LIST, *range(40))
    peer.publish("joined", *range(100))
    peer("snapshot", "joined")
    peer.publish("joined", *range(100, 110))
    _make(tape, _SUBSCRIBER)
    tape("peer", "add", "--yes", "-", stdin=peer("invite").out)
    peer("peer", "add", "--yes", "-", stdin=tape("invite").out)
    peer.serve()
    tape("follow", origin)
    tape("sync")
    peer.stage(LIST, [assertion(number, "B") for number in range(0, 60, 7)])
    peer.stage(LIST, [_retraction(3), _purge(5)])
    peer("publish", LIST)
    peer.publish(LIST, *range(70, 80))
    tape("sync")
    tape("follow", joined)
    tape("sync")
    tape("backup", tape.backups / "first.db")
    peer.publish(LIST, *range(80, 90))
    tape("sync")
    tape("restore", tape.backups / "first.db")
    tape("sync")


def _make(tape: Tape, org: str) -> None:
    tape("init", "--org", org, "--listen", "127.0.0.1:7443", told=Told(made=True))


def _create(tape: Tape) -> None:
    told = replace(tape.told, listed=True)
    tape("list", "create", LIST, "--audience", "", told=told)


def _stage(tape: Tape, changes: Iterable[str]) -> None:
    lines = list(changes)
    told = tape.told.with_changes(lines)
    tape("import", LIST, "-", stdin="".join(f"{line}\n" for line in lines), told=told)


def _retraction(number: int) -> str:
    return f'{{"op":"retract","id":"sha256:{digest(number)}","cause":"withdrawn"}}'


def _purge(number: int) -> str:
    return f'{{"op":"purge","id":"sha256:{digest(number)}"}}'


ALONE: Final[dict[str, Callable[[Tape], None]]] = {
    "publisher": publisher,
    "returned": returned,
    "upgraded": upgraded,
}
"""The stories of nodes without peers."""

SUBSCRIBER: Final = "subscriber"
"""The story of a node that has a peer."""
