"""Joining by snapshots with processes as operators run them, some of which are killed.

HASHFED_SEED repeats a run's choices; how far a process has come when it is killed depends on the
machine all the same.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time

import pytest

from federation.names import Origin
from node.clock import SystemClock
from node.home import Home
from node.identity import keys
from node.publish import permit, snapshot
from node.publish.high_water import HighWater
from node.publish.sign import PublishingKeys
from node.store.connection import Store
from tests.endtoend.conftest import Orgs
from tests.harness.node import Node, Process, assertion, digest
from tests.node.support.small_buckets import small_buckets

_KILLED = -9
ENTRIES = 3_000
BUCKET_ENTRIES = 15


def revise(owner: Node, turns: int = 3, entries: int = ENTRIES) -> None:
    """Publish the same entries again and again, so that a snapshot is cheaper than all deltas."""
    for turn in range(turns):
        owner.stage("main", [assertion(number, f"turn {turn}") for number in range(entries)])
        owner("publish", "main")


def sign_in_small_buckets(owner: Node, origin: str, entries: int = BUCKET_ENTRIES) -> int:
    """Sign a snapshot as the command does, but in many buckets; return how many."""
    home = Home(owner.home)
    store = Store.open(home.store, SystemClock())
    with small_buckets(entries):
        made = snapshot.publish_snapshot(
            store,
            Origin.parse(origin),
            PublishingKeys(
                publisher=keys.load_signer(home.publisher_key),
                log=keys.load_signer(home.log_key),
            ),
            permit.obtain_permit(
                store,
                HighWater(home.mark, Origin.parse(origin).org),
                Origin.parse(origin),
                lambda: permit.unasked(store),
                clock=SystemClock(),
            ),
            clock=SystemClock(),
        )
    store.close()
    return made.buckets


def bucket_sizes(node: Node) -> list[int]:
    """Return the sizes of the buckets that are in a node's store."""
    store = sqlite3.connect(f"{Home(node.home).store.as_uri()}?mode=ro", uri=True)
    try:
        return [size for (size,) in store.execute("SELECT length(bytes) FROM bucket")]
    finally:
        store.close()


def joined_pair(orgs: Orgs) -> tuple[Node, Node, str]:
    owner, reader = orgs("hotline", "platform")
    owner.meet(reader)
    origin = owner.create("main")
    reader("follow", origin)
    return owner, reader, origin


def seeded() -> random.Random:
    seed = int(os.environ.get("HASHFED_SEED") or random.SystemRandom().randrange(2**32))
    print(f"HASHFED_SEED={seed}")
    return random.Random(seed)


def end(process: Process) -> int:
    process.kill()
    code = process.wait()
    assert code in {0, _KILLED}
    return code


@pytest.mark.fault
@pytest.mark.slow
def test_a_subscriber_that_is_killed_again_and_again_fetches_what_is_missing_and_no_more(
    orgs: Orgs,
) -> None:
    choose = seeded()
    owner, reader, origin = joined_pair(orgs)
    revise(owner)
    buckets = sign_in_small_buckets(owner, origin)
    assert buckets == ENTRIES // BUCKET_ENTRIES
    owner("publish", "main")
    owner.serve()
    total = sum(bucket_sizes(owner))
    held, kills = 0, 0
    while kills < 6:
        process = reader.start("sync")
        wanted = held + choose.randrange(1, buckets // 6)
        deadline = time.monotonic() + 20
        while len(bucket_sizes(reader)) < wanted and time.monotonic() < deadline:
            time.sleep(choose.uniform(0, 0.002))
        if end(process) != _KILLED:
            break
        kills += 1
        now = len(bucket_sizes(reader))
        assert now >= held, "what had arrived is gone"
        held = now
        reader.check()
        if reader.status(origin)["position"]:
            break
        reader("lookup", digest(1), code=1)
        assert reader.export(origin) == ""
    assert kills > 1
    print(f"killed {kills} times, {held} of {buckets} buckets were here")
    missing = total - sum(bucket_sizes(reader))
    (result,) = reader("sync", "--json").json()["lists"]
    assert (result["state"], result["to"]) == ("current", owner.status(origin)["position"])
    # Beside buckets: the offer, which has a hash for each, and what follows the snapshot.
    assert missing <= result["bytes"] <= missing + 40 * buckets + 10_000
    assert reader.export(origin) == owner.export(origin)
    reader.check()


@pytest.mark.fault
@pytest.mark.slow
def test_a_publisher_that_is_killed_while_it_makes_a_snapshot_has_signed_it_whole_or_not_at_all(
    orgs: Orgs,
) -> None:
    choose = seeded()
    owner, reader, origin = joined_pair(orgs)
    revise(owner, turns=2, entries=20_000)
    size = owner.status(origin)["position"]
    began = time.monotonic()
    for _ in range(6):
        process = owner.start("snapshot", "main")
        time.sleep(choose.uniform(0.1, 1.0))
        end(process)
        owner.check()
        status = owner.status(origin)
        if status["position"] > size:
            assert status["snapshot_position"] == size
            break
        assert status["snapshot_position"] is None
    else:
        made = owner("snapshot", "main", "--json").json()
        assert (made["position"], made["entries"]) == (size, 20_000)
    print(f"{time.monotonic() - began:.1f} s")
    assert len(bucket_sizes(owner)) == 3
    owner.serve()
    (result,) = reader("sync", "--json").json()["lists"]
    assert (result["bootstrap"], result["snapshot_position"]) == ("snapshot", size)
    assert reader.export(origin) == owner.export(origin)
    owner.check()


def test_who_joined_by_a_snapshot_shows_the_way_back_to_each_delta(orgs: Orgs) -> None:
    owner, reader, origin = joined_pair(orgs)
    revise(owner, turns=3, entries=300)
    owner("retract", "main", digest(5), "--cause", "withdrawn")
    owner("publish", "main")
    made = owner("snapshot", "main", "--json").json()
    size = owner.publish("main", 1_000)
    owner.serve()
    (result,) = reader("sync", "--json").json()["lists"]
    assert (result["bootstrap"], result["from"], result["to"]) == ("snapshot", 0, size)
    assert (result["snapshot_position"], result["error"]) == (made["position"], None)
    assert reader.export(origin) == owner.export(origin)
    status = reader.status(origin)
    assert status["retained_from"] == made["position"]
    assert status["snapshot_position"] == made["position"]

    def shown(*options: str) -> dict[str, object]:
        found = reader("show", origin, digest(7), "--json", *options).json()
        version: dict[str, object] = found["entries"][0]["versions"][0]
        return version

    before = shown()
    assert (before["delta"], before["position"]) == (None, 2)
    assert "--fetch gets it" in reader("show", origin, digest(7)).out
    fetched = shown("--fetch")
    assert fetched["delta"] == owner.headers(origin)[2]
    assert shown() == fetched
    reader.check()
    # The owner is away: what is here is shown, the rest says what to do.
    owner.stop()
    assert shown("--fetch") == fetched
    error = reader.error("show", origin, digest(5), code=2)
    assert "has never had an entry" in error["message"]
    gone = reader.error("export", origin, "--as-of", "position:1", code=2)
    assert gone["reason"] == "NOT_RETAINED"
    assert f"position:{made['position'] + 1}" in gone["hint"]


def test_a_delta_that_nobody_can_be_asked_for_is_an_error_that_says_so(orgs: Orgs) -> None:
    owner, reader, origin = joined_pair(orgs)
    revise(owner, turns=3, entries=300)
    owner("snapshot", "main")
    owner.serve()
    reader("sync")
    owner.stop()
    error = reader.error("show", origin, digest(7), "--fetch", code=75)
    assert owner.org in error["message"]
    assert error["hint"]
    assert reader("show", origin, digest(7), "--json").json()["entries"]


def test_a_member_that_serves_joins_and_serves_on_what_it_joined(orgs: Orgs) -> None:
    owner, relay, reader = orgs("hotline", "ngo", "platform")
    owner.meet(relay)
    relay.meet(reader)
    reader("peer", "add", "--yes", "-", stdin=owner("invite").out)
    reader("peer", "remove", owner.org)
    origin = owner.create("main")
    relay("follow", origin)
    reader("follow", origin, "--via", relay.org)
    revise(owner, turns=3, entries=300)
    owner("snapshot", "main")
    for node in (owner, relay, reader):
        node.serve()
    size = owner.status(origin)["position"]
    for node in (relay, reader):
        node.await_status(origin, state="current", position=size, retained_from=size - 1)
    size = owner.publish("main", 1_000)
    owner("retract", "main", digest(3), "--cause", "withdrawn")
    owner("publish", "main")
    for node in (relay, reader):
        node.await_status(origin, state="current", position=size + 1)
        assert node.export(origin) == owner.export(origin)
        node.check()
    # Who has lost whom it follows through is not current any more: so all are looked at before.
    for node in (relay, reader):
        assert node.stop() == 0
        assert "Traceback" not in node.log()
