"""What `federation.follow` promises: every state decides every news, and both ends agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.body import Body
from federation.errors import ForkError, PeerError, ProofError, Reason, SequenceError, UsageError
from federation.follow import (
    CLAIMS,
    Action,
    Agenda,
    Backoff,
    Cursor,
    Following,
    FollowReason,
    FollowState,
    Handling,
    News,
    Outcome,
    Reply,
    ServedList,
    SnapshotReason,
    SnapshotSize,
    Step,
    StreamCursor,
    answer,
    decide,
    is_frozen,
    judge_recovery,
    news_of,
    news_of_failure,
    read_claim,
    take_deltas,
    without_snapshot,
)
from federation.header import leaf_hash
from federation.merge import Prior
from federation.merkle import CompactRange
from federation.names import Origin
from federation.replica import Candidate, LogState, Replica, SignedDelta
from tests.federation.worlds import LATER, T0, Entries, Forgery, Publisher, assertion, signing_key

OWN = (FollowState.OWN, FollowState.RECOVERING)
FOLLOWED = (
    FollowState.CATCHING_UP,
    FollowState.CURRENT,
    FollowState.STALE,
    FollowState.DESYNCHRONISED,
)
FROZEN = (FollowState.STOPPED, FollowState.FORKED, FollowState.DAMAGED)
AT_FAULT = (Reason.OPS_ROOT_MISMATCH, Reason.STATE_DIGEST_MISMATCH)


# --- states -----------------------------------------------------------------------------------


def test_every_state_that_can_be_followed_decides_every_news() -> None:
    reasons = ("", *Reason, *FollowReason, "SOMETHING_ELSE")
    for state, reason, news in product(FollowState, reasons, News):
        if state in OWN:
            continue
        step = decide(state, reason, news)
        # A list is never sent back to a state that only its owner, or only a person, puts it in.
        assert step.state not in {*OWN, FollowState.STOPPED, FollowState.DAMAGED}


@pytest.mark.parametrize("state", OWN)
def test_a_list_of_our_own_is_not_followed(state: FollowState) -> None:
    for news in News:
        with pytest.raises(UsageError):
            decide(state, "", news)
    with pytest.raises(UsageError):
        is_frozen(state, "")


@pytest.mark.parametrize("state", FOLLOWED)
def test_what_the_peer_answers_counts_more_than_what_was_before(state: FollowState) -> None:
    expected = {
        News.ALL_HERE: Step(Action.SETTLE, FollowState.CURRENT),
        News.MORE_TAKEN: Step(Action.GO_ON, FollowState.CATCHING_UP),
        News.MORE_MISSING: Step(Action.GO_ON, FollowState.CATCHING_UP),
        News.SNAPSHOT_OFFERED: Step(Action.GO_ON, FollowState.CATCHING_UP),
        News.UNAVAILABLE: Step(Action.GO_ON, FollowState.STALE, "UNAVAILABLE"),
        News.TOO_OLD: Step(Action.GO_ON, FollowState.DESYNCHRONISED, "CURSOR_TOO_OLD"),
        News.AHEAD: Step(Action.GO_ON, FollowState.DESYNCHRONISED, "CURSOR_AHEAD"),
        News.DIVERGED: Step(Action.COMPARE, FollowState.QUARANTINED, "DIVERGED"),
        News.FORKED: Step(Action.WAIT, FollowState.FORKED),
        News.EARLY: Step(Action.REST, FollowState.STALE),
        News.REFUSED: Step(Action.REST, FollowState.QUARANTINED),
        News.PUBLISHER_AT_FAULT: Step(Action.WAIT, FollowState.QUARANTINED),
        News.MOVED_ON: Step(Action.ASK_AGAIN),
        News.JOINED: Step(Action.ASK_AGAIN),
        News.NOT_FETCHED: Step(Action.REST, FollowState.STALE),
        News.PEER_FAILED: Step(Action.RETRY, FollowState.STALE),
        News.PEER_UNKNOWN: Step(Action.WAIT, FollowState.STALE, "NO_PEER"),
    }
    assert {news: decide(state, "", news) for news in News} == expected


def test_a_quarantine_ends_when_something_verifies_and_not_before() -> None:
    stays = {News.MORE_MISSING, News.SNAPSHOT_OFFERED, News.NOT_FETCHED, News.PEER_FAILED}
    for news in News:
        step = decide(FollowState.QUARANTINED, Reason.SIGNATURE_INVALID, news)
        if news in stays:
            assert step.state is None
        else:
            assert step == decide(FollowState.CURRENT, "", news)
    # Who says it has another history cannot take that back by having lost its beginning.
    claimed = decide(FollowState.QUARANTINED, FollowReason.DIVERGED, News.TOO_OLD)
    assert claimed == Step(Action.GO_ON)


@pytest.mark.parametrize("state", FROZEN)
def test_only_a_person_brings_a_frozen_list_back(state: FollowState) -> None:
    assert is_frozen(state, "")
    for news in News:
        step = decide(state, "", news)
        assert step.action is Action.WAIT
        if (state, news) == (FollowState.STOPPED, News.PUBLISHER_AT_FAULT):
            # What is here still counts, and is wrong.
            assert step.state is FollowState.QUARANTINED
        else:
            assert step.state is None


@pytest.mark.parametrize("reason", AT_FAULT)
def test_a_publisher_at_fault_stays_at_fault_unless_two_histories_are_shown(reason: Reason) -> None:
    assert is_frozen(FollowState.QUARANTINED, reason)
    for news in News:
        step = decide(FollowState.QUARANTINED, reason, news)
        assert step.action is Action.WAIT
        assert step.state is (FollowState.FORKED if news is News.FORKED else None)


def test_everything_else_is_fetched_again() -> None:
    for state in (*FOLLOWED, FollowState.QUARANTINED):
        for reason in ("", Reason.SIGNATURE_INVALID, *FollowReason):
            assert not is_frozen(state, reason)


def test_what_was_refused_says_who_is_at_fault() -> None:
    early = SequenceError("early", reason=Reason.TIME_IN_FUTURE)
    assert news_of(ForkError("two")) is News.FORKED
    assert news_of(ForkError("two", reason=Reason.PREVIOUS_MISMATCH)) is News.FORKED
    assert news_of(early) is News.EARLY
    assert news_of(SequenceError("a gap")) is News.REFUSED
    for reason in AT_FAULT:
        assert news_of(ProofError("not what was signed", reason=reason)) is News.PUBLISHER_AT_FAULT


# --- cursors ----------------------------------------------------------------------------------


def root(size: int) -> bytes:
    return sha256(b"%d" % size).digest()


def served(
    size: int = 10,
    *,
    start: int = 0,
    snapshot: SnapshotSize | None = None,
    body_bytes: int = 0,
    charter_version: int = 1,
) -> ServedList:
    def measure(first: int, stop: int) -> tuple[int, int]:
        return stop - first, body_bytes * (stop - first)

    def root_at(at: int) -> bytes:
        assert max(1, start) <= at <= size, "nothing is known of that size"
        return root(at)

    return ServedList(
        size=size,
        start=start,
        charter_version=charter_version,
        snapshot=snapshot,
        root_at=root_at,
        measure=measure,
    )


def cursor(size: int, history: bytes | None = None, *, deltas_only: bool = False) -> Cursor:
    return Cursor(
        origin="a.example/main",
        size=size,
        root_hash=b"" if not size else history or root(size),
        charter_version=1,
        deltas_only=deltas_only,
    )


def test_a_list_that_is_not_for_the_caller_is_not_there() -> None:
    assert answer(None, cursor(0)) == answer(None, cursor(5)) == Reply(outcome=Outcome.UNAVAILABLE)


@pytest.mark.parametrize(
    ("size", "start", "history", "outcome"),
    [
        (0, 0, None, Outcome.DELTAS),
        (3, 0, None, Outcome.DELTAS),
        (10, 0, None, Outcome.UP_TO_DATE),
        (11, 0, None, Outcome.CURSOR_AHEAD),
        (3, 0, bytes(32), Outcome.DIVERGED),
        (10, 0, bytes(32), Outcome.DIVERGED),
        (11, 0, bytes(32), Outcome.CURSOR_AHEAD),
        (0, 4, None, Outcome.CURSOR_TOO_OLD),
        (3, 4, None, Outcome.CURSOR_TOO_OLD),
        (3, 4, bytes(32), Outcome.CURSOR_TOO_OLD),
        (4, 4, None, Outcome.DELTAS),
        (4, 4, bytes(32), Outcome.DIVERGED),
    ],
)
def test_a_cursor_is_answered_by_where_it_stands(
    size: int, start: int, history: bytes | None, outcome: Outcome
) -> None:
    assert answer(served(start=start), cursor(size, history)).outcome is outcome


def test_nothing_is_up_to_date_with_nothing() -> None:
    assert answer(served(0), cursor(0)).outcome is Outcome.UP_TO_DATE


@given(
    size=st.integers(0, 12),
    held=st.integers(0, 12),
    start=st.integers(0, 12),
    snapshot=st.none() | st.integers(0, 11),
    true=st.booleans(),
    deltas_only=st.booleans(),
)
def test_no_leaf_is_passed_over_in_silence(
    size: int, held: int, start: int, snapshot: int | None, true: bool, deltas_only: bool
) -> None:
    start = min(start, held)
    at = None if snapshot is None or snapshot >= held else SnapshotSize(snapshot, 0)
    reply = answer(
        served(held, start=start, snapshot=at, body_bytes=9_000),
        cursor(size, None if true else bytes(32), deltas_only=deltas_only),
    )
    match reply.outcome:
        case Outcome.DELTAS:
            assert start <= size < held
        case Outcome.UP_TO_DATE:
            assert size == held
        case Outcome.SNAPSHOT:
            assert reply.snapshot is not None
            assert not deltas_only
            assert size <= reply.snapshot < held
            # What went past leaves that the caller has not seen says so.
            assert (reply.reason is SnapshotReason.NOT_RETAINED) == (size < start)
        case Outcome.DIVERGED:
            assert not true
        case Outcome.CURSOR_AHEAD:
            assert size > held
        case Outcome.CURSOR_TOO_OLD:
            assert size < start
        case Outcome.UNAVAILABLE:
            pytest.fail("it is here")


def test_a_snapshot_takes_the_place_of_deltas_that_cost_more() -> None:
    def offered(size: int, snapshot_bytes: int) -> int | None:
        held = served(100, snapshot=SnapshotSize(49, snapshot_bytes), body_bytes=460)
        return answer(held, cursor(size)).snapshot

    # 50 deltas of 3,000 bytes each, against 1.25 times the snapshot with its leaf of 2,540 bytes.
    assert offered(0, 150_000 * 4 // 5 - 2_540 - 1) == 49
    assert offered(0, 150_000 * 4 // 5 - 2_540) is None
    # 40 deltas against twice the snapshot: it would take the place of what the caller has.
    assert offered(10, 60_000 - 2_540 - 1) == 49
    assert offered(10, 60_000 - 2_540) is None
    # It is behind the cursor.
    assert offered(50, 0) is None


def test_a_snapshot_that_cannot_be_offered_leaves_what_there_would_be_without() -> None:
    cheaper = answer(served(snapshot=SnapshotSize(8, 0)), cursor(0))
    too_old = answer(served(start=5, snapshot=SnapshotSize(8, 0)), cursor(0))
    assert cheaper.reason is SnapshotReason.CHEAPER
    assert too_old.reason is SnapshotReason.NOT_RETAINED
    assert without_snapshot(cheaper.reason) is Outcome.DELTAS
    assert without_snapshot(too_old.reason) is Outcome.CURSOR_TOO_OLD


def test_a_newer_charter_is_sent() -> None:
    for version, sent in ((0, False), (1, False), (2, True)):
        assert answer(served(charter_version=version), cursor(3)).charter is sent


def test_a_stream_says_an_answer_once_and_each_one_that_is_another() -> None:
    place = StreamCursor(cursor=cursor(0))
    told = [
        place.tell(outcome, head=10, charter_version=0)
        for outcome in (
            Outcome.UNAVAILABLE,
            Outcome.UNAVAILABLE,
            Outcome.DELTAS,
            Outcome.UP_TO_DATE,
            Outcome.DELTAS,
            Outcome.DIVERGED,
            Outcome.DELTAS,
        )
    ]
    # Frames alone say how a list goes on.
    assert told == [True, False, True, False, False, True, True]
    assert place.tell(Outcome.DELTAS, head=10, charter_version=7)
    assert place.cursor.charter_version == 7


def test_a_stream_is_behind_until_all_that_was_promised_is_sent() -> None:
    place = StreamCursor(cursor=cursor(0))
    place.tell(Outcome.DELTAS, head=10, charter_version=0)
    behind = [place.behind]
    for size in (6, 10):
        place.advance(size, root(size))
        behind.append(place.behind)
    assert behind == [True, True, False]
    assert place.cursor == cursor(10)
    place.tell(Outcome.DELTAS, head=12, charter_version=0)
    place.withdraw(Outcome.UNAVAILABLE)
    assert (place.outcome, place.behind) == (Outcome.UNAVAILABLE, False)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_answers_that_can_change_by_themselves_are_given_again(outcome: Outcome) -> None:
    place = StreamCursor(cursor=cursor(0))
    assert place.look((10, 1))
    place.tell(outcome, head=10, charter_version=0)
    settled = {Outcome.UP_TO_DATE, Outcome.UNAVAILABLE, Outcome.SNAPSHOT}
    assert place.look((10, 1)) is (outcome not in settled)
    assert place.look((11, 1))
    assert place.look(None)


# --- a follower's stream ----------------------------------------------------------------------


def log_of(size: int) -> LogState:
    tree = CompactRange(0, ())
    for at in range(size):
        tree = tree.append(root(at))
    return replace(LogState.empty(), frontier=tree)


def test_a_follower_asks_from_where_it_stands_or_from_the_start() -> None:
    origin = Origin.parse("a.example/main")
    log = log_of(3)
    asked = {
        (deltas_only, from_start): Following.ask(
            log, deltas_only=deltas_only, from_start=from_start
        ).cursor(origin, log, 2)
        for deltas_only in (False, True)
        for from_start in (False, True)
    }
    here = Cursor(origin="a.example/main", size=3, root_hash=log.frontier.root(), charter_version=2)
    assert asked[False, False] == here
    assert asked[True, False] == replace(here, deltas_only=True)
    # A snapshot would hide what is to be compared.
    start = replace(here, size=0, root_hash=b"", deltas_only=True)
    assert asked[False, True] == asked[True, True] == start
    nothing = log_of(0)
    first = Following.ask(nothing, deltas_only=False, from_start=False)
    assert first.cursor(origin, nothing, 0).root_hash == b""


def test_frames_are_taken_after_an_answer_that_promises_them() -> None:
    def judged(outcome: Outcome | None, *, dropped: bool = False) -> Handling:
        return Following(expected=0, outcome=outcome, dropped=dropped).judge_frame()

    promised = (Outcome.UP_TO_DATE, Outcome.DELTAS)
    for outcome in Outcome:
        taken = Handling.TAKE if outcome in promised else Handling.PASS_OVER
        assert judged(outcome) is taken
        assert judged(outcome, dropped=True) is Handling.PASS_OVER
    assert judged(None) is Handling.BREAK_OFF
    assert judged(None, dropped=True) is Handling.PASS_OVER


def test_an_offer_is_taken_from_where_the_list_stands() -> None:
    assert Following(expected=4).judge_offer(4) is Handling.TAKE
    assert Following(expected=4).judge_offer(5) is Handling.ASK_AGAIN
    assert Following(expected=4, deltas_only=True).judge_offer(4) is Handling.BREAK_OFF


@pytest.mark.parametrize("outcome", [Outcome.UP_TO_DATE, Outcome.DELTAS])
def test_a_list_is_all_here_when_it_is_and_was_compared(outcome: Outcome) -> None:
    following = Following(expected=7, outcome=outcome, head=7)
    assert following.news(7) is News.ALL_HERE
    assert following.news(9) is News.ALL_HERE
    assert following.news(6) is News.MORE_MISSING
    following.taken = 1
    assert following.news(6) is News.MORE_TAKEN
    following.expected = 3
    assert following.news(7) is News.MORE_TAKEN


def test_every_answer_is_news_and_silence_is_none() -> None:
    following = Following(expected=0)
    assert following.news(0) is None
    found = set()
    for following.outcome in Outcome:
        found.add(following.news(0))
    assert found == {
        News.ALL_HERE,
        News.UNAVAILABLE,
        News.SNAPSHOT_OFFERED,
        News.TOO_OLD,
        News.AHEAD,
        News.DIVERGED,
    }


def test_a_publisher_takes_its_own_back_or_proves_the_other_history() -> None:
    for outcome in Outcome:
        first = judge_recovery(outcome, from_start=False)
        again = judge_recovery(outcome, from_start=True)
        if outcome is Outcome.DELTAS:
            assert first is again is Handling.TAKE
        else:
            assert again is Handling.PASS_OVER
            claims = outcome is Outcome.DIVERGED
            assert first is (Handling.ASK_AGAIN if claims else Handling.PASS_OVER)
    assert {Outcome.CURSOR_AHEAD, Outcome.DIVERGED} == CLAIMS


# --- deltas -----------------------------------------------------------------------------------


class DamagedError(Exception):
    """What is held is not what was signed."""


@dataclass
class MemoryCopy:
    """A follower's copy in memory, as `federation.follow.Copy`.

    Attributes:
        start: the size from which on every leaf has to be here.
        headers: the signed records, by position.
        damaged: positions whose leaf is not what was signed.
    """

    start: int = 0
    headers: dict[int, bytes] = field(default_factory=dict)
    entries: Entries = field(default_factory=Entries)
    damaged: set[int] = field(default_factory=set)

    def load_header(self, position: int) -> bytes | None:
        return self.headers.get(position)

    def require_sound(self, position: int) -> None:
        if position in self.damaged or position not in self.headers:
            raise DamagedError

    def load_prior(self, body: Body) -> Mapping[int, Prior]:
        return self.entries.prior(body)

    def append(self, candidate: Candidate, prior: Mapping[int, Prior]) -> None:
        assert prior == self.entries.prior(candidate.body)
        self.headers[candidate.header.position] = candidate.signed.header
        self.entries.apply(candidate.body)


def published(deltas: int, **after_ms: int) -> Publisher:
    publisher = Publisher()
    for number in range(deltas):
        publisher.publish(assertion(number), assertion(number + 1), **after_ms)
    return publisher


def replica_of(publisher: Publisher, state: LogState | None = None) -> Replica:
    return Replica(publisher.origin, publisher.root, state or LogState.empty())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=6))
def test_any_order_of_what_was_signed_makes_the_same_log_or_is_refused(
    parts: list[tuple[int, int]],
) -> None:
    publisher = published(5)
    replica, copy = replica_of(publisher), MemoryCopy()
    for first, stop in parts:
        size = replica.state.size
        taken = take_deltas(replica, publisher.log[first:stop], copy, now_ms=LATER)
        if first <= size:
            assert taken.error is None
            assert taken.deltas == max(0, stop - max(first, size))
            assert taken.ops == 2 * taken.deltas
        elif first < stop:
            assert taken.error is not None
            assert taken.error.reason is Reason.POSITION_GAP
    assert copy.headers == {
        at: delta.header for at, delta in enumerate(publisher.log[: replica.state.size])
    }


def test_what_follows_a_bad_delta_is_not_looked_at() -> None:
    publisher = published(4)
    deltas = list(publisher.log)
    deltas[2] = deltas[2]._replace(body=b"another")
    replica, copy = replica_of(publisher), MemoryCopy()
    taken = take_deltas(replica, deltas, copy, now_ms=LATER)
    assert (taken.deltas, taken.ops, replica.state.size) == (2, 4, 2)
    assert taken.error is not None
    assert taken.error.reason is Reason.BODY_DIGEST_MISMATCH
    assert sorted(copy.headers) == [0, 1]


def test_a_delta_signed_for_a_time_to_come_is_early() -> None:
    publisher = published(2, after_ms=10**9)
    taken = take_deltas(replica_of(publisher), publisher.log, MemoryCopy(), now_ms=T0)
    assert taken.error is not None
    assert news_of(taken.error) is News.EARLY


def forked(publisher: Publisher) -> tuple[Replica, MemoryCopy, SignedDelta]:
    """Return a copy of all of a log, and another delta that is signed for its position 1."""
    replica, copy = replica_of(publisher), MemoryCopy()
    take_deltas(replica, publisher.log, copy, now_ms=LATER)
    twin = published(1)
    return replica, copy, twin.publish(assertion("another"))


def test_another_delta_at_a_position_that_is_here_is_a_fork() -> None:
    replica, copy, other = forked(published(3))
    before = replica.state
    taken = take_deltas(replica, [other], copy, now_ms=LATER)
    assert isinstance(taken.error, ForkError)
    assert replica.state == before


def test_damage_of_what_is_here_is_no_fork() -> None:
    replica, copy, other = forked(published(3))
    copy.damaged = {1}
    with pytest.raises(DamagedError):
        take_deltas(replica, [other], copy, now_ms=LATER)
    del copy.headers[1]
    with pytest.raises(DamagedError):
        take_deltas(replica, [other], copy, now_ms=LATER)


def test_what_a_snapshot_went_past_is_compared_with_nothing() -> None:
    publisher = published(3)
    replica, copy, other = forked(publisher)
    del copy.headers[1]
    copy.start = 2
    taken = take_deltas(replica, [other, publisher.log[2]], copy, now_ms=LATER)
    assert (taken.error, taken.deltas) == (None, 0)


# --- claims -----------------------------------------------------------------------------------


def claim(
    publisher: Publisher, note: bytes, log: LogState, roots: Mapping[int, bytes | None]
) -> int:
    def require_sound(position: int) -> None:
        if roots[position + 1] == b"damaged":
            raise DamagedError

    return read_claim(
        note,
        publisher.origin,
        publisher.root,
        log,
        root_at=roots.__getitem__,
        require_sound=require_sound,
    )


def test_a_newer_checkpoint_says_how_much_the_peer_has() -> None:
    publisher = published(3)
    assert claim(publisher, publisher.log[2].checkpoint, LogState.empty(), {}) == 3
    assert claim(publisher, publisher.log[2].checkpoint, log_of(2), {}) == 3


def test_a_checkpoint_of_a_size_that_is_here_has_to_be_the_one_that_is_here() -> None:
    publisher = published(3)
    note = publisher.log[1].checkpoint
    log = publisher.state
    right = CompactRange(0, ())
    for delta in publisher.log[:2]:
        right = right.append(leaf_hash(delta.header))
    assert claim(publisher, note, log, {2: right.root()}) == 2
    # A snapshot went past it: nothing here says what its root was.
    assert claim(publisher, note, log, {2: None}) == 2
    with pytest.raises(ForkError):
        claim(publisher, note, log, {2: bytes(32)})
    with pytest.raises(DamagedError):
        claim(publisher, note, log, {2: b"damaged"})
    # What a snapshot began with was proved, and no leaf of it is here to be damaged.
    with pytest.raises(ForkError):
        claim(publisher, note, replace(log, start=2), {2: b"damaged"})


def test_a_checkpoint_that_the_owner_did_not_sign_says_nothing() -> None:
    publisher = published(1)
    forged = publisher.forge(Forgery(log=signing_key("somebody")))
    with pytest.raises(PeerError):
        claim(publisher, forged.checkpoint, LogState.empty(), {})


# --- the agenda -------------------------------------------------------------------------------

ONE = Origin.parse("a.example/one")
TWO = Origin.parse("a.example/two")


def test_a_list_that_rests_is_asked_for_later_and_each_time_later_still() -> None:
    agenda = Agenda(Random(1), 40.0)
    assert agenda.is_due(ONE, 0.0)
    assert agenda.seconds_until_due((), 0.0) is None
    longest = 0.0
    for _ in range(12):
        agenda.follow(ONE, Action.REST, 100.0)
        wait = agenda.seconds_until_due((), 100.0)
        assert wait is not None
        longest = max(longest, wait)
        assert agenda.is_due(ONE, 100.0 + wait)
        assert wait == 0.0 or not agenda.is_due(ONE, 100.0 + wait / 2)
        assert agenda.is_due(TWO, 100.0)
    # A stream that is open for it already need not end for it.
    assert agenda.seconds_until_due({ONE}, 100.0) is None
    assert 4.0 < longest <= 40.0 + 4.0


def test_lists_that_rest_for_long_are_due_together() -> None:
    agenda = Agenda(Random(2), 40.0)
    for origin in (ONE, TWO):
        for _ in range(20):
            agenda.follow(origin, Action.REST, 3.0)
            wait = agenda.seconds_until_due({ONE, TWO} - {origin}, 3.0)
            assert wait is not None
            assert wait <= 4.0 or (3.0 + wait) % 4.0 == pytest.approx(0.0)


@pytest.mark.parametrize("action", Action)
def test_each_action_changes_the_agenda_as_it_says(action: Action) -> None:
    agenda = Agenda(Random(3), 40.0)
    agenda.follow(ONE, Action.COMPARE, 0.0)
    agenda.follow(TWO, action, 0.0)
    agenda.follow(ONE, action, 0.0)
    rests = {Action.REST, Action.COMPARE}
    settled = {Action.SETTLE, Action.WAIT}
    assert (TWO in agenda.resting) is (action in rests)
    assert (TWO in agenda.from_start) is (action is Action.COMPARE)
    assert (ONE in agenda.resting) is (ONE in agenda.from_start) is (action not in settled)


def test_the_end_of_a_connection_that_has_worked_is_no_news_yet() -> None:
    assert news_of_failure(answered=True, broke_off=False) is None
    assert news_of_failure(answered=True, broke_off=True) is News.PEER_FAILED
    for broke_off in (False, True):
        assert news_of_failure(answered=False, broke_off=broke_off) is News.PEER_FAILED


def test_a_list_that_is_not_followed_any_more_does_not_rest() -> None:
    agenda = Agenda(Random(4), 40.0)
    agenda.follow(ONE, Action.REST, 0.0)
    agenda.forget(ONE)
    agenda.forget(TWO)
    assert agenda.resting == frozenset()


def test_waits_double_up_to_the_cap_and_are_spread_over_all_of_it() -> None:
    waits = []
    for seed in range(200):
        backoff = Backoff(Random(seed), cap_seconds=10.0)
        waits.append([backoff.draw() for _ in range(6)])
    for at, bound in enumerate((1, 2, 4, 8, 10, 10)):
        column = sorted(wait[at] for wait in waits)
        assert column[0] < bound * 0.1
        assert bound * 0.9 < column[-1] <= bound


def test_a_wait_starts_small_again_after_a_success_and_respects_what_the_peer_asked() -> None:
    backoff = Backoff(Random(0), cap_seconds=1000.0)
    for _ in range(8):
        backoff.draw()
    backoff.reset()
    assert backoff.draw() <= 1
    assert backoff.draw(at_least=77.0) == 77.0
