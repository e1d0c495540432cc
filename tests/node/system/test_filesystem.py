"""What `node.system.filesystem` promises: a store is not kept where it can be lost or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import ConfigError
from node.system import filesystem
from node.system.filesystem import UNSAFE, kind_of, require_local


@pytest.mark.parametrize(("magic", "kind"), filesystem._MAGIC.items())
def test_a_file_system_of_other_machines_or_programs_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, kind: str
) -> None:
    monkeypatch.setattr(filesystem, "_read_magic", lambda _path: magic)
    with pytest.raises(ConfigError, match=f"is on {kind}") as caught:
        require_local(tmp_path, "")
    assert caught.value.reason == "FILESYSTEM"
    assert f'node.allow_filesystem = "{kind}"' in caught.value.hint
    for other in UNSAFE - {kind}:
        with pytest.raises(ConfigError):
            require_local(tmp_path, other)
    require_local(tmp_path, kind)


@pytest.mark.parametrize("magic", [0xEF53, 0x01021994, 0x58465342, 0x9123683E, None])
def test_local_file_systems_and_unknown_ones_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int | None
) -> None:
    monkeypatch.setattr(filesystem, "_read_magic", lambda _path: magic)
    require_local(tmp_path, "")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_the_kernel_is_asked(tmp_path: Path) -> None:
    # linux/magic.h: PROC_SUPER_MAGIC
    assert filesystem._read_magic(Path("/proc/self")) == 0x9FA0
    # A folder that is to be made is where the nearest one is.
    here = filesystem._read_magic(tmp_path)
    assert here is not None
    assert filesystem._read_magic(tmp_path / "not" / "there") == here
    assert kind_of(tmp_path) not in UNSAFE
