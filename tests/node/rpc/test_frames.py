"""Frames are read and serialized once for all streams at one place, and few are held."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from federation.names import Origin
from federation.v1.log_service_pb2 import FollowResponse
from node.errors import DamageError
from node.rpc import frames as module
from node.rpc.frames import EncodedFrame, Frames
from node.store.connection import Store
from node.store.lists import ListRecord
from tests.federation.worlds import assertion
from tests.node.support.peering import Site, Sites, bulky, frame, published

MAIN = Origin.parse("a.example/main")


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def owner(sites: Sites) -> Site:
    return sites("a.example")


def test_a_frame_is_what_was_signed_from_any_delta_on(owner: Site) -> None:
    publisher = published(str(MAIN), 2, 1, 3)
    owner.own(publisher)
    frames = Frames()
    for start in range(3):
        found = frames.load(owner.store, owner.record(MAIN), start, 3)
        assert FollowResponse.FromString(found.data) == frame(MAIN, publisher.log[start:])
        assert (found.size, found.root_hash) == (3, publisher.state.frontier.root())


def test_a_frame_is_made_once_however_many_threads_ask(
    owner: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.own(published(str(MAIN), 1))
    record = owner.record(MAIN)
    made = Counter()
    frames = Frames(on_made=made)
    begun, go_on = threading.Event(), threading.Event()
    read = module._read

    def read_slowly(store: Store, record: ListRecord, start: int, size: int) -> EncodedFrame:
        begun.set()
        assert go_on.wait(10)
        return read(store, record, start, size)

    monkeypatch.setattr(module, "_read", read_slowly)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(frames.load, owner.store, record, 0, 1)]
        assert begun.wait(10)
        asked += [pool.submit(frames.load, owner.store, record, 0, 1) for _ in range(7)]
        go_on.set()
        assert len({id(one.result(10)) for one in asked}) == 1
    assert made.count == 1


def test_a_list_that_goes_on_has_another_frame_at_the_same_place(owner: Site) -> None:
    publisher = published(str(MAIN), 1)
    owner.own(publisher)
    frames = Frames()
    assert frames.load(owner.store, owner.record(MAIN), 0, 1).size == 1
    owner.append(MAIN, 1, publisher.publish(assertion("later")))
    assert frames.load(owner.store, owner.record(MAIN), 0, 2).size == 2


def test_what_may_not_leave_is_in_no_frame_and_is_in_one_when_it_may(owner: Site) -> None:
    publisher = published(str(MAIN), 1, 1, 1)
    owner.own(publisher)
    frames = Frames()
    for size in (1, 2, 3):
        found = frames.load(owner.store, owner.record(MAIN), 0, size)
        assert FollowResponse.FromString(found.data) == frame(MAIN, publisher.log[:size])


def test_lists_do_not_get_each_others_frames(owner: Site) -> None:
    for name in ("a.example/one", "a.example/two"):
        owner.own(published(name, 1))
    frames = Frames()
    for name in ("a.example/one", "a.example/two"):
        found = frames.load(owner.store, owner.record(Origin.parse(name)), 0, 1)
        assert FollowResponse.FromString(found.data).frame.origin == name


def test_what_is_held_is_bounded_and_what_was_used_last_stays(owner: Site) -> None:
    owner.own(bulky(str(MAIN), 6, 1_000_000))
    record = owner.record(MAIN)
    made = Counter()
    frames = Frames(max_bytes=4_500_000, on_made=made)
    largest = 0
    for start in range(6):
        largest = max(largest, len(frames.load(owner.store, record, start, 6).data))
        assert frames.held_bytes <= 4_500_000
        frames.load(owner.store, record, 0, 6)
    assert frames.held_bytes >= 4_500_000 - largest
    # Each once: the first was used after all others.
    assert made.count == 6


def test_no_frame_is_held_that_is_larger_than_all_that_may_be(owner: Site) -> None:
    owner.own(bulky(str(MAIN), 1, 1_000_000))
    frames = Frames(max_bytes=500_000)
    assert len(frames.load(owner.store, owner.record(MAIN), 0, 1).data) > 1_000_000
    assert frames.held_bytes == 0


def test_a_failure_is_told_to_all_who_wait_and_is_not_held(owner: Site) -> None:
    publisher = published(str(MAIN), 1)
    owner.own(publisher)
    record = owner.record(MAIN)
    connection = owner.store.connection
    frames = Frames()
    connection.execute("UPDATE delta SET id = id + 1000")
    for _ in range(2):
        with pytest.raises(DamageError, match="position 0"):
            frames.load(owner.store, record, 0, 1)
    connection.execute("UPDATE delta SET id = id - 1000")
    assert frames.load(owner.store, record, 0, 1).size == 1
