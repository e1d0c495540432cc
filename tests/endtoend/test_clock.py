"""Machines whose clocks are wrong."""

from __future__ import annotations

import click
import pytest
from sqlite_utils import Database

from federation import limits
from federation.errors import Reason
from federation.recovery import Obstacle
from node.cli.context import Context
from node.cli.publish_cmd import publish as publish_command
from node.cli.recover_cmd import recover_command
from node.clock import SystemClock
from node.errors import NodeError, RecoveringError
from node.home import Home
from node.identity.keys import load_signer
from node.publish.high_water import HighWater
from node.publish.permit import obtain_permit
from node.publish.sign import Publishing, PublishingKeys
from node.staging.file import Staging
from node.store import lists
from node.store.connection import Store
from tests.endtoend.conftest import Orgs
from tests.harness.node import Node, assertion, digest


class SlowClock:
    """A clock that is an hour behind."""

    def now_ms(self) -> int:
        return SystemClock().now_ms() - 3_600_000


class AheadClock:
    """A clock that is ahead."""

    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return SystemClock().now_ms() + self.ahead_ms


_HOUR_MS = 3_600_000
_TEN_YEARS_MS = 10 * 366 * 24 * _HOUR_MS


def _run(node: Node, ahead_ms: int, command: click.Command, *args: str) -> None:
    """Run a command on a machine whose clock is ahead."""
    context = Context(
        home_option=str(node.home),
        as_json=True,
        quiet=True,
        environ={},
        clock=AheadClock(ahead_ms),
    )
    command.main(args, obj=context, standalone_mode=False)


def test_nothing_is_signed_by_a_clock_behind_the_newest_delta(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    node.create("main")
    node.publish("main", 1)
    node.stage("main", [assertion(2)])
    before = node.content()
    home = Home(node.home)
    store = Store.open(home.store, SlowClock())
    staging = Staging.open(home.staging_file("main"))
    (record,) = lists.iter_lists(store.connection)
    keys = PublishingKeys(publisher=load_signer(home.publisher_key), log=load_signer(home.log_key))
    mark = HighWater(home.mark, record.origin.org)
    with pytest.raises(RecoveringError, match="the clock is") as refused:
        obtain_permit(store, mark, record.origin, tuple, clock=SlowClock())
    assert refused.value.reason == Obstacle.TIME_BACKWARDS
    # Nor by one that was set back after the permit was given.
    permit = obtain_permit(store, mark, record.origin, tuple, clock=SystemClock())
    with (
        pytest.raises(NodeError, match="set it right before publishing") as caught,
        Publishing(store, staging, record.origin, keys) as publishing,
    ):
        publishing.sign(permit, clock=SlowClock())
    assert caught.value.reason is Reason.TIME_BACKWARDS
    staging.close()
    store.close()
    assert node.content() == before
    # The clock is right again: what was staged is signed.
    node("publish", "main")
    assert node("lookup", digest(2)).code == 0
    node.check()


def test_nothing_is_signed_by_a_clock_ahead_of_the_peers(orgs: Orgs) -> None:
    owner, peer = orgs("hotline", "ngo")
    owner.meet(peer)
    origin = owner.create("main")
    owner.publish("main", 1)
    peer.serve()
    owner.stage("main", [assertion(2)])
    before = owner.content()
    for ahead_ms in (_TEN_YEARS_MS, _HOUR_MS, limits.MAX_CLOCK_SKEW_MS + 30_000):
        with pytest.raises(RecoveringError, match="s ahead of the peers'") as refused:
            _run(owner, ahead_ms, publish_command, "main")
        assert refused.value.reason == Obstacle.CLOCK_AHEAD
        assert owner.status(origin)["reason"] == Obstacle.CLOCK_AHEAD
    # Asking nobody does not help.
    peer.stop()
    with pytest.raises(RecoveringError) as silent:
        _run(owner, _HOUR_MS, publish_command, "main")
    assert silent.value.reason == Obstacle.PEERS_SILENT
    assert owner.content() == before
    # The clock is right again: what was staged is signed, and followers take it.
    peer.serve()
    owner("publish", "main")
    owner.serve()
    peer("follow", origin)
    peer.await_status(origin, state="current", position=2)


def test_a_publisher_whose_peer_is_wrong_goes_on_when_its_operator_says_so(orgs: Orgs) -> None:
    owner, peer = orgs("hotline", "ngo")
    owner.meet(peer)
    owner.create("main")
    owner.stage("main", [assertion(1)])
    peer.serve()
    with pytest.raises(RecoveringError):
        _run(owner, _HOUR_MS, publish_command, "main")
    why = "the time servers say so"
    _run(owner, _HOUR_MS, recover_command, "main", "--accept-risk", why)
    _run(owner, _HOUR_MS, publish_command, "main")
    # That was said of this clock, not of one that jumps.
    owner.stage("main", [assertion(2)])
    with pytest.raises(RecoveringError, match="ahead"):
        _run(owner, _TEN_YEARS_MS, publish_command, "main")
    with Database(owner.home / "store.db") as database:
        details = [row["detail"] for row in database["version"].rows]
    assert f"hotline.example/main: CLOCK_AHEAD, at the risk of: {why}" in details


def test_doctor_compares_the_clock_with_the_peers(orgs: Orgs) -> None:
    owner, peer = orgs("hotline", "ngo")
    owner.meet(peer)
    peer.serve()
    found = owner("doctor", "--json").json()["findings"]
    (clock,) = [finding for finding in found if finding["check"] == "clock"]
    assert clock["ok"]
    assert "(the median of ngo.example)" in clock["detail"]
