"""What `repair.repair` promises: what was signed comes back byte for byte, and nothing else does.

Real files, real damage, and real peers over mutual TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from federation import wire
from federation.names import Origin
from federation.replica import SignedDelta
from node.errors import DamageError, StoreError
from node.fsck.check import fsck
from node.ingest.deltas import accept_charter
from node.repair.repair import Repaired
from node.rpc import access
from node.rpc.interceptors import CALL_BURST
from node.store import damage as store_damage
from node.store import lists
from node.store import log as logs
from node.store.connection import Store
from node.store.copies import put_aside
from node.store.damage import Damage, DamageKind
from tests.federation.worlds import Publisher, assertion, make_charter, seal_charter
from tests.node.support import damaged_node
from tests.node.support.damaged_node import MAIN, OTHER, Harm, at_byte, cut, flip, in_sql, wipe
from tests.node.support.peering import Site, run
from tests.node.support.small_buckets import hold, small_buckets


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_buckets():
        yield


class World:
    """An owner and a relay that serve, and a node whose store gets damaged.

    Attributes:
        owner: of the list `MAIN`.
        relay: holds it too, and owns `OTHER`.
        node: follows both.
        main: the publisher of `MAIN`.
    """

    def __init__(self, folder: Path, *, more: int = 0) -> None:
        self.owner = damaged_node.make_site(folder, "hotline.example")
        self.relay = damaged_node.make_site(folder, "ngo.example")
        self.node = damaged_node.make_site(folder, "platform.example")
        self.main = damaged_node.make_publisher(MAIN, self.owner.root)
        for number in range(more):
            self.main.publish(assertion(100 + number))
        self.other = damaged_node.make_publisher(OTHER, self.relay.root)
        self.owner.own(self.main)
        hold(self.owner, self.main)
        self.relay.own(self.other)
        damaged_node.take(self.relay, self.main, self.owner)
        for publisher, via in ((self.main, self.owner), (self.other, self.relay)):
            damaged_node.take(self.node, publisher, via)

    def close(self) -> None:
        for site in (self.owner, self.relay, self.node):
            site.store.close()

    def repair(self, harm: Harm, *serving: Site) -> Repaired:
        """Do harm to the node's store, and repair it while some of its peers serve."""

        async def work() -> Repaired:
            running = [site.serving() for site in serving]
            for server in running:
                await server.__aenter__()
            try:
                for peer in (self.owner, self.relay):
                    for one, other in ((self.node, peer), (peer, self.node)):
                        one.enroll(other)
                self.before = self.look()
                self.node.store.close()
                damaged_node.settle(self.path)
                harm(self.path)
                self.harmed = self.path.read_bytes() if self.path.exists() else b""
                return await asyncio.to_thread(damaged_node.repair_site, self.node)
            finally:
                for server in running:
                    await server.__aexit__(None, None, None)

        repaired = run(work())
        if repaired.aside is not None or not repaired.damages:
            self.node.store = Store.open(self.path, self.node.clock)
        return repaired

    @property
    def path(self) -> Path:
        return self.node.home.store

    def look(self) -> tuple[object, ...]:
        return (
            damaged_node.exported(self.node.store, MAIN),
            damaged_node.exported(self.node.store, OTHER),
            damaged_node.content(self.path),
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def _id(position: int) -> str:
    return f"id = {logs.delta_id(1, position)}"


@dataclass(frozen=True)
class Case:
    """Harm, the kind of damage by which it is named, and where."""

    name: str
    harm: Harm
    kind: DamageKind
    position: int | None = None
    fetched: bool = False


SIGNED = (
    Case("header", flip("delta", "header", _id(1), 100), DamageKind.HEADER, 1, True),
    Case("first header", flip("delta", "header", _id(0), 40), DamageKind.HEADER, 0, True),
    Case("last header", flip("delta", "header", _id(4), 330), DamageKind.HEADER, 4, True),
    Case("checkpoint", flip("delta", "checkpoint", _id(3), 30), DamageKind.CHECKPOINT, 3, True),
    Case("body", flip("body", "bytes", _id(0), 10), DamageKind.BODY, 0, True),
    Case("snapshot's leaf", flip("delta", "header", _id(2), 200), DamageKind.HEADER, 2, True),
    Case(
        "a leaf gone",
        in_sql("DELETE FROM delta WHERE id = ?", logs.delta_id(1, 3)),
        DamageKind.HEADER,
        3,
        True,
    ),
    Case(
        "a body gone",
        in_sql("DELETE FROM body WHERE id = ?", logs.delta_id(1, 3)),
        DamageKind.BODY,
        3,
        True,
    ),
    Case(
        "the end gone",
        in_sql("DELETE FROM delta WHERE id = ?", logs.delta_id(1, 4)),
        DamageKind.HEADER,
        4,
        True,
    ),
    Case("charter", flip("list", "charter", "list = 1", 20), DamageKind.CHARTER, None, True),
)
HERE = (
    Case("root", flip("org", "root", "name = 'hotline.example'", 30), DamageKind.ROOT),
    Case("posting", flip("posting", "digest", "span = 1 AND position = 0", 3), DamageKind.INDEX, 0),
    Case("posting gone", in_sql("DELETE FROM posting WHERE span = 1 AND position = 4"),
         DamageKind.INDEX, 4),
    Case("posting of no kind", in_sql("UPDATE posting SET op = 9 WHERE span = 1 AND position = 0"),
         DamageKind.INDEX, 0),
    Case("superseded of no kind", in_sql("UPDATE superseded SET op = 9 WHERE span = 1"),
         DamageKind.INTERVAL, 1),
    Case("superseded", in_sql("DELETE FROM superseded WHERE span = 1 AND by_position = 3"),
         DamageKind.INTERVAL, 3),
    Case("run counts", in_sql("UPDATE run SET rows = rows + 1"), DamageKind.RECORD),
    Case("size", in_sql("UPDATE list SET size = 4 WHERE list = 1"), DamageKind.RECORD),
    Case("leaf of the list", flip("list", "last_leaf", "list = 1", 0), DamageKind.RECORD),
    Case("live count", in_sql("UPDATE list SET live_count = 99 WHERE list = 1"), DamageKind.RECORD),
    Case("frontier", flip("list", "frontier", "list = 1", 9), DamageKind.RECORD),
    Case("name", in_sql("UPDATE list SET name = 'maio' WHERE list = 1"), DamageKind.HEADER, 0),
    Case("org", in_sql("UPDATE org SET name = 'hotlinf.example' WHERE name = 'hotline.example'"),
         DamageKind.ROOT),
    Case("span", in_sql("UPDATE span SET start = 64 WHERE span = 1"), DamageKind.RECORD),
    Case("certificate", in_sql("UPDATE peer SET certificate = replace(certificate, 'MII', 'MIH')"),
         DamageKind.PEER),
    Case("certificate's digest",
         in_sql("UPDATE peer SET certificate_sha256 = zeroblob(32) WHERE org = 2"),
         DamageKind.PEER),
    Case("a number", in_sql("DELETE FROM number WHERE n = 77"), DamageKind.RECORD),
    Case("a hash type", in_sql("UPDATE hash_type SET name = 'mt5' WHERE name = 'md5'"),
         DamageKind.INDEX, 0),
    Case("a version", in_sql("UPDATE version SET committed_ms = 0 WHERE version = 3"),
         DamageKind.RECORD),
    Case("a state", in_sql("UPDATE follow_state SET state = 'lost' WHERE list = 1"),
         DamageKind.RECORD),
)  # fmt: skip


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: case.name)
def test_signed_bytes_come_back_from_a_peer_byte_for_byte(world: World, case: Case) -> None:
    repaired = world.repair(case.harm, world.owner, world.relay)

    assert (case.kind, MAIN, case.position) in {
        (damage.kind, damage.origin, damage.position) for damage in repaired.damages
    }
    assert {damage.origin for damage in repaired.damages} == {MAIN}
    assert [part.origin for part in repaired.fetched] == [MAIN]
    assert (repaired.left, repaired.failed) == ((), ())
    assert world.look() == world.before
    assert list(fsck(world.node.store)) == []
    assert repaired.aside is not None
    assert repaired.aside.read_bytes() == world.harmed
    assert store_damage.load(world.path).damages == ()


@pytest.mark.parametrize("case", HERE, ids=lambda case: case.name)
def test_what_is_derived_or_signs_itself_is_repaired_without_any_peer(
    world: World, case: Case
) -> None:
    repaired = world.repair(case.harm)

    assert case.kind in {damage.kind for damage in repaired.damages}
    assert case.position in {damage.position for damage in repaired.damages}
    assert (repaired.left, repaired.failed, repaired.fetched) == ((), (), ())
    after = world.look()
    assert after[:2] == world.before[:2]
    if case.name not in {"a version", "a state"}:
        assert after == world.before


FILE = (
    at_byte(3),
    at_byte(17, 0x20),
    at_byte(20),
    at_byte(40),
    at_byte(100 + 3),
    wipe("posting"),
    wipe("delta"),
    wipe("body"),
    wipe("number"),
    wipe("superseded"),
    cut(1),
    cut(5),
)


@pytest.mark.parametrize("number", range(len(FILE)))
def test_a_file_that_is_damaged_by_pages_is_filled_anew(world: World, number: int) -> None:
    repaired = world.repair(FILE[number], world.owner, world.relay)

    if not repaired.damages:
        return
    assert (repaired.left, repaired.failed) == ((), ())
    assert world.look()[:2] == world.before[:2]
    assert list(fsck(world.node.store)) == []
    assert repaired.aside is not None
    assert repaired.aside.read_bytes() == world.harmed


def test_with_no_peer_that_has_it_everything_stays_as_it_was(world: World) -> None:
    files = {path.name for path in world.node.home.path.iterdir()}
    repaired = world.repair(SIGNED[0].harm)

    assert repaired.aside is None
    assert repaired.left == repaired.damages
    assert any("no peer has it" in text for text in repaired.failed)
    assert world.path.read_bytes() == world.harmed
    left = {path.name for path in world.node.home.path.iterdir()} - files
    assert left <= {"store.db.findings", "store.db-wal", "store.db-shm"}
    with pytest.raises(DamageError, match="header at position 1") as caught:
        store_damage.require_sound(world.path, MAIN)
    assert "fsck --repair" in caught.value.hint
    store_damage.require_sound(world.path, OTHER)


def test_of_two_lists_the_one_that_can_be_is_repaired_and_the_other_stays_withheld(
    world: World,
) -> None:
    def harm(path: Path) -> None:
        SIGNED[0].harm(path)
        in_sql("DELETE FROM superseded WHERE span = 2 AND by_position = 3")(path)

    repaired = world.repair(harm)

    assert repaired.aside is not None
    assert {damage.origin for damage in repaired.damages} == {MAIN, OTHER}
    assert {damage.origin for damage in repaired.left} == {MAIN}
    assert (DamageKind.HEADER, 1) in {(damage.kind, damage.position) for damage in repaired.left}
    assert damaged_node.exported(world.node.store, OTHER) == world.before[1]
    with pytest.raises(DamageError):
        damaged_node.exported(world.node.store, MAIN)


def test_a_peer_outside_the_audience_does_not_learn_the_name_of_a_damaged_list(
    world: World,
) -> None:
    named: list[str] = []

    def note(_: object, caller: str, *args: object) -> None:
        named.append(caller)

    envelope = wire.encode_envelope(
        seal_charter(make_charter(Origin.parse(MAIN), orgs=["platform.example"], version=2))
    )
    accept_charter(world.node.store, Origin.parse(MAIN), envelope)
    with (
        mock.patch.object(access, "answer", note),
        mock.patch.object(access, "read_lone_leaf", note),
        mock.patch.object(access, "read_bucket", note),
    ):
        repaired = world.repair(SIGNED[0].harm, world.relay)
    assert named == []
    assert any("no peer has it" in failed for failed in repaired.failed)


def test_a_list_of_which_a_later_span_has_lost_its_snapshot_is_left_and_others_are_repaired(
    world: World,
) -> None:
    def harm(path: Path) -> None:
        in_sql("UPDATE span SET stop = 3 WHERE span = 1")(path)
        in_sql("INSERT INTO span (span, list, start) VALUES (9, 1, 3)")(path)
        in_sql("UPDATE list SET span = 9 WHERE list = 1")(path)
        in_sql("DELETE FROM superseded WHERE span = 2 AND by_position = 3")(path)

    repaired = world.repair(harm, world.owner, world.relay)

    assert repaired.failed == (
        f"{MAIN}: the snapshot that replaced the deltas from position 0 on is lost",
    )
    assert {damage.origin for damage in repaired.left} == {MAIN}
    assert damaged_node.exported(world.node.store, OTHER) == world.before[1]


def test_a_list_that_begins_with_a_snapshot_that_is_lost_is_left_and_others_are_repaired(
    world: World,
) -> None:
    def harm(path: Path) -> None:
        in_sql("UPDATE span SET snapshot = 77 WHERE span = 1")(path)
        in_sql("DELETE FROM superseded WHERE span = 2 AND by_position = 3")(path)

    repaired = world.repair(harm, world.owner, world.relay)

    assert repaired.failed == (f"{MAIN}: snapshot 77, with which the list begins, is lost",)
    assert {damage.origin for damage in repaired.left} == {MAIN}
    assert damaged_node.exported(world.node.store, OTHER) == world.before[1]


def _lying(world: World, publisher: Publisher, position: int) -> mock._patch[object]:
    """Let the owner send another leaf, well signed but at another place, or changed bytes."""
    read_frame = logs.read_frame
    here = world.owner.home.store

    def read(connection: object, list_number: int, start: int, stop: int, *rest: int) -> object:
        frame = read_frame(connection, list_number, start, stop, *rest)  # type: ignore[arg-type]
        (_, _, path) = connection.execute("PRAGMA database_list").fetchone()  # type: ignore[attr-defined]
        if Path(path) != here.resolve() or start != position:
            return frame
        wrong = publisher.log[position - 1] if position else frame[0]
        body = frame[0].body[:-1] + bytes([frame[0].body[-1] ^ 1])
        return [SignedDelta(frame[0].header, body, wrong.checkpoint), *frame[1:]]

    return mock.patch.object(logs, "read_frame", read)


def test_a_peer_that_sends_something_else_is_refused_and_the_next_one_asked(world: World) -> None:
    with _lying(world, world.main, 1):
        repaired = world.repair(SIGNED[0].harm, world.owner, world.relay)

    assert [part.peer for part in repaired.fetched] == ["ngo.example"]
    assert [text.partition(":")[0] for text in repaired.refused] == ["hotline.example"]
    assert repaired.left == ()
    assert world.look() == world.before


def test_what_a_killed_repair_has_left_is_removed_also_if_it_had_done_all(world: World) -> None:
    def harm(path: Path) -> None:
        for end in ("repairing", "wreck", "wreck-wal"):
            path.with_name(f".{path.name}.0123456789abcdef.{end}").touch()

    assert world.repair(harm) == Repaired(damages=())
    assert list(world.path.parent.glob(f".{world.path.name}.*")) == []


def test_a_sound_store_is_left_alone(world: World) -> None:
    repaired = world.repair(lambda _path: None)

    assert repaired == Repaired(damages=())
    assert world.path.read_bytes() == world.harmed


def test_many_damages_at_once_are_repaired(world: World) -> None:
    def harm(path: Path) -> None:
        for case in (*SIGNED[:6], HERE[0], HERE[2], HERE[3], HERE[6]):
            case.harm(path)

    repaired = world.repair(harm, world.owner, world.relay)

    assert (repaired.left, repaired.failed) == ((), ())
    assert world.look() == world.before


def test_more_leaves_come_back_than_a_peer_answers_calls_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, more=CALL_BURST + 30)
    # Each is there, and none is right, so that each is asked for by itself.
    spoil = in_sql(
        "UPDATE body SET bytes = zeroblob(length(bytes)) WHERE id / ? = 1", logs.delta_id(1, 0)
    )

    repaired = world.repair(spoil, world.owner)

    assert (repaired.left, repaired.failed) == ((), ())
    assert len(repaired.fetched) >= CALL_BURST + 30
    assert world.look() == world.before
    world.close()


@pytest.mark.parametrize("kind", [DamageKind.HEADER, DamageKind.BODY, DamageKind.CHECKPOINT])
def test_nodes_that_are_damaged_at_different_places_mend_each_other(
    world: World, kind: DamageKind
) -> None:
    there = damage(world.relay, kind, 4)
    harm = next(case.harm for case in SIGNED if case.kind is kind and case.position in {0, 1, 3})
    with pytest.raises(DamageError):
        damaged_node.exported(world.relay.store, MAIN)

    repaired = world.repair(harm, world.relay)

    assert (repaired.left, repaired.failed) == ((), ())
    assert {part.peer for part in repaired.fetched} == {world.relay.org}
    assert world.look() == world.before
    assert store_damage.load(world.relay.store.path).damages == (there,)


def test_what_is_damaged_at_a_peer_too_is_not_taken_from_it(world: World) -> None:
    damage(world.relay, DamageKind.BODY, 1)

    repaired = world.repair(flip("body", "bytes", _id(1), 10), world.relay)

    assert any("no peer has it" in text for text in repaired.failed)
    assert (repaired.fetched, repaired.refused, repaired.aside) == ((), (), None)


@pytest.mark.parametrize("kind", [DamageKind.CHARTER, DamageKind.RECORD, DamageKind.FILE])
def test_a_peer_that_cannot_tell_who_may_have_a_list_gives_nothing_of_it(
    world: World, kind: DamageKind
) -> None:
    origin = "" if kind is DamageKind.FILE else MAIN
    known = Damage(kind=kind, origin=origin, position=None, message="a trial")
    store_damage.add(world.relay.store.path, [known])

    repaired = world.repair(flip("body", "bytes", _id(1), 10), world.relay)

    assert (repaired.fetched, repaired.aside) == ((), None)


def test_a_bucket_of_a_damaged_list_is_served_as_long_as_it_is_what_was_signed(
    world: World,
) -> None:
    store, caller = world.owner.store, world.node.org
    position = world.main.log.index(world.main.snapshots[0].leaf)
    whole = access.read_bucket(store, caller, MAIN, position, 0)
    assert whole is not None

    damage(world.owner, DamageKind.BODY, 4)
    assert access.read_bucket(store, caller, MAIN, position, 0) == whole
    store.connection.execute("UPDATE bucket SET bytes = zeroblob(length(bytes))")
    assert access.read_bucket(store, caller, MAIN, position, 0) is None


def damage(site: Site, kind: DamageKind, position: int) -> Damage:
    """Damage a leaf at a site that serves, and let the site know of it."""
    table, column = {
        DamageKind.HEADER: ("delta", "header"),
        DamageKind.CHECKPOINT: ("delta", "checkpoint"),
        DamageKind.BODY: ("body", "bytes"),
    }[kind]
    record = lists.load_list(site.store.connection, Origin.parse(MAIN))
    assert record is not None
    site.store.connection.execute(
        f"UPDATE {table} SET {column} = zeroblob(length({column})) WHERE id = ?",  # noqa: S608
        (logs.delta_id(record.list, position),),
    )
    found = next(
        found
        for found in fsck(site.store)
        if (found.origin, found.kind, found.position) == (MAIN, kind, position)
    )
    store_damage.add(site.store.path, [found])
    return found


def test_a_repair_that_was_cut_off_between_its_renames_is_done_by_the_next(world: World) -> None:
    def harm(path: Path) -> None:
        SIGNED[4].harm(path)
        put_aside(path, 1)
        with pytest.raises(StoreError, match="its replacement was interrupted") as told:
            Store.open_reader(path, world.node.clock)
        assert "--repair" in told.value.hint
        assert "store.db.replaced-1" in told.value.hint

    repaired = world.repair(harm, world.owner, world.relay)

    assert (repaired.left, repaired.failed) == ((), ())
    assert world.look() == world.before
    assert not (world.path.with_name("store.db.replaced-1")).exists()


def test_what_was_found_is_told_by_list_position_and_operation(world: World) -> None:
    (row,) = world.node.store.connection.execute(
        "SELECT row FROM posting WHERE span = 1 AND position = 0 AND kind % 2 = 1 AND row > 2"
    ).fetchone()
    repaired = world.repair(
        in_sql(
            "DELETE FROM posting WHERE span = 1 AND position = 0 AND kind % 2 = 1 AND row = ?", row
        )
    )

    named = {(item.kind, item.origin, item.position, item.row) for item in repaired.damages}
    assert (DamageKind.INDEX, MAIN, 0, row) in named
