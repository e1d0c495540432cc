"""How following a list goes, as an operator sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from node.errors import DamageError
from node.store.damage import Damage
from node.store.sqlite import sqlite3


class FollowState(StrEnum):
    """How following a list goes, as an operator sees it."""

    OWN = "own"
    """Ours: nothing to follow."""
    RECOVERING = "recovering"
    """Ours, and not signed for now: something newer of it may have been released."""
    CATCHING_UP = "catching-up"
    """Deltas are known to be missing, or the peer has not been asked yet."""
    CURRENT = "current"
    """All that the peer has is here."""
    STALE = "stale"
    """The peer cannot be reached, or does not have the list for us; what is here still counts."""
    QUARANTINED = "quarantined"
    """The peer sent what does not verify; nothing of it was kept."""
    DESYNCHRONISED = "desynchronised"
    """The peer has less of the list than we do."""
    STOPPED = "stopped"
    """Not followed any more; what is here still counts."""
    FORKED = "forked"
    """The list has two signed histories; it stays where it is until a person decides."""
    DAMAGED = "damaged"
    """What is stored of it is known not to be what was signed: nothing is answered from it. It is
    never recorded in the store, which is what is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStatus:
    """How following a list goes.

    Attributes:
        state: in one word.
        reason: the stable word of what went wrong, or empty.
        detail: the same in a sentence.
        since_ms: since when it is in this state.
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
    state, reason, detail, since_ms, contact_ms, head = connection.execute(
        "SELECT state, reason, detail, since_ms, contact_ms, head FROM follow_state WHERE list = ?",
        (list_number,),
    ).fetchone()
    return FollowStatus(
        state=FollowState(state),
        reason=reason,
        detail=detail,
        since_ms=since_ms,
        contact_ms=contact_ms,
        head=head,
    )


def with_damage(status: FollowStatus, damage: Damage | None) -> FollowStatus:
    """Return how a list stands, given what is known to be damaged of it (`node.store.damage`)."""
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
