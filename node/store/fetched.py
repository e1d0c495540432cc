"""Deltas that a snapshot skipped, fetched one by one so that people can look at them.

Each is kept with the proof that it is in the log that was held then. Nothing is derived from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from federation.names import OrgName
from federation.replica import SignedDelta
from federation.snapshot import split_hashes
from node.store.connection import Transaction
from node.store.log import delta_id
from node.store.sqlite import select, sqlite3

_HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedDelta:
    """A delta that was fetched alone.

    Attributes:
        position: its position.
        delta: its exact bytes.
        inclusion: the proof that it is in the log of `size`.
        size: the size of the log that was held when it was fetched.
        received_ms: when it arrived.
        via: the peer that sent it.
    """

    position: int
    delta: SignedDelta
    inclusion: tuple[bytes, ...]
    size: int
    received_ms: int
    via: OrgName


_FETCHED = (
    "SELECT f.id, f.header, f.body, f.checkpoint, f.inclusion, f.size, f.received_ms, "
    "o.name AS via FROM fetched AS f JOIN org AS o ON o.org = f.via "
    "WHERE f.id >= ? AND f.id < ? ORDER BY f.id"
)


def store(transaction: Transaction, list_number: int, fetched: FetchedDelta) -> None:
    """Keep a verified delta."""
    transaction.connection.execute(
        """INSERT OR REPLACE INTO fetched (id, size, received_ms, via, header, checkpoint,
            inclusion, body) SELECT ?, ?, ?, org, ?, ?, ?, ? FROM org WHERE name = ?""",
        (
            delta_id(list_number, fetched.position),
            fetched.size,
            fetched.received_ms,
            fetched.delta.header,
            fetched.delta.checkpoint,
            b"".join(fetched.inclusion),
            fetched.delta.body,
            fetched.via,
        ),
    )


def load(connection: sqlite3.Connection, list_number: int, position: int) -> FetchedDelta | None:
    """Return the delta at a position, or None."""
    return next(iterate(connection, list_number, position, position + 1), None)


def iterate(
    connection: sqlite3.Connection, list_number: int, start: int, stop: int
) -> Iterator[FetchedDelta]:
    """Yield the deltas that were fetched from `start` on, before `stop`."""
    places = (delta_id(list_number, start), delta_id(list_number, stop))
    for row in select(connection, _FETCHED, places):
        proof = row["inclusion"]
        yield FetchedDelta(
            position=row["id"] - delta_id(list_number, 0),
            delta=SignedDelta(row["header"], row["body"], row["checkpoint"]),
            inclusion=split_hashes(proof, len(proof) // _HASH_BYTES),
            size=row["size"],
            received_ms=row["received_ms"],
            via=OrgName(row["via"]),
        )
