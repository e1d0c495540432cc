"""A disk that fails while something is committed: the process ends, and the next one knows."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.endtoend.conftest import Orgs
from tests.harness.node import PROGRAM, Node, assertion

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

_CALLS = "fsync,fdatasync"


def _run(
    node: Node, folder: Path, fault: str, *args: str | Path, calls: str = _CALLS
) -> subprocess.CompletedProcess[str]:
    """Run a command of which one call to the system is made to fail, in each thread."""
    command: list[str | Path] = ["strace", "-f", "-qq", "-o", folder / "trace"]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    return subprocess.run(
        [*command, PROGRAM, "--home", node.home, "--json", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.timeout(300)
def test_whichever_sync_of_a_publication_fails_no_position_is_signed_twice(
    orgs: Orgs, tmp_path: Path
) -> None:
    (node,) = orgs("hotline")
    origin = node.create("main")
    node.publish("main", 0)
    history: dict[int, str] = {}
    faults = codes = 0
    for number in range(1, 60):
        node.stage("main", [assertion(number)])
        done = _run(node, tmp_path, f"error=EIO:when={number}", "publish", "main")
        assert "Traceback" not in done.stderr, done.stderr
        for position, header in node.headers(origin).items():
            assert history.setdefault(position, header) == header
        hit = "INJECTED" in (tmp_path / "trace").read_text()
        faults += hit
        if not hit:
            assert done.returncode == 0, done.stderr
            break
        if done.returncode:
            error = json.loads(done.stderr.splitlines()[-1])["error"]
            codes += error["exit_code"] == 74
            assert (done.returncode, error["reason"]) in {(74, "IO_ERROR"), (12, "STORE")}, error
        # The next one reads what is there, and goes on.
        node("publish", "main")
        assert node.status(origin)["state"] == "own"
        assert node.status(origin)["live"] == number + 1
    else:
        pytest.fail("a publication syncs without end")
    print(f"{faults} syncs failed, {codes} publications ended with 74")
    assert codes >= 3
    node.check()


@pytest.mark.timeout(300)
def test_whichever_file_a_restore_cannot_remove_it_says_so_and_the_next_one_is_whole(
    orgs: Orgs, tmp_path: Path
) -> None:
    (node,) = orgs("hotline")
    origin = node.create("main")
    node.publish("main", 0)
    backup = tmp_path / "backup.db"
    node("backup", backup)
    faults = failed = 0
    for number in range(1, 60):
        done = _run(node, tmp_path, f"error=EIO:when={number}", "restore", backup, calls="unlink")
        assert "Traceback" not in done.stderr, done.stderr
        if "INJECTED" not in (tmp_path / "trace").read_text():
            break
        faults += 1
        if done.returncode:
            failed += 1
            assert json.loads(done.stderr.splitlines()[-1])["error"]["exit_code"] in {12, 74}
        node("restore", backup)
        assert node.status(origin)["position"] == 1
        node.check()
    assert faults >= 3
    assert failed >= 1
