"""What `node.publish.permit` promises: what was released is never signed again, after any crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from federation import wire
from federation.checkpoint import Checkpoint, read_checkpoint
from federation.follow import Cursor, FollowState, Outcome
from federation.names import OrgName
from federation.recovery import Action, Obstacle, PeerReport
from federation.replica import SignedDelta
from node.errors import DamageError, DiskError, RecoveringError
from node.fsck.check import fsck
from node.ingest import checks
from node.publish import permit as publish_permit
from node.publish import snapshot
from node.publish.high_water import HighWater, MarkMovedError
from node.publish.permit import look, obtain_permit, take_back
from node.rpc import access
from node.store import follow_state, lists, log, snapshots
from node.store.connection import Store
from node.store.release import load_unreleased, released_size, rotate_incarnation
from node.system import durable
from tests.federation.worlds import assertion, make_charter, seal_charter
from tests.node.support.own_list import KEYS, ORIGIN, OwnList

PEER = OrgName("ngo.example")


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path / "own")
    yield made
    made.close()


def publish(own: OwnList, *numbers: int) -> None:
    own.import_operations(*map(assertion, numbers))
    own.publish()


def deltas(own: OwnList) -> list[SignedDelta]:
    record = own.record
    return [
        delta
        for position in range(record.log.size)
        for delta in log.read_frame(own.store.connection, record.list, position, position + 1)
    ]


def marked_size(own: OwnList) -> int:
    found = own.mark.load(ORIGIN)
    return -1 if isinstance(found, Obstacle) else found.checkpoint.size


def released(own: OwnList) -> int:
    return released_size(own.store.connection, own.record)


def state(own: OwnList) -> tuple[FollowState, str]:
    status = follow_state.load_follow_status(own.store.connection, own.record.list)
    return status.state, status.reason


def says(checkpoint: Checkpoint | None) -> tuple[PeerReport, ...]:
    return (PeerReport(peer=PEER, answered=True, checkpoint=checkpoint),)


SILENT = (PeerReport(peer=PEER, answered=False),)


# --- the windows of one step ------------------------------------------------------------------


def test_store_mark_and_release_move_together(own: OwnList) -> None:
    for number in range(1, 4):
        publish(own, number)
        assert (own.record.log.size, marked_size(own), released(own)) == (number,) * 3
        assert load_unreleased(own.store.connection) == []
    assert state(own) == (FollowState.OWN, "")


def _at_commit(own: OwnList, patch: pytest.MonkeyPatch) -> None:
    real = Store.write

    def write(self: Store, kind: str, detail: str) -> object:
        if kind == "publish":
            raise Killed
        return real(self, kind, detail)

    patch.setattr(Store, "write", write)


def _before_the_mark(own: OwnList, patch: pytest.MonkeyPatch) -> None:
    def killed(self: HighWater, *_args: object) -> None:
        raise Killed

    patch.setattr(HighWater, "put_in_place", killed)


def _after_the_mark(own: OwnList, patch: pytest.MonkeyPatch) -> None:
    def killed(*_args: object) -> None:
        raise Killed

    patch.setattr(publish_permit, "release", killed)


def _before_letting_go(own: OwnList, patch: pytest.MonkeyPatch) -> None:
    size = own.record.log.size

    def killed(_extent: object) -> None:
        if own.record.log.size > size:
            raise Killed

    patch.setattr(own.staging, "remove", killed)


WINDOWS: dict[str, tuple[Callable[[OwnList, pytest.MonkeyPatch], None], tuple[int, int, int]]] = {
    "before the commit": (_at_commit, (1, 1, 1)),
    "between commit and mark": (_before_the_mark, (2, 1, 1)),
    "between mark and release": (_after_the_mark, (2, 2, 1)),
    "between release and letting go": (_before_letting_go, (2, 2, 2)),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_kill_in_any_window_is_finished_by_the_next_start_and_nothing_is_signed_twice(
    own: OwnList, monkeypatch: pytest.MonkeyPatch, window: str
) -> None:
    publish(own, 1)
    own.import_operations(assertion(2), assertion(3))
    kill, left = WINDOWS[window]
    permit = own.permit()
    with monkeypatch.context() as patch:
        kill(own, patch)
        with pytest.raises(Killed):
            own.publish(permit)
    assert (own.record.log.size, marked_size(own), released(own)) == left
    signed = deltas(own)

    own.publish()
    assert deltas(own)[: len(signed)] == signed
    assert (marked_size(own), released(own)) == (2, 2)
    assert len(own.live()) == 3
    assert own.staging.is_empty
    assert list(fsck(own.store)) == []
    assert [path.name for path in own.mark.path.parent.glob(".*.next")] == []


def share(own: OwnList) -> None:
    """Let every peer have the list."""
    envelope = wire.encode_envelope(seal_charter(make_charter(ORIGIN, all_peers=True)))
    with own.store.write("charter", str(ORIGIN)) as transaction:
        lists.store_charter(transaction, own.record, envelope, 1)


def test_a_peer_is_told_of_nothing_that_is_not_released(
    own: OwnList, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(own)
    publish(own, 1)
    own.import_operations(assertion(2))
    with monkeypatch.context() as patch:
        _before_the_mark(own, patch)
        with pytest.raises(Killed):
            own.publish()
    first, second = deltas(own)
    cursor = Cursor(origin=str(ORIGIN), size=0, root_hash=b"", charter_version=1)
    answer = access.answer(own.store, PEER, cursor)
    assert (answer.head, answer.checkpoint) == (1, first.checkpoint)
    ahead = Cursor(
        origin=str(ORIGIN), size=2, root_hash=own.record.log.frontier.root(), charter_version=1
    )
    assert access.answer(own.store, PEER, ahead).outcome is Outcome.CURSOR_AHEAD
    assert access.read_leaf(own.store, PEER, str(ORIGIN), 1, 2) is None
    own.permit()
    found = access.read_leaf(own.store, PEER, str(ORIGIN), 1, 2)
    assert found is not None
    assert found[0] == second
    assert access.answer(own.store, PEER, cursor).head == 2


def test_a_snapshot_is_a_step_and_no_peer_is_told_of_one_that_is_not_released(
    own: OwnList, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(own)
    for turn in range(40):
        own.import_operations(*(assertion(n, labels=(f"turn {turn}",)) for n in range(60)))
        own.publish()
    cursor = Cursor(origin=str(ORIGIN), size=0, root_hash=b"", charter_version=1)

    def make() -> None:
        snapshot.publish_snapshot(own.store, ORIGIN, KEYS, own.permit(), clock=own.clock)

    make()
    first = own.record.log.size - 1
    assert (marked_size(own), released(own)) == (first + 1, first + 1)
    assert access.answer(own.store, PEER, cursor).snapshot == first
    publish(own, 100)
    with monkeypatch.context() as patch:
        _before_the_mark(own, patch)
        with pytest.raises(Killed):
            make()
    second = own.record.log.size - 1
    assert (marked_size(own), released(own)) == (second, second)
    answer = access.answer(own.store, PEER, cursor)
    assert (answer.head, answer.snapshot) == (second, first)
    assert access.offer_snapshot(own.store, PEER, cursor, second) is None
    assert access.read_bucket(own.store, PEER, str(ORIGIN), second, 0) is None
    assert access.read_bucket(own.store, PEER, str(ORIGIN), first, 0) is not None

    own.permit()
    assert (marked_size(own), released(own)) == (second + 1, second + 1)
    assert access.answer(own.store, PEER, cursor).snapshot == second
    assert access.read_bucket(own.store, PEER, str(ORIGIN), second, 0) is not None
    assert list(fsck(own.store)) == []


# --- two publishers ---------------------------------------------------------------------------


def test_of_two_publishers_with_a_permit_each_only_one_signs_a_position(own: OwnList) -> None:
    first, second = own.permit(), own.permit()
    own.import_operations(assertion(1))
    own.publish(first)
    own.import_operations(assertion(2))
    with pytest.raises(MarkMovedError, match="changed by another process"):
        own.publish(second)
    assert own.record.log.size == marked_size(own) == 1
    assert not own.staging.is_empty
    own.publish()
    assert own.record.log.size == 2


def test_a_publisher_whose_mark_was_put_back_meanwhile_releases_nothing(
    own: OwnList, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = own.mark.path.read_bytes()
    publish(own, 1)
    publish(own, 2)
    permit = own.permit()
    own.import_operations(assertion(3))
    own.mark.path.write_bytes(data)
    with pytest.raises(MarkMovedError, match="was changed meanwhile"):
        own.publish(permit)
    assert (own.record.log.size, released(own)) == (2, 2)
    with pytest.raises(RecoveringError) as caught:
        obtain_permit(own.store, own.mark, ORIGIN, lambda: SILENT, clock=own.clock)
    assert caught.value.reason is Obstacle.AHEAD_OF_MARK
    assert state(own) == (FollowState.RECOVERING, "AHEAD_OF_MARK")


def test_when_the_mark_cannot_be_written_nothing_is_signed(
    own: OwnList, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(own, 1)
    permit = own.permit()
    own.import_operations(assertion(2))

    def fail(_path: Path, _data: bytes) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_new", fail)
        with pytest.raises(DiskError):
            own.publish(permit)
    assert (own.record.log.size, marked_size(own)) == (1, 1)
    own.publish()
    assert marked_size(own) == 2


# --- what is put back -------------------------------------------------------------------------


class History:
    """Copies of a list's files after each of its publications.

    Attributes:
        checkpoints: the newest checkpoint of each.
    """

    def __init__(self, own: OwnList, folder: Path, size: int) -> None:
        self.checkpoints: list[Checkpoint | None] = [None]
        self._own = own
        self._folder = folder
        self._copy(0)
        for number in range(1, size + 1):
            publish(own, number)
            self.checkpoints.append(read_checkpoint(deltas(own)[-1].checkpoint))
            self._copy(number)

    def _copy(self, number: int) -> None:
        self._own.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        target = self._folder / str(number)
        target.mkdir(parents=True)
        shutil.copy2(self._own.store.path, target / "store.db")
        shutil.copytree(self._own.mark.path.parent, target / "mark")

    def put_back(self, number: int, *what: str) -> None:
        """Put the store, the mark or both back as they were after so many publications."""
        own = self._own
        if "store" in what:
            own.store.close()
            for end in ("-wal", "-shm"):
                Path(f"{own.store.path}{end}").unlink(missing_ok=True)
            shutil.copy2(self._folder / str(number) / "store.db", own.store.path)
            own.store = Store.open(own.store.path, own.clock)
        if "mark" in what:
            shutil.rmtree(own.mark.path.parent)
            shutil.copytree(self._folder / str(number) / "mark", own.mark.path.parent)


@pytest.mark.parametrize("what", [("store",), ("mark",), ("store", "mark")], ids="+".join)
def test_whatever_is_put_back_nothing_is_signed_while_anybody_knows_better(
    own: OwnList, tmp_path: Path, what: tuple[str, ...]
) -> None:
    newest = 5
    history = History(own, tmp_path / "copies", newest)
    signed = deltas(own)
    for back, peer in product(range(newest), (None, 0, 2, newest)):
        history.put_back(newest, "store", "mark")
        history.put_back(back, *what)
        answers = SILENT if peer is None else says(history.checkpoints[peer])
        size = own.record.log.size
        decision = look(own.store, own.mark, own.record, answers, clock=own.clock)
        if decision.action in {Action.SIGN, Action.FINISH}:
            # The store has all, or nobody who answered, and no mark, says that anything is missing.
            assert size == newest or (what == ("store", "mark") and (peer or 0) <= size)
        else:
            with pytest.raises(RecoveringError):
                obtain_permit(own.store, own.mark, ORIGIN, partial(tuple, answers), clock=own.clock)
        if size < newest and (peer == newest or what == ("store",)):
            # Detected before the first signature: a peer that is up to date, or the mark, is left.
            assert decision.obstacle in {Obstacle.BEHIND_PEER, Obstacle.BEHIND_MARK}
    assert deltas(own) == signed[: own.record.log.size]


def test_what_is_missing_is_taken_back_byte_for_byte_and_signing_goes_on(
    own: OwnList, tmp_path: Path
) -> None:
    history = History(own, tmp_path / "copies", 4)
    signed, live = deltas(own), own.live()
    history.put_back(1, "store")
    with pytest.raises(RecoveringError) as caught:
        own.publish()
    assert caught.value.reason is Obstacle.BEHIND_MARK
    assert state(own) == (FollowState.RECOVERING, "BEHIND_MARK")
    answers = says(history.checkpoints[4])
    decision = look(own.store, own.mark, own.record, answers, clock=own.clock)
    assert (decision.action, decision.sources) == (Action.CATCH_UP, (PEER,))
    for delta in signed[1:]:
        take_back(own.store, ORIGIN, [delta], via=PEER, clock=own.clock)
        # What is not marked yet is not served from here.
        assert released(own) == 1
    obtain_permit(own.store, own.mark, ORIGIN, lambda: answers, clock=own.clock)
    assert deltas(own) == signed
    assert own.live() == live
    assert (marked_size(own), released(own)) == (4, 4)
    assert state(own) == (FollowState.OWN, "")
    publish(own, 50)
    assert deltas(own)[:4] == signed
    assert list(fsck(own.store)) == []


def test_the_leaf_of_a_snapshot_is_taken_back_as_a_delta_is(own: OwnList, tmp_path: Path) -> None:
    history = History(own, tmp_path / "copies", 2)
    snapshot.publish_snapshot(own.store, ORIGIN, KEYS, own.permit(), clock=own.clock)
    publish(own, 3)
    signed, live = deltas(own), own.live()
    history.put_back(1, "store")
    take_back(own.store, ORIGIN, signed[1:], via=PEER, clock=own.clock)
    answers = says(read_checkpoint(signed[-1].checkpoint))
    obtain_permit(own.store, own.mark, ORIGIN, lambda: answers, clock=own.clock)
    assert (deltas(own), own.live()) == (signed, live)
    assert (marked_size(own), released(own)) == (4, 4)
    # Its buckets are not here: nobody is offered it, and a new one can be made.
    assert snapshots.newest_held(own.store.connection, own.record.list) is None
    snapshot.publish_snapshot(own.store, ORIGIN, KEYS, own.permit(), clock=own.clock)
    assert list(fsck(own.store)) == []


def test_a_store_with_another_token_waits_for_its_peers_unless_the_mark_is_known(
    own: OwnList, tmp_path: Path
) -> None:
    publish(own, 1)
    with own.store.write("restore", "") as transaction:
        rotate_incarnation(transaction)
    here = read_checkpoint(deltas(own)[-1].checkpoint)
    # The mark was raised since the machine was started, and is untouched.
    assert look(own.store, own.mark, own.record, SILENT, clock=own.clock).action is Action.FINISH
    own.mark.doubt(ORIGIN)
    with pytest.raises(RecoveringError) as caught:
        obtain_permit(own.store, own.mark, ORIGIN, lambda: SILENT, clock=own.clock)
    assert caught.value.reason is Obstacle.RESTORED
    obtain_permit(own.store, own.mark, ORIGIN, lambda: says(here), clock=own.clock)
    publish(own, 2)


def test_a_mark_that_is_lost_is_made_anew_once_all_peers_have_answered_or_the_operator_says_so(
    own: OwnList,
) -> None:
    publish(own, 1)
    here = read_checkpoint(deltas(own)[-1].checkpoint)
    for answers, risk in ((says(here), None), (SILENT, "the disk broke, the peers are gone")):
        own.mark.path.unlink()
        with pytest.raises(RecoveringError) as caught:
            obtain_permit(own.store, own.mark, ORIGIN, lambda: SILENT, clock=own.clock)
        assert caught.value.reason is Obstacle.MARK_MISSING
        assert "hashfed recover main" in caught.value.hint
        obtain_permit(
            own.store, own.mark, ORIGIN, partial(tuple, answers), clock=own.clock, risk=risk
        )
        assert marked_size(own) == own.record.log.size
        own.publish()
    (row,) = own.store.connection.execute(
        "SELECT detail FROM version WHERE kind = 'recover'"
    ).fetchall()
    assert row == (f"{ORIGIN}: MARK_MISSING, at the risk of: the disk broke, the peers are gone",)


@pytest.mark.parametrize(
    "harm",
    [
        (
            "UPDATE body SET bytes = CAST(x'00' || substr(bytes, 2) AS BLOB) "
            "WHERE id = (SELECT max(id) FROM body)"
        ),
        "DELETE FROM delta WHERE id = (SELECT max(id) FROM delta)",
        (
            "UPDATE delta SET header = "
            "CAST(substr(header, 1, length(header) - 1) || x'ff' AS BLOB) "
            "WHERE id = (SELECT max(id) FROM delta)"
        ),
        (
            "UPDATE delta SET header = "
            "CAST(substr(header, 1, length(header) - 1) || x'ff' AS BLOB) "
            "WHERE id = (SELECT min(id) FROM delta)"
        ),
        "UPDATE list SET last_leaf = zeroblob(32)",
        (
            "UPDATE delta SET checkpoint = (SELECT checkpoint FROM delta ORDER BY id LIMIT 1) "
            "WHERE id = (SELECT max(id) FROM delta)"
        ),
    ],
)
def test_nothing_is_signed_upon_newest_deltas_that_are_not_what_was_signed(
    own: OwnList, harm: str
) -> None:
    for number in range(3):
        publish(own, number)
    own.store.connection.execute(harm)
    own.import_operations(assertion(9))
    with pytest.raises(DamageError):
        own.publish()
    assert own.record.log.size == 3
    assert marked_size(own) == 3


def test_of_large_deltas_the_newest_two_steps_are_read_again_before_a_signature(
    own: OwnList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What older steps have is for `fsck`: else a small change would cost what large ones did."""
    monkeypatch.setattr(checks, "_TAIL_BYTES", 0)
    for number in range(3):
        publish(own, number)
    flip = "UPDATE body SET bytes = zeroblob(length(bytes)) WHERE id & 255 = ?"
    own.store.connection.execute(flip, (0,))
    publish(own, 3)
    own.store.connection.execute(flip, (2,))
    own.import_operations(assertion(9))
    with pytest.raises(DamageError, match="position 2"):
        own.publish()
    assert own.record.log.size == marked_size(own) == 4


def test_of_small_deltas_all_that_are_looked_at_are_read_again(own: OwnList) -> None:
    for number in range(4):
        publish(own, number)
    own.store.connection.execute("UPDATE body SET bytes = zeroblob(1) WHERE id & 255 = 0")
    own.import_operations(assertion(9))
    with pytest.raises(DamageError, match="position 0"):
        own.publish()
