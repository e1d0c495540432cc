"""What `ingest.checks` and `fsck.check` promise: what is stored and was not signed is named.

Each damage is done to a real store behind its back, in SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation import wire
from federation.body import build_body, pack
from federation.entry import Cause, Operation, OpKind
from federation.errors import Reason
from federation.follow import FollowState
from federation.header import Header
from federation.replica import LogState
from node.errors import DamageError
from node.fsck.check import Damage, fsck
from node.ingest import checks, deltas
from node.store import lists, log
from node.store.connection import Store
from tests.federation.worlds import (
    Forgery,
    HeaderFields,
    Publisher,
    assertion,
    fingerprint,
    make_charter,
    salt_seed,
    seal_charter,
)
from tests.node.support.damage_in_sql import damage, flip_bit
from tests.node.support.followed_lists import RELAY, FollowedLists

MAIN = "hotline.example/main"
OTHER = "ngo.example/other"


def _publisher(origin: str) -> Publisher:
    """Return a list in which operations of every kind took the place of others of every kind."""
    made = Publisher(origin)
    made.publish(*(assertion(n, fingerprint(n, "md5")) for n in range(6)), assertion(6, entry="x"))
    made.publish(
        Operation.retraction(assertion(0).entry, Cause.WITHDRAWN),
        Operation.retraction(assertion(1).entry, Cause.WITHDRAWN),
        Operation.purge(assertion(2).entry),
        assertion(3, labels=("B",)),
    )
    made.publish(assertion(0), assertion(2), Operation.purge(assertion(1).entry))
    return made


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[FollowedLists]:
    publishers = [_publisher(MAIN), _publisher(OTHER)]
    made = FollowedLists(tmp_path / "node", *publishers)
    for publisher in publishers:
        envelope = seal_charter(make_charter(publisher.origin, all_peers=True))
        deltas.accept_charter(made.store, publisher.origin, wire.encode_envelope(envelope))
    yield made
    made.close()


def _found(store: Store) -> list[Damage]:
    return list(fsck(store))


def test_a_sound_store_is_called_sound_and_progress_is_told(followed: FollowedLists) -> None:
    told: list[tuple[str, int, int]] = []
    damages = fsck(followed.store, on_progress=lambda *at: told.append(at))
    assert list(damages) == []
    assert told == [(origin, done, 3) for origin in (MAIN, OTHER) for done in (1, 2, 3)]


def _id(position: int) -> str:
    return f"id = {log.delta_id(1, position)}"


@dataclass(frozen=True)
class Flip:
    """One bit of stored bytes, and what of the first damage found has to be said."""

    table: str
    column: str
    where: str
    at: int
    position: int | None
    says: str


FLIPS = (
    # Kind, position, signature.
    Flip("delta", "header", _id(1), 1, 1, "FORMAT_UNSUPPORTED"),
    Flip("delta", "header", _id(1), 40, 1, "SIGNATURE_INVALID"),
    Flip("delta", "header", _id(1), -1, 1, "SIGNATURE_INVALID"),
    Flip("delta", "header", _id(0), 100, 0, "SIGNATURE_INVALID"),
    # Origin, the dash of the signature line, the signature.
    Flip("delta", "checkpoint", _id(2), 0, 2, "CHECKPOINT_SIGNATURE_INVALID"),
    Flip("delta", "checkpoint", _id(2), -3, 2, "CHECKPOINT_"),
    Flip("body", "bytes", _id(0), 0, 0, "BODY_DIGEST_MISMATCH"),
    Flip("body", "bytes", _id(2), -1, 2, "BODY_DIGEST_MISMATCH"),
    Flip("list", "last_leaf", "list = 1", 0, None, "recorded state"),
    Flip("list", "state_digest", "list = 1", 31, None, "recorded state"),
    Flip("list", "frontier", "list = 1", 5, None, "recorded state"),
    Flip("list", "charter", "list = 1", -1, None, "charter"),
    Flip("list", "charter", "list = 1", 0, None, "charter"),
    Flip("org", "root", "name = 'hotline.example'", -1, None, "org root"),
    Flip("org", "root", "name = 'hotline.example'", 0, None, "org root"),
)


@pytest.mark.parametrize("flip", FLIPS, ids=lambda flip: f"{flip.table}.{flip.column}[{flip.at}]")
def test_a_flipped_bit_of_what_was_signed_is_found_where_it_is(
    followed: FollowedLists, flip: Flip
) -> None:
    flip_bit(followed.store, flip.table, flip.column, flip.where, flip.at)
    damages = _found(followed.store)
    assert (damages[0].origin, damages[0].position) == (MAIN, flip.position)
    assert flip.says in damages[0].message
    # The other list is sound, and is looked at all the same.
    assert OTHER not in {damage.origin for damage in damages}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size", 2),
        ("size", 5),
        ("size", 4),
        ("last_time_ms", 1),
        ("live_count", 99),
        ("frontier", b"short"),
        ("frontier", b""),
        ("last_leaf", bytes(32)),
        ("state_digest", b""),
    ],
)
def test_a_wrong_state_of_a_list_is_found(
    followed: FollowedLists, column: str, value: object
) -> None:
    damage(followed.store, f"UPDATE list SET {column} = ? WHERE list = 1", value)  # noqa: S608
    damages = _found(followed.store)
    assert damages
    assert {damage.origin for damage in damages} <= {MAIN, ""}


def test_a_log_that_was_cut_off_with_its_state_is_found(followed: FollowedLists) -> None:
    short = LogState.empty()
    for delta in _publisher(MAIN).log[:2]:
        short = short.after(Header.parse(delta.header), delta.header)
    damage(
        followed.store,
        "UPDATE list SET size = ?, frontier = ?, last_leaf = ?, last_time_ms = ?, live_count = ?, "
        "state_digest = ? WHERE list = 1",
        short.size,
        short.frontier.encode(),
        short.last_leaf,
        short.last_time_ms,
        short.live_count,
        short.state_digest,
    )
    assert any("rows in delta" in damage.message for damage in _found(followed.store))


@pytest.mark.parametrize("table", ["delta", "body"])
@pytest.mark.parametrize("position", [0, 2])
def test_signed_bytes_that_are_gone_are_found(
    followed: FollowedLists, table: str, position: int
) -> None:
    damage(followed.store, f"DELETE FROM {table} WHERE {_id(position)}")  # noqa: S608
    first = _found(followed.store)[0]
    assert (first.origin, first.position) == (MAIN, position)
    assert "missing" in first.message


def test_signed_bytes_that_no_list_has_are_found(followed: FollowedLists) -> None:
    for table in ("delta", "body"):
        columns = "version, received_ms, via, body_size, header, checkpoint"
        rest = columns if table == "delta" else "bytes"
        damage(
            followed.store,
            f"INSERT INTO {table} (id, {rest}) SELECT id + 100, {rest} FROM {table} "  # noqa: S608
            f"WHERE {_id(0)}",
        )
    messages = [damage.message for damage in _found(followed.store)]
    assert [table for table in ("delta", "body") if any(f"in {table}" in m for m in messages)] == [
        "delta",
        "body",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM posting",
        "UPDATE posting SET digest = zeroblob(32)",
        "UPDATE posting SET position = 2",
        "UPDATE posting SET row = 3",
        "UPDATE posting SET span = 50",
        "UPDATE posting SET op = 1 + op % 3",
        "UPDATE posting SET kind = kind - 1",
        "UPDATE posting SET kind = kind + 2",
    ],
)
def test_a_wrong_row_of_the_index_is_found_where_it_is(
    followed: FollowedLists, statement: str
) -> None:
    damage(followed.store, f"{statement} WHERE span = 1 AND position = 1 AND row = 1")
    damages = _found(followed.store)
    assert (MAIN, 1) in {(damage.origin, damage.position) for damage in damages}
    assert any("index" in damage.message for damage in damages)


@pytest.mark.parametrize("place", ["1, 1, 1", "1, 2, 0", "2, 0, 0", "7, 0, 0"])
def test_a_row_too_many_in_the_index_is_found(followed: FollowedLists, place: str) -> None:
    damage(
        followed.store,
        f"INSERT INTO posting VALUES (1, zeroblob(32), 3, {place}, 1, NULL)",  # noqa: S608
    )
    assert any("rows in posting" in damage.message for damage in _found(followed.store))


def _superseded(store: Store) -> list[tuple[int, ...]]:
    return store.connection.execute(
        "SELECT span, position, row, op, by_position, by_row FROM superseded ORDER BY 1, 2, 3"
    ).fetchall()


def test_the_store_of_these_tests_has_every_kind_of_what_took_the_place_of_what(
    followed: FollowedLists,
) -> None:
    kinds = set()
    for list_number, _, _, op, by_position, by_row in _superseded(followed.store):
        body = log.load_body(followed.store.connection, list_number, by_position)
        kinds.add((OpKind(op), body.operation(by_row).kind))
    assert {before for before, _ in kinds} == set(OpKind)
    assert {after for _, after in kinds} == set(OpKind)


WHERE = "WHERE span = ? AND position = ? AND row = ?"


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM superseded",
        "UPDATE superseded SET row = row + 50",
        "UPDATE superseded SET position = position + 50",
        "UPDATE superseded SET by_row = by_row + 50",
        "UPDATE superseded SET by_position = by_position + 50",
        "UPDATE superseded SET span = 50",
        "UPDATE superseded SET op = 1 + op % 3",
    ],
)
def test_a_wrong_interval_of_validity_is_found(
    followed: FollowedLists, statement: str, number: int
) -> None:
    rows = [row for row in _superseded(followed.store) if row[0] == 1]
    assert len(rows) == 7
    damage(followed.store, f"{statement} {WHERE}", *rows[number][:3])
    damages = _found(followed.store)
    assert MAIN in {damage.origin for damage in damages}


@pytest.mark.parametrize("op", list(OpKind))
# An assertion that took no other's place, a row and a delta that never were.
@pytest.mark.parametrize("successor", [(0, 0), (0, 50), (50, 0)])
def test_an_entry_that_is_hidden_by_an_invented_successor_is_found(
    followed: FollowedLists, op: OpKind, successor: tuple[int, int]
) -> None:
    live = (1, 0, 3)
    assert live not in {row[:3] for row in _superseded(followed.store)}
    damage(
        followed.store, "INSERT INTO superseded VALUES (?, ?, ?, ?, ?, ?)", *live, op, *successor
    )
    assert MAIN in {damage.origin for damage in _found(followed.store)}


def test_a_list_without_a_pinned_root_is_named(followed: FollowedLists) -> None:
    damage(followed.store, "UPDATE org SET name = 'other.example' WHERE name = 'hotline.example'")
    assert _found(followed.store)


def test_a_damaged_file_is_a_finding_and_no_exception(followed: FollowedLists) -> None:
    followed.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (root,) = followed.store.connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'delta'"
    ).fetchone()
    (page_size,) = followed.store.connection.execute("PRAGMA page_size").fetchone()
    followed.store.close()
    with followed.path.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(b"\xff" * 100)
    followed.store = Store.open_reader(followed.path, followed.clock)
    damages = _found(followed.store)
    assert any(damage.message.startswith("database file:") for damage in damages)


def test_what_others_commit_meanwhile_is_nodamage(followed: FollowedLists) -> None:
    publisher = _publisher(MAIN)
    publisher.publish(assertion("while it runs"))
    reader = Store.open_reader(followed.path, followed.clock)
    try:
        damages = fsck(reader, on_progress=lambda _origin, _done, _all: followed.take(publisher))
        assert list(damages) == []
    finally:
        reader.close()
    assert followed.record(publisher.origin).log.size == 4


# --- checks behind acceptance -----------------------------------------------------------------


def _check(followed: FollowedLists) -> int:
    return checks.check_behind(followed.store, 60.0, clock=followed.clock)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "empty")
    yield made
    made.close()


def _publish_dishonestly(reason: Reason, publisher: Publisher) -> None:
    """Publish a delta whose header claims a wrong root, or a wrong digest of the live set."""
    operations = (assertion(f"dishonest {publisher.state.size}"),)
    body = build_body(map(pack, operations), salt_seed(publisher.state.size))
    fields = HeaderFields(state_digest=Header.parse(publisher.sign(body).header).state_digest)
    if reason is Reason.OPS_ROOT_MISMATCH:
        fields["ops_root"] = bytes(32)
    else:
        fields["state_digest"] = b"\1" * 32
    delta = publisher.forge(Forgery(ops=operations, fields=fields))
    publisher.state = publisher.state.after(Header.parse(delta.header), delta.header)
    publisher.entries.apply(body)
    publisher.log.append(delta)


REASONS = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)


def test_what_was_accepted_is_checked_once(followed: FollowedLists) -> None:
    assert _check(followed) == 6
    assert _check(followed) == 0
    for record in lists.iter_lists(followed.store.connection):
        assert record.checked == record.log.size


def test_without_time_nothing_is_checked(followed: FollowedLists) -> None:
    assert checks.check_behind(followed.store, 0.0, clock=followed.clock) == 0


@pytest.mark.parametrize("reason", REASONS)
def test_a_header_that_contradicts_itself_quarantines_its_list_alone(
    empty: FollowedLists, reason: Reason
) -> None:
    publisher, other = Publisher(MAIN), _publisher(OTHER)
    publisher.publish(assertion(1))
    _publish_dishonestly(reason, publisher)
    empty.follow(publisher)
    empty.follow(other)
    _check(empty)
    status = empty.status(publisher.origin)
    assert (status.state, status.reason) == (FollowState.QUARANTINED, reason)
    assert "position 1" in status.detail
    assert empty.status(other.origin).state is FollowState.CATCHING_UP
    # Nothing is taken back: the body's digest bound every byte.
    assert empty.record(publisher.origin).log.live_count == 2
    found = [(damage.origin, damage.position) for damage in _found(empty.store)]
    assert (MAIN, 1) in found


SPOILED = (
    ("body", "bytes", "id & 0xffffffff = 1", -1),
    ("delta", "header", "id & 0xffffffff = 0", -1),
    ("delta", "header", "id & 0xffffffff = 1", 150),
    ("superseded", "row", "by_position = 1", None),
)


@pytest.mark.parametrize("spoiled", SPOILED, ids=lambda spoiled: f"{spoiled[0]} {spoiled[2]}")
def test_nobody_is_accused_of_what_a_disk_has_spoiled_before_it_was_checked(
    empty: FollowedLists, spoiled: tuple[str, str, str, int | None]
) -> None:
    publisher = _publisher(MAIN)
    empty.follow(publisher)
    table, column, where, at = spoiled
    if at is None:
        empty.store.connection.execute(
            f"UPDATE {table} SET {column} = {column} + 7 WHERE {where}"  # noqa: S608  # names
        )
    else:
        flip_bit(empty.store, table, column, where, at)

    try:
        _check(empty)
    except DamageError as error:
        assert "fsck" in error.hint  # noqa: PT017  # what is not read here is not noticed
    assert empty.status(publisher.origin).state is not FollowState.QUARANTINED
    assert list(fsck(empty.store)) != []


@pytest.mark.parametrize("reason", REASONS)
def test_a_contradiction_is_noted_once(empty: FollowedLists, reason: Reason) -> None:
    publisher = Publisher(MAIN)
    _publish_dishonestly(reason, publisher)
    empty.follow(publisher)
    _check(empty)
    watcher = Store.open_reader(empty.path, empty.clock)
    try:
        seen = watcher.connection.execute("PRAGMA data_version").fetchone()
        assert _check(empty) == 0
        assert watcher.connection.execute("PRAGMA data_version").fetchone() == seen
    finally:
        watcher.close()


@pytest.mark.parametrize("reason", REASONS)
def test_a_list_that_a_person_follows_again_all_the_same_is_followed(
    empty: FollowedLists, reason: Reason
) -> None:
    publisher = Publisher(MAIN)
    _publish_dishonestly(reason, publisher)
    empty.follow(publisher)
    _check(empty)
    publisher.publish(assertion("honest again"))
    _follow_again(empty, publisher)
    empty.take(publisher)
    _check(empty)
    assert empty.status(publisher.origin).state is FollowState.CATCHING_UP
    assert empty.record(publisher.origin).checked == 2
    _publish_dishonestly(reason, publisher)
    empty.take(publisher)
    _check(empty)
    assert empty.status(publisher.origin).state is FollowState.QUARANTINED


def test_a_fork_is_not_hidden_by_a_lesser_fault(empty: FollowedLists) -> None:
    publisher = Publisher(MAIN)
    _publish_dishonestly(Reason.OPS_ROOT_MISMATCH, publisher)
    empty.follow(publisher)
    twin = Publisher(MAIN)
    twin.publish(assertion("another history"))
    assert empty.accept(twin.origin, twin.log).error is not None
    assert empty.status(publisher.origin).state is FollowState.FORKED
    _check(empty)
    assert empty.status(publisher.origin).state is FollowState.FORKED


def _follow_again(followed: FollowedLists, publisher: Publisher) -> None:
    for via in (None, RELAY):
        with followed.store.write("follow", str(publisher.origin)) as transaction:
            lists.set_via(transaction, followed.record(publisher.origin), via)
