"""Peers that break the protocol: what they do is refused, said, and costs nobody else anything."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Reason
from federation.names import Origin
from node.admin import lists as admin_lists
from node.clock import SystemClock
from node.store.connection import Store
from tests.endtoend.conftest import Orgs
from tests.endtoend.hostile import FOREIGN, FORGERIES, FORKED, FUTURE, HONEST
from tests.harness.node import Node, assertion, digest, eventually

_ROOT = Path(__file__).parents[2]

Hostile = Callable[[Node, str], None]


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """Serves a node's peers dishonestly."""
    running: list[subprocess.Popen[str]] = []

    def serve(node: Node, mode: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.endtoend.hostile", node.home, str(node.port), mode],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    yield serve
    for process in running:
        process.kill()
        process.communicate()


def statuses(node: Node) -> dict[str, dict[str, Any]]:
    return {item["list"]: item for item in node("status", "--json").json()["lists"]}


def expected(name: str) -> tuple[str, str]:
    """Return the state and the reason that a list of `forgeries` is to end in."""
    special = {
        HONEST: ("current", ""),
        FOREIGN: ("quarantined", "ORIGIN_MISMATCH"),
        FORKED: ("forked", "FORK"),
        FUTURE: ("stale", "TIME_IN_FUTURE"),
    }
    if name in special:
        return special[name]
    reason = FORGERIES[name].reason
    # Two signed histories: another delta at a position held here, or a successor of another one.
    if reason is Reason.POSITION_REPEATED:
        return "forked", "FORK"
    if reason is Reason.PREVIOUS_MISMATCH:
        return "forked", reason
    return "quarantined", reason


def test_every_forgery_parks_its_own_list_with_its_reason_and_no_other(
    orgs: Orgs, hostile: Hostile
) -> None:
    liar, owner, reader = orgs("liar", "hotline", "platform")
    owner.meet(reader)
    reader("peer", "add", "--yes", "-", stdin=liar("invite").out)
    origin = owner.create("main")
    reader("follow", origin)
    lists = {f"{liar.org}/{name}": name for name in (*FORGERIES, FOREIGN, FORKED, FUTURE, HONEST)}
    store = Store.open(reader.home / "store.db", SystemClock())
    for name in lists:
        admin_lists.follow(store, Origin.parse(name), None)
    store.close()
    hostile(liar, "forgeries")
    owner.serve()
    reader.serve(HASHFED_SYNC_INTERVAL_SECONDS="300")

    # One after the other: a list that was refused is asked for again after a while, and until the
    # liar lies again nothing is wrong with it.
    awaited = dict(lists)

    def differing() -> dict[str, tuple[str, str]]:
        for listed, item in statuses(reader).items():
            if listed in awaited and (item["state"], item["reason"]) == expected(awaited[listed]):
                assert item["detail"] or awaited[listed] == HONEST
                del awaited[listed]
        return {listed: expected(name) for listed, name in awaited.items()}

    eventually(lambda: not differing(), lambda: (differing(), statuses(reader)))
    # While the liar goes on lying, its honest list and others' lists go on.
    eventually(lambda: statuses(reader)[f"{liar.org}/{HONEST}"]["position"] >= 5)
    owner.stage("main", [assertion(1)])
    owner("publish", "main")
    began = time.monotonic()
    reader.await_status(origin, state="current", position=1, seconds=2.0)
    assert time.monotonic() - began < 2.0

    reader.kill()
    # Nothing that was refused has left anything behind.
    for listed, item in statuses(reader).items():
        if lists.get(listed, HONEST) != HONEST:
            assert (item["position"], item["live"]) == (2, 3), listed
    reader.check()
    exports = {reader.export(f"{liar.org}/{name}") for name in (FOREIGN, FORKED, "case-000")}
    assert len(exports) == 1
    assert exports.pop().count("\n") == 3
    # `sync` says the same, list by list.
    results = reader("sync", f"{liar.org}/{FOREIGN}", f"{liar.org}/{FORKED}", "--json", code=14)
    assert {item["reason"] for item in results.json()["lists"]} == {"ORIGIN_MISMATCH", "FORK"}


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("garbage", "PROTOCOL"),
        ("unasked", "PROTOCOL"),
        ("unanswered", "PROTOCOL"),
        ("oversize", "PROTOCOL"),
        ("stall", "UNREACHABLE"),
    ],
)
def test_a_broken_conversation_is_ended_and_what_came_before_is_kept(
    orgs: Orgs, hostile: Hostile, mode: str, reason: str
) -> None:
    liar, owner, reader = orgs("liar", "hotline", "platform")
    owner.meet(reader)
    reader("peer", "add", "--yes", "-", stdin=liar("invite").out)
    origin, broken = owner.create("main"), f"{liar.org}/main"
    for name in (origin, broken):
        reader("follow", name)
    hostile(liar, mode)
    owner.serve()
    reader.serve(HASHFED_SYNC_HEARTBEAT_SECONDS="0.2", HASHFED_SYNC_IDLE_TIMEOUT_SECONDS="1")
    kept = 0 if mode == "unanswered" else 1

    def is_ended() -> bool:
        found = reader.status(broken)
        ended = (found["state"], found["reason"], found["position"]) == ("stale", reason, kept)
        return ended and found["detail"].startswith(f"{liar.org} ")

    eventually(is_ended, lambda: reader.status(broken))
    owner.publish("main", 1)
    reader.await_status(origin, state="current", position=1, seconds=2.0)
    reader.check()


@pytest.mark.parametrize("mode", ["stall", "heartbeats"])
def test_a_sync_does_not_wait_for_ever_for_a_stream_that_should_end(
    orgs: Orgs, hostile: Hostile, mode: str
) -> None:
    liar, owner, reader = orgs("liar", "hotline", "platform")
    owner.meet(reader)
    reader("peer", "add", "--yes", "-", stdin=liar("invite").out)
    origin, broken = owner.create("main"), f"{liar.org}/main"
    owner.publish("main", 1)
    for name in (origin, broken):
        reader("follow", name)
    config = reader.home / "config.toml"
    faster = "[sync]\nheartbeat_seconds = 0.2\nidle_timeout_seconds = 1\n"
    config.write_text(config.read_text().replace("[sync]\n", faster))
    hostile(liar, mode)
    owner.serve()
    results = {item["list"]: item for item in reader("sync", "--json", code=3).json()["lists"]}
    assert (results[origin]["state"], results[origin]["to"]) == ("current", 1)
    assert (results[broken]["state"], results[broken]["to"]) == ("stale", 1)
    assert results[broken]["error"].startswith(f"{liar.org} s")


def test_a_relay_that_changes_a_bit_is_found_out_and_the_owner_is_not_blamed(
    orgs: Orgs, hostile: Hostile
) -> None:
    owner, relay, reader = orgs("hotline", "ngo", "platform")
    owner.meet(relay, reader)
    relay.meet(reader)
    origin = owner.create("main")
    size = [owner.publish("main", number) for number in range(3)][-1]
    owner.serve()
    relay("follow", origin)
    relay("sync")
    hostile(relay, "relay")
    reader("follow", origin, "--via", relay.org)
    (result,) = reader("sync", "--json", code=14).json()["lists"]
    assert (result["state"], result["reason"]) == ("quarantined", "BODY_DIGEST_MISMATCH")
    assert reader.status(origin)["position"] == size - 1
    reader.check()
    # By another way, the rest comes as it was signed.
    reader("follow", origin)
    reader("sync")
    assert reader.headers(origin) == owner.headers(origin)
    assert reader("lookup", digest(2)).code == 0
