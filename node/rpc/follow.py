"""What one Follow stream still has to send of each list, as plain reads of the store.

For every frame, it is checked again that the peer is still enrolled and may have the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc

from federation import limits
from federation.follow import Cursor, Outcome, SnapshotReason, StreamCursor, without_snapshot
from federation.v1 import delta_pb2
from federation.v1.log_service_pb2 import FollowRequest, FollowResponse, Opening
from federation.v1.log_service_pb2 import Outcome as WireOutcome
from federation.v1.log_service_pb2 import SnapshotReason as WireReason
from node.rpc import access
from node.rpc.access import CursorAnswer
from node.rpc.frames import EncodedFrame, Frames
from node.rpc.heads import Heads
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
_ROOT_BYTES: Final = 32


def parse_request(request: FollowRequest) -> list[StreamCursor]:
    """Return the places that a Follow asks for.

    Raises:
        CallRefusedError: a list has two cursors, or a cursor is impossible.
    """
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
    """Answer every cursor whose list has changed, and return what is new to the peer.

    If only one list is behind, as after nearly every wake-up, its next frame is returned last: so
    a delta is sent after one look at the store.

    Raises:
        CallRefusedError: the caller is no longer enrolled.
    """
    check_enrolled(store, caller)
    news: list[FollowResponse | EncodedFrame] = []
    now = heads.load(store)
    for place in places:
        if not place.look(now.get(place.cursor.origin)):
            continue
        answer = access.answer(store, caller.org, place.cursor)
        if place.tell(answer.outcome, head=answer.head, charter_version=answer.charter_version):
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
            place.withdraw(outcome := without_snapshot(answer.reason))
            opening.outcome = _WIRE[outcome]
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

    If the caller may no longer have the list, the frame tells it so.

    Raises:
        CallRefusedError: the caller is no longer enrolled.
    """
    check_enrolled(store, caller)
    cursor = place.cursor
    record = access.find_available(store, caller.org, cursor.origin)
    if record is None:
        place.withdraw(Outcome.UNAVAILABLE)
        return _opening(store, caller, place, CursorAnswer(outcome=Outcome.UNAVAILABLE))
    if cursor.size < record.log.start:
        # Since that answer, a snapshot has replaced what would have followed.
        answer = access.answer(store, caller.org, cursor)
        place.withdraw(answer.outcome)
        return _opening(store, caller, place, answer)
    frame = frames.load(store, record, cursor.size, released_size(store.connection, record))
    place.advance(frame.size, frame.root_hash)
    return frame
