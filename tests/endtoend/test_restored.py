"""A publisher whose files are older than what it has released: caught up, never forked."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.endtoend.conftest import Orgs
from tests.harness.node import Node, assertion, eventually

pytestmark = [pytest.mark.fault, pytest.mark.slow]

_PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")


class Coalition:
    """An owner, and a relay that follows its list.

    Attributes:
        owner: publishes `known`.
        relay: follows it, and serves.
        origin: the list.
        history: the header of each position that anybody has seen.
    """

    def __init__(self, owner: Node, relay: Node) -> None:
        self.owner, self.relay = owner, relay
        owner.meet(relay)
        # To its owner alone may the relay give it on.
        self.origin = owner.create("known", relay.org)
        owner.publish("known", 0, 1)
        owner.serve()
        relay("follow", self.origin)
        relay.serve()
        self.history: dict[int, str] = {}
        self.spread()

    def publish(self, *entries: int) -> None:
        self.owner.publish("known", *entries)
        self.spread()

    def spread(self) -> None:
        """Wait until the relay has all; nothing that was seen may ever change."""
        size = self.owner.status(self.origin)["position"]
        self.relay.await_status(self.origin, state="current", position=size)
        self.look()

    def look(self) -> None:
        for node in (self.owner, self.relay):
            for position, header in node.headers(self.origin).items():
                assert self.history.setdefault(position, header) == header, node.org


@pytest.fixture
def coalition(orgs: Orgs) -> Coalition:
    return Coalition(*orgs("hotline", "ngo"))


def _files(node: Node, target: Path, *what: str) -> None:
    """Copy files of a node as an operator would who should not."""
    target.mkdir(exist_ok=True)
    for name in what:
        if (node.home / name).is_dir():
            shutil.copytree(node.home / name, target / name)
        else:
            shutil.copy2(node.home / name, target / name)


def _put_back(node: Node, source: Path) -> None:
    for end in ("-wal", "-shm"):
        (node.home / f"store.db{end}").unlink(missing_ok=True)
    shutil.copytree(source, node.home, dirs_exist_ok=True)


def test_a_restored_publisher_takes_back_what_it_lacks_by_itself_and_goes_on(
    coalition: Coalition, tmp_path: Path
) -> None:
    owner, origin = coalition.owner, coalition.origin
    owner("backup", tmp_path / "backup.db")
    coalition.publish(2, 3)
    coalition.publish(4)
    live = owner.export(origin)
    assert owner.error("restore", tmp_path / "backup.db", code=11)["reason"] == "LOCKED"
    owner.stop()
    restored = owner("restore", tmp_path / "backup.db", "--json").json()
    assert restored["recovering"] == [origin]
    assert Path(restored["replaced"]).exists()
    assert owner.status(origin)["state"] == "recovering"
    assert "FAIL  list hotline.example/known: recovering" in owner("doctor", code=1).out
    owner.stage("known", [assertion(9)])
    assert owner.error("publish", "known", code=15)["reason"] == "BEHIND_PEER"
    assert owner.error("list", "audience", "known", "--audience", "", code=15)

    owner.serve()
    owner.await_status(origin, state="own", position=3)
    assert owner.export(origin) == live
    coalition.publish(10)
    assert owner.status(origin)["position"] == 4
    assert len(coalition.history) == 4
    owner.check()
    assert "deltas_recovered" in owner.log()
    assert "Traceback" not in owner.log()


def test_a_store_that_was_put_back_by_hand_is_found_out_by_the_mark_alone(
    coalition: Coalition, tmp_path: Path
) -> None:
    owner, relay, origin = coalition.owner, coalition.relay, coalition.origin
    owner.stop()
    _files(owner, tmp_path / "old", "store.db")
    owner.publish("known", 2)
    owner.serve()
    coalition.spread()
    owner.stop()
    relay.stop()
    _put_back(owner, tmp_path / "old")
    owner.stage("known", [assertion(9)])
    assert owner.status(origin)["reason"] == "BEHIND_MARK"
    assert owner.error("publish", "known", code=15)["reason"] == "BEHIND_MARK"
    # Against what is known, there is no override.
    error = owner.error("recover", "known", "--accept-risk", "I want to", code=15)
    assert error["reason"] == "BEHIND_MARK"
    relay.serve()
    recovered = owner("recover", "known", "--json").json()
    assert (recovered["from"], recovered["to"], recovered["sources"]) == (1, 2, [relay.org])
    owner("publish", "known")
    owner.serve()
    coalition.spread()
    assert len(coalition.history) == 3
    owner.check()


def test_a_restored_store_is_told_from_the_one_before_by_a_mark_that_is_as_old(
    coalition: Coalition, tmp_path: Path
) -> None:
    owner, relay = coalition.owner, coalition.relay
    owner.stop()
    _files(owner, tmp_path / "mark-of-then", "mark")
    owner("backup", tmp_path / "backup.db")
    owner.serve()
    coalition.publish(2)
    owner.stop()
    relay.stop()
    owner("restore", tmp_path / "backup.db")
    shutil.rmtree(owner.home / "mark")
    shutil.copytree(tmp_path / "mark-of-then", owner.home, dirs_exist_ok=True)

    owner.stage("known", [assertion(3)])
    assert owner.error("publish", "known", code=15)["reason"] == "RESTORED"

    relay.serve()
    owner("recover", "known")
    owner("publish", "known")
    owner.serve()
    coalition.spread()
    assert len(coalition.history) == 3


def _names(node: Node) -> list[str]:
    return sorted(path.name for path in node.home.iterdir() if path.suffix != ".lock")


def test_a_whole_folder_that_was_put_back_is_found_out_by_the_peers(
    coalition: Coalition, tmp_path: Path
) -> None:
    owner, relay, origin = coalition.owner, coalition.relay, coalition.origin
    owner.stop()
    _files(owner, tmp_path / "old", "store.db", "mark")
    owner.serve()
    coalition.publish(2)
    owner.stop()
    relay.stop()
    shutil.rmtree(owner.home / "mark")
    _put_back(owner, tmp_path / "old")
    owner.stage("known", [assertion(9)])
    # From inside all looks well; only the peer knows, and it is silent.
    assert owner.error("publish", "known", code=15)["reason"] == "PEERS_SILENT"
    relay.serve()
    assert owner.error("publish", "known", code=15)["reason"] == "BEHIND_PEER"
    relay.stop()
    assert owner.error("publish", "known", code=15)["reason"] == "PEERS_SILENT"
    relay.serve()
    owner.serve()
    owner.await_status(origin, state="own", position=2)
    owner("publish", "known")
    coalition.spread()
    assert len(coalition.history) == 3


def test_a_lost_mark_waits_for_the_peers_or_for_a_person_who_says_why(
    coalition: Coalition,
) -> None:
    owner, relay = coalition.owner, coalition.relay
    owner.stop()
    relay.stop()
    owner.stage("known", [assertion(9)])
    mark = owner.home / "mark" / "high-water"
    data = mark.read_bytes()
    for harm, reason in ((data[:-9], "MARK_DAMAGED"), (None, "MARK_MISSING")):
        mark.unlink()
        if harm is not None:
            mark.write_bytes(harm)
        assert owner.status(coalition.origin)["reason"] == reason
        assert owner.error("publish", "known", code=15)["reason"] == reason
    assert owner.error("recover", "known", "--accept-risk", " ", code=2)
    why = "ngo.example is gone for good"
    assert owner("recover", "known", "--accept-risk", why, "--json").json()["silent"] == [relay.org]
    owner("publish", "known")
    assert owner.status(coalition.origin)["state"] == "own"
    rows = subprocess.run(
        ["python3", "-c", _VERSIONS, owner.home / "store.db"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"hotline.example/known: MARK_MISSING, at the risk of: {why}" in rows
    owner.serve()
    relay.serve()
    coalition.spread()


_VERSIONS = (
    "import sqlite3, sys; [print(*row) for row in sqlite3.connect(sys.argv[1]).execute("
    "\"SELECT kind, detail FROM version WHERE kind = 'recover'\")]"
)


def test_what_is_no_backup_of_this_node_changes_nothing(orgs: Orgs, tmp_path: Path) -> None:
    owner, other = orgs("hotline", "ngo")
    origin = owner.create("known")
    owner.publish("known", 1)
    owner("backup", tmp_path / "good.db")
    other("backup", tmp_path / "foreign.db")
    good = (tmp_path / "good.db").read_bytes()
    digest = bytes.fromhex(f"{1 + 2**40:064x}")
    assert digest in good
    (tmp_path / "flipped.db").write_bytes(good.replace(digest, digest[:-1] + b"\xff"))
    (tmp_path / "cut.db").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.db").write_text("no database")
    before = owner.content(), _names(owner)
    for name, code, reason in (
        ("foreign.db", 12, "FOREIGN"),
        ("flipped.db", 12, "DAMAGED"),
        ("cut.db", 12, "DAMAGED"),
        ("text.db", 12, "DAMAGED"),
        ("missing.db", 2, "USAGE"),
    ):
        assert owner.error("restore", tmp_path / name, code=code)["reason"] == reason, name
    assert owner.error("restore", owner.home / "store.db", code=2)["reason"] == "USAGE"
    assert (owner.content(), _names(owner)) == before
    # And what is one goes into a folder without a store.
    (owner.home / "store.db").unlink()
    assert owner("restore", tmp_path / "good.db", "--json").json()["replaced"] is None
    assert owner.status(origin)["position"] == 1
    assert (owner.home / "store.db").stat().st_mode & 0o777 == 0o600


def test_the_drill_of_the_operators_page_works_command_by_command(
    coalition: Coalition, tmp_path: Path
) -> None:
    chapter = _PAGE.partition("## A restored store")[2].partition("\n## ")[0]
    first, second = re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)
    owner = coalition.owner
    out = owner.shell(first, tmp_path)
    coalition.publish(2)
    coalition.publish(3)
    owner.stop()
    owner.stage("known", [assertion(9)])
    out = owner.shell(second, tmp_path)
    assert "recovering" in out
    assert "2 deltas recovered from ngo.example" in out
    assert "signed 1 operations in 1 delta, positions 3 to 3" in out
    owner.serve()
    coalition.spread()
    assert len(coalition.history) == 4


def test_a_follower_that_is_ahead_tells_its_publisher(coalition: Coalition, tmp_path: Path) -> None:
    """A store that is put back under a running server, in the same start of the machine."""
    owner, relay, origin = coalition.owner, coalition.relay, coalition.origin
    owner("backup", tmp_path / "backup.db")
    coalition.publish(2)
    owner.stop()
    owner("restore", tmp_path / "backup.db")
    relay.stop()
    owner.serve(HASHFED_SYNC_INTERVAL_SECONDS="3600")
    assert owner.status(origin)["state"] == "recovering"
    # The relay's cursor is beyond the list: the owner asks at once, not in an hour.
    relay.serve()
    eventually(lambda: owner.status(origin)["state"] == "own", owner.log, seconds=60)
    assert owner.status(origin)["position"] == 2


def test_a_store_of_which_peers_have_another_history_is_called_that_and_not_behind(
    coalition: Coalition, tmp_path: Path
) -> None:
    owner, origin = coalition.owner, coalition.origin
    owner.stop()
    _files(owner, tmp_path / "before", "store.db", "mark")
    # Nobody gets it.
    owner.publish("known", 5)
    _files(owner, tmp_path / "after", "store.db")
    _put_back(owner, tmp_path / "before")
    owner.serve()
    coalition.publish(6)
    coalition.publish(7)
    owner.stop()
    _put_back(owner, tmp_path / "after")

    error = owner.error("recover", "known", code=15)

    assert error["reason"] == "PEER_DIFFERS"
    assert coalition.relay.org in error["message"]
    assert owner.status(origin)["state"] == "forked"
    owner.stage("known", [assertion(8)])
    owner.error("publish", "known", code=15)
    # That is more than that it is behind.
    assert owner.status(origin)["state"] == "forked"
    # What never left is let go of by taking an older copy instead.
    _put_back(owner, tmp_path / "before")
    shutil.rmtree(owner.home / "mark")
    owner("recover", "known")
    owner("publish", "known")
    owner.serve()
    coalition.spread()
    assert len(coalition.history) == 4
