"""The benchmark itself: it runs, it fails only on collapsed ratios, it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

_BENCH = Path(__file__).parents[1] / "scripts" / "bench"
_SECONDS = 400.0

pytestmark = [
    pytest.mark.slow,
    # Many processes one after the other: seconds on an idle machine, minutes on a loaded one.
    pytest.mark.timeout(2 * _SECONDS),
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc"),
    pytest.mark.skipif(
        shutil.which("sqlite3") is None and (os.geteuid() != 0 or shutil.which("apt-get") is None),
        reason="needs the sqlite3 shell, and may not install it",
    ),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [_BENCH, "--smoke", "--json", tmp_path / "figures.json", "--write", _document(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(_scratch(tmp_path))},
    )
    try:
        yield process
    finally:
        # In order, so that it stops what it has started.
        process.terminate()
        process.communicate(timeout=_SECONDS)


def _document(tmp_path: Path) -> Path:
    """Return a document with the place that the project's own has for tables."""
    document = tmp_path / "performance.md"
    if not document.exists():
        text = (_BENCH.parents[1] / "docs" / "performance.md").read_text()
        before, begin, rest = text.partition("<!-- benchmark tables: begin")
        mark, _, rest = rest.partition("-->")
        _, end, after = rest.partition("<!-- benchmark tables: end")
        document.write_text(f"{before}{begin}{mark}-->{end}{after}")
    return document


def _scratch(tmp_path: Path) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return scratch


def _started_in(scratch: Path) -> list[str]:
    """Return the command lines of running processes that name a file in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(scratch) in line:
                found.append(line)
    return found


def test_no_ratio_has_collapsed_and_nothing_is_left_behind(
    bench: subprocess.Popen[str], tmp_path: Path
) -> None:
    out, err = bench.communicate(timeout=_SECONDS)

    assert bench.returncode == 0, f"{err}\n{out}"
    assert "`hashfed sync`" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    for results in (*figures["sizes"].values(), *figures["kinds"].values()):
        (values,) = results["rounds"]
        # Processor time is told in hundredths of a second: a server may have taken less.
        assert all(value > 0 or name.endswith(".cpu") for name, value in values.items())
    _check_goals(_document(tmp_path).read_text())
    assert list(_scratch(tmp_path).iterdir()) == []
    assert _started_in(_scratch(tmp_path)) == []


def _check_goals(text: str) -> None:
    """Every goal of `docs/performance.md` has a row, and no row a verdict on another size."""
    _, _, rest = text.partition("### Goals\n\n")
    rows = [line.split(" | ") for line in rest.partition("\n\n")[0].splitlines()[2:]]
    assert len(rows) == 15
    for row in rows:
        what, verdict = row[0], row[-1].removesuffix(" |")
        if "20.0k" in what:
            assert verdict.startswith("none: set for "), what
        else:
            assert verdict.startswith(("met", "**missed** by ", "none: ", "not measured")), what


def test_an_interrupted_run_stops_the_nodes_that_it_has_started(
    bench: subprocess.Popen[str], tmp_path: Path
) -> None:
    scratch = _scratch(tmp_path)
    deadline = time.monotonic() + _SECONDS / 2
    while not any(line.rstrip().endswith(" serve") for line in _started_in(scratch)):
        assert bench.poll() is None, bench.communicate()
        assert time.monotonic() < deadline, "no node was started"
        time.sleep(0.02)

    bench.send_signal(signal.SIGINT)
    _, err = bench.communicate(timeout=_SECONDS)

    assert bench.returncode == 130, err
    assert _started_in(scratch) == []
    assert list(scratch.iterdir()) == []
