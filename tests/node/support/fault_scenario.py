"""Actions of a publisher and its followers, and what must hold after each.

Everything that is done may be struck: by an error, or by the end of the process. After that, what
was acknowledged is there, and of what was struck all or nothing.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from federation.entry import Operation
from federation.follow import Cursor, Outcome
from federation.recovery import Obstacle
from node.errors import CommandError, NodeError, RecoveringError
from node.fsck.check import fsck
from node.ingest import checks
from node.ingest import deltas as ingest_deltas
from node.ingest import snapshot as ingest_snapshot
from node.maintenance import restore
from node.publish import snapshot as publish_snapshot
from node.publish.high_water import HighWater
from node.publish.permit import Permit
from node.publish.sign import Publishing
from node.rpc import access
from node.staging.import_file import import_changes
from node.store import runs
from node.store.release import released_size
from node.store.sqlite import sqlite3
from tests.federation.worlds import T0
from tests.node.support.compare_answers import Known, check_answers
from tests.node.support.fault_injection import Fault, Killed, Strike, struck
from tests.node.support.own_list import KEYS, ORIGIN, read_staged, to_lines
from tests.node.support.plain_list import Live, Moment, PlainList
from tests.node.support.restartable_nodes import FOLLOWERS, Follower, Node, Owner

_FURTHEST_BACK_MS: Final = 120_000
"""How far behind the newest delta the clock goes: less than what a follower allows it to."""


class TurningClock:
    """A clock that goes on by a second whenever it is read, and back when it is told to."""

    def __init__(self) -> None:
        self.time_ms = T0

    def now_ms(self) -> int:
        self.time_ms += 1000
        return self.time_ms


@dataclass(frozen=True)
class Past:
    """A backup of a node, and what was known of the node then."""

    node: Node
    path: Path
    known: Known


@dataclass
class Trial:
    """A publisher and two followers.

    Attributes:
        folder: where they live.
        clock: everybody's clock.
        plain: the list as it has to be.
        armed: what strikes the next thing that is done.
        followers: who follows; the first one takes no snapshots.
    """

    folder: Path
    template: Path
    clock: TurningClock = field(default_factory=TurningClock)
    plain: PlainList = field(default_factory=PlainList)
    armed: Strike | None = None
    _known: dict[str, Known] = field(default_factory=dict)
    _restoring: Past | None = None

    def __post_init__(self) -> None:
        shutil.copytree(self.template, self.folder, dirs_exist_ok=True)
        self.owner = Owner(ORIGIN.org, self.folder / ORIGIN.org, self.clock)
        self.followers = [Follower(org, self.folder / org, self.clock) for org in FOLLOWERS]
        self.followers[0].deltas_only = True
        self._known = {node.org: Known() for node in self.nodes}

    @staticmethod
    def make_template(folder: Path) -> None:
        """Make the nodes that each trial begins with."""
        Owner.make(ORIGIN.org, folder / ORIGIN.org, TurningClock())
        for org in FOLLOWERS:
            Follower.make(org, folder / org, TurningClock())

    @property
    def nodes(self) -> list[Node]:
        return [self.owner, *self.followers]

    @property
    def is_caught_up(self) -> bool:
        """Whether the publisher's store has all that may have been released."""
        return self.owner.size >= self._marked()

    def close(self) -> None:
        """End all processes."""
        for node in self.nodes:
            node.close()

    def _attempt(self, node: Node, action: Callable[[], object]) -> bool:
        """Do something at a node, which may be struck; say whether it came to its end."""
        strike, self.armed = self.armed, None
        try:
            with struck(strike, node.leave):
                action()
        except Killed:
            node.abandon()
            self._rise(node)
            return False
        except (NodeError, sqlite3.Error, OSError):
            if strike is None or not strike.struck:
                raise
            if strike.fault is not Fault.FULL:
                # The disk failed: the process ends.
                node.leave()
                node.abandon()
                self._rise(node)
            return False
        return True

    def _rise(self, node: Node) -> None:
        """Do what the next process does, and have all of it checked."""
        if not node.home.store.exists():
            # Killed between putting the old store aside and the new one in its place.
            assert self._restoring is not None, "the store is gone"
            restore.restore(node.home, node.org, self._restoring.path, clock=self.clock)
        node.open()
        assert list(fsck(node.store)) == []

    def check(self, node: Node) -> None:
        """Compare all that a node says with what has to be so."""
        known = self._known[node.org]
        known.note(node, self.plain)
        check_answers(node, self.plain, known)
        if node is self.owner:
            mark = self._marked()
            assert released_size(node.store.connection, node.record) <= mark
            assert mark >= self.plain.released, "the high-water mark has sunk"
            self.plain.released = mark

    # --- the publisher ------------------------------------------------------------------------

    def _now(self) -> Moment:
        return self.plain.moments[self.owner.size]

    def _marked(self) -> int:
        mark = HighWater(self.owner.home.mark, ORIGIN.org).load(ORIGIN)
        assert not isinstance(mark, Obstacle)
        return mark.checkpoint.size

    def _staged(self) -> Live:
        return {operation.entry: operation for operation in read_staged(self.owner.staging)}

    def change(self, said: Sequence[Operation]) -> None:
        """Import changes."""
        before = dict(self.plain.staged), set(self.plain.signed)
        takes = self.plain.stage(said, self._now())
        taken: list[bool] = []

        def action() -> None:
            text = io.BytesIO(to_lines(said).encode())
            owner = self.owner
            report = import_changes(owner.store, owner.record, owner.staging, text)
            taken.append(report.staged)

        if self._attempt(self.owner, action):
            assert taken == [takes]
        elif self._staged() != self.plain.staged:
            self.plain.staged, self.plain.signed = before
        assert self._staged() == self.plain.staged

    def _sign(self, sign: Callable[[Permit], object], to_sign: Live) -> bool:
        """Sign something, if it may be; say whether all of it was."""
        owner = self.owner
        answers = tuple(follower.checkpoint() for follower in self.followers)
        may = owner.size >= max(self._marked(), *(peer.size for peer in self.followers))
        before_ms = self.clock.time_ms
        refused: list[RecoveringError] = []

        def action() -> None:
            try:
                permit = owner.permit(answers)
            except RecoveringError as error:
                refused.append(error)
                return
            assert may, "signed by a store that lacks what was released"
            sign(permit)

        done = self._attempt(owner, action)
        if refused and refused[0].reason == Obstacle.TIME_BACKWARDS:
            assert before_ms <= owner.record.log.last_time_ms
        elif refused:
            assert not may
        self.plain.learn(owner.deltas(), to_sign)
        return done and not refused

    def publish(self) -> None:
        """Sign what is staged."""
        now = self._now()
        to_sign = self.plain.to_sign(now)
        unsigned = dict(to_sign)

        def sign(permit: Permit) -> None:
            with Publishing(self.owner.store, self.owner.staging, ORIGIN, KEYS) as publishing:
                publishing.sign(permit, clock=self.clock)

        done = self._sign(sign, unsigned)
        signed = to_sign.keys() - unsigned.keys()
        may_be_gone = {*signed, *self.plain.signed}
        may_be_gone |= {key for key, said in self.plain.staged.items() if now.is_needless(said)}
        left = self._staged()
        assert left.items() <= self.plain.staged.items()
        assert self.plain.staged.keys() - left.keys() <= may_be_gone
        if done:
            assert not unsigned
            assert not left
            self._known[ORIGIN.org].acknowledged = self.owner.size
        self.plain.staged = left
        self.plain.signed = (self.plain.signed | signed) & left.keys()

    def snapshot(self) -> None:
        """Sign a snapshot."""
        size = self.owner.size
        if not size or self.plain.is_snapshot(size - 1):
            return

        def sign(permit: Permit) -> None:
            publish_snapshot.publish_snapshot(
                self.owner.store, ORIGIN, KEYS, permit, clock=self.clock
            )

        if self._sign(sign, {}):
            assert self.plain.is_snapshot(self.owner.size - 1)
            self._known[ORIGIN.org].acknowledged = self.owner.size

    def turn_clock_back(self, by_ms: int) -> None:
        """Set the clock back."""
        newest = self.plain.log and self.owner.record.log.last_time_ms
        self.clock.time_ms = max(self.clock.time_ms - by_ms, (newest or T0) - _FURTHEST_BACK_MS)

    # --- followers ----------------------------------------------------------------------------

    def sync(self, follower: Follower, source: Node, few: int | None) -> None:
        """Let a follower ask somebody once.

        Args:
            follower: who asks.
            source: who is asked.
            few: so many deltas or buckets at most, before the connection breaks; None for all.
        """
        record = follower.record
        size = record.log.size
        cursor = Cursor(
            origin=str(ORIGIN),
            size=size,
            root_hash=record.log.frontier.root() if size else b"",
            charter_version=record.charter_version,
            deltas_only=follower.deltas_only,
        )
        answer = access.answer(source.store, follower.org, cursor)
        assert answer.outcome not in {Outcome.DIVERGED, Outcome.UNAVAILABLE}
        stop = answer.head if few is None else min(answer.head, size + few)

        def take_deltas() -> None:
            deltas = source.deltas(size)[: stop - size]
            taken = ingest_deltas.accept(
                follower.store, ORIGIN, deltas, via=source.org, clock=self.clock
            )
            assert taken.error is None
            assert taken.size == stop

        def take_snapshot() -> None:
            assert answer.snapshot is not None
            at = answer.snapshot
            offer = access.offer_snapshot(source.store, follower.org, cursor, at)
            assert offer is not None
            arrival = ingest_snapshot.begin(follower.store, ORIGIN, offer, clock=self.clock)
            for number in arrival.missing[:few]:
                data = access.read_bucket(source.store, follower.org, str(ORIGIN), at, number)
                assert data is not None
                assert ingest_snapshot.take(follower.store, arrival, [(number, data)]) is not None
            joined = ingest_snapshot.finish(follower.store, arrival, via=source.org)
            assert (joined is not None) == (few is None or few >= len(arrival.missing))

        if answer.outcome is Outcome.DELTAS:
            self._attempt(follower, take_deltas)
        elif answer.outcome is Outcome.SNAPSHOT:
            self._attempt(follower, take_snapshot)
        # It saw what it has: it must not lose that.
        known = self._known[follower.org]
        known.acknowledged = max(known.acknowledged, follower.size)

    # --- any node -----------------------------------------------------------------------------

    def merge(self, node: Node) -> None:
        """Merge a part of what waits in the index."""
        self._attempt(node, lambda: runs.merge_behind(node.store, 0.0))

    def look_behind(self, node: Node) -> None:
        """Do what is done behind acceptance: checks, and what is left of snapshots."""
        self._attempt(
            node,
            lambda: (
                checks.check_behind(node.store, 60.0, clock=self.clock),
                ingest_snapshot.sweep(node.store),
            ),
        )

    def rebuild(self, node: Node) -> None:
        """Make the newest snapshot again, to be served."""

        def action() -> None:
            # There may be none, or it is served already.
            with suppress(CommandError):
                publish_snapshot.rebuild(node.store, node.record)

        self._attempt(node, action)

    def reopen(self, node: Node, *, killed: bool) -> None:
        """End a process, in peace or not, and start the next one, which may be struck in turn."""
        self._end(node, killed=killed)
        self._attempt(node, node.open)
        if not node.is_alive:
            self._rise(node)
        assert list(fsck(node.store)) == []

    @staticmethod
    def _end(node: Node, *, killed: bool) -> None:
        if killed:
            node.leave()
            node.abandon()
        else:
            node.close()
