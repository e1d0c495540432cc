"""What `node.store` promises about the past: any point and any span of it, as a replay would have.

The model keeps every state as a dictionary. The store has two lists with like entries, so that what
one says must not show in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.errors import FederationError
from federation.fingerprint import Fingerprint
from federation.names import Origin
from node.clock import format_ms
from node.errors import CommandError
from node.fsck.check import fsck
from node.query import diff, lookup, provenance
from node.query.as_of import resolve_as_of, resolve_cuts
from node.store import history, index, runs, spans
from node.store.index import Cuts
from tests.federation.worlds import Publisher, assertion, fingerprint
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.tiny_runs import tiny_runs

State = dict[EntryId, Operation]

# Names that share digests, widths and text; long ones stand in the index by a hash of theirs.
_FINGERPRINTS = (
    fingerprint(1),
    fingerprint(2),
    fingerprint(1, "pdq"),
    fingerprint(1, "md5"),
    Fingerprint.from_digest("pdq", fingerprint(1).digest),
    Fingerprint.from_digest("ssvh", fingerprint(1).digest),
    fingerprint(1, "ssvh", 200),
    fingerprint(2, "ssvh", 200),
    fingerprint(1, "sha512"),
    fingerprint(1, "unheard-of", 32),
)
_IDS = ("case-1", "case-2", "c", "x" * 64, "x" * 65, "x" * 255, "ü")


@st.composite
def _assertions(draw: st.DrawFn) -> Operation:
    own = draw(st.lists(st.sampled_from(_FINGERPRINTS), min_size=1, max_size=4, unique=True))
    entry = draw(
        st.one_of(st.sampled_from(own).map(EntryId.of), st.sampled_from(_IDS).map(EntryId.parse))
    )
    labels = draw(st.sampled_from([(), ("A",), ("B",)]))
    return Operation.assertion(tuple(own), Annotation(labels=labels), entry)


class _World:
    """A publisher and every state that its list was in."""

    def __init__(self, origin: str) -> None:
        self.publisher = Publisher(origin)
        self.states: list[State] = [{}]
        self.named: list[set[EntryId]] = []

    def step(self, draw: st.DrawFn) -> None:
        """Publish a delta of a few operations that the state allows."""
        said: State = {}
        for operation in draw(st.lists(_assertions(), max_size=6)):
            said[operation.entry] = operation
        in_force = self.publisher.entries.in_force
        known = sorted(in_force)
        for entry in draw(st.lists(st.sampled_from(known), unique=True) if known else st.just([])):
            kind = in_force[entry].kind
            if draw(st.booleans()) and kind is OpKind.ASSERT:
                said[entry] = Operation.retraction(entry, draw(st.sampled_from(list(Cause)[1:])))
            elif kind is not OpKind.PURGE:
                said[entry] = Operation.purge(entry)
        if not said:
            said = {(again := assertion(len(self.states))).entry: again}
        self.publisher.publish(*said.values())
        self.named.append(set(said))
        self.states.append(self.publisher.entries.live())


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[_World, _World]:
    worlds = _World("hotline.example/main"), _World("hotline.example/other")
    for world in worlds:
        for _ in range(draw(st.integers(0, 5))):
            world.step(draw)
    return worlds


@pytest.mark.parametrize("sizes", [nullcontext, tiny_runs])
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(_worlds())
def test_every_point_and_span_is_what_a_replay_makes_of_the_log(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: Callable[[], AbstractContextManager[None]],
    worlds: tuple[_World, _World],
) -> None:
    followed = FollowedLists(tmp_path_factory.mktemp("store"))
    with sizes():
        for world in worlds:
            followed.follow(world.publisher)
        _check(followed, worlds)
        while runs.merge_behind(followed.store, 0.0):
            _check(followed, worlds)
    followed.close()


def _check(followed: FollowedLists, worlds: tuple[_World, _World]) -> None:
    for world in worlds:
        _check_points(followed, world)
        _check_spans(followed, world)
        _check_answers(followed, world)
    _check_lookups(followed, worlds)
    # The model's publisher signed the state digests: what took the place of what is as it was.
    assert list(fsck(followed.store)) == []


def _check_points(followed: FollowedLists, world: _World) -> None:
    connection, record = followed.store.connection, followed.record(world.publisher.origin)
    for position, state in enumerate(world.states):
        live = list(history.iter_live(connection, record.list, position))
        assert {operation.entry: operation for _, _, operation in live} == state
        assert len(live) == len(state)
        assert [(at, row) for at, row, _ in live] == sorted((at, row) for at, row, _ in live)


def _check_spans(followed: FollowedLists, world: _World) -> None:
    connection, record = followed.store.connection, followed.record(world.publisher.origin)
    for start, before in enumerate(world.states):
        for stop in range(start, len(world.states)):
            after = world.states[stop]
            differing = {
                entry: (before.get(entry), after.get(entry))
                for entry in before.keys() | after.keys()
                if before.get(entry) != after.get(entry)
            }
            (span,) = spans.iter_applied(connection, record.list)
            changes = list(history.iter_changes(connection, span, start, stop))
            assert {c.entry: (c.before, c.after) for c in changes} == differing
            assert len(changes) == len(differing)
            for change in changes:
                newest = max(
                    position
                    for position in range(start, stop)
                    if change.entry in world.named[position]
                )
                assert change.position == newest
                assert change.after in (None, change.by)


def _check_answers(followed: FollowedLists, world: _World) -> None:
    """`show` tells every version of every entry, with the span in which it was in force."""
    record = followed.record(world.publisher.origin)
    bodies = world.publisher.entries.bodies
    for entry in set().union(*world.named):
        said = [
            (position, row, operation)
            for position, body in enumerate(bodies)
            for row, operation in body.operations()
            if operation.entry == entry
        ]
        shown = provenance.show(followed.store, record, entry.format())
        (versions,) = [found for found in shown if found[0].operation.entry == entry]
        assert [(v.position, v.row, v.operation) for v in versions] == said
        assert [v.until for v in versions] == [at for at, _, _ in said[1:]] + [None]
        in_force = index.load_in_force(followed.store.connection, record.list, entry)
        assert in_force is not None
        assert (in_force.place.position, in_force.place.row) == said[-1][:2]
        assert {version.via for version in versions} == {RELAY}


def _check_lookups(followed: FollowedLists, worlds: tuple[_World, ...]) -> None:
    now = [(world.publisher.origin, world.states[-1]) for world in worlds]
    _check_found(followed, now, None)
    for world in worlds:
        number = followed.record(world.publisher.origin).list
        for position, state in enumerate(world.states):
            _check_found(followed, [(world.publisher.origin, state)], {number: position})


def _check_found(
    followed: FollowedLists, states: list[tuple[Origin, State]], cuts: Cuts | None
) -> None:
    """`lookup` finds the assertions that are live in these states of lists, and no other."""
    texts = [item.format() for item in _FINGERPRINTS]
    found = dict(lookup.lookup_many(followed.store, texts, cuts))
    for item in _FINGERPRINTS:
        expected = sorted(
            (origin, operation.entry)
            for origin, state in states
            for operation in state.values()
            if item in operation.fingerprints
        )
        matches = found[item.format()]
        if isinstance(matches, FederationError):
            # Of a type that nobody here has heard of: more likely mistyped.
            assert (item.type, expected) == ("unheard-of", [])
            continue
        assert sorted((match.origin, match.operation.entry) for match in matches) == expected
        assert lookup.lookup(followed.store, item.format(), cuts) == matches
        assert {match.fingerprint for match in matches} <= {item}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[FollowedLists, Publisher]]:
    publisher = Publisher()
    followed = FollowedLists(tmp_path / "node", publisher)
    yield followed, publisher
    followed.close()


def test_an_entry_that_was_taken_back_and_said_again_has_not_changed(
    world: tuple[FollowedLists, Publisher],
) -> None:
    followed, publisher = world
    publisher.publish(assertion(1), assertion(2))
    publisher.publish(Operation.retraction(assertion(1).entry, Cause.WITHDRAWN))
    publisher.publish(assertion(1))
    followed.take(publisher)
    record = followed.record(publisher.origin)
    assert list(diff.diff(followed.store, record, 1, 3)) == []
    (change,) = diff.diff(followed.store, record, 1, 2)
    assert (change.before, change.after) == (assertion(1), None)


def test_a_span_that_ends_before_it_begins_is_refused(
    world: tuple[FollowedLists, Publisher],
) -> None:
    followed, publisher = world
    publisher.publish(assertion(1))
    followed.take(publisher)
    with pytest.raises(CommandError, match=r"position 0\) is before the first \(1\)"):
        list(diff.diff(followed.store, followed.record(publisher.origin), 1, 0))


def test_a_version_and_a_time_name_what_was_here_then(
    world: tuple[FollowedLists, Publisher],
) -> None:
    followed, publisher = world
    seen = [(followed.store.version, followed.clock.now_ms())]
    for number in range(3):
        publisher.publish(assertion(number))
        followed.take(publisher)
        seen.append((followed.store.version, followed.clock.now_ms()))
    record = followed.record(publisher.origin)
    for size, (version, time_ms) in enumerate(seen):
        assert resolve_as_of(followed.store, record, f"version:{version}") == size
        assert resolve_as_of(followed.store, record, f"time:{format_ms(time_ms)}") == size
        for point in (f"version:{version}", f"time:{format_ms(time_ms)}"):
            assert resolve_cuts(followed.store, None, point) == {record.list: size}
            assert resolve_cuts(followed.store, record, point) == {record.list: size}
            found = lookup.lookup_many(
                followed.store,
                [assertion(number).entry.format() for number in range(3)],
                resolve_cuts(followed.store, None, point),
            )
            assert [bool(matches) for _, matches in found] == [n < size for n in range(3)]


def test_a_position_is_a_point_of_one_list(world: tuple[FollowedLists, Publisher]) -> None:
    followed, publisher = world
    for number in range(2):
        publisher.publish(assertion(number))
    followed.take(publisher)
    record = followed.record(publisher.origin)
    assert resolve_cuts(followed.store, record, "position:1") == {record.list: 1}
    with pytest.raises(CommandError, match="needs the name of a list"):
        resolve_cuts(followed.store, None, "position:1")


def test_a_question_about_one_list_now_is_about_what_comes_meanwhile_too(
    world: tuple[FollowedLists, Publisher],
) -> None:
    followed, publisher = world
    publisher.publish(assertion(1))
    followed.take(publisher)
    cuts = resolve_cuts(followed.store, followed.record(publisher.origin), None)
    publisher.publish(Operation.retraction(assertion(1).entry, Cause.WITHDRAWN), assertion(2))
    followed.take(publisher)
    texts = [assertion(number).entry.format() for number in (1, 2)]
    found = lookup.lookup_many(followed.store, texts, cuts)
    assert [bool(matches) for _, matches in found] == [False, True]
