"""The bug museum: each patch still applies, is whole, and is noticed to be missed if it is."""

from __future__ import annotations

import difflib
import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

_ROOT: Final = Path(__file__).parents[1]
_MUSEUM: Final = _ROOT / "tests" / "museum"
_PATCHES: Final = sorted(_MUSEUM.glob("*.patch"))

Reading = Any
"""The module is found at run time, so that nothing is known of its types here."""


@pytest.fixture
def exhibits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    """The module that reads patches, imported as the program does."""
    monkeypatch.syspath_prepend(_ROOT / "scripts" / "exhibition")
    yield importlib.import_module("exhibits")
    sys.modules.pop("exhibits", None)


def test_there_are_bugs_and_guards(exhibits: Reading) -> None:
    kinds = [exhibit.kind for exhibit in exhibits.read_exhibits(_MUSEUM)]
    assert kinds.count("bug") >= 12
    assert kinds.count("guard") >= 10


@pytest.mark.parametrize("patch", _PATCHES, ids=lambda patch: patch.stem)
def test_a_patch_is_whole_and_still_applies(exhibits: Reading, patch: Path) -> None:
    fields = exhibits.read_header(patch)
    assert (fields["Kind"] == "guard") == patch.stem.startswith("guard-")
    command, *arguments = shlex.split(fields["Catch"])
    assert (_ROOT / command).is_file()
    for argument in arguments:
        assert not argument.startswith("tests/") or (_ROOT / argument.partition("::")[0]).exists()
    applied = subprocess.run(
        ["git", "apply", "--check", "--verbose", patch],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, f"make the patch anew: {applied.stderr}"
    changed = subprocess.run(
        ["git", "apply", "--numstat", patch], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    files = [line.split("\t")[2] for line in changed.stdout.splitlines()]
    assert files
    assert all(file.startswith(("federation/", "node/")) for file in files)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("What: x\nFound: y\nCatch: z", "Kind is ''"),
        ("Kind: rumour\nWhat: x\nFound: y\nCatch: z", "Kind is 'rumour'"),
        ("Kind: bug\nWhat: x\nCatch: z", "expected \\['Catch', 'Found'"),
        ("Kind: guard\nWhat: x\nFound: y\nCatch: z", "expected \\['Catch', 'Kind', 'What', 'Why'"),
        ("Kind: bug\nWhat: x\ngoes on\nFound: y\nCatch: z", "'goes on' is no field"),
    ],
)
def test_a_header_that_is_not_whole_is_named(
    exhibits: Reading, tmp_path: Path, header: str, said: str
) -> None:
    patch = tmp_path / "some.patch"
    patch.write_text(f"{header}\n\ndiff --git a/x b/x\n")
    with pytest.raises(exhibits.HeaderError, match=said):
        exhibits.read_header(patch)
    patch.write_text("Kind: bug\nWhat: x\nFound: y\nCatch: z\n\nno diff")
    with pytest.raises(exhibits.HeaderError, match="no diff follows"):
        exhibits.read_header(patch)


_HARMLESS: Final = """Kind: guard
What: Nothing is changed that a test could see.
Why: To see that it is missed.
Catch: scripts/test tests/federation/test_names.py

{diff}"""


def _diff(first: str) -> str:
    """Return a patch that gives a module another first line."""
    name = "federation/names.py"
    lines = (_ROOT / name).read_text().splitlines(keepends=True)
    changed = difflib.unified_diff(lines, [first, *lines], f"a/{name}", f"b/{name}")
    return "".join([f"diff --git a/{name} b/{name}\n", *changed])


@pytest.mark.slow
def test_what_is_caught_and_what_is_missed_is_told_apart(tmp_path: Path) -> None:
    for name, first in (
        ("guard-nothing", "# harmless\n"),
        ("guard-everything", "raise ValueError\n"),
    ):
        (tmp_path / f"{name}.patch").write_text(_HARMLESS.format(diff=_diff(first)))
    told = subprocess.run(
        [_ROOT / "scripts" / "museum", "--exhibits", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert "guard-nothing: MISSED" in told.stdout
    assert "guard-everything: BROKEN" in told.stdout
    assert "0 of 2 are caught" in told.stdout
