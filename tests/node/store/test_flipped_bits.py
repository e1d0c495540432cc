"""Reading signed bytes with an unnoticed flipped bit gives an error of damage, or operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from federation.errors import FederationError
from node.errors import DamageError
from node.store import log, snapshots
from tests.federation.worlds import assertion, fingerprint
from tests.node.publish.test_snapshot import make
from tests.node.support.own_list import OwnList


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path)
    made.import_operations(
        *(assertion(number, labels=("A", "B")) for number in range(3)),
        *(assertion(number, fingerprint(number, "md5")) for number in range(5, 8)),
        assertion(9, entry="nine"),
    )
    made.publish()
    make(made)
    yield made
    made.close()


def _flips(data: bytes) -> Iterator[bytes]:
    for at in range(8 * len(data)):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        yield bytes(changed)


def test_a_body_is_read_as_operations_or_called_damaged(own: OwnList) -> None:
    connection = own.store.connection
    whole = log.load_body_bytes(connection, 1, 0)
    assert whole is not None
    found: Counter[bool] = Counter()
    for data in _flips(whole):
        connection.execute("UPDATE body SET bytes = ? WHERE id = ?", (data, log.delta_id(1, 0)))
        try:
            body = log.load_body(connection, 1, 0)
        except DamageError:
            found[True] += 1
            continue
        for row in range(body.count):
            # They may be nonsense.
            with suppress(FederationError):
                body.operation(row)
        found[False] += 1
    assert found[True] > 100
    assert found[False] > 100


def test_a_bucket_is_read_as_entries_or_called_damaged(own: OwnList) -> None:
    connection = own.store.connection
    (held,) = snapshots.iter_of_list(connection, 1, snapshots.SnapshotState.HELD)
    whole = snapshots.load_bucket_bytes(connection, held.snapshot, 0)
    assert whole is not None
    found: Counter[bool] = Counter()
    for data in _flips(whole):
        connection.execute("UPDATE bucket SET bytes = ?", (data,))
        try:
            bucket = snapshots.load_bucket(connection, held.snapshot, 0)
            assert len(list(bucket.entries())) == len(bucket.rows)
        except DamageError:
            found[True] += 1
        else:
            found[False] += 1
    assert found[True] > 100
    assert found[False] > 100
