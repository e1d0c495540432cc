"""What `publish.sign` promises: what is staged is signed once, whole, checked as by a reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation import limits
from federation.entry import Annotation, Cause, Operation
from federation.header import Header
from node.errors import CommandError
from node.fsck.check import fsck
from node.publish.sign import Publishing, PublishingKeys
from node.staging import import_file
from node.staging.file import StagedRange, Staging
from node.store import lists, log
from tests.federation.worlds import T0, assertion, fingerprint, signing_key
from tests.node.support.own_list import KEYS, ORIGIN, OwnList


class Killed(BaseException):
    """Stands for a process that ends."""


class ForgetfulStaging(Staging):
    """Staged changes whose process is killed after the store has committed."""

    def remove(self, extent: StagedRange) -> int:
        raise Killed(extent)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path / "own")
    yield made
    made.close()


def headers(own: OwnList) -> list[Header]:
    record = own.record
    return [
        Header.parse(delta.header)
        for delta in log.iter_records(own.store.connection, record.list, 0, record.log.size)
    ]


def test_what_is_staged_becomes_one_delta_and_is_let_go_of(own: OwnList) -> None:
    own.import_operations(assertion(1), assertion(2))
    result = own.publish()
    assert (result.first, result.size, result.ops, result.live_count) == (0, 1, 2, 2)
    assert own.staging.is_empty
    (header,) = headers(own)
    assert (header.change_set, header.ends_change_set) == (0, True)


def test_publishing_nothing_signs_nothing(own: OwnList) -> None:
    before = own.store.version
    result = own.publish()
    assert (result.first, result.size, result.ops) == (0, 0, 0)
    assert own.store.version == before


def test_a_change_set_beyond_the_cap_of_operations_becomes_several_deltas(own: OwnList) -> None:
    count = 2 * limits.MAX_BODY_OPS + 1
    own.import_operations(*(assertion(number) for number in range(count)))
    result = own.publish()
    made = headers(own)
    assert result.ops == count
    assert sum(header.op_count for header in made) == count
    assert max(header.op_count for header in made) <= limits.MAX_BODY_OPS
    assert [header.change_set for header in made] == [0] * len(made)
    assert [header.ends_change_set for header in made] == [False] * (len(made) - 1) + [True]
    assert list(fsck(own.store)) == []


def test_a_change_set_beyond_the_cap_of_bytes_becomes_several_deltas(own: OwnList) -> None:
    own.import_operations(
        *(
            Operation.assertion(
                (fingerprint(number),), Annotation(reason=f"{number:04} {'because ' * 120}")
            )
            for number in range(3_000)
        )
    )
    own.publish()
    made = headers(own)
    assert len(made) > 1
    assert max(header.body_size for header in made) <= limits.MAX_BODY_BYTES
    assert len(own.live()) == 3_000


def test_after_a_kill_between_commit_and_letting_go_nothing_is_signed_twice(
    own: OwnList, tmp_path: Path
) -> None:
    own.import_operations(*(assertion(number) for number in range(100)))
    own.staging.close()
    path = tmp_path / "own" / "main.staged"
    own.staging = ForgetfulStaging.open(path)
    with pytest.raises(Killed):
        own.publish()
    own.staging.close()

    own.staging = Staging.open(path)
    assert not own.staging.is_empty
    # Staged since: a change of something that was signed, and something new.
    revision = Operation.assertion((fingerprint(1),), Annotation(labels=("other",)))
    own.import_operations(revision, assertion(500))
    result = own.publish()
    assert result.ops == 2
    assert sum(header.op_count for header in headers(own)) == 102
    assert len(own.live()) == 101
    assert own.staging.is_empty


def test_what_is_staged_in_a_new_file_is_never_taken_for_what_was_signed(
    own: OwnList, tmp_path: Path
) -> None:
    own.import_operations(*(assertion(number) for number in range(10)))
    own.publish()
    own.staging.close()
    path = tmp_path / "own" / "main.staged"
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    own.staging = Staging.open(path)
    own.import_operations(Operation.retraction(assertion(3).entry, Cause.WITHDRAWN))
    assert own.publish().ops == 1
    assert len(own.live()) == 9


def test_a_withdrawal_of_what_is_withdrawn_already_is_dropped(own: OwnList, tmp_path: Path) -> None:
    own.import_operations(assertion(1), assertion(2))
    own.publish()
    retraction = Operation.retraction(assertion(1).entry, Cause.FALSE_POSITIVE)
    other = Staging.open(tmp_path / "other.staged")
    import_file.stage_operations(own.store, own.record, other, [retraction])
    own.import_operations(retraction)
    own.publish()
    # As from a second machine, or a file that was put back.
    own.staging.close()
    own.staging = other
    result = own.publish()
    assert (result.ops, result.dropped, result.size) == (0, 1, 2)


def test_a_key_that_is_not_the_organizations_publishes_nothing(own: OwnList) -> None:
    own.import_operations(assertion(1))
    stranger = signing_key("stranger")
    with pytest.raises(Exception, match="is not one of hotline"):
        Publishing(own.store, own.staging, ORIGIN, PublishingKeys(publisher=stranger, log=stranger))
    assert own.record.log.size == 0
    assert not own.staging.is_empty


def test_what_was_composed_before_there_was_a_permit_is_signed_with_the_rest(own: OwnList) -> None:
    own.import_operations(*map(assertion, range(5)))
    with Publishing(own.store, own.staging, ORIGIN, KEYS) as publishing:
        publishing.compose()
        own.import_operations(assertion(5))
        result = publishing.sign(own.permit(), clock=own.clock)
    assert (result.ops, result.size, result.live_count) == (5, 1, 5)
    # What was staged meanwhile waits for the next time.
    assert own.publish().live_count == 6
    assert list(fsck(own.store)) == []


def test_a_list_of_another_organization_is_refused(own: OwnList) -> None:
    with own.store.write("test", "") as transaction:
        transaction.connection.execute("UPDATE list SET own = 0")
    with pytest.raises(CommandError, match="not a list of this node"):
        own.publish()


def test_a_clock_behind_the_newest_delta_publishes_nothing(own: OwnList) -> None:
    own.import_operations(assertion(1))
    own.publish()
    own.import_operations(assertion(2))
    permit = own.permit()
    own.clock._now_ms = T0 - 86_400_000  # a clock that was set back
    with pytest.raises(Exception, match="behind the newest delta"):
        own.publish(permit)
    assert lists.load_list(own.store.connection, ORIGIN) == own.record
    assert own.record.log.size == 1
    assert not own.staging.is_empty
