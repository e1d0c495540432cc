"""Frames of deltas as the bytes that are sent, made once for all streams at the same place.

Does not know who may have a list: the caller has found that out for this frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, NamedTuple

from federation import limits
from federation.checkpoint import read_checkpoint
from federation.v1 import delta_pb2
from federation.v1.log_service_pb2 import FollowResponse, Frame
from node.errors import DamageError
from node.store import log
from node.store.connection import Store
from node.store.lists import ListRecord

MAX_BYTES: Final = 8 * limits.FRAME_TARGET_BYTES
"""How many bytes of frames are held: the newest of some lists, and those that a few streams read
while they catch up together. A stream that waits for its reader holds its own frame, in gRPC."""


class Key(NamedTuple):
    """Everything that determines a frame: the newest leaf binds all deltas before it."""

    list: int
    start: int
    size: int
    last_leaf: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """Deltas of one list, ready to be sent.

    Attributes:
        data: a serialized FollowResponse.
        size: deltas of the list up to the end of this frame.
        root_hash: the root of the log at that size.
    """

    data: bytes
    size: int
    root_hash: bytes


class Frames:
    """Holds the frames that were used last. Its methods may be called by any thread."""

    def __init__(
        self, max_bytes: int = MAX_BYTES, on_made: Callable[[], None] = lambda: None
    ) -> None:
        """Hold nothing yet.

        Args:
            max_bytes: how much is held.
            on_made: called for every frame that is read and serialized.
        """
        self._max_bytes = max_bytes
        self._on_made = on_made
        self._lock = threading.Lock()
        # Guarded by _lock; the least recently used frame comes first. A thread that finds a frame
        # that another thread is making waits for it.
        self._held: OrderedDict[Key, Future[EncodedFrame]] = OrderedDict()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames that are held."""
        with self._lock:
            return self._bytes

    def load(self, store: Store, record: ListRecord, start: int, size: int) -> EncodedFrame:
        """Return one frame of the deltas of a list from `start` on.

        Args:
            store: where to read the deltas if no frame is held.
            record: the list, as it was found for the peer that asks.
            start: less than `size`.
            size: deltas of its log that may leave.

        Raises:
            DamageError: a delta is missing in the store.
        """
        key = Key(record.list, start, size, record.log.last_leaf)
        with self._lock:
            held = self._held.get(key)
            made: Future[EncodedFrame] = Future() if held is None else held
            self._held[key] = made
            self._held.move_to_end(key)
        if held is not None:
            return held.result()
        try:
            frame = _read(store, record, start, size)
        except BaseException as error:
            with self._lock:
                self._held.pop(key)
            made.set_exception(error)
            raise
        with self._lock:
            made.set_result(frame)
            self._bytes += len(frame.data)
            self._drop_oldest()
        self._on_made()
        return frame

    def _drop_oldest(self) -> None:
        for key, frame in list(self._held.items()):
            if self._bytes <= self._max_bytes:
                return
            # A frame that is still being made counts only once it is made.
            if frame.done():
                del self._held[key]
                self._bytes -= len(frame.result().data)


def _read(store: Store, record: ListRecord, start: int, size: int) -> EncodedFrame:
    deltas = log.read_frame(store.connection, record.list, start, size)
    if not deltas:
        raise DamageError(f"position {start} of {record.origin} is missing")
    newest = read_checkpoint(deltas[-1].checkpoint)
    response = FollowResponse(
        frame=Frame(
            origin=str(record.origin),
            deltas=[
                delta_pb2.SignedDelta(
                    header=delta.header, body=delta.body, checkpoint=delta.checkpoint
                )
                for delta in deltas
            ],
        )
    )
    return EncodedFrame(
        data=response.SerializeToString(), size=newest.size, root_hash=newest.root_hash
    )
