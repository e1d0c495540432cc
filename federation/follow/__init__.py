"""How a list is followed: the decisions of both ends of a Follow stream.

The node and the simulation run this code. It does no I/O and reads no clock.

Rooms:
    states   the states of a followed list, and how news changes them
    cursors  how a server answers a cursor, and its progress in a list
    intake   what a follower does with what arrives, and how deltas are added
    agenda   when a follower asks again for the lists of a peer
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
