"""Gets signed bytes that are damaged here from peers, and verifies them.

Peers are asked one after the other. Their bytes must verify in the same way as stored ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.bucket import Bucket
from federation.errors import FederationError
from federation.follow import Cursor
from federation.header import leaf_hash
from federation.names import OrgName, Origin
from federation.replica import Candidate, Replica, SignedDelta
from federation.snapshot import Snapshot
from federation.trust.charter import Charter
from federation.trust.orgroot import PinnedRoot
from node.errors import NodeError
from node.repair.verify import open_charter, open_leaf
from node.telemetry.logs import get_logger

_log = get_logger()


class UnrepairableError(NodeError):
    """Signed bytes are damaged here, and no reachable peer has them."""


MayKnow = Callable[[OrgName], bool]
"""Returns whether an organization may know of a list."""


class RepairSource(Protocol):
    """Asks peers for signed bytes that are damaged here.

    A question for deltas or buckets names the list, so only peers that `may_know` of it are asked.
    """

    def deltas(
        self, origin: Origin, cursor: Cursor, count: int, may_know: MayKnow
    ) -> Iterator[tuple[OrgName, Sequence[SignedDelta]]]:
        """Yield up to `count` unverified deltas after a cursor, from each peer that has them."""

    def buckets(
        self, origin: Origin, position: int, numbers: Sequence[int], may_know: MayKnow
    ) -> Iterator[tuple[OrgName, Sequence[tuple[int, bytes]]]]:
        """Yield buckets of the snapshot at a position, from each peer that has them."""

    def charters(self, origin: Origin) -> Iterator[tuple[OrgName, bytes]]:
        """Yield the envelope of a list's charter, from each peer that has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPart:
    """Signed bytes that came from a peer.

    Attributes:
        origin: the list, as text.
        position: the position of the leaf or of the snapshot; None for a charter.
        what: `leaf`, `bucket 0`, `charter`.
        peer: the peer that sent them.
    """

    origin: str
    position: int | None
    what: str
    peer: str


class PartsFromPeers:
    """Gets the parts of one list.

    Attributes:
        fetched: the verified parts from peers.
        refused: a sentence for each part from a peer that did not verify.
    """

    def __init__(self, origin: Origin, root: PinnedRoot, source: RepairSource) -> None:
        self.fetched: list[FetchedPart] = []
        self.refused: list[str] = []
        self._origin = origin
        self._root = root
        self._source = source
        self._charter: Charter | None = None
        # Further leaves by position, which came with a requested one.
        self._spare: dict[int, tuple[SignedDelta, OrgName]] = {}

    def restrict_to(self, charter: Charter) -> None:
        """Ask those whom the list's charter allows, instead of its owner alone."""
        self._charter = charter

    def _may_know(self, org: OrgName) -> bool:
        return org == self._origin.org or (self._charter is not None and self._charter.allows(org))

    def take_spare_leaf(
        self, replica: Replica, expected: bytes | None
    ) -> tuple[Candidate, OrgName] | None:
        """Return the next leaf of a log and its peer, if it came with an earlier one.

        Args:
            replica: the log before the leaf.
            expected: the hash of the leaf; None when it is not known.
        """
        spare = self._spare.pop(replica.state.size, None)
        if spare is None:
            return None
        leaf, peer = spare
        candidate = open_leaf(replica, leaf)
        if candidate is None or expected not in (None, leaf_hash(leaf.header)):
            return None
        self._note(replica.state.size, "leaf", peer)
        return candidate, peer

    def fetch_leaf(
        self, replica: Replica, expected: bytes | None, count: int
    ) -> tuple[Candidate, OrgName]:
        """Return the next leaf of a log from the first peer that has it, and that peer.

        Args:
            replica: the log before the leaf.
            expected: the hash of the leaf; None when it is not known.
            count: how many leaves to ask for, as the ones after it may be missing too.

        Raises:
            UnrepairableError: no peer has it.
        """
        position = replica.state.size
        cursor = Cursor(
            origin=str(self._origin),
            size=position,
            root_hash=replica.state.frontier.root() if position else b"",
            charter_version=0,
            deltas_only=True,
        )
        for peer, deltas in self._source.deltas(self._origin, cursor, count, self._may_know):
            candidate = open_leaf(replica, deltas[0]) if deltas else None
            if candidate is None or expected not in (None, leaf_hash(deltas[0].header)):
                self._refuse(peer, f"position {position}")
                continue
            self._spare = {
                position + at: (delta, peer) for at, delta in enumerate(deltas[1:], start=1)
            }
            self._note(position, "leaf", peer)
            return candidate, peer
        raise UnrepairableError(f"position {position} is damaged, and no peer has it")

    def fetch_bucket(self, snapshot: Snapshot, number: int) -> tuple[bytes, Bucket]:
        """Return one bucket of a snapshot, from the first peer that has it.

        Raises:
            UnrepairableError: no peer has it.
        """
        for peer, buckets in self._source.buckets(
            self._origin, snapshot.position, [number], self._may_know
        ):
            for at, sent in buckets:
                try:
                    bucket = snapshot.open_bucket(number, sent)
                except FederationError:
                    self._refuse(peer, f"bucket {at}")
                    continue
                self._note(snapshot.position, f"bucket {number}", peer)
                return sent, bucket
        raise UnrepairableError(
            f"bucket {number} of the snapshot at position {snapshot.position} is damaged, and no "
            "peer has it"
        )

    def fetch_charter(self, *, least_version: int) -> tuple[bytes, Charter]:
        """Return the bytes of the list's charter and the charter, from the first peer that has it.

        Raises:
            UnrepairableError: no peer has it.
        """
        for peer, envelope in self._source.charters(self._origin):
            charter = open_charter(self._origin, self._root, envelope, least_version=least_version)
            if charter is None:
                self._refuse(peer, "the charter")
                continue
            self._note(None, "charter", peer)
            return envelope, charter
        raise UnrepairableError("the charter is damaged, and no peer has it")

    def _note(self, position: int | None, what: str, peer: OrgName) -> None:
        self.fetched.append(
            FetchedPart(origin=str(self._origin), position=position, what=what, peer=peer)
        )

    def _refuse(self, peer: OrgName, what: str) -> None:
        self.refused.append(f"{peer}: its copy of {what} of {self._origin} does not verify")
        _log.warning("repair_refused", origin=str(self._origin), peer=peer, what=what)
