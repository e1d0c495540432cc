"""A machine whose clock was set back."""

from __future__ import annotations

import pytest

from federation.errors import Reason
from federation.recovery import Obstacle
from node.clock import SystemClock
from node.errors import NodeError, RecoveringError
from node.guarding import obtain_permit
from node.highwater import HighWater
from node.home import Home
from node.identity import load_signer
from node.publishing import PublishingKeys, publish
from node.staging import Staging
from node.store import registry
from node.store.connection import Store
from tests.endtoend.conftest import Orgs
from tests.endtoend.nodes import assertion, digest


class SlowClock:
    """A clock that is an hour behind."""

    def now_ms(self) -> int:
        return SystemClock().now_ms() - 3_600_000


def test_nothing_is_signed_by_a_clock_behind_the_newest_delta(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    node.create("main")
    node.publish("main", 1)
    node.stage("main", [assertion(2)])
    before = node.content()
    home = Home(node.home)
    store = Store.open(home.store, SlowClock())
    staging = Staging.open(home.staging_file("main"))
    (record,) = registry.iter_lists(store.connection)
    keys = PublishingKeys(publisher=load_signer(home.publisher_key), log=load_signer(home.log_key))
    mark = HighWater(home.mark, record.origin.org)
    with pytest.raises(RecoveringError, match="the clock is") as refused:
        obtain_permit(store, mark, record.origin, (), clock=SlowClock())
    assert refused.value.reason == Obstacle.TIME_BACKWARDS
    # Nor by one that was set back after the permit was given.
    permit = obtain_permit(store, mark, record.origin, (), clock=SystemClock())
    with pytest.raises(NodeError, match="set it right before publishing") as caught:
        publish(store, staging, record.origin, keys, permit, clock=SlowClock())
    assert caught.value.reason is Reason.TIME_BACKWARDS
    staging.close()
    store.close()
    assert node.content() == before
    # The clock is right again: what was staged is signed.
    node("publish", "main")
    assert node("lookup", digest(2)).code == 0
    node.check()
