"""How a list is followed: the decisions of both ends of a Follow stream.

Node and simulation run this code. It opens nothing and asks no clock.

Rooms:
    states   how a list stands, and what each piece of news makes of it
    cursors  what a server answers to a cursor, and where a stream stands in a list
    intake   what a follower does with what comes, and how deltas join what it has
    agenda   when the lists of a peer are asked for again
"""

from __future__ import annotations

from federation.follow.agenda import Agenda, Backoff, news_of_failure
from federation.follow.cursors import (
    CLAIMS,
    Cursor,
    Outcome,
    Reply,
    ServedList,
    SnapshotReason,
    SnapshotSize,
    StreamCursor,
    answer,
    without_snapshot,
)
from federation.follow.intake import (
    Copy,
    Following,
    Handling,
    Taken,
    judge_recovery,
    open_charter,
    read_claim,
    take_deltas,
)
from federation.follow.states import (
    TRANSITIONS,
    Action,
    FollowReason,
    FollowState,
    News,
    Step,
    decide,
    is_frozen,
    news_of,
)

__all__ = [
    "CLAIMS",
    "TRANSITIONS",
    "Action",
    "Agenda",
    "Backoff",
    "Copy",
    "Cursor",
    "FollowReason",
    "FollowState",
    "Following",
    "Handling",
    "News",
    "Outcome",
    "Reply",
    "ServedList",
    "SnapshotReason",
    "SnapshotSize",
    "Step",
    "StreamCursor",
    "Taken",
    "answer",
    "decide",
    "is_frozen",
    "judge_recovery",
    "news_of",
    "news_of_failure",
    "open_charter",
    "read_claim",
    "take_deltas",
    "without_snapshot",
]
