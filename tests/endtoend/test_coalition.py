"""Organizations that share lists, each with its own node."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.endtoend.conftest import Orgs
from tests.harness.node import Node, assertion, digest, eventually

LIVE_SECONDS = 2.0


def relayed(orgs: Orgs, audience: str = "all-peers") -> tuple[Node, Node, Node, str]:
    """A publisher, a relay and a subscriber that knows the publisher's root but never calls it."""
    owner, relay, reader = orgs("hotline", "ngo", "platform")
    owner.meet(relay)
    relay.meet(reader)
    # Its root is needed to verify what the relay passes on; it is no peer that can be called.
    reader("peer", "add", "--yes", "-", stdin=owner("invite").out)
    reader("peer", "remove", owner.org)
    origin = owner.create("main", audience)
    relay("follow", origin)
    reader("follow", origin, "--via", relay.org)
    return owner, relay, reader, origin


def test_what_is_published_reaches_a_subscriber_by_way_of_a_relay_live_and_unchanged(
    orgs: Orgs,
) -> None:
    owner, relay, reader, origin = relayed(orgs)
    size = owner.publish("main", *range(100))
    for node in (owner, relay, reader):
        node.serve()
    for node in (relay, reader):
        node.await_status(origin, state="current", position=size)

    owner.stage("main", [assertion(1000)])
    owner("publish", "main")
    began = time.monotonic()
    for node in (relay, reader):
        node.await_status(origin, position=size + 1, seconds=LIVE_SECONDS)
    assert time.monotonic() - began < LIVE_SECONDS

    owner("retract", "main", digest(7), "--cause", "false-positive", "--reason", "a stock photo")
    owner("publish", "main")
    for node in (relay, reader):
        node.await_status(origin, position=size + 2)
        assert node("lookup", digest(1000)).out.startswith(f"{digest(1000)}  found in {origin}")
        node("lookup", digest(7), code=1)
        assert node.headers(origin) == owner.headers(origin)
        assert node.export(origin) == owner.export(origin)
        node.check()
    shown = reader("show", origin, digest(1000), "--json").json()["entries"][0]["versions"][0]
    assert shown["via"] == relay.org
    assert reader("offers", relay.org).out == f"{origin}\n"


def test_a_subscriber_that_was_away_catches_up_with_one_sync(orgs: Orgs) -> None:
    owner, relay, reader, origin = relayed(orgs)
    for node in (owner, relay):
        node.serve()
    size = [owner.publish("main", number) for number in range(5)][-1]
    relay.await_status(origin, position=size)
    assert f"{origin} via {relay.org}: current, position 0 to {size}" in reader("sync").out
    assert reader.export(origin) == owner.export(origin)
    # What is here already is not fetched again.
    (result,) = reader("sync", "--json").json()["lists"]
    assert (result["from"], result["to"], result["ops"]) == (size, size, 0)


def test_two_nodes_follow_each_others_lists(orgs: Orgs) -> None:
    hotline, platform = orgs("hotline", "platform")
    hotline.meet(platform)
    one, other = hotline.create("main"), platform.create("main")
    hotline("follow", other)
    platform("follow", one)
    for node in (hotline, platform):
        node.serve()
    hotline.publish("main", 1)
    platform.publish("main", 1, 2)
    hotline.await_status(other, state="current", position=1)
    platform.await_status(one, state="current", position=1)
    # Two organizations say the same: both are shown, neither hides the other.
    for node in (hotline, platform):
        matches = node("lookup", "--json", digest(1)).json()["matches"]
        assert {match["list"] for match in matches} == {one, other}
        assert [m["list"] for m in node("lookup", "--json", digest(2)).json()["matches"]] == [other]


def test_outside_the_audience_a_list_cannot_be_told_from_one_that_does_not_exist(
    orgs: Orgs,
) -> None:
    owner, reader = orgs("hotline", "platform")
    owner.meet(reader)
    secret = owner.create("secret", "police.example")
    unknown = f"{owner.org}/absent"
    owner.publish("secret", 1)
    owner.serve()
    for origin in (secret, unknown):
        reader("follow", origin)
    failed = reader("sync", "--json", code=13).json()["lists"]
    told = {item["list"]: {**item, "list": "", "error": ""} for item in failed}
    assert told[secret] == told[unknown]
    assert {item["error"].replace(item["list"], "LIST") for item in failed} == {
        f"LIST: {owner.org} does not have it, or does not give it to this node"
    }
    assert reader.error("offers", owner.org, code=1)["reason"] == "UNAVAILABLE"

    reader.serve()
    for origin in (secret, unknown):
        reader.await_status(origin, state="stale", reason="UNAVAILABLE", position=0)

    # The audience grows while both serve.
    owner("list", "audience", "secret", "--audience", f"police.example,{reader.org}")
    reader.await_status(secret, state="current", reason="", position=1)
    assert reader.status(unknown)["state"] == "stale"
    assert reader("lookup", digest(1)).code == 0

    # And shrinks: nothing new comes, what is here stays and still counts.
    owner("list", "audience", "secret", "--audience", "police.example")
    owner.publish("secret", 2)
    reader.await_status(secret, state="stale", reason="UNAVAILABLE", position=1)
    assert reader("lookup", digest(1)).code == 0
    reader("lookup", digest(2), code=1)


def test_a_relay_does_not_pass_on_what_the_owner_has_not_allowed(orgs: Orgs) -> None:
    owner, relay, reader, origin = relayed(orgs, "ngo.example")
    size = owner.publish("main", 1)
    for node in (owner, relay, reader):
        node.serve()
    relay.await_status(origin, state="current", position=size)
    reader.await_status(origin, state="stale", reason="UNAVAILABLE", position=0)
    owner("list", "audience", "main", "--audience", f"{relay.org},{reader.org}")
    reader.await_status(origin, state="current", position=size)


def test_a_removed_peer_loses_its_stream_and_cannot_call_any_more(orgs: Orgs) -> None:
    owner, reader, other = orgs("hotline", "platform", "police")
    owner.meet(reader, other)
    origin = owner.create("main")
    for node in (reader, other):
        node("follow", origin)
    for node in (owner, reader, other):
        node.serve()
    size = owner.publish("main", 1)
    for node in (reader, other):
        node.await_status(origin, state="current", position=size)

    owner("peer", "remove", reader.org)
    reader.await_status(origin, state="stale")
    size = owner.publish("main", 2)
    other.await_status(origin, state="current", position=size)
    assert reader.status(origin)["position"] == size - 1
    reader.stop()
    # Refused by TLS before it can say who it is: not to be told from a node that fails.
    assert "'hashfed invite'" in reader("sync", code=75).err
    assert reader("lookup", digest(1)).code == 0

    # Added again, it goes on where it was.
    owner("peer", "add", "--yes", "-", stdin=reader("invite").out)
    reader("sync")
    assert reader.status(origin)["position"] == size


def test_a_node_that_is_down_does_not_delay_lists_of_others(orgs: Orgs) -> None:
    down, up, reader = orgs("hotline", "ngo", "platform")
    reader.meet(down, up)
    lost, origin = down.create("main"), up.create("main")
    for list_name in (lost, origin):
        reader("follow", list_name)
    up.serve()
    reader.serve()
    reader.await_status(lost, state="stale", reason="UNREACHABLE")
    up.stage("main", [assertion(1)])
    up("publish", "main")
    began = time.monotonic()
    reader.await_status(origin, state="current", position=1, seconds=LIVE_SECONDS)
    assert time.monotonic() - began < LIVE_SECONDS
    reader.stop()
    # Once: some are current, some are not.
    reader("sync", code=3)
    down.serve()
    down.publish("main", 2)
    reader("sync")
    assert reader.status(lost)["state"] == "current"


def test_a_peer_that_takes_connections_and_says_nothing_does_not_delay_lists_of_others(
    orgs: Orgs,
) -> None:
    silent, up, reader = orgs("hotline", "ngo", "platform")
    reader.meet(silent, up)
    lost, origin = silent.create("main"), up.create("main")
    for list_name in (lost, origin):
        reader("follow", list_name)
    with socket.create_server(("127.0.0.1", silent.port)):
        up.serve()
        reader.serve()
        reader.await_status(origin, state="current", position=0)
        up.stage("main", [assertion(1)])
        up("publish", "main")
        reader.await_status(origin, position=1, seconds=LIVE_SECONDS)
        assert reader.status(lost)["state"] == "catching-up"
        assert reader.stop() == 0


def test_a_publish_that_waits_for_a_silent_peer_can_be_ended_at_once(orgs: Orgs) -> None:
    owner, silent = orgs("hotline", "ngo")
    owner.meet(silent)
    origin = owner.create("main")
    owner.stage("main", [assertion(1)])
    with socket.create_server(("127.0.0.1", silent.port)) as listener:
        command = owner.start("publish", "main", settings={"HASHFED_PUBLISH_ASK_SECONDS": "60"})
        connection, _ = listener.accept()
        with connection:
            command.send_signal(signal.SIGINT)
            assert command.wait(timeout=LIVE_SECONDS * 5) == 130
    assert owner.status(origin)["position"] == 0
    assert owner("staged", "main", "--json").json()["staged"] == {"assert": 1}


# --- one store, one writer --------------------------------------------------------------------


def test_a_second_server_on_one_store_is_refused(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    node.serve()
    assert node.server is not None
    error = node.error("serve", code=11)
    assert error["reason"] == "LOCKED"
    assert f"hashfed serve is running here with pid {node.server.pid}" in error["message"]
    assert f"kill {node.server.pid}" in error["hint"]
    assert node.stop() == 0
    node.serve()


def test_a_second_publish_on_one_store_is_refused_while_the_first_goes_on(
    orgs: Orgs,
) -> None:
    (node,) = orgs("hotline")
    node.create("main")
    node.stage("main", map(assertion, range(30_000)))
    lock = node.home / "publish.lock"
    first = node.start("publish", "main")
    eventually(lambda: lock.exists() and lock.read_text())
    os.kill(first.pid, signal.SIGSTOP)
    try:
        error = node.error("publish", "main", code=11)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0
    assert error["reason"] == "LOCKED"
    assert f"publish is running here with pid {first.pid}" in error["message"]
    assert node.status("hotline.example/main")["live"] == 30_000
    assert node("publish", "main", "--json").json()["deltas"] == 0
    node.check()


def test_a_port_that_another_has_is_named(orgs: Orgs) -> None:
    one, other = orgs("hotline", "platform")
    one.serve()
    result = other("config", "--json").json()
    assert result["node.listen"]["value"] == f"127.0.0.1:{other.port}"
    path = other.home / "config.toml"
    path.write_text(path.read_text().replace(str(other.port), str(one.port)))
    error = other.error("serve", code=10)
    assert f"127.0.0.1:{one.port}" in error["message"]
    assert error["hint"]
    # The lock is free again.
    path.write_text(path.read_text().replace(str(one.port), str(other.port)))
    other.serve()


# --- key files --------------------------------------------------------------------------------


def test_a_server_does_not_start_with_a_key_that_others_can_read(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    key = node.home / "keys" / "tls.key"
    key.chmod(0o640)
    error = node.error("serve", code=10)
    assert error["hint"] == f"run: chmod 600 {key}"
    key.chmod(0o600)
    node.serve()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_key_that_cannot_be_read_is_named(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    node.create("main")
    node.stage("main", [assertion(1)])
    key = node.home / "keys" / "publisher.key"
    key.chmod(0o000)
    error = node.error("publish", "main", code=10)
    assert str(key) in error["message"]
    assert node.status("hotline.example/main")["position"] == 0


def test_a_key_that_is_no_file_is_named(orgs: Orgs) -> None:
    (node,) = orgs("hotline")
    node.create("main")
    node.stage("main", [assertion(1)])
    key = node.home / "keys" / "publisher.key"
    key.unlink()
    key.mkdir()
    assert node.error("publish", "main", code=10)["message"] == f"{key} is not a regular file"
    assert node.status("hotline.example/main")["position"] == 0


def test_nothing_is_published_with_a_key_of_another_node(orgs: Orgs) -> None:
    owner, reader = orgs("hotline", "platform")
    owner.meet(reader)
    origin = owner.create("main")
    owner.publish("main", 1)
    owner.serve()
    reader("follow", origin)
    reader("sync")
    own = (owner.home / "keys" / "publisher.key").read_bytes()
    foreign = (reader.home / "keys" / "publisher.key").read_bytes()
    (owner.home / "keys" / "publisher.key").write_bytes(foreign)
    before = owner.content()
    owner.stage("main", [assertion(2)])
    error = owner.error("publish", "main", code=10)
    assert error["reason"] == "CONFIG"
    assert "publisher key" in error["message"]
    assert owner.content() == before
    reader("sync")
    assert reader.export(origin) == owner.export(origin)
    # What was staged is still there for the right key.
    (owner.home / "keys" / "publisher.key").write_bytes(own)
    owner("publish", "main")
    reader("sync")
    assert reader("lookup", digest(2)).code == 0
