"""The data and tools for rebuilding one list."""

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
    """One list, with its damaged store and its new store.

    Attributes:
        wreck: the damaged store.
        store: the new one. It has the list's organization, and the list is empty.
        number: the list's number in both stores.
        origin: the list.
        own: whether it is ours.
        root: its owner's keys.
        peers: gets damaged parts from peers.
        now_ms: the arrival time of parts from peers.
        on_progress: called with (leaves or buckets done, total).
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
