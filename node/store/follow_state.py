"""How following a list goes, as an operator sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from federation.follow import FollowState
from node.errors import DamageError
from node.store.damage import Damage
from node.store.sqlite import select, sqlite3


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStatus:
    """How following a list goes.

    Attributes:
        state: the state in one word.
        reason: the stable word for what went wrong, or empty.
        detail: the same in a sentence.
        since_ms: when this state began.
        contact_ms: when the peer last answered for it; 0 for never.
        head: the largest size that the peer said it has.
    """

    state: FollowState
    reason: str
    detail: str
    since_ms: int
    contact_ms: int
    head: int


def load_follow_status(connection: sqlite3.Connection, list_number: int) -> FollowStatus:
    """Return how following a list goes."""
    row = select(
        connection,
        "SELECT state, reason, detail, since_ms, contact_ms, head FROM follow_state WHERE list = ?",
        (list_number,),
    ).fetchone()
    return FollowStatus(
        state=FollowState(row["state"]),
        reason=row["reason"],
        detail=row["detail"],
        since_ms=row["since_ms"],
        contact_ms=row["contact_ms"],
        head=row["head"],
    )


def with_damage(status: FollowStatus, damage: Damage | None) -> FollowStatus:
    """Return the status of a list, given its known damage (`node.store.damage`)."""
    if damage is None:
        return status
    at = "" if damage.position is None else f" at position {damage.position}"
    return replace(
        status,
        state=FollowState.DAMAGED,
        reason=DamageError.reason,
        detail=f"{damage.kind}{at}: {damage.message}",
    )


def store_follow_state(
    connection: sqlite3.Connection,
    list_number: int,
    state: FollowState,
    *,
    now_ms: int,
    reason: str = "",
    detail: str = "",
) -> None:
    """Record how following a list goes."""
    connection.execute(
        "UPDATE follow_state SET since_ms = CASE WHEN state = ? THEN since_ms ELSE ? END, "
        "state = ?, reason = ?, detail = ? WHERE list = ?",
        (state, now_ms, state, reason, detail, list_number),
    )


def store_contact(
    connection: sqlite3.Connection, list_number: int, *, now_ms: int, head: int | None = None
) -> None:
    """Record that the peer answered for a list, and the size it said it has."""
    connection.execute(
        "UPDATE follow_state SET contact_ms = ?, head = max(head, coalesce(?, head)) "
        "WHERE list = ?",
        (now_ms, head, list_number),
    )
