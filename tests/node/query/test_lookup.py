"""What `node.query.lookup` promises: every answer comes from what was signed, with its provenance.

That all versions of all entries at all points are right is shown in `test_history`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import pytest

from federation.entry import Annotation, Cause, EntryId, Operation
from federation.errors import FederationError, FingerprintError, Reason
from federation.fingerprint import Fingerprint
from federation.follow import FollowState
from federation.header import leaf_hash
from node.errors import CommandError, DamageError
from node.ingest import deltas
from node.publish.high_water import HighWater
from node.query import diff, lookup, provenance, status
from node.query.provenance import describe_operation
from node.store.connection import Store
from tests.federation.test_wire import FORMS, OPS
from tests.federation.worlds import Forgery, Publisher, assertion, fingerprint
from tests.node.support.followed_lists import RELAY, FollowedLists
from tests.node.support.tiny_runs import tiny_runs

BOTH = fingerprint("in both lists", "sha1")
LONG = fingerprint("long", "ssvh", 200)
FOREIGN = fingerprint("foreign", "future-hash", 24)


@pytest.fixture
def publishers() -> tuple[Publisher, Publisher]:
    main, other = Publisher("hotline.example/main"), Publisher("ngo.example/other")
    main.publish(
        assertion(1, fingerprint(1, "md5"), BOTH),
        assertion(2, entry="case-2"),
        Operation.assertion((LONG,), Annotation(reason="why", labels=("A", "B"))),
        Operation.assertion((FOREIGN,), Annotation()),
    )
    main.publish(
        Operation.retraction(assertion(1).entry, Cause.FALSE_POSITIVE, "a mistake"),
        assertion(2, fingerprint(2, "md5"), entry="case-2"),
    )
    main.publish(assertion(3), Operation.purge(EntryId.parse("case-2")))
    other.publish(assertion("other", BOTH, labels=("other",)))
    return main, other


@pytest.fixture
def followed(tmp_path: Path, publishers: tuple[Publisher, Publisher]) -> Iterator[FollowedLists]:
    made = FollowedLists(tmp_path / "node", *publishers)
    yield made
    made.close()


# --- looking up -------------------------------------------------------------------------------


def test_what_is_in_force_is_found_in_every_list_that_has_it(followed: FollowedLists) -> None:
    (match,) = lookup.lookup(followed.store, BOTH.format())
    # The other list's entry was retracted.
    assert str(match.origin) == "ngo.example/other"
    assert (match.fingerprint, match.position) == (BOTH, 0)
    assert match.operation.annotation.labels == ("other",)
    assert lookup.lookup(followed.store, fingerprint(2, "md5").format()) == []


def test_digits_without_a_type_are_looked_up_as_each_type_that_they_can_be(
    followed: FollowedLists,
) -> None:
    (match,) = lookup.lookup(followed.store, fingerprint(3).digest.hex().upper())
    assert match.fingerprint == fingerprint(3)
    # The same digits, asked for as another type, are another hash.
    assert lookup.lookup(followed.store, f"pdq:{fingerprint(3).digest.hex()}") == []


def test_a_digest_that_is_longer_than_the_index_keeps_is_found(followed: FollowedLists) -> None:
    (match,) = lookup.lookup(followed.store, LONG.format())
    assert match.operation.fingerprints == (LONG,)
    hashed = Fingerprint.from_digest("ssvh", sha256(LONG.digest).digest())
    assert lookup.lookup(followed.store, hashed.format()) == []


def test_a_hash_of_a_type_that_only_a_list_here_has_is_found(followed: FollowedLists) -> None:
    (match,) = lookup.lookup(followed.store, FOREIGN.format())
    assert match.operation.fingerprints == (FOREIGN,)
    for text in ("future-hash:00ff", "shaa256:00ff", "Future-Hash:00", "future-hash:xyz"):
        with pytest.raises(FingerprintError) as caught:
            lookup.lookup(followed.store, text)
        assert caught.value.reason is Reason.FINGERPRINT_TYPE


def test_an_index_that_says_what_no_body_does_is_damage(followed: FollowedLists) -> None:
    asked, other = fingerprint(3), fingerprint("absent")
    followed.store.connection.execute(
        "UPDATE posting SET digest = ? WHERE digest = ?", (other.digest, asked.digest)
    )
    # The entry does not silently disappear.
    with pytest.raises(DamageError, match="disagree about"):
        lookup.lookup(followed.store, other.format())


@pytest.mark.parametrize("form", FORMS)
def test_what_was_signed_in_another_wire_form_is_found(tmp_path: Path, form: str) -> None:
    publisher = Publisher()
    publisher.log.append(publisher.forge(Forgery(ops=OPS, body=FORMS[form])))
    followed = FollowedLists(tmp_path / "node", publisher)
    texts = [operation.entry.format() for operation in OPS] * 3
    found = list(lookup.lookup_many(followed.store, texts))
    for operation, text in zip(OPS * 3, texts, strict=True):
        (match,) = lookup.lookup(followed.store, text)
        assert match.operation == operation
        assert found.pop(0) == (text, [match])
    followed.close()


def test_many_answers_are_the_single_ones_in_the_order_of_the_questions(
    followed: FollowedLists,
) -> None:
    texts = [
        BOTH.format(),
        "no hash",
        fingerprint(3).format(),
        fingerprint("absent").format(),
        BOTH.format(),
        LONG.format(),
        FOREIGN.format(),
        "future-hash:00ff",
        fingerprint(3).digest.hex(),
    ]
    answers = list(lookup.lookup_many(followed.store, iter(texts)))
    assert [text for text, _ in answers] == texts
    for text, found in answers:
        if isinstance(found, FederationError):
            with pytest.raises(FederationError) as caught:
                lookup.lookup(followed.store, text)
            assert str(caught.value) == str(found)
        else:
            assert found == lookup.lookup(followed.store, text)


def test_no_question_gets_no_answer(followed: FollowedLists) -> None:
    assert list(lookup.lookup_many(followed.store, [])) == []


@pytest.mark.parametrize("merged", [False, True])
def test_lookups_go_on_while_a_load_is_under_way(tmp_path: Path, *, merged: bool) -> None:
    """With runs so small that rows are merged all the time, and with those of a node."""
    publisher = Publisher()
    for start in range(0, 300, 10):
        publisher.publish(*(assertion(n, fingerprint(n, "md5")) for n in range(start, start + 10)))
    followed = FollowedLists(tmp_path / "node", Publisher())
    reader = Store.open_reader(followed.path, followed.clock)
    # To wait for a writer would be an error at once.
    reader.connection.execute("PRAGMA busy_timeout = 0")
    texts = [fingerprint(n, "md5").format() for n in range(300)]
    counts = []
    with tiny_runs() if merged else nullcontext(), ThreadPoolExecutor(1) as writer:

        def load() -> None:
            for delta in publisher.log:
                assert followed.accept(publisher.origin, [delta]).error is None

        loading = writer.submit(load)
        while not loading.done():
            found = [bool(matches) for _, matches in lookup.lookup_many(reader, texts)]
            counts.append(sum(found))
            # Whole deltas, in their order.
            assert found == [n < counts[-1] for n in range(300)]
            assert counts[-1] % 10 == 0
        loading.result()
    assert counts == sorted(counts)
    assert len([1 for _, matches in lookup.lookup_many(reader, texts) if matches]) == 300
    reader.close()
    followed.close()


def _read_calls() -> int:
    """Return how often this process has read from a file."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["syscr"])


@pytest.mark.skipif(sys.platform != "linux", reason="counts reads by /proc")
def test_a_lookup_reads_a_few_pages_of_a_large_body(tmp_path: Path) -> None:
    publisher = Publisher()
    for _ in range(2):
        size = publisher.state.live_count
        publisher.publish(*(assertion(size + n, labels=("A" * 90,)) for n in range(8_000)))
    followed = FollowedLists(tmp_path / "node", publisher)
    followed.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    reader = Store.open_reader(followed.path, followed.clock)
    digests = sorted(fingerprint(n).digest for n in range(8_000, 16_000))
    lookup.lookup(reader, fingerprint("absent").format())
    before = _read_calls()
    (match,) = lookup.lookup(reader, digests[7_000].hex())
    assert match.position == 1
    # The body has 64 pages. The index, its record, its code and where they lie have a few.
    assert _read_calls() - before < 20
    reader.close()
    followed.close()


# --- provenance -------------------------------------------------------------------------------


def test_provenance_is_that_of_the_delta_that_was_signed(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher]
) -> None:
    main, _ = publishers
    record = followed.record(main.origin)
    ((first, second),) = provenance.show(followed.store, record, assertion(1).entry.format())
    assert (first.position, first.until, second.position, second.until) == (0, 1, 1, None)
    assert first.operation == assertion(1, fingerprint(1, "md5"), BOTH)
    assert second.operation.annotation.reason == "a mistake"
    for version in (first, second):
        delta = main.log[version.position]
        assert version.origin == main.origin
        assert version.via == RELAY
        leaf = version.delta
        assert leaf is not None
        assert version.snapshot is None
        assert leaf.leaf_hash == leaf_hash(delta.header)
        assert leaf.checkpoint == delta.checkpoint
        assert leaf.key_id == main.publisher_key.key_id
        assert leaf.root_version == 1
        assert leaf.signed_ms < version.received_ms
        assert version.version == followed.store.version - 2


def test_an_entry_is_shown_by_its_id_and_by_any_hash_that_it_ever_had(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher]
) -> None:
    record = followed.record(publishers[0].origin)
    texts = ("case-2", fingerprint(2, "md5").format(), fingerprint(2).digest.hex())
    shown = [provenance.show(followed.store, record, text) for text in texts]
    assert shown[0] == shown[1] == shown[2]
    ((first, second, third),) = shown[0]
    assert [first.until, second.until, third.until] == [1, 2, None]
    assert third.operation == Operation.purge(EntryId.parse("case-2"))


def test_an_entry_is_shown_by_the_text_that_it_is_shown_with(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher]
) -> None:
    record = followed.record(publishers[0].origin)
    for item in (LONG, FOREIGN, BOTH):
        ((version, *_),) = provenance.show(followed.store, record, item.format())
        assert item in version.operation.fingerprints


def test_what_a_list_never_had_is_not_shown(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher]
) -> None:
    record = followed.record(publishers[1].origin)
    for text in ("case-2", fingerprint(3).format(), FOREIGN.format()):
        with pytest.raises(CommandError, match="has never had an entry"):
            provenance.show(followed.store, record, text)
    with pytest.raises(FederationError):
        provenance.show(followed.store, record, "sha256:00")


def test_a_body_that_is_damaged_or_gone_is_damage_and_not_the_users_fault(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher]
) -> None:
    record = followed.record(publishers[0].origin)
    for statement in ("UPDATE body SET bytes = x'ff'", "DELETE FROM body"):
        followed.store.connection.execute(statement)
        for ask in (
            lambda: lookup.lookup(followed.store, fingerprint(3).format()),
            lambda: provenance.show(followed.store, record, "case-2"),
            lambda: list(diff.diff(followed.store, record, 0, 3)),
        ):
            with pytest.raises(DamageError) as caught:
                ask()
            assert caught.value.exit_code == 12


def test_every_operation_is_described_in_full() -> None:
    said = Operation.assertion(
        (fingerprint(1), fingerprint(1, "md5"), fingerprint(2, "md5")),
        Annotation(labels=("A",), vocabulary="ours", reason="why"),
    )
    assert describe_operation(said) == {
        "op": "assert",
        "id": said.entry.format(),
        "fingerprints": {
            "md5": [item.format_digest() for item in said.fingerprints if item.type == "md5"],
            "sha256": fingerprint(1).format_digest(),
        },
        "labels": ["A"],
        "vocabulary": "ours",
        "reason": "why",
    }
    retraction = Operation.retraction(said.entry, Cause.FALSE_POSITIVE, "no")
    assert describe_operation(retraction) == {
        "op": "retract",
        "id": said.entry.format(),
        "cause": "false-positive",
        "reason": "no",
    }


# --- logs and status --------------------------------------------------------------------------


def test_a_log_is_read_newest_first_and_as_far_as_was_asked(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher]
) -> None:
    main, _ = publishers
    record = followed.record(main.origin)
    lines = list(status.read_log(followed.store, record, None))
    assert [line.position for line in lines] == [2, 1, 0]
    for line in lines:
        delta = main.log[line.position]
        assert line.delta_hash == leaf_hash(delta.header)
        assert line.body_size == len(delta.body)
        assert line.via == RELAY
    assert [line.position for line in status.read_log(followed.store, record, 2)] == [2, 1]


def test_a_status_says_how_far_behind_a_list_is(
    followed: FollowedLists, publishers: tuple[Publisher, Publisher], tmp_path: Path
) -> None:
    main, _ = publishers
    deltas.record_follow_state(
        followed.store, main.origin, FollowState.CATCHING_UP, clock=followed.clock, head=10
    )
    statuses = status.list_statuses(
        followed.store, HighWater(tmp_path, RELAY), clock=followed.clock
    )
    assert [(str(item.record.origin), item.behind) for item in statuses] == [
        ("hotline.example/main", 7),
        ("ngo.example/other", 0),
    ]
