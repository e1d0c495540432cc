"""A restore that is struck at any change of a file: the store that was there is kept, and whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.worlds import assertion
from tests.node.restoring_trial import RestoringTrial
from tests.node.striking import Fault, Strike, stepping

MOST = 40
"""More calls than a restore makes."""


@pytest.fixture
def template(tmp_path: Path) -> Iterator[Path]:
    with stepping():
        RestoringTrial.make_template(tmp_path / "template")
        yield tmp_path / "template"


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("fault", [Fault.KILL, Fault.FULL])
def test_whichever_change_of_a_file_is_struck_nothing_is_lost(
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
