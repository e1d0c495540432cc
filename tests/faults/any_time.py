"""A planted bug: signing does not compare the clock with the newest delta."""

from __future__ import annotations

from collections.abc import Sequence

from federation import recovery
from federation.author import Author
from federation.header import Header
from federation.recovery import Decision, Mark, Obstacle, OwnLog, PeerReport
from federation.replica import LogState, Replica

_against_knowledge = recovery._against_knowledge


def _at_any_time(
    own: OwnLog, mark: Mark | Obstacle, answers: Sequence[PeerReport], now_ms: int
) -> Decision | None:
    return _against_knowledge(own, mark, answers, max(now_ms, own.last_time_ms))


def _check_clock(author: Author, state: LogState, now_ms: int) -> None:
    pass


def _check_time(replica: Replica, header: Header, now_ms: int) -> None:
    pass


recovery._against_knowledge = _at_any_time
Author._check_clock = _check_clock  # type: ignore[assignment, method-assign]
Replica._check_time = _check_time  # type: ignore[assignment, method-assign]
