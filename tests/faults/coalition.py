"""A coalition that keeps running while faults hit it: a publisher, a relay, a subscriber."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.faults.changes import Model, exported
from tests.faults.invariants import Ledger
from tests.faults.nodes import Node
from tests.faults.part import Broken
from tests.harness.forkserver import ForkServer

LIST: Final = "main"
_CONVERGE_SECONDS: Final = 180.0
"""Much longer than it takes, as the machine may be busy."""


def wait_until(
    look: Callable[[], bool], what: Callable[[], str], *, seconds: float = _CONVERGE_SECONDS
) -> None:
    """Wait until something holds.

    Raises:
        Broken: it does not hold in time; `what` says what is there instead.
    """
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise Broken(f"not within {seconds:g} s: {what()}")
        time.sleep(0.02)


class Coalition:
    """A publisher, a relay that follows it, and a subscriber that follows through the relay.

    Attributes:
        owner: the publisher.
        relay: follows the publisher.
        reader: follows through the relay.
        origin: the list.
        model: what is in force, as far as `publish` has reported it as published.
        ledger: everything that was ever seen of the list.
    """

    def __init__(
        self,
        folder: Path,
        forks: ForkServer,
        source: random.Random,
        env: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        def make(name: str) -> Node:
            return Node(folder, f"{name}.example", forks, (env or {}).get(name))

        self.folder = folder
        self.owner, self.relay, self.reader = map(make, ("hotline", "ngo", "platform"))
        self.owner.meet(self.relay)
        self.relay.meet(self.reader)
        self.reader("peer", "add", "--yes", "-", stdin=self.owner("invite").out)
        self.origin = self.owner.create(LIST)
        # The relay can give the publisher everything back.
        self.relay("follow", self.origin, "--all-deltas")
        self.reader("follow", self.origin, "--via", self.relay.org)
        self.model = Model(source)
        self.ledger = Ledger(self.origin)

    @property
    def nodes(self) -> tuple[Node, Node, Node]:
        """All three nodes."""
        return self.owner, self.relay, self.reader

    def end(self) -> None:
        """Stop everything that is running."""
        for node in self.nodes:
            node.abandon()

    def acknowledge(self, live: dict[int, str]) -> None:
        """Remember that `publish` has reported all changes as published.

        Raises:
            Broken: they are not in force.
        """
        self.model.live = live
        self.ledger.acknowledge(self.owner.org, self.owner.size(self.origin))
        found = self.owner.live(self.origin)
        if found != len(live):
            raise Broken(f"{found} entries are in force, {len(live)} were published")

    def look(self) -> None:
        """Check what must hold at every moment, whichever processes run.

        Raises:
            Broken: it does not hold.
        """
        followers = (self.relay, self.reader)
        held = {node.org: node.size(self.origin) for node in followers}
        self.ledger.look(self.nodes)
        self.ledger.require_mark(self.owner, followers)
        for org, size in held.items():
            self.ledger.acknowledge(org, size)

    def converge(self) -> None:
        """Wait until relay and subscriber hold what the publisher holds.

        Raises:
            Broken: they do not get there in time.
        """
        size = self.owner.size(self.origin)
        for node in (self.relay, self.reader):
            wait_until(
                lambda node=node: node.size(self.origin) >= size,  # type: ignore[misc]
                lambda node=node: (  # type: ignore[misc]
                    f"{node.org} has {node.size(self.origin)} of {size} positions: "
                    f"{node.log()[-1500:]}"
                ),
            )
        self.look()

    def conclude(self) -> None:
        """Check what must hold at the end: all nodes hold the same, and it is what was published.

        Raises:
            Broken: it does not hold.
        """
        self.converge()
        expected = self.model.expected()
        first = self.owner.export(self.origin)
        if exported(first) != expected:
            raise Broken(_difference(exported(first), expected))
        for node in self.nodes:
            if node.export(self.origin) != first:
                raise Broken(f"{node.org} exports other bytes than {self.owner.org}")
            if node.size(self.origin) != len(self.ledger.history):
                raise Broken(f"{node.org} does not hold all positions that were ever seen")
            node.check()
        for node in (self.owner, self.relay):
            if node.headers(self.origin) != self.ledger.history:
                raise Broken(f"{node.org} does not hold the delta of each position")
        for node in self.nodes:
            code = node.stop() if node.server is not None else 0
            if code != 0:
                raise Broken(f"serve of {node.org} ended with {code} after SIGTERM")
            if "Traceback" in node.log():
                raise Broken(f"serve of {node.org} wrote a traceback: {node.log()[-3000:]}")


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    lost = expected.keys() - found.keys()
    extra = found.keys() - expected.keys()
    changed = sum(found[entry] != expected[entry] for entry in found.keys() & expected.keys())
    return (
        f"{len(lost)} published entries are lost, {len(extra)} are in force and should not be, "
        f"{changed} say something else"
    )
