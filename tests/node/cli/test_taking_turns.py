"""Commands that stage and commands that publish the same list take turns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from federation.names import parse_org
from federation.trust.charter import Audience
from federation.trust.orgroot import Role
from node.admin import lists, peers
from node.cli import stage_cmd
from node.cli.context import Context
from node.cli.stage_cmd import open_staging
from node.errors import LockedError
from node.home import Home
from node.publish.high_water import HighWater
from node.store.connection import Store
from node.system import locks
from tests.federation.worlds import T0, pin_root, role_key


def _context(home: Home, environ: Mapping[str, str] = os.environ) -> Context:
    return Context(home_option=str(home.path), as_json=False, quiet=True, environ=environ)


def test_staging_is_refused_while_another_command_is_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_cmd, "_STAGING_WAIT_SECONDS", 0.2)
    home = Home(tmp_path)
    context = _context(home)
    org = parse_org("hotline.example")
    store = Store.create(home.store, context.clock)
    peers.create_node(store, pin_root(org))
    publisher = role_key(org, Role.PUBLISHER)
    mark = HighWater(home.mark, org)
    mark.create()
    everyone = Audience(all_peers=True, orgs=())
    for name in ("main", "other"):
        lists.create_list(store, name, everyone, publisher, now_ms=T0, mark=mark)
    record = lists.find_own_list(store, "main")
    other = lists.find_own_list(store, "other")
    with open_staging(context, record, what="hashfed import"):
        with (
            pytest.raises(LockedError, match="hashfed import"),
            open_staging(_context(home), record, what="hashfed publish"),
        ):
            pass
        # Another list is nobody's business.
        with open_staging(_context(home), other, what="hashfed publish") as staging:
            assert staging.is_empty
    with open_staging(_context(home), record, what="hashfed publish") as staging:
        assert staging.is_empty
    store.close()


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with (
        locks.hold(path, "first"),
        pytest.raises(LockedError),
        locks.hold(path, "second", wait_seconds=0.05),
    ):
        pass
    with locks.hold(path, "third", wait_seconds=0.05):
        pass
