"""The simulation: no promise is broken in any seed, and it would be noticed if one were."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.body import Body
from federation.entry import OpKind
from federation.recovery import Action, Decision, Mark, Obstacle, OwnLog, PeerReport, decide
from federation.replica import Replica
from tests.simulation import campaign, disk, faults, member, publishing, schedule

_ROOT = Path(__file__).parents[2]
_SIMULATE = str(_ROOT / "scripts" / "simulate")
_SEEDS = 500
_CHUNK = 250
"""Seeds of one test: enough to reach every decision, in as many tests as CI has workers."""

Part = Any
"""A part of a simulated node, or what it is called with; a planted bug stands in for one."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, _SEEDS, _CHUNK))
def test_every_promise_is_kept_whatever_fails_and_every_decision_is_reached(first: int) -> None:
    hits, failed = campaign.run_seeds(range(first, first + _CHUNK))
    assert failed == []
    # What is never reached is not tried.
    for word in (*(action.name for action in Action), *Obstacle):
        assert hits[f"decision {word}"], word
    kinds = [kind for kind in faults.FAULTS if hits[f"event {kind}"]]
    assert len(kinds) >= 50
    assert hits["list in order at the end"] >= 2 * _CHUNK
    assert hits["publication acknowledged"] >= 5 * _CHUNK


def test_the_same_seed_is_the_same_run_byte_for_byte() -> None:
    traces = [
        subprocess.run(
            [_SIMULATE, "--seed", "7", "--trace"],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0].count(b"EVENT") > 10
    assert traces[0].endswith(b"every promise was kept\n")


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    for arguments in (
        [],
        ["--seeds", "0"],
        ["--trace", "--seeds", "3"],
        ["--seed", "x"],
        ["--seed", "7", "--load", "100"],
        ["--members", "50", "--seeds", "3"],
        ["--members", "9"],
        ["--members", "50", "--write", str(tmp_path / "none.md")],
    ):
        done = subprocess.run([_SIMULATE, *arguments], check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert "error: " in done.stderr
        assert "Traceback" not in done.stderr


# --- bugs that are planted --------------------------------------------------------------------


def ignore_the_mark(
    own: OwnLog, mark: Mark | Obstacle, answers: Sequence[PeerReport], **more: Part
) -> Decision:
    """Decide as if the mark always said what the store says."""
    agreeing = Mark(checkpoint=own.checkpoint, incarnation=own.incarnation, fresh=True)
    return decide(own, agreeing, answers, **more)


def ignore_the_peers(
    own: OwnLog, mark: Mark | Obstacle, answers: Sequence[PeerReport], **more: Part
) -> Decision:
    """Decide as if every peer had answered and held nothing."""
    nothing = [replace(answer, answered=True, checkpoint=None) for answer in answers]
    return decide(own, mark, nothing, **more)


class CredulousReplica(Replica):
    """Takes what a relay sends for what was signed."""

    def _check_signer(self, header: object, record: bytes) -> None:
        return

    def _check_checkpoint(self, note: bytes, state: object) -> None:
        return

    @staticmethod
    def _check_body(header: object, data: bytes) -> None:
        return


def plant(bug: str) -> Part:
    """Return the parts of a node, one of them broken."""

    class EarlyPublisher(publishing.Publisher):
        """Releases when the mark is in place, before it is synced."""

        def seal(self, after: Part, records: Part) -> Part:
            mark = self.member.mark
            mark.rename(records)
            yield "mark renamed"
            self.release(self.member.store[after.origin], after.size)
            yield "released"
            mark.sync()

    class ForgetfulEntries(disk.Entries):
        """Forgets every retraction."""

        def after(self, position: int, body: Body) -> Part:
            after = super().after(position, body)
            kept = {
                entry: self._known.get(entry, known) if known[0].kind is OpKind.RETRACT else known
                for entry, known in after._known.items()
            }
            return type(self)(kept)

    parts: dict[str, dict[str, Part]] = {
        "the mark is ignored": {"decide": ignore_the_mark},
        "the peers are ignored": {"decide": ignore_the_peers},
        "released before the mark is synced": {"publisher": EarlyPublisher},
        "a retraction is forgotten": {"entries": ForgetfulEntries},
        "a relay is trusted": {"replica": CredulousReplica},
    }
    return member.Parts(**parts[bug])


BUGS = {
    "the mark is ignored": "nothing signed over",
    "the peers are ignored": "nothing signed over",
    "released before the mark is synced": "marked before released",
    "a retraction is forgotten": "retracted is not active",
    "a relay is trusted": "no false fork",
}
"""Bugs, and the promise that each breaks."""


def find(bug: str) -> int:
    """Return the first seed that finds a planted bug."""
    parts = plant(bug)
    for seed in range(_SEEDS):
        error = campaign.try_seed(seed, Counter(), parts)
        if error is not None and error.promise == BUGS[bug]:
            return seed
    pytest.fail(f"not found in {_SEEDS} seeds")


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert find(bug) < _SEEDS / 2


@pytest.mark.slow
def test_a_failure_is_told_in_few_events_which_are_all_that_it_takes() -> None:
    bug = "the mark is ignored"
    seed, parts = find(bug), plant(bug)
    failure = campaign.explain(seed, parts)
    assert failure is not None
    assert (failure.seed, failure.promise) == (seed, BUGS[bug])
    assert 0 < len(failure.events) <= 8
    told = schedule.draw(seed).with_events(failure.events)
    broken = campaign.trace(told, parts)[1]
    assert broken is not None
    assert broken.promise == BUGS[bug]
    # It is the bug that breaks it, and not the events.
    assert campaign.trace(told)[1] is None


def test_minimizing_keeps_what_fails_together() -> None:
    def fails(events: Sequence[int]) -> bool:
        return {3, 17}.issubset(events)

    assert campaign.minimize(range(40), fails) == [3, 17]
