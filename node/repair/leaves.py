"""Rebuilds the log of one list, leaf by leaf.

Each leaf is handled as when it was accepted: it is verified at its position, merged, and added to
the index. A leaf from a peer replaces a damaged one only if it is the same leaf. The leaves and
checkpoints around it say which leaf that was.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from federation.diagnosis import signed_previous
from federation.errors import FederationError
from federation.header import leaf_hash
from federation.merkle import CompactRange
from federation.names import OrgName
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.snapshot import Snapshot
from node.repair import salvage
from node.repair.peers import UnrepairableError
from node.repair.salvage import SalvagedLeaf
from node.repair.verify import open_leaf
from node.repair.work import ListWork
from node.store import index, log, rebuild
from node.store.connection import Transaction
from node.store.sqlite import sqlite3

_BATCH_LEAVES: Final = 64
"""Leaves in one transaction."""

_FETCHED_LEAVES: Final = 256
"""Leaves that are requested at once where none is stored."""


class LogRebuild:
    """Rebuilds the log of one list.

    Attributes:
        version: the store version with which the newest leaf so far came. Versions of leaves
            never decrease.
    """

    def __init__(self, work: ListWork, newest_version: int) -> None:
        self.version = 1
        self._work = work
        self._newest_version = newest_version
        # The end of the log as the damaged store says, which may be wrong.
        self._recorded = salvage.log_end(work.wreck, work.number)
        self._is_believed = _is_believable(self._recorded)
        self._newest_stored = salvage.newest_position(work.wreck, work.number)

    def follow(self, span: int, state: LogState, stop: int | None) -> LogState:
        """Rebuild the leaves of one span.

        Args:
            span: the number of the span.
            state: the log at the start of the span.
            stop: the size at which the span ends; None for the last span, which reaches to the end
                of the log.

        Returns:
            The log at the end of the span.

        Raises:
            UnrepairableError: a leaf is damaged, and no peer has it.
        """
        work = self._work
        replica = Replica(work.origin, work.root, state)
        while not self._is_end(replica, stop):
            with work.store.update_status() as connection:
                for _ in range(_BATCH_LEAVES):
                    self._rebuild_next(connection, span, replica)
                    size = replica.state.size
                    work.on_progress(size, max(self._recorded.size, size))
                    if self._is_end(replica, stop):
                        break
        return replica.state

    def put_snapshot_leaf(self, base: Snapshot) -> None:
        """Store the leaf of the snapshot with which a span begins."""
        position = base.position
        stored = self._stored(position)
        leaf = SignedDelta(base.offer.header, b"", base.offer.checkpoint)
        with self._work.store.update_status() as connection:
            self._append(connection, position, leaf, stored, None)

    # --- where the log ends -------------------------------------------------------------------

    def _is_end(self, replica: Replica, stop: int | None) -> bool:
        position = replica.state.size
        if stop is not None:
            return position >= stop
        if not self._is_believed:
            return position > self._newest_stored
        if position < self._recorded.size:
            # The size may be too large. Then the log ends with the leaf that is recorded as the
            # last.
            return (
                position > self._newest_stored
                and replica.state.last_leaf == self._recorded.last_leaf
            )
        stored = self._stored(position)
        # A leaf with a valid signature that follows is kept, even beyond the recorded size.
        return stored is None or open_leaf(replica, stored.signed) is None

    # --- one leaf -----------------------------------------------------------------------------

    def _rebuild_next(self, connection: sqlite3.Connection, span: int, replica: Replica) -> None:
        """Find the next leaf, store it, merge it and add it to the index."""
        position = replica.state.size
        stored = self._stored(position)
        candidate = None if stored is None else open_leaf(replica, stored.signed)
        peer: OrgName | None = None
        if candidate is None:
            candidate, peer = self._fetch(replica, stored)
        prior = index.load_prior(connection, span, candidate.body)
        try:
            replica.conclude(candidate, prior)
        except FederationError as error:
            raise UnrepairableError(f"position {position}: {error}") from error
        transaction = self._append(connection, position, candidate.signed, stored, peer)
        index.index_body(transaction, span, position, candidate.body, prior)

    def _stored(self, position: int) -> SalvagedLeaf | None:
        return salvage.leaf(self._work.wreck, self._work.number, position)

    def _append(
        self,
        connection: sqlite3.Connection,
        position: int,
        leaf: SignedDelta,
        stored: SalvagedLeaf | None,
        peer: OrgName | None,
    ) -> Transaction:
        """Store a leaf with its version, its arrival time and its peer, if known.

        Args:
            connection: the new store.
            position: the position of the leaf.
            leaf: its verified bytes.
            stored: the leaf in the damaged store.
            peer: the peer that sent it now; None if it is the stored one.
        """
        work = self._work
        if stored is not None:
            self.version = min(max(stored.version, self.version), self._newest_version)
        received_ms = 0 if stored is None else stored.received_ms
        transaction = Transaction(connection, self.version, received_ms or work.now_ms)
        log.append(
            transaction,
            work.number,
            position,
            leaf,
            via=None if work.own else peer,
            received_ms=transaction.now_ms,
        )
        if stored is not None and not work.own:
            rebuild.store_via(connection, work.number, position, stored.via)
        return transaction

    # --- a damaged leaf -----------------------------------------------------------------------

    def _fetch(self, replica: Replica, stored: SalvagedLeaf | None) -> tuple[Candidate, OrgName]:
        """Return the leaf at a position, and the peer that has it.

        Raises:
            UnrepairableError: no peer has it.
        """
        peers = self._work.peers
        expected = self._expected_hash(replica, stored)
        return peers.take_spare_leaf(replica, expected) or peers.fetch_leaf(
            replica, expected, self._count_missing(replica.state.size)
        )

    def _expected_hash(self, replica: Replica, stored: SalvagedLeaf | None) -> bytes | None:
        """Return the hash of the next leaf, if signed bytes here say it."""
        position = replica.state.size
        if stored is not None:
            with suppress(FederationError):
                header = replica.read_leaf(stored.signed.header)
                if (header.position, header.previous) == (position, replica.state.last_leaf):
                    return leaf_hash(stored.signed.header)
        following = self._stored(position + 1)
        return signed_previous(
            replica, position + 1, None if following is None else following.signed.header
        )

    def _count_missing(self, position: int) -> int:
        """Return how many leaves in a row are missing from a position on; at least 1."""
        count = 1
        while count < _FETCHED_LEAVES and self._stored(position + count) is None:
            count += 1
        return count


def _is_believable(recorded: salvage.LogEnd) -> bool:
    """Return whether the recorded end of the log is possible."""
    try:
        CompactRange.decode(recorded.size, recorded.frontier)
    except FederationError:
        return False
    return bool(recorded.last_leaf)
