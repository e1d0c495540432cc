"""The heads of all lists, read once for each state of the store and not once for each stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

from node.store import lists
from node.store.connection import Store
from node.store.release import released_size


class Head(NamedTuple):
    """What changes whenever a list has something new to say to anybody.

    Attributes:
        size: deltas of its log that may leave.
        charter_version: the charter in force; 0 for none.
    """

    size: int
    charter_version: int


class Heads:
    """The heads of all lists. Each store is used by one thread at a time."""

    def __init__(self) -> None:
        # By the connection that read it: SQLite counts other processes' commits per connection.
        self._read: WeakKeyDictionary[Store, tuple[int, dict[str, Head]]] = WeakKeyDictionary()

    def load(self, store: Store) -> Mapping[str, Head]:
        """Return the head of every list, by origin. It is current, as only readers call this."""
        # Get the version first: what is committed during the read is then read the next time.
        version = store.data_version
        read = self._read.get(store)
        if read is None or read[0] != version:
            heads = {
                str(record.origin): Head(
                    released_size(store.connection, record), record.charter_version
                )
                for record in list(lists.iter_lists(store.connection))
            }
            read = self._read[store] = (version, heads)
        return read[1]
