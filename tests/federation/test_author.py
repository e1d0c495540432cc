"""An author signs nothing that a subscriber would refuse for its time or its operations."""

from __future__ import annotations

import pytest

from federation import wire
from federation.author import Author
from federation.body import build_body, pack
from federation.commitment import commit
from federation.entry import Cause, EntryId, Operation
from federation.errors import OperationError, Reason, SequenceError, UsageError
from federation.header import Header
from federation.names import Origin
from tests.federation.worlds import (
    Publisher,
    Subscriber,
    assertion,
    fingerprint,
    pin_root,
    salt_seed,
)


def test_what_an_author_signs_is_accepted() -> None:
    publisher = Publisher()
    subscriber = Subscriber(publisher)
    for number in range(9):
        subscriber.deliver(publisher.publish(assertion(number), after_ms=0))
        assert subscriber.state == publisher.state


def test_a_clock_that_runs_behind_the_newest_delta_signs_nothing() -> None:
    publisher = Publisher()
    publisher.publish(assertion(1))
    with pytest.raises(SequenceError) as caught:
        publisher.publish(assertion(2), after_ms=-1)
    assert caught.value.reason is Reason.TIME_BACKWARDS


def test_a_retraction_of_an_entry_that_is_not_there_is_not_signed() -> None:
    publisher = Publisher()
    publisher.publish(assertion(1))
    with pytest.raises(OperationError):
        publisher.publish(Operation.retraction(EntryId.of(fingerprint(7)), Cause.WITHDRAWN))


def test_signing_the_same_twice_gives_the_same_bytes() -> None:
    publisher = Publisher()
    body = build_body([pack(assertion(1))], salt_seed(0))
    assert publisher.sign(body) == publisher.sign(body)


def test_a_header_names_the_root_and_the_key_it_was_signed_under() -> None:
    publisher = Publisher()
    header = Header.parse(publisher.publish(assertion(1)).header)
    assert header.root_hash == publisher.root.hash
    assert header.key_id == publisher.publisher_key.key_id
    assert header.origin_hash == publisher.origin.hash


def test_an_author_needs_the_root_of_the_lists_owner() -> None:
    publisher = Publisher()
    with pytest.raises(UsageError):
        Author(
            Origin.parse("hotline.example/main"),
            pin_root("other.example"),
            publisher=publisher.publisher_key,
            log=publisher.log_key,
        )


# --- commitments that were computed before ----------------------------------------------------


def test_a_commitment_that_was_computed_before_gives_the_same_delta() -> None:
    publisher = Publisher()
    publisher.publish(assertion(1), assertion(2))
    body = build_body([pack(assertion(2, labels=("B2",))), pack(assertion(3))], salt_seed(7))
    commitment = commit(wire.encode_body(body), publisher.state.size)
    assert publisher.sign(body, commitment=commitment) == publisher.sign(body)


@pytest.mark.parametrize("what", ["body", "position"])
def test_a_commitment_to_another_delta_is_not_signed(what: str) -> None:
    publisher = Publisher()
    publisher.publish(assertion(1))
    body, other = (build_body([pack(assertion(2))], salt_seed(seed)) for seed in (1, 2))
    size = publisher.state.size
    wrong = {
        "body": commit(wire.encode_body(other), size),
        "position": commit(wire.encode_body(body), size + 1),
    }[what]
    with pytest.raises(UsageError, match="another delta"):
        publisher.sign(body, commitment=wrong)
