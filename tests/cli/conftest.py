"""One fork server for all transcripts of a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import forkserver
from tests.harness.forkserver import ForkServer


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    with forkserver.running() as server:
        yield server
