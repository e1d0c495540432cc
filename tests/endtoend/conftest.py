"""Organizations in a folder of the test's own; what was started is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import forkserver
from tests.harness.forkserver import ForkServer
from tests.harness.node import Node

Orgs = Callable[..., list[Node]]


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    with forkserver.running() as server:
        yield server


@pytest.fixture
def orgs(tmp_path: Path, forks: ForkServer) -> Iterator[Orgs]:
    """Makes nodes that do not know each other yet."""
    made: list[Node] = []

    def make(*names: str) -> list[Node]:
        nodes = [Node(tmp_path, f"{name}.example", forks) for name in names]
        made.extend(nodes)
        return nodes

    yield make
    for node in made:
        node.kill()
