"""The operator's page: what it lists is what the program has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from federation.errors import Reason
from federation.follow import FollowReason, FollowState
from federation.recovery import Obstacle
from node import errors
from node.errors import NodeError
from node.telemetry.metrics import Metrics
from tests import gen_docs

_ROOT: Final = Path(__file__).parents[1]
_PAGE: Final = (_ROOT / "docs" / "operate.md").read_text(encoding="utf-8")


def _chapter(title: str) -> str:
    pattern = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, _PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def _rows(title: str) -> list[list[str]]:
    """Return the cells of the rows of the first table of a chapter, without its header."""
    found = re.search(r"^\|.*?(?=^[^|]|\Z)", _chapter(title), re.DOTALL | re.MULTILINE)
    assert found is not None, title
    lines = found[0].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_tables_of_settings_and_metrics_are_those_of_the_program() -> None:
    assert gen_docs.written(_PAGE) == _PAGE, "run scripts/gen-docs"


def test_every_state_of_a_list_has_a_row_that_says_what_to_do() -> None:
    rows = {_words(row[0])[0]: row[2] for row in _rows("List states")}

    assert rows.keys() == {str(state) for state in FollowState}
    assert all(rows.values())


def test_every_reason_that_a_list_can_show_is_explained_once() -> None:
    documented = [word for row in _rows("Reasons") for word in _words(row[0])]
    # Reasons for refusing what people write, stage or call: no list is in a state because of them.
    elsewhere = {reason for reason in Reason if reason.startswith("FINGERPRINT_")}
    elsewhere |= {Reason.USAGE, Reason.PURGE_OF_ABSENT}
    of_peers = {errors.UnreachableError.reason, errors.RefusedError.reason}
    of_peers |= {errors.ProtocolError.reason, "UNKNOWN_PEER"}
    of_sync = set(map(str, FollowReason))

    assert len(documented) == len(set(documented))
    of_ours = {*map(str, Obstacle), errors.DamageError.reason}
    assert set(documented) == {*map(str, set(Reason) - elsewhere), *of_peers, *of_sync, *of_ours}


def test_every_metric_is_documented_under_the_name_that_is_served() -> None:
    documented = {word for row in _rows("Metrics") for word in _words(row[0])}
    suffixes = {"counter": "_total", "info": "_info"}
    served = {
        f"{family.name}{suffixes.get(family.type, '')}"
        for family in Metrics("test").registry.collect()
        if not family.name.startswith("process_")
    }

    assert documented == served | {"process_*"}


def test_alert_rules_name_only_metrics_that_are_served() -> None:
    served = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}"
        for family in Metrics("test").registry.collect()
    }

    assert set(re.findall(r"hashfed_[a-z_]+", _rules())) <= served


def _rules() -> str:
    found = re.search(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_event_that_is_logged_is_documented() -> None:
    documented = {word for row in _rows("Logs") for word in _words(row[0])}
    call = re.compile(r'_log\.(?:debug|info|warning|error|exception)\(\s*"([a-z_]+)"')
    logged = {
        event
        for path in (_ROOT / "node").rglob("*.py")
        for event in call.findall(path.read_text(encoding="utf-8"))
    }

    # Said by the log itself, not by a call to it.
    assert documented == logged | {"library_message", "events_left_out"}


def test_exit_codes_that_do_not_heal_are_those_that_systemd_does_not_restart() -> None:
    found = re.search(r"^RestartPreventExitStatus=(.*)$", _PAGE, re.MULTILINE)
    assert found is not None
    kinds: tuple[type[NodeError], ...] = (
        errors.CommandError,
        errors.ConfigError,
        errors.LockedError,
    )

    assert [int(code) for code in found[1].split()] == [kind.exit_code for kind in kinds]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_file_is_one_that_systemd_understands(tmp_path: Path) -> None:
    found = re.search(r"```ini\n(.*?)```", _PAGE, re.DOTALL)
    assert found is not None
    program = Path(sys.executable).with_name("hashfed")
    unit = tmp_path / "hashfed.service"
    unit.write_text(found[1].replace("/usr/local/bin/hashfed", str(program)))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )

    # Remarks on other units of the machine are not about this one.
    assert "hashfed.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
