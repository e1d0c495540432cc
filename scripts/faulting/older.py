"""Nodes whose program is of a later version than their store: what `hashfed migrate` is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from node.clock import SystemClock
from node.errors import StoreError
from node.home import Home
from node.store.connection import Store
from node.store.schema import MIGRATIONS, Schema
from scripts.faulting.nodes import Node
from tests.cli.forkserver import ForkServer

PLANTED: Final = "scripts.faulting.with_later_schema"
"""Imported by the fork server, it makes the program one of a later version."""

LATER: Final[Schema] = {
    **MIGRATIONS,
    "9999_later": ("ALTER TABLE list ADD COLUMN later TEXT NOT NULL DEFAULT 'no'",),
}
"""What a store of the later version has."""


class OlderNode(Node):
    """A node with the program of a later version, before or after its store was migrated."""

    @classmethod
    def of(cls, node: Node, folder: Path, forks: ForkServer) -> Self:
        """Copy a node's folder, for the program of the later version to work on."""
        twin = cls.__new__(cls)
        twin.__dict__.update(vars(node.copied(folder)))
        twin._forks = forks  # noqa: SLF001  # of the same class
        return twin

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """Open the store for reading, of whichever version it is."""
        path = Home(self.home).store
        try:
            store = Store.open_reader(path, SystemClock())
        except StoreError:
            store = Store.open_reader(path, SystemClock(), schema=LATER)
        try:
            yield store
        finally:
            store.close()
