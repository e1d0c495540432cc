"""Processes that are killed at any moment: what was acknowledged is everywhere, and only once.

HASHFED_KILLS says how many are killed (20), HASHFED_SEED repeats a run's choices; how far a process
has come when it is killed depends on the machine all the same.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.cli.forkserver import Process
from tests.endtoend.conftest import Orgs
from tests.endtoend.nodes import Node, assertion, digest

pytestmark = [pytest.mark.fault, pytest.mark.slow]

KILLS: Final = int(os.environ.get("HASHFED_KILLS", "20"))
_KILLED: Final = -9
_LIST: Final = "main"


@dataclass
class Driver:
    """Changes a list while processes around it are killed.

    Attributes:
        nodes: publisher, relay and subscriber.
        live: the label of each live entry, as far as `publish` has said that it is published.
        history: the header of each position that any node has ever shown.
        kills: how many processes were killed, by what they did.
    """

    nodes: tuple[Node, Node, Node]
    origin: str
    random: random.Random
    live: dict[int, str] = field(default_factory=dict)
    history: dict[int, str] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    _next: int = 0
    _durations: dict[str, float] = field(default_factory=dict)

    @property
    def owner(self) -> Node:
        return self.nodes[0]

    def round(self) -> None:
        """Publish one change set; kill one process meanwhile."""
        victim = self.random.choice(["import", "publish", "publish", *self.nodes])
        live, lines = self._change()
        self._finish("import", "import", _LIST, "-", stdin=lines, killed=victim == "import")
        if isinstance(victim, Node):
            publishing = self.owner.start("publish", _LIST)
            time.sleep(self._moment("publish"))
            victim.kill()
            victim.serve()
            self.kills[victim.org] = self.kills.get(victim.org, 0) + 1
            assert publishing.wait() == 0
        else:
            self._finish("publish", "publish", _LIST, killed=victim == "publish")
        self.live = live
        assert self.owner.status(self.origin)["live"] == len(live)
        self.look()

    def _finish(self, what: str, *args: str, stdin: str = "", killed: bool) -> None:
        """Run a command until it says that it is done; have it killed once before."""
        if killed:
            process = self.owner.start(*args, stdin=stdin)
            time.sleep(self._moment(what))
            if self._kill(process):
                self.kills[what] = self.kills.get(what, 0) + 1
        began = time.monotonic()
        self.owner(*args, stdin=stdin)
        self._durations[what] = time.monotonic() - began

    @staticmethod
    def _kill(process: Process) -> bool:
        """Kill a process that may have ended; say whether it was killed."""
        process.kill()
        code = process.wait()
        assert code in {0, _KILLED}
        return code == _KILLED

    def _moment(self, what: str) -> float:
        return self.random.uniform(0, self._durations.get(what, 0.3))

    def _change(self) -> tuple[dict[int, str], str]:
        """Return what is to be live after the next change set, and the change set."""
        live = dict(self.live)
        lines = []
        known = sorted(live)
        for number in self.random.sample(known, min(len(known), self.random.randrange(6))):
            if self.random.random() < 0.5:
                del live[number]
                entry = f"sha256:{digest(number)}"
                lines.append(json.dumps({"op": "retract", "id": entry, "cause": "withdrawn"}))
            else:
                live[number] = f"B{self._next}"
                lines.append(assertion(number, live[number]))
        size = self.random.choice([1, 2, 10, 10, 100, 3_000, 12_000])
        for number in range(self._next, self._next + size):
            live[number] = "A1"
            lines.append(assertion(number))
        self._next += size
        return live, "".join(f"{line}\n" for line in lines)

    def look(self) -> None:
        """Compare every node's log with all that was ever seen of it."""
        for node in self.nodes:
            for position, header in node.headers(self.origin).items():
                assert self.history.setdefault(position, header) == header, (node.org, position)


def exported(node: Node, origin: str) -> dict[str, str]:
    entries = map(json.loads, node.export(origin).splitlines())
    return {entry["id"]: entry["labels"][0] for entry in entries}


@pytest.mark.timeout(60 + 6 * KILLS)
def test_whatever_is_killed_what_was_acknowledged_is_everywhere_and_nothing_is_signed_twice(
    orgs: Orgs, tmp_path: Path
) -> None:
    seed = int(os.environ.get("HASHFED_SEED") or random.SystemRandom().randrange(2**32))
    print(f"HASHFED_SEED={seed}")
    owner, relay, reader = orgs("hotline", "ngo", "platform")
    owner.meet(relay)
    relay.meet(reader)
    reader("peer", "add", "--yes", "-", stdin=owner("invite").out)
    origin = owner.create(_LIST)
    relay("follow", origin)
    reader("follow", origin, "--via", relay.org)
    for node in (owner, relay, reader):
        node.serve()
    driver = Driver(nodes=(owner, relay, reader), origin=origin, random=random.Random(seed))
    while sum(driver.kills.values()) < KILLS:
        driver.round()
    print(f"killed {driver.kills}")

    size = owner.status(origin)["position"]
    for node in (relay, reader):
        node.await_status(origin, state="current", position=size)
    driver.look()
    expected = {f"sha256:{digest(number)}": label for number, label in driver.live.items()}
    for node in (owner, relay, reader):
        assert exported(node, origin) == expected
        assert node.export(origin) == owner.export(origin)
        assert node.headers(origin) == driver.history
        node.check()
        assert node.stop() == 0
        assert "Traceback" not in node.log()
    assert len(driver.history) == size
