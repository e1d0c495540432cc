"""The lists of a damaged store: which there are, and what is carried over of one as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from federation.errors import FederationError
from federation.header import Header
from federation.names import OrgName, Origin
from federation.replica import LogState, Replica
from node.repair.bitflips import mend_text
from node.repair.salvage import Wreck, as_bytes, as_int, as_text
from node.store import fetched, lists, log, orgs, snapshots, trees
from node.store.connection import Store
from node.store.follow_state import FollowState
from node.store.sqlite import sqlite3

_LIST: Final = (
    "list", "org", "name", "own", "via", "charter", "charter_version", "frontier", "size",
    "last_leaf", "last_time_ms", "live_count", "state_digest", "checked", "span", "deltas_only",
    "since_snapshot",
)  # fmt: skip

_NAMED_LEAVES: Final = 1_000
"""Leaves whose signed hash of the list's name is looked at, until one can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldList:
    """A list of the damaged store.

    Attributes:
        number: its number.
        origin: its name, mended if need be.
        own: whether it is ours.
    """

    number: int
    origin: Origin
    own: bool


def iter_lists(wreck: Wreck, store: Store, org: OrgName) -> Iterator[OldList]:
    """Put every list into the new store, empty, and yield it.

    Args:
        wreck: the damaged store.
        store: the new one, with all organizations.
        org: whose node it is.
    """
    for number, owner, name, via in list(wreck.rows("list", ("list", "org", "name", "via"))):
        row = store.connection.execute("SELECT name FROM org WHERE org = ?", (owner,)).fetchone()
        if row is None:
            continue
        origin = _mend_name(wreck, as_int(number), OrgName(row[0]), as_text(name))
        if origin is None:
            continue
        own = origin.org == org
        _begin(store, as_int(number), origin, own=own, via=None if own else via)
        _copy_follow_state(wreck, store, as_int(number), own=own)
        yield OldList(number=as_int(number), origin=origin, own=own)


def _mend_name(wreck: Wreck, number: int, org: OrgName, name: str) -> Origin | None:
    """Return the name of a list: the one whose hash its leaves sign."""
    wanted = None
    for position in range(_NAMED_LEAVES):
        row = wreck.row("SELECT header FROM delta WHERE id = ?", log.delta_id(number, position))
        if row is None:
            break
        with suppress(FederationError):
            wanted = Header.parse(as_bytes(row[0])).origin_hash
            break

    def is_it(tried: str) -> bool:
        try:
            origin = Origin.parse(f"{org}/{tried}")
        except FederationError:
            return False
        return wanted is None or origin.hash == wanted

    mended = mend_text(name, is_it)
    with suppress(FederationError):
        return Origin.parse(f"{org}/{name if mended is None else mended}")
    return None


def _begin(store: Store, number: int, origin: Origin, *, own: bool, via: object) -> None:
    empty = LogState.empty()
    with store.update_status() as connection:
        connection.execute(
            """INSERT INTO list (list, org, name, own, via, charter_version, frontier, size,
                last_leaf, last_time_ms, live_count, state_digest, checked, span, deltas_only,
                since_snapshot)
            SELECT ?, o.org, ?, ?, (SELECT org FROM org WHERE org = ?), 0, ?, 0, ?, 0, 0, ?, 0, ?,
                0, 0 FROM org AS o WHERE o.name = ?""",
            (
                number,
                origin.name,
                own,
                as_int(via),
                empty.frontier.encode(),
                empty.last_leaf,
                empty.state_digest,
                # Until it is known what its span begins with.
                -number,
                origin.org,
            ),
        )


def _copy_follow_state(wreck: Wreck, store: Store, number: int, *, own: bool) -> None:
    row = wreck.row(
        "SELECT state, reason, detail, since_ms, contact_ms, head FROM follow_state WHERE list = ?",
        number,
    )
    state, reason, detail, *times = (None,) * 6 if row is None else row
    known = as_text(state) in set(map(str, FollowState))
    if not known:
        state = FollowState.OWN if own else FollowState.CATCHING_UP
    with store.update_status() as connection:
        connection.execute(
            "INSERT INTO follow_state (list, state, reason, detail, since_ms, contact_ms, head) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, as_text(state), as_text(reason), as_text(detail), *map(as_int, times)),
        )
        extent = wreck.row(
            "SELECT staging, first, last, edit FROM signed_extent WHERE list = ?", number
        )
        if extent is not None:
            with suppress(sqlite3.IntegrityError):
                connection.execute(
                    "INSERT INTO signed_extent (list, staging, first, last, edit) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (number, *extent),
                )


def copy_fetched(wreck: Wreck, store: Store, old: OldList) -> None:
    """Copy the deltas that were fetched by themselves, if they verify; others can be fetched again.

    The list is made anew already.
    """
    connection = store.connection
    record = lists.load_list_by_number(connection, old.number)
    root = orgs.load_root(connection, old.origin.org)
    columns = ("id", "size", "received_ms", "via", "header", "checkpoint", "inclusion", "body")
    for row in wreck.rows(
        "fetched",
        columns,
        "id >= ? AND id < ?",
        log.delta_id(old.number, 0),
        log.delta_id(old.number + 1, 0),
    ):
        with suppress(sqlite3.IntegrityError), store.update_status() as writer:
            writer.execute(
                f"INSERT INTO fetched ({', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                row,
            )
    sound: set[int] = set()
    for item in fetched.iterate(connection, old.number, 0, record.log.size):
        assert root is not None  # noqa: S101  # the list was made anew under it
        try:
            tree = trees.load_frontier(connection, record, item.size)
            replica = Replica(record.origin, root, replace(record.log, frontier=tree))
            if replica.receive_past(item.delta, item.inclusion).header.position == item.position:
                sound.add(item.position)
        except Exception:  # noqa: BLE001, S112  # damage can be anything; it is let go of
            continue
    with store.update_status() as writer:
        for (at,) in writer.execute(
            "SELECT id FROM fetched WHERE id >= ? AND id < ?",
            (log.delta_id(old.number, 0), log.delta_id(old.number + 1, 0)),
        ).fetchall():
            if at - log.delta_id(old.number, 0) not in sound:
                writer.execute("DELETE FROM fetched WHERE id = ?", (at,))


def carry_over(wreck: Wreck, store: Store, old: OldList) -> None:
    """Copy what can be read of a list that could not be made whole, as it is.

    Its index is not copied: nothing is answered from the list before it is whole.
    """
    low, high = log.delta_id(old.number, 0), log.delta_id(old.number + 1, 0)
    with store.update_status() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        for number, *row in wreck.rows(
            "snapshot",
            ("snapshot", "position", "state", "header", "checkpoint", "frontier",
             "bucket_hashes", "size_bytes"),
            "list = ? AND state = 'held'",
            old.number,
        ):  # fmt: skip
            _put(
                connection,
                "snapshot (snapshot, list, position, state, header, checkpoint, frontier, "
                "bucket_hashes, size_bytes)",
                (number, old.number, *row),
            )
            first = snapshots.bucket_id(as_int(number), 0)
            last = snapshots.bucket_id(as_int(number) + 1, 0)
            for bucket in wreck.rows(
                "bucket", ("id", "entries", "first", "last", "bytes"), "id >= ? AND id < ?",
                first, last,
            ):  # fmt: skip
                _put(connection, "bucket (id, entries, first, last, bytes)", bucket)
        for span in wreck.rows(
            "span", ("span", "list", "start", "stop", "snapshot"), "list = ?", old.number
        ):
            _put(connection, "span (span, list, start, stop, snapshot)", span)
        for at, version, received_ms, via, *rest in wreck.rows(
            "delta",
            ("id", "version", "received_ms", "via", "body_size", "header", "checkpoint"),
            "id >= ? AND id < ?",
            low,
            high,
        ):
            known = connection.execute("SELECT 1 FROM org WHERE org = ?", (via,)).fetchone()
            _put(
                connection,
                "delta (id, version, received_ms, via, body_size, header, checkpoint)",
                (at, version, received_ms, via if known else None, *rest),
            )
        for body in wreck.rows("body", ("id", "bytes"), "id >= ? AND id < ?", low, high):
            _put(connection, "body (id, bytes)", body)
        recorded = wreck.row(
            f"SELECT {', '.join(_LIST[5:])} FROM list WHERE list = ?",  # noqa: S608
            old.number,
        )
        if recorded is not None:
            with suppress(sqlite3.IntegrityError):
                connection.execute(
                    f"UPDATE list SET {', '.join(f'{name} = ?' for name in _LIST[5:])} "  # noqa: S608
                    "WHERE list = ?",
                    (*recorded, old.number),
                )
        (number,) = connection.execute(
            "SELECT span FROM list WHERE list = ?", (old.number,)
        ).fetchone()
        _put(
            connection,
            "span (span, list, start, stop, snapshot)",
            (number, old.number, 0, None, None),
        )
        released = wreck.row("SELECT size FROM released WHERE list = ?", old.number)
        if released is not None:
            _put(connection, "released (list, size)", (old.number, *released))


def _put(connection: sqlite3.Connection, into: str, row: tuple[object, ...]) -> None:
    """Insert a row as it was stored, unless it is there already or no such row can be."""
    marks = ", ".join("?" * len(row))
    with suppress(sqlite3.IntegrityError):
        connection.execute(f"INSERT OR IGNORE INTO {into} VALUES ({marks})", row)  # noqa: S608
