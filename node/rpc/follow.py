"""How one Follow stream stands to each list, as plain reads of the store.

Whether the peer is still enrolled and may have a list is asked again for every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import grpc

from federation import limits, wire
from federation.follow import Cursor, Outcome, SnapshotReason
from federation.v1 import delta_pb2
from federation.v1.log_service_pb2 import FollowRequest, FollowResponse, Opening
from federation.v1.log_service_pb2 import Outcome as WireOutcome
from federation.v1.log_service_pb2 import SnapshotReason as WireReason
from node.rpc import access
from node.rpc.access import CursorAnswer
from node.rpc.frames import EncodedFrame, Frames
from node.rpc.heads import Head, Heads
from node.rpc.peers import Caller, check_enrolled
from node.rpc.status import CallRefusedError
from node.store.connection import Store
from node.store.release import released_size

_WIRE: Final = {
    Outcome.UP_TO_DATE: WireOutcome.OUTCOME_UP_TO_DATE,
    Outcome.DELTAS: WireOutcome.OUTCOME_DELTAS,
    Outcome.UNAVAILABLE: WireOutcome.OUTCOME_UNAVAILABLE,
    Outcome.CURSOR_AHEAD: WireOutcome.OUTCOME_CURSOR_AHEAD,
    Outcome.DIVERGED: WireOutcome.OUTCOME_DIVERGED,
    Outcome.SNAPSHOT: WireOutcome.OUTCOME_SNAPSHOT,
    Outcome.CURSOR_TOO_OLD: WireOutcome.OUTCOME_CURSOR_TOO_OLD,
}
_WIRE_REASON: Final = {
    SnapshotReason.NOT_RETAINED: WireReason.SNAPSHOT_REASON_NOT_RETAINED,
    SnapshotReason.CHEAPER: WireReason.SNAPSHOT_REASON_CHEAPER,
}
_FOLLOWABLE: Final = (Outcome.UP_TO_DATE, Outcome.DELTAS)
_SETTLED: Final = (Outcome.UP_TO_DATE, Outcome.UNAVAILABLE, Outcome.SNAPSHOT)
"""Answers that stay what they are until the list moves."""
_ROOT_BYTES: Final = 32


@dataclass(slots=True, kw_only=True)
class StreamCursor:
    """Where a stream stands in one list.

    Attributes:
        cursor: what the peer has now: moves with every frame that was sent.
        outcome: the last answer; None before the first.
        behind: whether there may be more to send.
        head: how many deltas there were at that answer.
        known: where the list stood before that answer; None when it was not here.
    """

    cursor: Cursor
    outcome: Outcome | None = None
    behind: bool = False
    head: int = 0
    known: Head | None = None


def parse_request(request: FollowRequest) -> list[StreamCursor]:
    """Return the places that a Follow asks for.

    Raises:
        CallRefusedError: too many cursors, one list twice, or a cursor that cannot be.
    """
    if len(request.cursors) > limits.MAX_FOLLOWED_LISTS:
        raise _invalid(
            "LIMIT_EXCEEDED",
            f"got {len(request.cursors)} cursors, at most {limits.MAX_FOLLOWED_LISTS}",
        )
    places: dict[str, StreamCursor] = {}
    for cursor in request.cursors:
        if cursor.origin in places:
            raise _invalid("MALFORMED", "one list has two cursors")
        expected = _ROOT_BYTES if cursor.size else 0
        if cursor.size > limits.MAX_TREE_SIZE or len(cursor.root_hash) != expected:
            raise _invalid("MALFORMED", "a cursor's root hash does not fit its size")
        places[cursor.origin] = StreamCursor(
            cursor=Cursor(
                origin=cursor.origin,
                size=cursor.size,
                root_hash=cursor.root_hash,
                charter_version=cursor.charter_version,
                deltas_only=cursor.deltas_only,
            )
        )
    return list(places.values())


def _invalid(reason: str, message: str) -> CallRefusedError:
    return CallRefusedError(grpc.StatusCode.INVALID_ARGUMENT, reason, message)


def survey(
    store: Store, heads: Heads, frames: Frames, caller: Caller, places: Sequence[StreamCursor]
) -> list[FollowResponse | EncodedFrame]:
    """Answer every cursor whose list has moved, and return what of it is new to the peer.

    Where one list alone is behind, as after nearly every wake-up, its next frame is the last of it:
    a delta goes out with one look at the store.

    Raises:
        CallRefusedError: the caller is not enrolled any more.
    """
    check_enrolled(store, caller)
    news: list[FollowResponse | EncodedFrame] = []
    now = heads.load(store)
    for place in places:
        head = now.get(place.cursor.origin)
        # A peer may follow a thousand lists, of which one has moved.
        if place.outcome in _SETTLED and place.known == head:
            continue
        place.known = head
        answer = access.answer(store, caller.org, place.cursor)
        was, place.outcome = place.outcome, answer.outcome
        place.behind, place.head = answer.outcome is Outcome.DELTAS, answer.head
        if answer.charter:
            payload = wire.decode_envelope(answer.charter).payload
            version = wire.decode_charter(payload).version
            place.cursor = replace(place.cursor, charter_version=version)
        goes_on = was in _FOLLOWABLE and answer.outcome in _FOLLOWABLE
        if answer.charter or not (goes_on or was is answer.outcome):
            news.append(_opening(store, caller, place, answer))
    behind = [place for place in places if place.behind]
    if len(behind) == 1:
        news.append(read(store, frames, caller, behind[0]))
    return news


def _opening(
    store: Store, caller: Caller, place: StreamCursor, answer: CursorAnswer
) -> FollowResponse:
    opening = Opening(
        origin=place.cursor.origin,
        outcome=_WIRE[answer.outcome],
        checkpoint=answer.checkpoint,
        charter=answer.charter,
        retained_from=answer.retained_from,
    )
    if answer.snapshot is not None and answer.reason is not None:
        offer = access.offer_snapshot(store, caller.org, place.cursor, answer.snapshot)
        if offer is None:
            # Gone since it was chosen, or not to be proved from here: perhaps the deltas are.
            retained = answer.reason is SnapshotReason.CHEAPER
            place.outcome = Outcome.DELTAS if retained else Outcome.CURSOR_TOO_OLD
            place.behind = retained
            opening.outcome = _WIRE[place.outcome]
        else:
            opening.snapshot.CopyFrom(
                delta_pb2.SnapshotOffer(
                    header=offer.header,
                    checkpoint=offer.checkpoint,
                    frontier=offer.frontier,
                    bucket_hashes=offer.bucket_hashes,
                    consistency=offer.consistency,
                )
            )
            opening.snapshot_reason = _WIRE_REASON[answer.reason]
    return FollowResponse(opening=opening)


def read(
    store: Store, frames: Frames, caller: Caller, place: StreamCursor
) -> EncodedFrame | FollowResponse:
    """Return the next frame of a list that is behind.

    When the caller may not have the list any more, that is what it is told.

    Raises:
        CallRefusedError: the caller is not enrolled any more.
    """
    check_enrolled(store, caller)
    cursor = place.cursor
    record = access.find_available(store, caller.org, cursor.origin)
    if record is None:
        place.outcome, place.behind = Outcome.UNAVAILABLE, False
        return _opening(store, caller, place, CursorAnswer(outcome=Outcome.UNAVAILABLE))
    if cursor.size < record.log.start:
        # A snapshot has taken the place, since that answer, of what would have followed.
        answer = access.answer(store, caller.org, cursor)
        place.outcome, place.behind = answer.outcome, False
        return _opening(store, caller, place, answer)
    frame = frames.load(store, record, cursor.size, released_size(store.connection, record))
    place.cursor = replace(cursor, size=frame.size, root_hash=frame.root_hash)
    # What came after that answer has a wake-up of its own.
    place.behind = frame.size < place.head
    return frame
