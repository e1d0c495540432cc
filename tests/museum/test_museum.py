"""The bug museum: each exhibit is whole and still applies, and one that is missed is noticed."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.museum.exhibits import Exhibit, ExhibitError, read_exhibit, read_exhibits

_ROOT: Final = Path(__file__).parents[2]
_MUSEUM: Final = Path(__file__).parent
_EXHIBITS: Final = sorted(_MUSEUM.glob("*.toml"))


def test_there_are_bugs_and_guards() -> None:
    kinds = [exhibit.kind for exhibit in read_exhibits(_MUSEUM)]
    assert kinds.count("bug") >= 51
    assert kinds.count("guard") >= 31


@pytest.mark.parametrize("path", _EXHIBITS, ids=lambda path: path.stem)
def test_an_exhibit_is_whole_and_still_applies(path: Path) -> None:
    exhibit = read_exhibit(path)
    assert (exhibit.kind == "guard") == exhibit.name.startswith("guard-")
    command, *arguments = shlex.split(exhibit.catch)
    assert (_ROOT / command).is_file()
    for argument in arguments:
        assert not argument.startswith("tests/") or (_ROOT / argument.partition("::")[0]).exists()
    for file, source in exhibit.break_sources(_ROOT).items():
        assert source != (_ROOT / file).read_text(encoding="utf-8")
        compile(source, file, "exec")


_WHOLE: Final = """
kind = "bug"
what = "x"
found = "y"
catch = "z"

[[break]]
module = "node.clock"
function = "f"
replace = '''
    return 1
'''
with = ''
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "bug"\n', "", "kind is None"),
        ('kind = "bug"', 'kind = "rumour"', "kind is 'rumour'"),
        ('found = "y"\n', "", r"expected \['break', 'catch', 'found'"),
        ('kind = "bug"', 'kind = "guard"', r"expected \['break', 'catch', 'kind', 'what', 'why'"),
        ('what = "x"', "what = 1", "are texts"),
        ('what = "x"', "what = x", "Invalid value"),
        ("with = ''\n", "", "got function, module, replace"),
        ('"node.clock"', '"tests.conftest"', "module tests.conftest is not one of"),
        ("    return 1\n'''", "    return 1'''", "not made of whole lines"),
    ],
)
def test_an_exhibit_that_is_not_whole_is_named(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(_WHOLE)
    assert read_exhibit(path).breaks[0].old == "    return 1\n"
    path.write_text(_WHOLE.replace(old, new))
    with pytest.raises(ExhibitError, match=said):
        read_exhibit(path)


_SOURCE: Final = """
def f():
    return 1


class C:
    @property
    def f(self):
        x = 1
        return 1

    def twice(self):
        return 1
        return 1
"""


def _exhibit(tmp_path: Path, function: str, text: str) -> Exhibit:
    path = tmp_path / "some.toml"
    path.write_text(_WHOLE.replace('"f"', f'"{function}"').replace("    return 1\n", f"{text}\n"))
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "clock.py").write_text(_SOURCE)
    return read_exhibit(path)


def test_a_text_is_looked_for_in_its_function_alone(tmp_path: Path) -> None:
    sources = _exhibit(tmp_path, "C.f", "        return 1").break_sources(tmp_path)
    assert sources == {Path("node/clock.py"): _SOURCE.replace("x = 1\n        return 1", "x = 1")}


@pytest.mark.parametrize(
    ("function", "text", "said"),
    [
        ("C.g", "        return 1", "C.g is defined 0 times"),
        ("C.f", "        return 2", "C.f has this text 0 times"),
        # The end of a line is not a whole line.
        ("C.f", "return 1", "C.f has this text 0 times"),
        ("C.twice", "        return 1", "C.twice has this text 2 times"),
        ("", "        return 1", "the module has this text 3 times"),
    ],
)
def test_a_text_that_is_not_there_exactly_once_is_named(
    tmp_path: Path, function: str, text: str, said: str
) -> None:
    exhibit = _exhibit(tmp_path, function, text)
    with pytest.raises(ExhibitError, match=f"^some: node.clock: {said}"):
        exhibit.break_sources(tmp_path)


_HARMLESS: Final = """
kind = "guard"
what = "Nothing is changed that a test could see."
why = "To see that it is missed."
catch = "scripts/test tests/federation/test_names.py"

[[break]]
module = "federation.names"
replace = '''
from __future__ import annotations
'''
with = '''
from __future__ import annotations
{line}
'''
"""


@pytest.mark.slow
def test_what_is_caught_and_what_is_missed_is_told_apart(tmp_path: Path) -> None:
    for name, line in (("guard-nothing", "# harmless"), ("guard-everything", "raise ValueError")):
        (tmp_path / f"{name}.toml").write_text(_HARMLESS.format(line=line))
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
