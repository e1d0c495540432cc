"""A fault at each step of an action in turn: afterwards all of it is there, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from node.store import runs
from tests.federation.worlds import assertion, fingerprint
from tests.node.support.fault_injection import Fault, Strike, stepping
from tests.node.support.restore_scenario import RestoringTrial
from tests.node.support.tiny_runs import tiny_runs

MOST = 200
"""More steps than anything here has."""


@pytest.fixture
def template(tmp_path: Path) -> Iterator[Path]:
    with stepping():
        RestoringTrial.make_template(tmp_path / "template")
        yield tmp_path / "template"


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("fault", [Fault.KILL, Fault.FULL])
def test_a_restore_loses_nothing_whichever_change_of_a_file_is_struck(
    template: Path, tmp_path: Path, fault: Fault
) -> None:
    for number in range(MOST):
        folder = tmp_path / str(number)
        folder.mkdir()
        trial = RestoringTrial(folder, template)
        trial.change([assertion(1)])
        trial.publish()
        trial.back_up(trial.owner)
        trial.change([assertion(2)])
        trial.publish()
        trial.sync(trial.followers[0], trial.owner, None)
        strike = trial.armed = Strike(fault, number, only_files=True)
        # The write-ahead log of the process before, which was killed, lies beside the store.
        trial.restore(trial.pasts[-1], killed=True)
        trial.check(trial.owner)
        trial.recover()
        trial.publish()
        trial.check(trial.owner)
        assert trial.owner.size == 2
        trial.close()
        if not strike.struck:
            break
    else:
        pytest.fail("a restore changes files without end")
    assert number > 5


@pytest.mark.slow
@pytest.mark.fault
def test_a_follower_holds_whole_deltas_whenever_it_is_killed(
    template: Path, tmp_path: Path
) -> None:
    trial = RestoringTrial(tmp_path / "nodes", template)
    follower = trial.followers[0]
    for number in range(MOST):
        trial.change([assertion(2 * number), assertion(2 * number + 1)])
        trial.publish()
        strike = trial.armed = Strike(Fault.KILL, number)
        trial.sync(follower, trial.owner, None)
        # A store that has a part of it is damaged: that is looked for after each death.
        trial.check(follower)
        if not strike.struck:
            break
        trial.sync(follower, trial.owner, None)
        assert follower.size == trial.owner.size
    else:
        pytest.fail("a sync has steps without end")
    assert number > 10
    trial.close()


@pytest.mark.slow
@pytest.mark.fault
def test_the_index_has_each_row_once_whenever_a_merge_is_killed(
    template: Path, tmp_path: Path
) -> None:
    with tiny_runs():
        trial = RestoringTrial(tmp_path / "nodes", template)
        follower = trial.followers[0]
        entries = count()
        for number in range(MOST):
            while not runs.is_due(follower.store.connection):
                at = next(entries)
                trial.change([assertion(at, fingerprint(at, "md5"))])
                trial.publish()
                trial.sync(follower, trial.owner, None)
            strike = trial.armed = Strike(Fault.KILL, number)
            # A row that stands twice is damage: that is looked for after each death.
            trial.merge(follower)
            if not strike.struck:
                break
        else:
            pytest.fail("a merge has steps without end")
        trial.check(follower)
        assert number > 10
        trial.close()
