"""Sets clocks wrong in a running coalition: back, far ahead, frozen, jumping.

A case is the life of one coalition, in which a number of clocks go wrong, one after the other, for
a while. What was signed ahead of its time is not accepted until that time is near. Then all clocks
are set to it, as if it had come.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Generator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from federation import limits
from tests.faults.clock_setting import VARIABLE, Setting
from tests.faults.coalition import LIST, Coalition
from tests.faults.nodes import Leaf, Node
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer

FAULTS_A_LIFE: Final = 12
_MINUTE: Final = 60_000
_DAY: Final = 24 * 60 * _MINUTE
_TEN_YEARS: Final = 3_653 * _DAY
_KINDS: Final = (
    "a day back",
    "a minute back",
    "ten years ahead",
    "a quarter of an hour ahead",
    "a minute ahead",
    "frozen",
    "jumping by an hour",
    "jumping by a second",
)
_REFUSED: Final = frozenset({1, 15})
"""How a publication that the clock forbids ends: after it has begun, and before."""


def run(share: Share) -> Generator[Outcome, None, None]:
    """Run coalitions, one for each case."""
    modules = ["tests.faults.skewed_clock", *share.planted]
    with forkserver.running(*modules) as forks:
        for case in share.cases:
            hit: Counter[str] = Counter()
            violations = judged(partial(_live, share, case, forks, hit))
            yield Outcome(case, sum(hit.values()), hit, violations)


def _live(share: Share, case: int, forks: ForkServer, hit: Counter[str]) -> None:
    with share.scratch(case) as folder:
        life = _Life(folder, forks, share.random(case))
        try:
            life.begin()
            for _ in range(FAULTS_A_LIFE):
                hit[life.disturb()] += 1
            life.coalition.conclude()
        finally:
            life.coalition.end()


class _Life:
    """A coalition whose clocks go wrong.

    Attributes:
        coalition: the coalition.
    """

    def __init__(self, folder: Path, forks: ForkServer, source: random.Random) -> None:
        self._random = source
        self._files = {name: folder / f"{name}.clock" for name in ("hotline", "ngo", "platform")}
        environments = {name: {VARIABLE: str(path)} for name, path in self._files.items()}
        self.coalition = Coalition(folder, forks, source, environments)
        self._right = Setting()
        self._wrong: Node | None = None

    def begin(self) -> None:
        """Publish for the first time, and start all servers."""
        live, lines = self.coalition.model.draw()
        self.coalition.owner("import", LIST, "-", stdin=lines)
        self.coalition.owner("publish", LIST)
        self.coalition.acknowledge(live)
        for node in self.coalition.nodes:
            node.serve()
        self.coalition.converge()

    def disturb(self) -> str:
        """Set a clock wrong for a while; return which clock and how."""
        coalition = self.coalition
        victim = self._random.choice(coalition.nodes)
        kind = self._random.choice(_KINDS)
        if self._random.random() < 0.25:
            victim.kill()
        self._set(victim, self._draw(kind))
        self._wrong = victim
        if victim.server is None:
            victim.serve()
        live = self._publish(coalition.model.live)
        self._use(victim)
        time.sleep(self._random.uniform(0, 0.5))
        self._look()
        self._set_right()
        live = self._publish(live)
        if live != coalition.model.live:
            raise Broken("nothing is signed although the clock is right again")
        coalition.converge()
        self._look()
        role = ("publisher", "relay", "subscriber")[coalition.nodes.index(victim)]
        return f"{role}: {kind}"

    def _draw(self, kind: str) -> Setting:
        right = self._right.offset_ms
        return {
            "a day back": Setting(right - _DAY),
            "a minute back": Setting(right - _MINUTE),
            "ten years ahead": Setting(right + _TEN_YEARS),
            "a quarter of an hour ahead": Setting(right + 15 * _MINUTE),
            "a minute ahead": Setting(right + _MINUTE),
            "frozen": Setting(frozen_ms=self._right.now_ms()),
            "jumping by an hour": Setting(right, jump_ms=60 * _MINUTE),
            "jumping by a second": Setting(right, jump_ms=1_000),
        }[kind]

    def _set(self, node: Node, setting: Setting) -> None:
        setting.write(self._files[node.home.name])

    def _set_right(self) -> None:
        """Set all clocks to a time that is right for everything that was signed."""
        newest = max(leaf.time_ms for leaf in self._leaves(self.coalition.owner).values())
        ahead = newest - self._right.now_ms()
        if ahead >= 0:
            self._right = Setting(self._right.offset_ms + ahead + 1_000)
        for node in self.coalition.nodes:
            self._set(node, self._right)
        self._wrong = None

    # --- what is done meanwhile ---------------------------------------------------------------

    def _publish(self, staged: dict[int, str]) -> dict[int, str]:
        """Stage and publish; return what is staged if the clock forbids signing."""
        coalition = self.coalition
        # Changes that are staged already are included: the new ones build on them.
        published, coalition.model.live = coalition.model.live, staged
        live, lines = coalition.model.draw((1, 2, 10, 100))
        coalition.model.live = published
        owner = coalition.owner
        staging = owner.run("import", LIST, "-", stdin=lines)
        if staging.code != 0:
            raise Broken(f"import ended with {staging.code}: {staging.err[-500:]}")
        result = owner.run("publish", LIST)
        if result.code == 0:
            coalition.acknowledge(live)
        elif result.code not in _REFUSED:
            raise Broken(f"publish ended with {result.code}: {result.err[-500:]}")
        return live

    def _use(self, victim: Node) -> None:
        """Run commands on the node whose clock is wrong; require the usual answers."""
        for args, codes in ((("status",), {0}), (("fsck",), {0}), (("doctor",), {0, 1})):
            result = victim.run(*args)
            if result.code not in codes:
                raise Broken(f"{args[0]} ended with {result.code}: {result.err[-500:]}")
        if victim is self.coalition.owner and self._random.random() < 0.3:
            result = victim.run("snapshot", LIST)
            if result.code not in {0, *_REFUSED}:
                raise Broken(f"snapshot ended with {result.code}: {result.err[-500:]}")

    # --- what must hold -----------------------------------------------------------------------

    def _leaves(self, node: Node) -> dict[int, Leaf]:
        return node.leaves(self.coalition.origin)

    def _look(self) -> None:
        """Check that signed times never go back, and that nobody accepted a delta too early."""
        self.coalition.look()
        for node in self.coalition.nodes:
            leaves = sorted(self._leaves(node).items())
            for (_, before), (position, leaf) in pairwise(leaves):
                if leaf.time_ms < before.time_ms:
                    raise Broken(
                        f"{node.org}: position {position} was signed "
                        f"{before.time_ms - leaf.time_ms} ms before the one before it"
                    )
            if node in {self.coalition.owner, self._wrong}:
                continue
            latest = self._right.now_ms() + limits.MAX_CLOCK_SKEW_MS
            if leaves and leaves[-1][1].time_ms > latest:
                raise Broken(f"{node.org} has taken what is signed for a later time")


PART = Part(
    name="clocks",
    summary=f"lives of a coalition in each of which {FAULTS_A_LIFE} times a clock goes wrong",
    count=25,
    run=run,
)
