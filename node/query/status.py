"""The state of each list, and its log, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from federation.header import Header, leaf_hash
from federation.names import OrgName
from node.clock import Clock
from node.publish import permit
from node.publish.high_water import HighWater
from node.store import damage, follow_state, lists, log, snapshots
from node.store.connection import Store
from node.store.follow_state import FollowStatus
from node.store.lists import ListRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One delta of a list's log.

    Attributes:
        position: its position.
        header: what the publisher signed.
        delta_hash: its leaf hash.
        received_ms: when this node accepted it (or signed it).
        via: the peer that it came from; None for our own.
        version: the store version that it came with.
        body_size: the size of its body in bytes.
    """

    position: int
    header: Header
    delta_hash: bytes
    received_ms: int
    via: OrgName | None
    version: int
    body_size: int


def read_log(store: Store, record: ListRecord, limit: int | None) -> Iterator[LogLine]:
    """Yield the deltas of a list, newest first.

    Raises:
        DamageError: the list is damaged here.
    """
    damage.require_sound(store.path, str(record.origin))
    for number, delta in enumerate(
        log.iter_records(store.connection, record.list, 0, record.log.size, newest=True)
    ):
        if limit is not None and number >= limit:
            return
        yield LogLine(
            position=delta.position,
            header=log.read_header(delta.header, f"position {delta.position}"),
            delta_hash=leaf_hash(delta.header),
            received_ms=delta.received_ms,
            via=delta.via,
            version=delta.version,
            body_size=delta.body_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStatus:
    """The state of one list here.

    Attributes:
        record: the list.
        follow: how following it goes.
        behind: how many deltas the peer has that this node does not have.
        snapshot: the position of the snapshot that is served here, or None.
    """

    record: ListRecord
    follow: FollowStatus
    behind: int
    snapshot: int | None


def list_statuses(store: Store, mark: HighWater, *, clock: Clock) -> list[ListStatus]:
    """Return the state of every list here, by origin; for our own, the high-water mark counts."""
    known = damage.load(store.path)
    with store.snapshot() as connection:
        statuses = []
        for record in list(lists.iter_lists(connection)):
            follow = follow_state.with_damage(
                permit.status_now(store, mark, record, clock=clock),
                known.of(str(record.origin)),
            )
            behind = max(0, follow.head - record.log.size)
            held = snapshots.newest_held(connection, record.list)
            statuses.append(
                ListStatus(
                    record=record,
                    follow=follow,
                    behind=behind,
                    snapshot=None if held is None else held.position,
                )
            )
        return statuses
