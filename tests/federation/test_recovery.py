"""What `federation.recovery` promises: no position is signed twice, whatever was lost."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.checkpoint import Checkpoint
from federation.follow import FollowState
from federation.merkle import EMPTY_ROOT
from federation.names import OrgName
from federation.recovery import (
    DIVERGED,
    MAX_PAUSE_MS,
    Action,
    Decision,
    Mark,
    Obstacle,
    OwnLog,
    PeerReport,
    accept_lead,
    decide,
    is_settled,
    measure_lead,
    standing,
)

ORIGIN = "hotline.example/main"
NOW = 1_750_000_000_000
OURS = b"o" * 16
OTHER = b"x" * 16
PEERS = tuple(OrgName(f"{letter}.example") for letter in "abcd")


def root_at(size: int, history: str = "true") -> bytes:
    return sha256(f"{history} {size}".encode()).digest() if size else EMPTY_ROOT


def checkpoint(size: int, history: str = "true") -> Checkpoint:
    return Checkpoint(ORIGIN, size, root_at(size, history))


def store(size: int, *, step: int = 1, token: bytes = OURS, history: str = "true") -> OwnLog:
    return OwnLog(
        checkpoint=checkpoint(size, history),
        settled=max(0, size - step),
        incarnation=token,
        last_time_ms=NOW - 1000,
        root_at=lambda at: root_at(at, history),
    )


def mark(size: int, *, fresh: bool = True, token: bytes = OURS, history: str = "true") -> Mark:
    return Mark(checkpoint=checkpoint(size, history), incarnation=token, fresh=fresh)


def said(*sizes: int | None, history: str = "true") -> tuple[PeerReport, ...]:
    """Return answers: a size that a peer holds, 0 for nothing, None for silence."""
    return tuple(
        PeerReport(
            peer=peer,
            answered=size is not None,
            checkpoint=checkpoint(size, history) if size else None,
        )
        for peer, size in zip(PEERS, sizes, strict=False)
    )


def judge(
    own: OwnLog,
    held: Mark | Obstacle,
    answers: tuple[PeerReport, ...] = (),
    *,
    needed: int | None = None,
    risk: bool = False,
    now_ms: int = NOW,
) -> Decision:
    return decide(own, held, answers, now_ms=now_ms, needed=needed, risk=risk)


def may_sign(decision: Decision) -> bool:
    return decision.action in {Action.SIGN, Action.FINISH}


def test_where_store_mark_and_peers_agree_the_next_position_is_signed() -> None:
    for answers in ((), said(7, 5, 0), said(None, None)):
        assert judge(store(7), mark(7), answers) == Decision(action=Action.SIGN)


def test_a_step_that_was_committed_and_not_marked_is_finished() -> None:
    decision = judge(store(7, step=3), mark(4), said(None, 4))
    assert decision == Decision(action=Action.FINISH)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("risk", [True, False])
def test_a_newer_checkpoint_at_any_peer_is_fetched_first_whatever_else_holds(
    fresh: bool, risk: bool
) -> None:
    for held in (mark(5, fresh=fresh), mark(9, fresh=fresh), Obstacle.MARK_MISSING):
        decision = judge(store(5), held, said(9, None, 7, 5), risk=risk)
        assert (decision.action, decision.obstacle) == (Action.CATCH_UP, Obstacle.BEHIND_PEER)
        assert decision.sources == (PEERS[0], PEERS[2])
        assert not decision.overridable


@pytest.mark.parametrize("risk", [True, False])
def test_a_store_behind_its_mark_signs_nothing_whatever_the_operator_says(risk: bool) -> None:
    decision = judge(store(5), mark(6), said(5, 5), risk=risk)
    assert (decision.action, decision.obstacle) == (Action.REFUSE, Obstacle.BEHIND_MARK)
    assert not decision.overridable


@pytest.mark.parametrize("risk", [True, False])
def test_another_history_is_left_to_a_person(risk: bool) -> None:
    theirs = judge(store(5), mark(5), said(4, history="other"), risk=risk)
    marked = judge(store(5), mark(5, history="other"), risk=risk)
    assert theirs.obstacle is Obstacle.PEER_DIFFERS
    assert marked.obstacle is Obstacle.MARK_DIFFERS
    for decision in (theirs, marked):
        assert decision.action is Action.REFUSE
        assert decision.obstacle in DIVERGED
        assert not decision.overridable


DOUBTS: dict[Obstacle, tuple[OwnLog, Mark | Obstacle]] = {
    Obstacle.MARK_MISSING: (store(5), Obstacle.MARK_MISSING),
    Obstacle.MARK_DAMAGED: (store(5), Obstacle.MARK_DAMAGED),
    Obstacle.MARK_FOREIGN: (store(5), Obstacle.MARK_FOREIGN),
    Obstacle.RESTORED: (store(5), mark(5, fresh=False, token=OTHER)),
    Obstacle.AHEAD_OF_MARK: (store(5), mark(3)),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_without_a_mark_that_can_be_trusted_every_peer_must_have_answered(doubt: Obstacle) -> None:
    own, held = DOUBTS[doubt]
    for answers in ((), said(None), said(5, None), said(None, None)):
        decision = judge(own, held, answers)
        assert (decision.action, decision.obstacle) == (Action.REFUSE, doubt)
        assert decision.overridable
        assert judge(own, held, answers, risk=True).action is Action.FINISH
    assert judge(own, held, said(5, 0, 3)).action is Action.FINISH
    assert judge(own, held, said(5, None, None), needed=1).action is Action.FINISH
    # No number of peers makes nobody enough.
    assert judge(own, held, said(None, None), needed=0).obstacle is doubt


def test_a_restored_store_that_has_all_that_a_fresh_mark_has_goes_on() -> None:
    assert judge(store(5, token=OTHER), mark(5), said(None)).action is Action.FINISH
    # One more step than the mark: who committed it, nobody knows.
    assert judge(store(6, token=OTHER), mark(5), said(None)).obstacle is Obstacle.RESTORED


def test_after_a_start_of_the_machine_the_peers_have_to_answer_once() -> None:
    stale = mark(5, fresh=False)
    assert judge(store(5), stale, said(5, None)).obstacle is Obstacle.PEERS_SILENT
    assert judge(store(5), stale, said(5, None), needed=1).action is Action.FINISH
    assert judge(store(5), stale, said(None, None), needed=0).action is Action.FINISH
    assert judge(store(5), stale, said(0, 2)).action is Action.FINISH
    # Without any peer there is nobody who could have seen more.
    assert judge(store(5), stale).action is Action.FINISH


def test_a_clock_behind_the_newest_delta_signs_nothing() -> None:
    decision = judge(store(5), mark(5), now_ms=NOW - 1001, risk=True)
    assert decision.obstacle is Obstacle.TIME_BACKWARDS
    assert not decision.overridable


# --- the clock --------------------------------------------------------------------------------

SKEW = limits.MAX_CLOCK_SKEW_MS


def told(*times_ms: int | None) -> tuple[PeerReport, ...]:
    """Return answers that say nothing but what the peers' clocks show."""
    return tuple(
        PeerReport(peer=peer, answered=True, time_ms=time_ms)
        for peer, time_ms in zip(PEERS, times_ms, strict=False)
    )


def test_a_clock_that_is_ahead_of_most_peers_signs_nothing() -> None:
    for answers in (
        told(NOW - SKEW),
        told(NOW - SKEW, None),
        told(0, NOW, NOW - SKEW),
        told(0, NOW),
    ):
        assert judge(store(5), mark(5), answers).action is Action.SIGN
    for answers in (told(NOW - SKEW - 1), told(0, NOW, NOW - SKEW - 1), told(None, 0)):
        decision = judge(store(5), mark(5), answers)
        assert (decision.action, decision.obstacle) == (Action.REFUSE, Obstacle.CLOCK_AHEAD)
        assert decision.overridable
        assert judge(store(5), mark(5), answers, risk=True).action is Action.SIGN
    assert judge(store(5), mark(5), told(NOW - 400_000, 0, NOW)).detail == (
        "the clock is 400 s ahead of the peers' clocks "
        "(the median of a.example, b.example, c.example)"
    )


def test_what_the_operator_has_said_of_the_clock_holds_for_no_clock_further_ahead() -> None:
    held = replace(mark(5), accepted_lead_ms=10 * SKEW)
    assert judge(store(5), held, told(NOW - 10 * SKEW)).action is Action.SIGN
    assert judge(store(5), held, told(NOW - 10 * SKEW - 1)).obstacle is Obstacle.CLOCK_AHEAD


def test_a_clock_that_nobody_confirms_is_not_a_year_after_all_that_is_stored() -> None:
    for lead, obstacle in ((MAX_PAUSE_MS, None), (MAX_PAUSE_MS + 1, Obstacle.CLOCK_AHEAD)):
        own = replace(store(5), newest_ms=NOW - lead)
        assert judge(own, mark(5), said(None)).obstacle is obstacle
        # A peer that tells the time knows better.
        assert judge(own, mark(5), told(NOW)).action is Action.SIGN
    assert judge(store(5), mark(5)).action is Action.SIGN


def test_who_takes_a_risk_is_told_all_of_it() -> None:
    answers = (*told(0), PeerReport(peer=PEERS[1], answered=False))
    decision = judge(store(5), Obstacle.MARK_MISSING, answers)
    assert decision.obstacle is Obstacle.MARK_MISSING
    assert "1 of 2 peers have answered" in decision.detail
    assert "the clock is" in decision.detail


@given(st.lists(st.one_of(st.none(), st.integers(0, 2 * NOW)), max_size=4))
def test_the_clock_is_in_doubt_if_and_only_if_more_than_half_of_the_clocks_say_so(
    times: list[int | None],
) -> None:
    """So one liar stops nobody that two others answer, nor lets a wrong clock sign."""
    known = [time_ms for time_ms in times if time_ms is not None]
    behind = sum(NOW - time_ms > SKEW for time_ms in known)
    ahead = measure_lead(store(5), told(*times), NOW) > 0
    assert ahead is (2 * behind > len(known))


def test_a_refusal_names_who_is_silent() -> None:
    decision = judge(store(5), mark(5, fresh=False), said(5, None, None))
    assert decision.detail == (
        "1 of 3 peers have answered, all are needed (silent: b.example, c.example)"
    )


def test_being_behind_takes_no_proof_of_two_histories_back() -> None:
    behind = judge(store(5), mark(5), said(9))
    assert standing(behind, "") == (FollowState.RECOVERING, Obstacle.BEHIND_PEER)
    assert standing(behind, Obstacle.PEER_DIFFERS) is None
    differs = judge(store(5), mark(5), said(5, history="other"))
    assert standing(differs, Obstacle.BEHIND_PEER) == (FollowState.FORKED, Obstacle.PEER_DIFFERS)
    agrees = judge(store(5), mark(5), said(5))
    assert standing(agrees, Obstacle.PEER_DIFFERS) == (FollowState.OWN, "")


def test_a_list_is_settled_when_all_is_released_or_nothing_may_be_signed() -> None:
    agrees, refused = judge(store(5), mark(5)), judge(store(5), mark(6))
    assert is_settled(agrees, is_released=True)
    assert not is_settled(agrees, is_released=False)
    assert is_settled(refused, is_released=False)
    for unfinished in (judge(store(5), mark(4)), judge(store(5), mark(5), said(9))):
        assert not is_settled(unfinished, is_released=True)


def test_a_lead_is_accepted_for_as_long_as_the_next_answers_take() -> None:
    lead = measure_lead(store(5), told(0), NOW)
    assert accept_lead(store(5), told(0), NOW) == lead + SKEW
    assert accept_lead(store(5), told(NOW), NOW) == 0


# --- laws -------------------------------------------------------------------------------------

_sizes = st.integers(0, 6)
_marks = st.one_of(
    st.builds(mark, _sizes, fresh=st.booleans(), token=st.sampled_from([OURS, OTHER])),
    st.sampled_from([Obstacle.MARK_MISSING, Obstacle.MARK_DAMAGED, Obstacle.MARK_FOREIGN]),
)
_answers = st.lists(st.one_of(st.none(), _sizes), max_size=4).map(lambda sizes: said(*sizes))
_stores = st.builds(store, _sizes, step=st.integers(1, 3))
_needs = st.one_of(st.none(), st.integers(0, 5))


@given(_stores, _marks, _answers, _needs, st.booleans())
def test_nothing_is_ever_signed_against_what_mark_or_peers_show(
    own: OwnLog,
    held: Mark | Obstacle,
    answers: tuple[PeerReport, ...],
    needed: int | None,
    risk: bool,
) -> None:
    decision = judge(own, held, answers, needed=needed, risk=risk)
    newest = [answer.checkpoint.size for answer in answers if answer.checkpoint]
    if isinstance(held, Mark):
        newest.append(held.checkpoint.size)
    if may_sign(decision):
        assert max(newest, default=0) <= own.size
        assert (decision.obstacle, decision.detail, decision.sources) == (None, "", ())
    else:
        assert decision.obstacle is not None
        assert decision.detail
        assert decision.overridable is may_sign(judge(own, held, answers, needed=needed, risk=True))


@given(_stores, _marks, _answers, _needs)
def test_more_knowledge_never_turns_a_known_obstacle_into_a_signature(
    own: OwnLog, held: Mark | Obstacle, answers: tuple[PeerReport, ...], needed: int | None
) -> None:
    """A peer can delay, by showing less: it never makes something be signed that was refused."""
    full = judge(own, held, answers, needed=needed)
    for at, answer in enumerate(answers):
        if answer.answered:
            less = replace(answer, answered=False, checkpoint=None)
            silenced = judge(own, held, (*answers[:at], less, *answers[at + 1 :]), needed=needed)
            newer = answer.checkpoint is not None and answer.checkpoint.size > own.size
            if not newer and may_sign(silenced):
                assert may_sign(full)


@given(_stores, _sizes, _answers, st.booleans())
def test_what_is_finished_is_agreed_upon_afterwards(
    own: OwnLog, size: int, answers: tuple[PeerReport, ...], risk: bool
) -> None:
    decision = judge(own, mark(size, fresh=False), answers, risk=risk)
    if decision.action is Action.FINISH:
        raised = Mark(checkpoint=own.checkpoint, incarnation=own.incarnation, fresh=True)
        assert judge(own, raised, answers).action is Action.SIGN
