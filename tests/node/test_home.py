"""What `node.home` promises about where files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import CommandError, ConfigError
from node.home import Home


def test_the_option_wins_over_the_environment(tmp_path: Path) -> None:
    home = Home.locate(str(tmp_path / "a"), {"HASHFED_HOME": str(tmp_path / "b")})
    assert home.path == tmp_path / "a"


def test_the_environment_counts_without_an_option(tmp_path: Path) -> None:
    assert Home.locate(None, {"HASHFED_HOME": str(tmp_path)}).path == tmp_path


@pytest.mark.parametrize("environ", [{}, {"HASHFED_HOME": ""}])
def test_there_is_no_default_home(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Home.locate(None, environ)
    assert "--home" in caught.value.hint
    assert "HASHFED_HOME" in caught.value.hint


@pytest.mark.parametrize("text", ["", "a\0b", "~no-such-user-here/x"])
def test_what_can_be_no_folder_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--home"):
        Home.locate(text, {})


def test_a_relative_home_stays_where_it_is_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    home = Home.locate("node", {})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert home.store == tmp_path / "node" / "store.db"


def test_a_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.locate(None, {"HASHFED_HOME": "~/node"}).path == tmp_path / "node"


def test_locating_a_home_creates_nothing(tmp_path: Path) -> None:
    home = Home.locate(str(tmp_path / "node"), {})
    assert home.staging_file("main").parent == home.staging
    assert list(tmp_path.iterdir()) == []


def test_every_file_has_a_path_of_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    paths = [
        home.store,
        home.config,
        home.keys,
        home.root_key,
        home.publisher_key,
        home.log_key,
        home.tls_key,
        home.tls_certificate,
        home.staging,
        home.staging_file("main"),
        home.lock_file("serve"),
        home.lock_file("publish"),
        home.wake_socket,
    ]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) for path in paths)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc/passwd", "Main", "a" * 64])
def test_a_staging_file_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError):
        Home(tmp_path).staging_file(name)
