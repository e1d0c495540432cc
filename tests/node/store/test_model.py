"""The store against plain dictionaries: after any actions, in any order, with any crash among them.

A publisher imports, signs and makes snapshots; two followers take deltas or snapshots from it or
from each other; indexes are merged; backups are made and put back; clocks go back. Any of these may
be struck at any of its steps (`tests.node.support.fault_injection`). After each, every answer is
compared with `tests.node.support.plain_list`; after each start of a process, `fsck` has to find
nothing.

Nothing that was acknowledged is lost; no position that was released has two contents; a publisher
that was put back signs nothing before it has caught up.

    scripts/test tests/node/store/test_model.py
    MODEL_EXAMPLES=20000 scripts/test tests/node/store/test_model.py --timeout=0

The first tries what CI tries, the second so many histories, other ones in each run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Final
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from federation.entry import Cause, Operation, OpKind
from node.staging import edit
from tests.node.support.fault_injection import Fault, Strike, stepping
from tests.node.support.plain_list import POOL
from tests.node.support.restartable_nodes import Follower
from tests.node.support.restore_scenario import RestoringTrial
from tests.node.support.small_buckets import small_buckets
from tests.node.support.tiny_runs import tiny_runs

_EXAMPLES: Final = int(os.environ.get("MODEL_EXAMPLES", "0"))
_STEPS: Final = 60
_PHASES: Final = (Phase.generate,) if os.environ.get("CI") else tuple(Phase)
"""On CI what fails is not made smaller: it fails on every machine, where somebody waits for it."""

_MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where nodes live: what a killed process leaves is the same wherever its files are."""
_CI_EXAMPLES: Final = 20

_CAUSES: Final = (Cause.WITHDRAWN, Cause.FALSE_POSITIVE, Cause.SUPERSEDED)


def _say(kind: OpKind, index: int, variant: int) -> Operation:
    """Return something that can be said of one of the entries."""
    said = POOL[index % len(POOL)]
    if kind is OpKind.RETRACT:
        return Operation.retraction(said[0].entry, _CAUSES[variant % len(_CAUSES)], "")
    if kind is OpKind.PURGE:
        return Operation.purge(said[0].entry)
    return said[variant % len(said)]


_INDEX: Final = st.integers(0, len(POOL) - 1)
_VARIANT: Final = st.integers(0, 11)
OPERATIONS: Final = st.builds(_say, st.sampled_from(OpKind), _INDEX, _VARIANT)
ASSERTIONS: Final = st.builds(_say, st.just(OpKind.ASSERT), _INDEX, _VARIANT)
STEPS: Final = st.integers(0, 30) | st.integers(0, 120)
STRIKES: Final = st.none() | st.builds(Strike, st.sampled_from(Fault), STEPS)
NODES: Final = st.integers(0, 2)
FOLLOWERS: Final = st.integers(0, 1)


class StoreModel(RuleBasedStateMachine):
    """Each rule is one thing that is done, and all that has to be so after it."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="store-model-", dir=_MEMORY))
        self.trial = RestoringTrial(self.folder, self.template)

    def teardown(self) -> None:
        self.trial.armed = None
        for number in range(3):
            self.trial.reopen(self.trial.nodes[number], killed=False)
            self.trial.check(self.trial.nodes[number])
        self.trial.close()
        shutil.rmtree(self.folder)

    @rule(fault=st.sampled_from(Fault), steps=STEPS)
    def arm(self, fault: Fault, steps: int) -> None:
        self.trial.armed = Strike(fault, steps)

    @rule(said=st.lists(OPERATIONS, min_size=1, max_size=5))
    def change(self, said: list[Operation]) -> None:
        self.trial.change(said)
        self.trial.check(self.trial.owner)

    @rule(said=st.lists(ASSERTIONS, min_size=1, max_size=5), strike=STRIKES)
    def change_and_publish(self, said: list[Operation], strike: Strike | None) -> None:
        self.trial.change(said)
        self.trial.armed = strike
        self.publish()

    @rule()
    def publish(self) -> None:
        self.trial.publish()
        self.trial.check(self.trial.owner)

    @rule()
    def snapshot(self) -> None:
        self.trial.snapshot()
        self.trial.check(self.trial.owner)

    @rule(number=FOLLOWERS, source=NODES, few=st.none() | st.integers(1, 4), strike=STRIKES)
    def sync(self, number: int, source: int, few: int | None, strike: Strike | None) -> None:
        follower, asked = self.trial.followers[number], self.trial.nodes[source]
        if follower is not asked:
            self.trial.armed = strike or self.trial.armed
            self.trial.sync(follower, asked, few)
            self.trial.check(follower)

    @rule(number=NODES, parts=st.integers(1, 4), strike=STRIKES)
    def merge(self, number: int, parts: int, strike: Strike | None) -> None:
        self.trial.armed = strike or self.trial.armed
        for _ in range(parts):
            self.trial.merge(self.trial.nodes[number])
        self.trial.check(self.trial.nodes[number])

    @rule(number=NODES)
    def look_behind(self, number: int) -> None:
        self.trial.look_behind(self.trial.nodes[number])
        self.trial.check(self.trial.nodes[number])

    @rule(number=NODES)
    def rebuild(self, number: int) -> None:
        self.trial.rebuild(self.trial.nodes[number])
        self.trial.check(self.trial.nodes[number])

    @rule(number=NODES, killed=st.booleans())
    def reopen(self, number: int, killed: bool) -> None:
        self.trial.reopen(self.trial.nodes[number], killed=killed)
        self.trial.check(self.trial.nodes[number])

    @rule(number=NODES)
    def back_up(self, number: int) -> None:
        self.trial.back_up(self.trial.nodes[number])
        self.trial.check(self.trial.nodes[number])

    @precondition(lambda self: self.trial.pasts)
    @rule(number=st.integers(0, 2), killed=st.booleans())
    def restore(self, number: int, killed: bool) -> None:
        past = self.trial.pasts[number % len(self.trial.pasts)]
        if isinstance(past.node, Follower) and not self.trial.is_caught_up:
            # It may be the only one that has what the publisher lacks.
            return
        self.trial.restore(past, killed=killed)
        self.trial.check(past.node)

    @precondition(lambda self: not self.trial.is_caught_up)
    @rule()
    def recover(self) -> None:
        self.trial.recover()
        self.trial.check(self.trial.owner)

    @rule(by_ms=st.integers(1, 200_000))
    def turn_clock_back(self, by_ms: int) -> None:
        self.trial.turn_clock_back(by_ms)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[StoreModel]]:
    with (
        tiny_runs(),
        small_buckets(),
        mock.patch.object(edit, "LEAST_BLOCK", 3),
        stepping(),
    ):
        RestoringTrial.make_template(tmp_path / "template")
        yield type("StoreModel", (StoreModel,), {"template": tmp_path / "template"})


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(900)
def test_whatever_happens_a_store_says_what_dictionaries_say(machine: type[StoreModel]) -> None:
    chosen = settings(
        max_examples=_EXAMPLES or _CI_EXAMPLES,
        stateful_step_count=_STEPS,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        # Nothing to go on from: each run without that setting tries the same.
        database=None,
        derandomize=not _EXAMPLES,
        phases=_PHASES,
    )
    run_state_machine_as_test(machine, settings=chosen)
