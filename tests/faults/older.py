"""Nodes whose program is newer than their store, as `hashfed migrate` expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, Self

from node.clock import SystemClock
from node.errors import StoreError
from node.home import Home
from node.store.connection import Store
from tests.faults.later import LATER, later_version
from tests.faults.nodes import Node

PLANTED: Final = "tests.faults.later"
"""The module that the fork server imports to give processes the later version."""


class OlderNode(Node):
    """A node with the program of a later version, before or after its store was migrated."""

    @classmethod
    def of(cls, node: Node, folder: Path) -> Self:
        """Copy a node's folder, for the program of the later version to work on."""
        twin = cls.__new__(cls)
        twin.__dict__.update(vars(node.copied(folder)))
        twin._env = {**twin._env, **LATER}  # of the same class
        return twin

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """Open the store for reading, whatever its version."""
        path = Home(self.home).store
        version: AbstractContextManager[None] = nullcontext()
        try:
            Store.open_reader(path, SystemClock()).close()
        except StoreError:
            version = later_version()
        with version:
            store = Store.open_reader(path, SystemClock())
            try:
                yield store
            finally:
                store.close()
