"""Damaged stores of real nodes: found, withheld, repaired from peers, never answered from."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from tests.endtoend.conftest import Orgs
from tests.endtoend.test_snapshots import joined_pair, revise, sign_in_small_buckets
from tests.harness.node import Node, assertion, digest, eventually
from tests.node.support import damaged_node

pytestmark = [pytest.mark.fault, pytest.mark.slow]

QUICK = {"HASHFED_STORE_SCRUB_HOURS": "0.0003"}


class Coalition:
    """An owner of two lists, a relay that follows them, and a node that follows through it.

    Attributes:
        owner: publishes `known` and `more`.
        relay: follows them from the owner.
        last: follows `known` by the relay.
        known, more: the lists.
    """

    def __init__(self, owner: Node, relay: Node, last: Node) -> None:
        self.owner, self.relay, self.last = owner, relay, last
        owner.meet(relay, last)
        relay.meet(last)
        self.known, self.more = owner.create("known"), owner.create("more")
        for at in range(5):
            owner.publish("known", 10 * at, 10 * at + 1)
            owner.publish("more", 1000 + at)
        owner.serve()
        for origin in (self.known, self.more):
            relay("follow", origin)
        relay("sync")
        relay.serve()
        last("follow", self.known, "--via", relay.org)
        last("sync")


def stop(node: Node) -> Path:
    """Stop a node; return its store, all of which is in one file."""
    node.stop()
    path = node.home / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture
def coalition(orgs: Orgs) -> Coalition:
    return Coalition(*orgs("hotline", "platform", "ngo"))


def flip(path: Path, list_number: int, position: int, table: str = "body") -> None:
    """Flip a bit of a leaf, where it lies in the file."""
    column = {"body": "bytes", "delta": "header"}[table]
    damaged_node.flip(table, column, f"id = {list_number << 32 | position}", 60)(path)


def number_of(path: Path, name: str) -> int:
    connection = sqlite3.connect(path)
    (number,) = connection.execute("SELECT list FROM list WHERE name = ?", (name,)).fetchone()
    connection.close()
    return int(number)


def test_a_node_whose_checks_behind_meet_damage_goes_on_serving(coalition: Coalition) -> None:
    owner, relay = coalition.owner, coalition.relay
    # As many peers together: there is hardly a moment without a sign of life.
    owner.stop()
    owner.serve(HASHFED_SYNC_HEARTBEAT_SECONDS="0.2")
    path = stop(relay)
    number = number_of(path, "known")
    connection = sqlite3.connect(path)
    # As if its deltas had just come, and the disk had spoiled one before it was checked.
    connection.execute("UPDATE list SET checked = 0")
    connection.commit()
    connection.close()
    flip(path, number, 2)

    relay.serve()
    eventually(lambda: '"checks_wait"' in relay.log(), relay.log)
    # Nobody is accused of what the disk has done.
    assert relay.status(coalition.known)["state"] != "quarantined"
    owner.publish("more", 2000)
    relay.await_status(coalition.more, position=6, state="current")
    assert relay.stop() == 0
    assert "Traceback" not in relay.log()


def test_an_owner_whose_newest_delta_is_damaged_goes_on_with_its_other_lists(
    coalition: Coalition,
) -> None:
    owner, relay = coalition.owner, coalition.relay
    path = stop(owner)
    flip(path, number_of(path, "known"), 4)
    # As after a start of the machine: what the mark says has to be confirmed.
    (owner.home / "mark" / "known").unlink()

    owner.serve()
    coalition.last.serve()
    eventually(lambda: '"list_damaged"' in owner.log(), owner.log)
    owner.publish("more", 2000)
    relay.await_status(coalition.more, position=6, state="current")
    owner.stage("known", [assertion(3000)])
    assert owner.error("publish", "known", code=12)["reason"] == "DAMAGED"
    assert owner.stop() == 0


def test_a_node_with_a_damaged_root_goes_on_with_other_organizations(coalition: Coalition) -> None:
    relay, last = coalition.relay, coalition.last
    mine = relay.create("mine")
    last("follow", mine)
    path = stop(last)
    damaged_node.flip("org", "root", "name = 'hotline.example'", 30)(path)

    last.serve()
    relay.publish("mine", 1)
    last.await_status(mine, position=1, state="current")
    assert last.stop() == 0
    assert "Traceback" not in last.log()


def test_a_running_node_finds_a_flipped_bit_withholds_the_list_and_is_repaired(
    coalition: Coalition,
) -> None:
    owner, relay, last = coalition.owner, coalition.relay, coalition.last
    known, more = coalition.known, coalition.more
    before = relay.content()
    path = stop(relay)
    flip(path, number_of(path, "known"), 2)

    relay.serve(**QUICK)
    eventually(lambda: '"damage_found"' in relay.log(), relay.log)
    status = relay.status(known)
    assert (status["state"], status["reason"]) == ("damaged", "DAMAGED")
    assert "body at position 2" in status["detail"]
    # Nothing is answered from the list; the other one goes on.
    hash_of = f"sha256:{digest(0)}"
    for command in (
        ("export", known),
        ("show", known, hash_of),
        ("log", known),
        ("diff", known, "position:0..position:1"),
        ("lookup", "--list", known, hash_of),
    ):
        error = relay.error(*command, code=12)
        assert error["reason"] == "DAMAGED"
        assert "fsck --repair" in error["hint"]
    found = relay("lookup", "--json", hash_of, f"sha256:{digest(1000)}", code=12).json_lines()
    assert [line["found"] for line in found] == [None, True]
    assert found[0]["withheld"] == [known]
    assert relay("lookup", "--list", more, f"sha256:{digest(1000)}").code == 0
    assert relay.export(more)
    # Neither is it given on, while the other list is followed as before.
    last("sync", code=13)
    assert last.status(known)["reason"] == "UNAVAILABLE"
    owner.publish("more", 2000)
    relay.await_status(more, position=6, state="current")
    assert relay.status(known)["position"] == 5
    assert relay.error("fsck", "--repair", code=11)["reason"] == "LOCKED"

    relay.stop()
    assert "DAMAGED" in relay("sync", known, "--json", code=12).out
    repaired = relay("fsck", "--repair", "--json").json()
    assert repaired["ok"]
    assert [(item["list"], item["position"], item["peer"]) for item in repaired["fetched"]] == [
        (known, 2, owner.org)
    ]
    assert Path(repaired["replaced"]).exists()
    relay.check()
    assert relay.content()[0] == before[0]
    relay.serve(**QUICK)
    eventually(lambda: '"scrub_ended"' in relay.log().rpartition('"serving"')[2], relay.log)
    assert relay.status(known)["state"] != "damaged"
    last("sync")
    assert "Traceback" not in relay.log()


def test_a_publisher_gets_its_own_list_back_byte_for_byte_and_signs_nothing_before(
    coalition: Coalition,
) -> None:
    owner, known = coalition.owner, coalition.known
    headers, live = owner.headers(known), owner.export(known)
    path = stop(owner)
    for position in (1, 4):
        flip(path, number_of(path, "known"), position, "delta")
    report = owner("fsck", "--json", code=12).json()
    assert {(item["kind"], item["list"], item["position"]) for item in report["damages"]} >= {
        ("header", known, 1),
        ("header", known, 4),
    }
    owner.stage("known", [f'{{"op":"assert","fingerprints":{{"sha256":"{digest(9)}"}}}}'])
    assert owner.error("publish", "known", code=12)["reason"] == "DAMAGED"
    assert owner.error("export", known, code=12)["reason"] == "DAMAGED"

    coalition.relay.stop()
    kept = path.read_bytes()
    error = owner.error("fsck", "--repair", code=12)
    assert "nothing was changed" in error["message"]
    assert path.read_bytes() == kept
    coalition.relay.serve()
    repaired = owner("fsck", "--repair", "--json").json()
    assert {(item["position"], item["peer"]) for item in repaired["fetched"]} == {
        (1, coalition.relay.org),
        (4, coalition.relay.org),
    }
    assert owner.headers(known) == headers
    assert owner.export(known) == live
    owner.check()
    owner("publish", "known")
    assert owner.status(known)["position"] == 6


@pytest.mark.parametrize("damaged", ["a body", "the first page"])
def test_a_repair_that_is_killed_anywhere_is_done_by_the_next_one_and_leaves_no_copies(
    coalition: Coalition, damaged: str
) -> None:
    relay = coalition.relay
    before = relay.content()
    path = stop(relay)
    if damaged == "a body":
        flip(path, number_of(path, "known"), 2)
    else:
        path.write_bytes(bytes(4096) + path.read_bytes()[4096:])
    kept = path.read_bytes()
    for step in range(8):
        process = relay.start("fsck", "--repair")
        # How far it comes until then is the machine's affair.
        time.sleep(step * 0.05)
        process.kill()
        process.wait()
        # Done, or between its renames: the next one takes that up.
        if not path.exists() or path.read_bytes() != kept:
            break
    repaired = relay("fsck", "--repair", "--json").json()
    assert repaired["ok"]
    relay.check()
    assert relay.content() == before
    left = [file.name for file in relay.home.glob(".store.db.*")]
    # A note of what was found, of some hundred bytes, may be cut off too.
    assert [name for name in left if not name.startswith(".store.db.findings.")] == []


def test_a_cut_off_file_is_filled_again_from_the_peers(coalition: Coalition) -> None:
    relay = coalition.relay
    before = relay.content()
    path = stop(relay)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3 // 4096 * 4096])
    relay("fsck", code=12)
    assert relay("fsck", "--repair", "--json").json()["ok"]
    assert relay.content() == before
    relay.check()


def test_status_says_when_all_was_checked_last(coalition: Coalition) -> None:
    relay, last = coalition.relay, coalition.last
    # By `serve`, in the background, or by a command.
    eventually(lambda: relay("status", "--json").json()["last_check"])
    assert last("status", "--json").json()["last_check"] is None
    assert "never fully checked" in last("status").out
    last("fsck")
    assert last("status", "--json").json()["last_check"] is not None
    assert not (last.home / "fsck.journal").exists()


def test_a_damaged_bucket_is_fetched_again_from_a_peer_that_has_the_snapshot(orgs: Orgs) -> None:
    owner, reader, origin = joined_pair(orgs)
    revise(owner, entries=300)
    assert sign_in_small_buckets(owner, origin) == 20
    owner.serve()
    reader("sync")
    before = reader.content()
    damaged_node.flip("bucket", "bytes", "id & 31 = 13", 60)(stop(reader))

    report = reader("fsck", "--json", code=12).json()
    assert [(item["kind"], item["position"]) for item in report["damages"]] == [("bucket", 3)]
    # What is asked for may be in it.
    assert reader.error("lookup", f"sha256:{digest(1)}", code=12)["reason"] == "DAMAGED"
    repaired = reader("fsck", "--repair", "--json").json()
    assert [(item["position"], item["what"]) for item in repaired["fetched"]] == [(3, "bucket 13")]
    reader.check()
    assert reader.content() == before
    owner.publish("main", 1000)
    reader("sync")
    assert reader.export(origin) == owner.export(origin)


def test_a_damaged_bucket_of_who_has_the_deltas_is_made_again_from_them(orgs: Orgs) -> None:
    owner, reader, origin = joined_pair(orgs)
    revise(owner, entries=300)
    owner("snapshot", "main")
    before = owner.content()
    damaged_node.flip("bucket", "bytes", "1", 60)(stop(owner))

    report = owner("fsck", "--json", code=12).json()
    assert [(item["kind"], item["position"]) for item in report["damages"]] == [("bucket", 3)]
    # No peer has it yet, and none is asked.
    repaired = owner("fsck", "--repair", "--json").json()
    assert repaired["fetched"] == []
    owner.check()
    assert owner.content() == before
    owner.serve()
    reader("sync")
    assert reader.export(origin) == owner.export(origin)
    assert reader("show", origin, f"sha256:{digest(1)}", "--json").json()["entries"]
