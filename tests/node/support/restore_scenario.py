"""Backups of the nodes of a trial, and their way back: what a store that is old may not do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.errors import RecoveringError
from node.maintenance import restore as maintenance_restore
from node.maintenance.backup import backup
from node.publish.permit import take_back
from node.store.connection import Store
from node.store.release import load_incarnation
from tests.node.support.fault_scenario import Past, Trial
from tests.node.support.own_list import ORIGIN
from tests.node.support.restartable_nodes import Follower, Node

_BACKUPS: Final = 3


@dataclass
class RestoringTrial(Trial):
    """A publisher and two followers whose past can be put back.

    Attributes:
        pasts: the newest backups.
    """

    pasts: list[Past] = field(default_factory=list)
    _made: int = 0

    def back_up(self, node: Node) -> None:
        """Make a backup."""
        self._made += 1
        path = self.folder / f"backup-{self._made}.db"
        known = self._known[node.org].copy()
        self._attempt(node, lambda: backup(node.store, path, clock=self.clock))
        # What is in it and was not released yet may be signed otherwise once it is forgotten.
        is_settled = node is not self.owner or node.size <= self._marked()
        if path.exists() and is_settled:
            # Whatever has that name is one, also if its maker was killed.
            self.pasts.append(Past(node, path, known))
            del self.pasts[:-_BACKUPS]

    def restore(self, past: Past, *, killed: bool) -> None:
        """Put a backup in the place of a node's store, whose process ended in peace or not."""
        node = past.node
        token, size = load_incarnation(node.store.connection), node.size
        held = {path.name for path in node.home.path.iterdir()}
        self._end(node, killed=killed)
        self._restoring = past
        self._attempt(
            node,
            lambda: maintenance_restore.restore(node.home, node.org, past.path, clock=self.clock),
        )
        if not node.is_alive:
            self._rise(node)
        self._restoring = None
        asides = sorted(
            path for path in node.home.path.glob("store.db.replaced-*") if path.name not in held
        )
        if load_incarnation(node.store.connection) != token:
            self._check_kept(asides, size)
            self._note_restored(node, past, asides)
        for path in asides:
            path.unlink(missing_ok=True)

    def _check_kept(self, asides: Sequence[Path], size: int) -> None:
        """Assert that the store that was replaced is kept, and whole."""
        (kept,) = (path for path in asides if not path.name.endswith(("-wal", "-shm")))
        store = Store.open(kept, self.clock)
        assert Node.record_in(store).log.size == size
        store.close()

    def _note_restored(self, node: Node, past: Past, asides: Sequence[Path]) -> None:
        if node is self.owner and not self._can_catch_up():
            # Nobody has what is missing: all that is left is the store that was put aside.
            may = self._attempt_permit()
            assert not may
            (kept,) = (path for path in asides if not path.name.endswith(("-wal", "-shm")))
            node.close()
            kept.replace(node.home.store)
            node.open()
            return
        self._known[node.org] = past.known.copy()
        if node is self.owner:
            self.plain.forget_from(self._marked())
            # What was signed last is known to the store that is gone.
            self.plain.signed.clear()

    def _attempt_permit(self) -> bool:
        answers = tuple(follower.checkpoint() for follower in self.followers)
        try:
            self.owner.permit(answers)
        except RecoveringError:
            return False
        return True

    def _sources(self, size: int) -> list[Follower]:
        """Return who has the delta behind so many, and can give it; who has most first."""
        having = [node for node in self.followers if node.record.log.start <= size < node.size]
        return sorted(having, key=lambda node: -node.size)

    def _can_catch_up(self) -> bool:
        size = self.owner.size
        while sources := self._sources(size):
            size = sources[0].size
        return size >= self._marked()

    def recover(self) -> None:
        """Take back from followers what the publisher's store lacks."""
        owner = self.owner

        def action() -> None:
            while sources := self._sources(owner.size):
                deltas = sources[0].deltas(owner.size)
                take_back(owner.store, ORIGIN, deltas, via=sources[0].org, clock=self.clock)

        if self._attempt(owner, action) and owner.size < self._marked():
            assert not self._attempt_permit()
        self.plain.learn(owner.deltas(), {})
