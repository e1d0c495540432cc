"""What `node.settling` promises about what others publish while an import reads its file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.entry import Cause, Operation
from node.importing import import_changes
from tests.federation.worlds import assertion
from tests.node.own_list import OwnList, to_lines


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path / "own")
    yield made
    made.close()


def test_a_first_publication_while_the_file_is_read_is_seen(own: OwnList) -> None:
    own.import_operations(assertion(1))
    read_before = own.record
    own.publish()
    data = to_lines([Operation.retraction(assertion(1).entry, Cause.WITHDRAWN)]).encode()
    report = import_changes(own.store, read_before, own.staging, io.BytesIO(data))
    assert report.errors == ()
    assert report.effect.retracted == 1
