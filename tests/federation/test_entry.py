"""Entries and operations: what people write is read in one way only, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.entry import CAUSES, Annotation, Cause, EntryId, Operation, OpKind, check_text
from federation.errors import FingerprintError, LimitError, OperationError, PeerError
from federation.fingerprint import Fingerprint
from tests.federation.worlds import fingerprint

SHA = fingerprint(1)
MD5 = fingerprint(1, "md5")


# --- ids --------------------------------------------------------------------------------------


def test_a_fingerprints_text_names_by_fingerprint() -> None:
    entry = EntryId.parse(SHA.format())
    assert entry == EntryId("sha256", SHA.digest) == EntryId.of(SHA)
    assert str(entry) == SHA.format()


@pytest.mark.parametrize(
    "text", ["case 7", "urn:uuid:5f0c", "acme-2031:00ff", "é", "a:b:c", "x" * 255, "sha256", ":"]
)
def test_any_other_text_names_itself(text: str) -> None:
    entry = EntryId.parse(text)
    assert entry == EntryId("", text.encode())
    assert str(entry) == text


@pytest.mark.parametrize(
    "text",
    ["sha256:", "sha256:zz", "SHA256:" + SHA.digest.hex(), "md5:" + SHA.digest.hex(), "pdq:0"],
)
def test_what_begins_like_a_fingerprint_must_be_one(text: str) -> None:
    with pytest.raises(FingerprintError):
        EntryId.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", " a", "a ", "\u00a0a", "a\u3000", "a\0", "a\nb", "\u202ea", "a\u2028b", "\ud800", "\x85"],
)
def test_is_no_id(text: str) -> None:
    with pytest.raises(OperationError):
        EntryId.parse(text)


def test_an_id_is_measured_in_bytes() -> None:
    assert EntryId.parse("é" * 127 + "a").key == ("é" * 127 + "a").encode()
    with pytest.raises(LimitError):
        EntryId.parse("é" * 128)


@given(st.text(max_size=300))
def test_every_id_that_is_accepted_is_read_back_the_same(text: str) -> None:
    try:
        entry = EntryId.parse(text)
    except PeerError:
        return
    assert EntryId.parse(str(entry)) == entry


# --- text -------------------------------------------------------------------------------------

CONTROLS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]


@pytest.mark.parametrize("character", CONTROLS, ids=lambda c: f"U+{ord(c):04X}")
def test_a_control_character_is_carried_nowhere(character: str) -> None:
    text = f"a{character}b"
    with pytest.raises(OperationError) as caught:
        check_text("label", text, 10)
    assert f"U+{ord(character):04X}" in str(caught.value)
    for annotation in (
        Annotation(labels=(text,)),
        Annotation(reason=text),
        Annotation(vocabulary=text),
    ):
        with pytest.raises(OperationError):
            annotation.check(OpKind.ASSERT)
    with pytest.raises(OperationError):
        EntryId.parse(text)


@pytest.mark.parametrize("text", ["", "a", "né", "日本語", "\U0001f6ab", "a\u0301", "\u200d"])
def test_other_text_is_carried_verbatim(text: str) -> None:
    assert check_text("label", text, 64) == text


# --- annotations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "annotation"),
    [
        (OpKind.ASSERT, Annotation(cause=Cause.WITHDRAWN)),
        (OpKind.RETRACT, Annotation()),
        (OpKind.RETRACT, Annotation(cause=Cause.WITHDRAWN, labels=("A1",))),
        (OpKind.RETRACT, Annotation(cause=Cause.WITHDRAWN, vocabulary="industry")),
        (OpKind.PURGE, Annotation(cause=Cause.WITHDRAWN)),
        (OpKind.PURGE, Annotation(reason="why")),
        (OpKind.PURGE, Annotation(labels=("A1",))),
        (OpKind.ASSERT, Annotation(labels=("B", "A"))),
        (OpKind.ASSERT, Annotation(labels=("A", "A"))),
        (OpKind.ASSERT, Annotation(labels=("",))),
    ],
)
def test_an_operation_cannot_carry(kind: OpKind, annotation: Annotation) -> None:
    with pytest.raises(OperationError):
        annotation.check(kind)


@pytest.mark.parametrize(
    ("kind", "annotation"),
    [
        (OpKind.ASSERT, Annotation()),
        (OpKind.ASSERT, Annotation(labels=("A", "B"), reason="why", vocabulary="industry")),
        (OpKind.RETRACT, Annotation(cause=Cause.FALSE_POSITIVE)),
        (OpKind.RETRACT, Annotation(cause=Cause.SUPERSEDED, reason="why")),
        (OpKind.PURGE, Annotation()),
    ],
)
def test_an_operation_can_carry(kind: OpKind, annotation: Annotation) -> None:
    annotation.check(kind)


def labels(count: int) -> tuple[str, ...]:
    return tuple(f"{number:03}" for number in range(count))


@pytest.mark.parametrize(
    ("most", "too_much"),
    [
        (
            Annotation(labels=labels(limits.MAX_LABELS)),
            Annotation(labels=labels(limits.MAX_LABELS + 1)),
        ),
        (
            Annotation(labels=("é" * (limits.MAX_LABEL_BYTES // 2),)),
            Annotation(labels=("é" * (limits.MAX_LABEL_BYTES // 2) + "a",)),
        ),
        (
            Annotation(reason="a" * limits.MAX_REASON_BYTES),
            Annotation(reason="a" * (limits.MAX_REASON_BYTES + 1)),
        ),
        (
            Annotation(vocabulary="a" * limits.MAX_VOCABULARY_BYTES),
            Annotation(vocabulary="a" * (limits.MAX_VOCABULARY_BYTES + 1)),
        ),
    ],
    ids=["labels", "label", "reason", "vocabulary"],
)
def test_an_annotation_ends_at_its_limits(most: Annotation, too_much: Annotation) -> None:
    most.check(OpKind.ASSERT)
    assert most.canonical()
    with pytest.raises(LimitError):
        too_much.check(OpKind.ASSERT)


SHORT = st.text(max_size=3)
ANNOTATIONS = st.builds(
    Annotation,
    labels=st.lists(SHORT, max_size=3).map(tuple),
    reason=SHORT,
    vocabulary=SHORT,
    cause=st.sampled_from(Cause),
)


@given(ANNOTATIONS, ANNOTATIONS)
def test_no_two_annotations_have_the_same_canonical_bytes(
    one: Annotation, other: Annotation
) -> None:
    assert (one.canonical() == other.canonical()) is (one == other)


# --- operations -------------------------------------------------------------------------------


def test_the_strongest_fingerprint_names_an_entry() -> None:
    operation = Operation.assertion((MD5, SHA), Annotation())
    assert operation.entry == EntryId.of(SHA)


def test_fingerprints_are_a_set() -> None:
    one = Operation.assertion((MD5, SHA, MD5), Annotation())
    assert one == Operation.assertion((SHA, MD5), Annotation())
    assert one.fingerprints == (MD5, SHA)


def test_an_entry_may_be_named_by_a_weaker_one_of_its_fingerprints() -> None:
    assert Operation.assertion((MD5, SHA), Annotation(), EntryId.of(MD5)).entry == EntryId.of(MD5)


def test_an_entry_cannot_be_named_by_a_fingerprint_that_is_not_its_own() -> None:
    with pytest.raises(OperationError):
        Operation.assertion((MD5,), Annotation(), EntryId.of(SHA))


def test_an_assertion_has_one_to_64_fingerprints() -> None:
    with pytest.raises(OperationError):
        Operation.assertion((), Annotation())
    most = tuple(fingerprint(number) for number in range(limits.MAX_ENTRY_FINGERPRINTS))
    assert len(Operation.assertion(most, Annotation()).fingerprints) == len(most)
    with pytest.raises(LimitError):
        Operation.assertion((*most, MD5), Annotation())


def test_a_retraction_says_why() -> None:
    with pytest.raises(OperationError):
        Operation.retraction(EntryId.of(SHA), Cause.NONE)
    assert set(CAUSES) == {"withdrawn", "false-positive", "superseded"}
    assert all(CAUSES[cause.word] is cause for cause in Cause if cause is not Cause.NONE)


def test_a_purge_says_nothing() -> None:
    purge = Operation.purge(EntryId.of(SHA))
    assert purge.fingerprints == ()
    assert purge.annotation == Annotation()


def test_an_entry_of_an_unknown_hash_type_is_shown_with_its_type() -> None:
    assert str(EntryId.of(Fingerprint("acme-2031", b"\x01\x02"))) == "acme-2031:0102"
