"""A list that waits for a person keeps saying why, whatever becomes of its peer."""

from __future__ import annotations

import pytest

from federation.errors import Reason
from federation.follow import FollowReason, FollowState
from node.store import follow_state
from node.sync.scheduler import sync_once
from tests.node.support.peering import Sites, acquaint, published, run


@pytest.mark.parametrize("reason", [Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH])
def test_what_was_wrong_with_a_list_outlives_its_peer(sites: Sites, reason: Reason) -> None:
    hotline, platform = sites("hotline.example"), sites("platform.example")
    acquaint(hotline, platform)
    publisher = published("hotline.example/main", 1)
    platform.follow(publisher.origin, hotline)
    with platform.store.update_status() as connection:
        follow_state.store_follow_state(
            connection,
            platform.record(publisher.origin).list,
            FollowState.QUARANTINED,
            now_ms=platform.clock.now_ms(),
            reason=reason,
        )
    platform.expel(hotline)

    async def sync() -> None:
        async with platform.tools() as tools:
            (result,) = await sync_once(tools)
            assert result.reason == FollowReason.NO_PEER

    run(sync())
    status = platform.status(publisher.origin)
    assert (status.state, status.reason) == (FollowState.QUARANTINED, reason)
