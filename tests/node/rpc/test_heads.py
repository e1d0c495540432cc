"""A stream is answered for the lists that have moved, however many it follows."""

from __future__ import annotations

from collections import Counter

import pytest

from federation.follow import Cursor, Outcome, StreamCursor
from federation.v1.log_service_pb2 import FollowResponse
from node.identity.certificate import certificate_sha256
from node.rpc import access, follow
from node.rpc.access import CursorAnswer
from node.rpc.frames import EncodedFrame, Frames
from node.rpc.heads import Heads
from node.rpc.peers import Caller
from node.store.connection import Store
from tests.federation.worlds import assertion
from tests.node.support.peering import Site, Sites, acquaint, published

NAMES = [f"a.example/list-{number}" for number in range(20)]


class World:
    """An owner of lists, and a stream of one peer that follows all of them."""

    def __init__(self, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
        self.owner, reader = sites("a.example"), sites("b.example")
        acquaint(self.owner, reader)
        self.publishers = {name: published(name, 1) for name in NAMES}
        for publisher in self.publishers.values():
            self.owner.own(publisher)
        certificate = reader.identity.certificate.decode()
        self.caller = Caller(org=reader.org, certificate_sha256=certificate_sha256(certificate))
        self.places = [
            StreamCursor(cursor=Cursor(origin=name, size=0, root_hash=b"", charter_version=0))
            for name in [*NAMES, "a.example/absent", "no name at all"]
        ]
        self.reader = Store.open_reader(self.owner.home.store, self.owner.clock)
        self.heads, self.frames = Heads(), Frames()
        self.answered: Counter[str] = Counter()
        self.news: list[FollowResponse | EncodedFrame] = []
        answer = access.answer

        def count(store: Store, caller: str, cursor: Cursor) -> CursorAnswer:
            self.answered[cursor.origin] += 1
            return answer(store, caller, cursor)

        monkeypatch.setattr(access, "answer", count)

    def survey(self) -> dict[str, int]:
        """Look at all lists, send what is new, and return which were answered."""
        self.answered.clear()
        self.news = follow.survey(self.reader, self.heads, self.frames, self.caller, self.places)
        for place in self.places:
            while place.behind:
                follow.read(self.reader, self.frames, self.caller, place)
        return dict(self.answered)

    def outcome(self, name: str) -> Outcome | None:
        return next(place.outcome for place in self.places if place.cursor.origin == name)


@pytest.fixture
def world(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(sites, monkeypatch)


def settle(world: World) -> None:
    """Let the stream catch up with everything."""
    assert len(world.survey()) == len(world.places)
    # What was sent is confirmed by one more answer.
    assert sorted(world.survey()) == sorted(NAMES)
    assert world.survey() == {}


def append(owner: Site, world: World, name: str) -> None:
    publisher = world.publishers[name]
    position = len(publisher.log)
    owner.append(publisher.origin, position, publisher.publish(assertion(f"{name} {position}")))


def test_a_list_that_moves_is_answered_and_the_others_are_not(world: World) -> None:
    settle(world)
    for name in (NAMES[3], NAMES[7], NAMES[3]):
        append(world.owner, world, name)
        assert world.survey() == {name: 1}
        assert world.survey() == {name: 1}
        assert world.survey() == {}
        assert world.outcome(name) is Outcome.UP_TO_DATE


def test_the_frame_of_a_list_that_has_moved_alone_comes_with_the_answer(world: World) -> None:
    settle(world)
    append(world.owner, world, NAMES[3])
    world.survey()
    (frame,) = world.news
    assert isinstance(frame, EncodedFrame)
    assert (frame.size, world.places[3].cursor.size) == (2, 2)
    world.survey()
    for name in NAMES[:2]:
        append(world.owner, world, name)
    world.survey()
    # Each gets one frame in turn: none waits for another to catch up.
    assert world.news == []


def test_what_is_committed_is_sent_when_it_is_released_and_not_before(world: World) -> None:
    settle(world)
    name = NAMES[3]
    append(world.owner, world, name)
    connection = world.owner.store.connection
    number = world.owner.record(world.publishers[name].origin).list
    for size, answered in ((1, {}), (2, {name: 1})):
        connection.execute("UPDATE released SET size = ? WHERE list = ?", (size, number))
        assert world.survey() == answered
        (place,) = (place for place in world.places if place.cursor.origin == name)
        assert place.cursor.size == size


def test_a_charter_that_changes_is_answered_both_ways(world: World) -> None:
    settle(world)
    publisher = world.publishers[NAMES[0]]
    for audience, outcome in (([], Outcome.UNAVAILABLE), (None, Outcome.UP_TO_DATE)):
        world.owner.share(publisher, audience)
        assert world.survey() == {NAMES[0]: 1}
        assert world.outcome(NAMES[0]) is outcome
        assert world.survey() == {}


def test_a_list_that_appears_is_answered(world: World) -> None:
    settle(world)
    world.owner.own(published("a.example/absent", 1))
    assert world.survey() == {"a.example/absent": 1}
    assert world.outcome("a.example/absent") is Outcome.DELTAS


def test_what_changes_no_list_has_nothing_answered(world: World) -> None:
    settle(world)
    with world.owner.store.write("note", "nothing of a list"):
        pass
    assert world.survey() == {}
