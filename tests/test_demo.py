"""The demonstration: it shows what it claims, refuses what it cannot use, leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from scripts.demo import cut

_DEMO: Final = Path(__file__).parents[1] / "scripts" / "demo"
_REPLAY: Final = (
    Path(__file__).parents[2] / "shared" / "data" / "eset-malware-ioc" / "replay.jsonl.gz"
)
_SECONDS: Final = 200.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Demo:
    """Runs of the demonstration, each of which works below one folder of this test."""

    def __init__(self, folder: Path) -> None:
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [_DEMO, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.scratch)},
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=_SECONDS)
        return process.returncode, out, err

    def processes(self) -> list[str]:
        """Return the command lines of processes that work below the folder."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "cwd").resolve().is_relative_to(self.scratch):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append(line.decode(errors="replace"))
        return found

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                # In order, so that it stops what it has started.
                process.terminate()
            process.communicate(timeout=_SECONDS)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    runs = Demo(tmp_path)
    yield runs
    runs.close()


def _digest(name: str, text: str) -> str:
    return hashlib.new(name, text.encode()).hexdigest()


def _assertion(number: int, *labels: str, types: Iterable[str] = ("md5", "sha256")) -> str:
    digests = {name: _digest(name, str(number)) for name in types}
    return json.dumps(
        {
            "op": "assert",
            "id": f"item/{number}",
            "fingerprints": digests,
            "labels": list(labels),
        }
    )


def _small_list() -> str:
    """Return every kind of change: new entries, a revision, a retraction, purges."""
    lines = [_assertion(number, "harm") for number in range(24)]
    lines.append(_assertion(3, "harm", "grün", types=("sha1",)))
    lines.append(json.dumps({"op": "retract", "id": "item/4", "cause": "withdrawn"}))
    lines.append(json.dumps({"op": "purge", "id": "item/4"}))
    lines.append(json.dumps({"op": "purge", "id": "item/23"}))
    lines.append(
        json.dumps({"op": "assert", "fingerprints": {"sha256": _digest("sha256", "bare")}})
    )
    return "".join(f"{line}\n" for line in lines)


def _replay_list() -> str:
    """Return the history of a real list as changes; items are named by label and hash."""
    lines = []
    with gzip.open(_REPLAY, "rt", encoding="utf-8") as history:
        for change in map(json.loads, history):
            for op, extra in (("retract", {"cause": "withdrawn"}), ("assert", {})):
                for label, digests in change[op]:
                    strongest = digests.get("sha256") or digests.get("sha1") or digests["md5"]
                    fields: dict[str, object] = {"op": op, "id": f"{label}/{strongest}", **extra}
                    if op == "assert":
                        fields |= {"fingerprints": digests, "labels": [label]}
                    lines.append(json.dumps(fields))
    return "".join(f"{line}\n" for line in lines)


def test_every_claim_holds_for_a_small_compressed_list_with_all_kinds_of_changes(
    demo: Demo, tmp_path: Path
) -> None:
    source = tmp_path / "small.jsonl.gz"
    source.write_bytes(gzip.compress(_small_list().encode()))
    kept = demo.scratch / "kept"

    code, out, err = demo.run("--input", source, "--parts", "6", "--keep", kept)

    assert code == 0, f"{out}\n{err}"
    assert "9 claims hold" in out
    # 25 items that were asserted, less two that were purged, less the one that the story retracts.
    lines = (kept / "ngo.export.jsonl").read_text().splitlines()
    assert len(lines) == 22
    assert not {"item/4", "item/23"} & {json.loads(line)["id"] for line in lines}
    assert demo.processes() == []
    assert "\x1b" not in out, "colours are for terminals"


@pytest.mark.skipif(not _REPLAY.exists(), reason=f"the history is not at {_REPLAY}")
def test_every_claim_holds_for_the_history_of_a_real_list(demo: Demo, tmp_path: Path) -> None:
    source = tmp_path / "real.jsonl"
    source.write_text(_replay_list())

    code, out, err = demo.run("--input", source)

    assert code == 0, f"{out}\n{err}"
    # One of its 5,429 live entries is the mistake that the story takes back.
    assert "are what the input says (5428 entries)" in out
    assert demo.processes() == []
    assert list(demo.scratch.iterdir()) == [], "only --keep leaves anything"


def test_a_bad_row_of_the_input_is_named_and_nothing_is_started(demo: Demo, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text(_small_list().replace('"withdrawn"', '"no such cause"'))

    code, _, err = demo.run("--input", source)

    assert code == 1
    assert f"{source}:26: unknown cause" in err
    assert list(demo.scratch.iterdir()) == []


def test_a_claim_that_does_not_hold_fails_the_run_and_shows_the_log_of_the_nodes(
    demo: Demo, tmp_path: Path
) -> None:
    source = tmp_path / "list.jsonl"
    source.write_text(_small_list())
    kept = demo.scratch / "kept"
    process = demo.start("--input", source, "--parts", "6", "--keep", kept)
    part = kept / "part-06.jsonl"
    _await(part.exists, process)
    # What is imported is not any more what the demonstration expects.
    part.write_text(_assertion(999, "smuggled") + "\n")

    out, err = process.communicate(timeout=_SECONDS)

    assert process.returncode == 1
    assert "FAILED the exports now are identical, and are what the input says" in out
    assert "not true: the exports now" in err
    assert "last lines of the log of ngo:" in err
    assert demo.processes() == []


def test_an_interrupted_run_stops_the_nodes_that_it_has_started(demo: Demo) -> None:
    process = demo.start("--files", "40", "--parts", "6")
    _await(lambda: any(line.rstrip().endswith(" serve") for line in demo.processes()), process)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=_SECONDS)

    assert process.returncode == 130, err
    assert demo.processes() == []
    assert list(demo.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", 143), ("SIGHUP", 129)]
)
def test_a_signal_that_comes_while_a_process_is_started_waits_until_the_process_is_known(
    name: str, code: int
) -> None:
    text = f"""
import signal
from tests.harness.signals import end_on_signals, signals_held

end_on_signals()
with signals_held():
    signal.raise_signal(signal.{name})
    print("known", flush=True)
print("went on")
"""
    found = subprocess.run(
        [sys.executable, "-c", text],
        # As in a terminal: whoever started the tests may ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (found.stdout, found.returncode) == ("known\n", code), found.stderr


def _await(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _SECONDS / 2
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_rows_of_one_fingerprint_of_a_csv_are_one_change(
    tmp_path: Path,
) -> None:
    digests = [_digest("sha256", str(number)) for number in range(10)]
    rows = [f'"{label}",sha256,{digest}' for label in ("a, b", "c") for digest in digests]
    source = tmp_path / "list.csv"
    source.write_text("label,type,digest\r\n" + "".join(f"{row}\r\n" for row in rows))

    parts = cut(source, tmp_path, 6)

    assert len(parts) == 6
    for part in parts:
        assert len(part.path.read_text().splitlines()) == len(part.operations)
        assert {op.annotation.labels for op in part.operations} == {("a, b", "c")}
    named = [op.fingerprints[0].format_digest() for part in parts for op in part.operations]
    assert sorted(named) == sorted(digests)
