"""What the rebuilding of one list works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from federation.names import Origin
from federation.trust.orgroot import PinnedRoot
from node.repair.peers import PartsFromPeers
from node.repair.salvage import Wreck
from node.store.connection import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ListWork:
    """One list, where it is read from and where it is rebuilt.

    Attributes:
        wreck: the damaged store.
        store: the new one. It has the list's organization, and the list is empty.
        number: the list's number, in both.
        origin: the list.
        own: whether it is ours.
        root: its owner's keys.
        peers: gets from peers what is damaged here.
        now_ms: the time that counts as the arrival of what comes from peers.
        on_progress: told (leaves or buckets done, of how many).
    """

    wreck: Wreck
    store: Store
    number: int
    origin: Origin
    own: bool
    root: PinnedRoot
    peers: PartsFromPeers
    now_ms: int
    on_progress: Callable[[int, int], None]
