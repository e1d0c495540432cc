"""Deltas that must be refused, each with its reason, made by a publisher that signs them.

They follow the two deltas of `started`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar, Unpack

from federation import limits, wire
from federation.body import build_body, pack
from federation.entry import Cause, EntryId, Operation
from federation.errors import Reason
from federation.header import LeafKind
from federation.names import Origin
from federation.replica import SignedDelta
from federation.v1 import delta_pb2
from tests.federation.worlds import (
    LATER,
    T0,
    Forgery,
    HeaderFields,
    Publisher,
    Subscriber,
    assertion,
    digest,
    fingerprint,
    salt_seed,
    signing_key,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def started() -> tuple[Publisher, Subscriber]:
    """Two parties after the same two deltas: three entries live, one of them asserted twice."""
    publisher = Publisher()
    subscriber = Subscriber(publisher)
    subscriber.deliver(publisher.publish(assertion(1), assertion(2), assertion(3, entry="case 3")))
    subscriber.deliver(publisher.publish(assertion(1, labels=("A2",))))
    return publisher, subscriber


def body_message(publisher: Publisher, *operations: Operation) -> delta_pb2.DeltaBody:
    body = build_body(map(pack, operations), salt_seed(publisher.state.size))
    return delta_pb2.DeltaBody.FromString(wire.encode_body(body))


def edited(
    edit: Callable[[delta_pb2.DeltaBody], object], *operations: Operation
) -> Callable[[Publisher], SignedDelta]:
    """Sign a body in which something was changed."""

    def make(publisher: Publisher) -> SignedDelta:
        message = body_message(publisher, *(operations or (assertion(10), assertion(11))))
        edit(message)
        count = HeaderFields(op_count=sum(group.count for group in message.groups))
        return publisher.forge(Forgery(body=message.SerializeToString(), fields=count))

    return make


def swap_rows(message: delta_pb2.DeltaBody) -> None:
    column = message.groups[0].columns[0]
    column.digests = column.digests[32:] + column.digests[:32]


def same_row_twice(message: delta_pb2.DeltaBody) -> None:
    column = message.groups[0].columns[0]
    column.digests = column.digests[:32] * 2


def swap_groups(message: delta_pb2.DeltaBody) -> None:
    first, second = message.groups
    first_bytes, second_bytes = first.SerializeToString(), second.SerializeToString()
    first.ParseFromString(second_bytes)
    second.ParseFromString(first_bytes)


def swap_annotations(message: delta_pb2.DeltaBody) -> None:
    first, second = message.annotations
    first_bytes, second_bytes = first.SerializeToString(), second.SerializeToString()
    first.ParseFromString(second_bytes)
    second.ParseFromString(first_bytes)


def swap_columns(message: delta_pb2.DeltaBody) -> None:
    _, second, third = message.groups[0].columns
    second_bytes, third_bytes = second.SerializeToString(), third.SerializeToString()
    second.ParseFromString(third_bytes)
    third.ParseFromString(second_bytes)


def repeat_naming_column(message: delta_pb2.DeltaBody) -> None:
    message.groups[0].columns.append(message.groups[0].columns[0])


def entry_in_two_groups(message: delta_pb2.DeltaBody) -> None:
    # One group has an MD5 more than the other, so that the shapes differ.
    message.groups[1].columns[0].digests = message.groups[0].columns[0].digests


def set_digest(data: bytes) -> Callable[[delta_pb2.DeltaBody], object]:
    def edit(message: delta_pb2.DeltaBody) -> None:
        message.groups[0].columns[0].digests = data + message.groups[0].columns[0].digests[32:]

    return edit


def set_label(text: str) -> Callable[[delta_pb2.DeltaBody], object]:
    def edit(message: delta_pb2.DeltaBody) -> None:
        message.annotations[0].labels[:] = [text]

    return edit


def set_id(data: bytes) -> Callable[[delta_pb2.DeltaBody], object]:
    """Name the one operation of a group by an id."""

    def edit(message: delta_pb2.DeltaBody) -> None:
        message.groups[0].ids = data
        message.groups[0].id_width = len(data)

    return edit


def columns_of(
    count: int, hash_type: str = "sha256", width: int = 32
) -> Callable[[delta_pb2.DeltaBody], object]:
    def edit(message: delta_pb2.DeltaBody) -> None:
        group = message.groups[0]
        del group.columns[:]
        for number in range(count):
            rows = (digest(f"{number} {row}", hash_type, width) for row in range(group.count))
            group.columns.add(hash_type=hash_type, width=width, digests=b"".join(sorted(rows)))

    return edit


def forged(forgery: Forgery) -> Callable[[Publisher], SignedDelta]:
    return lambda publisher: publisher.forge(forgery)


def empty_groups(count: int) -> Callable[[Publisher], SignedDelta]:
    message = delta_pb2.DeltaBody(salt_seed=salt_seed(1), groups=[delta_pb2.OpGroup()] * count)
    return forged(Forgery(body=message.SerializeToString()))


def with_position(step: int) -> Callable[[Publisher], SignedDelta]:
    def make(publisher: Publisher) -> SignedDelta:
        position = publisher.state.size + step
        changed = HeaderFields(position=position, change_set=position)
        return publisher.forge(Forgery(fields=changed))

    return make


def with_time(step_ms: int) -> Callable[[Publisher], SignedDelta]:
    def make(publisher: Publisher) -> SignedDelta:
        changed = HeaderFields(time_ms=publisher.state.last_time_ms + step_ms)
        return publisher.forge(Forgery(fields=changed))

    return make


def with_flipped_signature(publisher: Publisher) -> SignedDelta:
    delta = publisher.forge(Forgery())
    return delta._replace(header=delta.header[:-1] + bytes([delta.header[-1] ^ 1]))


def with_flipped_note_signature(publisher: Publisher) -> SignedDelta:
    delta = publisher.forge(Forgery())
    # Inside the base64 of the signature, well before its last quantum.
    at = len(delta.checkpoint) - 40
    other = b"A" if delta.checkpoint[at : at + 1] != b"A" else b"B"
    return delta._replace(checkpoint=delta.checkpoint[:at] + other + delta.checkpoint[at + 1 :])


def with_a_strangers_line(publisher: Publisher) -> SignedDelta:
    delta = publisher.forge(Forgery())
    stranger = publisher.forge(Forgery(log=signing_key("stranger"))).checkpoint
    line = stranger.rpartition(b"\n\n")[2]
    return delta._replace(checkpoint=delta.checkpoint + line)


def with_other_body(publisher: Publisher) -> SignedDelta:
    other = wire.encode_body(build_body([pack(assertion(99))], salt_seed(publisher.state.size)))
    return publisher.forge(Forgery(sent_body=other))


def with_snapshot(
    *, body: bytes = b"", sent_body: bytes | None = None, **fields: Unpack[HeaderFields]
) -> Callable[[Publisher], SignedDelta]:
    """Sign the leaf of a snapshot of the three entries that are live."""
    claims = HeaderFields(kind=LeafKind.SNAPSHOT, op_count=1, live_count=3)
    claims.update(fields)
    return forged(Forgery(body=body, sent_body=sent_body, fields=claims))


def live_count(count: int) -> HeaderFields:
    return HeaderFields(live_count=count)


def retraction(number: int) -> Operation:
    return Operation.retraction(EntryId.of(fingerprint(number)), Cause.WITHDRAWN)


def purge(number: int) -> Operation:
    return Operation.purge(EntryId.of(fingerprint(number)))


MD5 = fingerprint(1, "md5")
SHA1 = fingerprint(1, "sha1")
TWO_ANNOTATIONS = (assertion(10, labels=("A1",)), assertion(11, labels=("A2",)))
TWO_SHAPES = (assertion(10), assertion(11, MD5))
UNKNOWN_FIELD = b"\x98\x06\x01"  # field 99, varint 1


@dataclass(frozen=True)
class Case:
    """A delta to refuse: how it is made, and with which reason it is refused."""

    reason: Reason
    make: Callable[[Publisher], SignedDelta]
    now_ms: int = LATER


CASES: dict[str, Case] = {
    "header one byte short": Case(
        Reason.HEADER_MALFORMED, lambda p: (d := p.forge(Forgery()))._replace(header=d.header[:-1])
    ),
    "header one byte long": Case(
        Reason.HEADER_MALFORMED,
        lambda p: (d := p.forge(Forgery()))._replace(header=d.header + b"\0"),
    ),
    "header empty": Case(
        Reason.HEADER_MALFORMED, lambda p: p.forge(Forgery())._replace(header=b"")
    ),
    "unknown flag": Case(Reason.HEADER_MALFORMED, forged(Forgery(raw={2: 0x03}))),
    "change set after its delta": Case(
        Reason.HEADER_MALFORMED, forged(Forgery(fields=HeaderFields(change_set=3)))
    ),
    "no leaf before a later position": Case(
        Reason.HEADER_MALFORMED, forged(Forgery(fields=HeaderFields(previous=bytes(32))))
    ),
    "position of another list's row": Case(
        Reason.HEADER_MALFORMED, forged(Forgery(fields=HeaderFields(position=2 << 32 | 1)))
    ),
    "position beyond the largest log": Case(
        Reason.HEADER_MALFORMED,
        forged(Forgery(fields=HeaderFields(position=limits.MAX_TREE_SIZE))),
    ),
    "position beyond 2^63": Case(
        Reason.HEADER_MALFORMED, forged(Forgery(fields=HeaderFields(position=2**63)))
    ),
    "time after the year 9999": Case(
        Reason.HEADER_MALFORMED,
        forged(Forgery(fields=HeaderFields(time_ms=limits.MAX_TIME_MS + 1))),
    ),
    "more live entries than a snapshot holds": Case(
        Reason.HEADER_MALFORMED,
        forged(Forgery(fields=live_count(limits.MAX_LIVE_ENTRIES + 1))),
    ),
    "no operations announced": Case(
        Reason.HEADER_MALFORMED, forged(Forgery(fields=HeaderFields(op_count=0)))
    ),
    "too many operations announced": Case(
        Reason.HEADER_MALFORMED,
        forged(Forgery(fields=HeaderFields(op_count=limits.MAX_BODY_OPS + 1))),
    ),
    "empty body announced": Case(
        Reason.HEADER_MALFORMED, forged(Forgery(fields=HeaderFields(body_size=0)))
    ),
    "too large a body announced": Case(
        Reason.HEADER_MALFORMED,
        forged(Forgery(fields=HeaderFields(body_size=limits.MAX_BODY_BYTES + 1))),
    ),
    "too many buckets announced": Case(
        Reason.HEADER_MALFORMED, with_snapshot(op_count=limits.MAX_SNAPSHOT_BUCKETS + 1)
    ),
    "snapshot with a body": Case(Reason.HEADER_MALFORMED, with_snapshot(body=b"x")),
    "snapshot with the digest of a body": Case(
        Reason.HEADER_MALFORMED, with_snapshot(body_digest=bytes(32))
    ),
    "later version": Case(Reason.FORMAT_UNSUPPORTED, forged(Forgery(raw={0: 2}))),
    "another kind": Case(Reason.FORMAT_UNSUPPORTED, forged(Forgery(raw={1: 3}))),
    "another list": Case(
        Reason.ORIGIN_MISMATCH,
        forged(Forgery(fields=HeaderFields(origin_hash=Origin.parse("hotline.example/x").hash))),
    ),
    "another root version": Case(
        Reason.ROOT_MISMATCH, forged(Forgery(fields=HeaderFields(root_version=2)))
    ),
    "another root hash": Case(
        Reason.ROOT_MISMATCH, forged(Forgery(fields=HeaderFields(root_hash=bytes(32))))
    ),
    "a stranger's key": Case(
        Reason.KEY_UNAUTHORISED, forged(Forgery(publisher=signing_key("stranger")))
    ),
    "the log key": Case(
        Reason.KEY_UNAUTHORISED, forged(Forgery(publisher=signing_key("hotline.example LOG")))
    ),
    "signature with a flipped bit": Case(Reason.SIGNATURE_INVALID, with_flipped_signature),
    "a stranger in the publisher's name": Case(
        Reason.SIGNATURE_INVALID,
        forged(Forgery(publisher=signing_key("stranger"), keep_key_id=True)),
    ),
    "one position ahead": Case(Reason.POSITION_GAP, with_position(1)),
    "fast forward": Case(Reason.POSITION_GAP, with_position(2**31)),
    "one position behind": Case(Reason.POSITION_REPEATED, with_position(-1)),
    "successor of another delta": Case(
        Reason.PREVIOUS_MISMATCH, forged(Forgery(fields=HeaderFields(previous=b"\x01" * 32)))
    ),
    "earlier than the one before": Case(Reason.TIME_BACKWARDS, with_time(-1)),
    "later than our clock and the skew": Case(
        Reason.TIME_IN_FUTURE,
        with_time(limits.MAX_CLOCK_SKEW_MS + 1),
        now_ms=T0 + 2000,
    ),
    "checkpoint empty": Case(Reason.CHECKPOINT_MALFORMED, forged(Forgery(checkpoint=b""))),
    "checkpoint not text": Case(
        Reason.CHECKPOINT_MALFORMED, forged(Forgery(checkpoint=b"\xff\n\n\xe2\x80\x94 a b\n"))
    ),
    "checkpoint without signature": Case(
        Reason.CHECKPOINT_MALFORMED,
        forged(Forgery(checkpoint=b"hotline.example/main\n3\nAAAA\n\n")),
    ),
    "checkpoint with a line that the log did not sign": Case(
        Reason.CHECKPOINT_MALFORMED, with_a_strangers_line
    ),
    "checkpoint by a stranger": Case(
        Reason.CHECKPOINT_SIGNATURE_INVALID, forged(Forgery(log=signing_key("stranger")))
    ),
    "checkpoint by the publisher key": Case(
        Reason.CHECKPOINT_SIGNATURE_INVALID,
        forged(Forgery(log=signing_key("hotline.example PUBLISHER"))),
    ),
    "checkpoint signature altered": Case(
        Reason.CHECKPOINT_SIGNATURE_INVALID, with_flipped_note_signature
    ),
    "checkpoint of another list": Case(
        Reason.CHECKPOINT_SIGNATURE_INVALID,
        forged(Forgery(checkpoint_origin=Origin.parse("hotline.example/other"))),
    ),
    "checkpoint before this delta": Case(
        Reason.CHECKPOINT_MISMATCH,
        lambda p: p.forge(Forgery(checkpoint=p.log[-1].checkpoint)),
    ),
    "checkpoint of a larger log": Case(
        Reason.CHECKPOINT_MISMATCH, forged(Forgery(checkpoint_size=4))
    ),
    "checkpoint of another root": Case(
        Reason.CHECKPOINT_MISMATCH, forged(Forgery(checkpoint_root=b"\x07" * 32))
    ),
    "another body": Case(Reason.BODY_DIGEST_MISMATCH, with_other_body),
    "body cut short": Case(
        Reason.BODY_DIGEST_MISMATCH, lambda p: (d := p.forge(Forgery()))._replace(body=d.body[:-1])
    ),
    "body behind a snapshot's leaf": Case(
        Reason.BODY_DIGEST_MISMATCH, with_snapshot(sent_body=b"x")
    ),
    "body of another size than announced": Case(
        Reason.BODY_DIGEST_MISMATCH, forged(Forgery(fields=HeaderFields(body_size=7)))
    ),
    "body not protobuf": Case(Reason.BODY_MALFORMED, forged(Forgery(body=b"\xff"))),
    "body with bytes after its end": Case(
        Reason.BODY_MALFORMED,
        lambda p: p.forge(Forgery(body=body_message(p, assertion(10)).SerializeToString() + b"\0")),
    ),
    "label not UTF-8": Case(
        Reason.BODY_MALFORMED,
        lambda p: p.forge(
            Forgery(
                body=body_message(p, assertion(10)).SerializeToString().replace(b"A1", b"A\xff")
            )
        ),
    ),
    "salt seed too short": Case(
        Reason.BODY_MALFORMED, edited(lambda m: setattr(m, "salt_seed", bytes(31)))
    ),
    "unknown field in the body": Case(
        Reason.BODY_MALFORMED, edited(lambda m: m.MergeFromString(UNKNOWN_FIELD))
    ),
    "unknown field in a group": Case(
        Reason.BODY_MALFORMED, edited(lambda m: m.groups[0].MergeFromString(UNKNOWN_FIELD))
    ),
    "unknown field in a column": Case(
        Reason.BODY_MALFORMED,
        edited(lambda m: m.groups[0].columns[0].MergeFromString(UNKNOWN_FIELD)),
    ),
    "unknown field in an annotation": Case(
        Reason.BODY_MALFORMED, edited(lambda m: m.annotations[0].MergeFromString(UNKNOWN_FIELD))
    ),
    "unknown kind": Case(Reason.BODY_MALFORMED, edited(lambda m: setattr(m.groups[0], "kind", 9))),
    "no kind": Case(Reason.BODY_MALFORMED, edited(lambda m: setattr(m.groups[0], "kind", 0))),
    "unknown cause": Case(
        Reason.BODY_MALFORMED, edited(lambda m: setattr(m.annotations[0], "cause", 9))
    ),
    "column one byte short": Case(
        Reason.BODY_MALFORMED,
        edited(lambda m: setattr(m.groups[0].columns[0], "digests", bytes(63))),
    ),
    "column of no width": Case(
        Reason.BODY_MALFORMED,
        edited(
            lambda m: m.groups[0].columns[0].CopyFrom(delta_pb2.Column(hash_type="sha256", width=0))
        ),
    ),
    "codes one byte short": Case(
        Reason.BODY_MALFORMED, edited(lambda m: setattr(m.groups[0], "annotation_codes", b"\0"))
    ),
    "codes two bytes wide where one does": Case(
        Reason.BODY_MALFORMED, edited(lambda m: setattr(m.groups[0], "annotation_codes", bytes(4)))
    ),
    "ids that are not announced": Case(
        Reason.BODY_MALFORMED, edited(lambda m: setattr(m.groups[0], "ids", b"x"))
    ),
    "named by a fingerprint that is not there": Case(
        Reason.BODY_MALFORMED, edited(lambda m: m.groups[0].ClearField("columns"))
    ),
    "named by both": Case(Reason.OP_MALFORMED, edited(set_id(b"id"), assertion(10))),
    "named by neither": Case(
        Reason.OP_MALFORMED, edited(lambda m: setattr(m.groups[0], "named_by_fingerprint", False))
    ),
    "assertion without fingerprint": Case(
        Reason.OP_MALFORMED,
        edited(lambda m: m.groups[0].ClearField("columns"), assertion(10, entry="case 10")),
    ),
    "retraction with a further fingerprint": Case(
        Reason.OP_MALFORMED,
        edited(
            lambda m: m.groups[0].columns.add(
                hash_type="md5", width=16, digests=digest(1, width=16)
            ),
            retraction(1),
        ),
    ),
    "code beyond the annotations": Case(
        Reason.OP_MALFORMED, edited(lambda m: setattr(m.groups[0], "annotation_codes", b"\0\1"))
    ),
    "annotation that nothing uses": Case(
        Reason.OP_MALFORMED, edited(lambda m: m.annotations.add(labels=["Z"]))
    ),
    "label with a line break": Case(Reason.OP_MALFORMED, edited(set_label("A\n1"))),
    "label with NUL": Case(Reason.OP_MALFORMED, edited(set_label("A\0"))),
    "label that reads backwards": Case(Reason.OP_MALFORMED, edited(set_label("\u202eA1"))),
    "label in an isolate": Case(Reason.OP_MALFORMED, edited(set_label("\u2066A1\u2069"))),
    "label empty": Case(Reason.OP_MALFORMED, edited(set_label(""))),
    "labels unsorted": Case(
        Reason.OP_MALFORMED, edited(lambda m: m.annotations[0].labels.insert(0, "B"))
    ),
    "label twice": Case(
        Reason.OP_MALFORMED, edited(lambda m: m.annotations[0].labels.append("A1"))
    ),
    "reason with an escape sequence": Case(
        Reason.OP_MALFORMED, edited(lambda m: setattr(m.annotations[0], "reason", "\x1b[2J"))
    ),
    "cause on an assertion": Case(
        Reason.OP_MALFORMED, edited(lambda m: setattr(m.annotations[0], "cause", 1))
    ),
    "retraction without a cause": Case(
        Reason.OP_MALFORMED, edited(lambda m: setattr(m.annotations[0], "cause", 0), retraction(1))
    ),
    "retraction with a label": Case(
        Reason.OP_MALFORMED, edited(lambda m: m.annotations[0].labels.append("A1"), retraction(1))
    ),
    "purge with a reason": Case(
        Reason.OP_MALFORMED, edited(lambda m: setattr(m.annotations[0], "reason", "why"), purge(1))
    ),
    "id not UTF-8": Case(
        Reason.OP_MALFORMED, edited(set_id(b"\xff"), assertion(10, entry="case 10"))
    ),
    "id with white space at its end": Case(
        Reason.OP_MALFORMED, edited(set_id(b"case "), assertion(10, entry="case 10"))
    ),
    "id with a control character": Case(
        Reason.OP_MALFORMED, edited(set_id(b"ca\0se"), assertion(10, entry="case 10"))
    ),
    "id that is a fingerprint's text": Case(
        Reason.OP_MALFORMED,
        edited(set_id(fingerprint(9).format().encode()), assertion(10, entry="case 10")),
    ),
    "id that begins like a fingerprint": Case(
        Reason.FINGERPRINT_LENGTH, edited(set_id(b"md5:77"), assertion(10, entry="case 10"))
    ),
    "rows not in order": Case(Reason.OP_ORDER, edited(swap_rows)),
    "one row twice": Case(Reason.OP_ORDER, edited(same_row_twice)),
    "groups not in order": Case(Reason.OP_ORDER, edited(swap_groups, *TWO_SHAPES)),
    "one shape in two groups": Case(
        Reason.OP_ORDER, edited(lambda m: m.groups.append(m.groups[0]))
    ),
    "annotations not in order": Case(Reason.OP_ORDER, edited(swap_annotations, *TWO_ANNOTATIONS)),
    "one annotation twice": Case(
        Reason.OP_ORDER,
        edited(lambda m: m.annotations[1].CopyFrom(m.annotations[0]), *TWO_ANNOTATIONS),
    ),
    "columns not in order": Case(Reason.OP_ORDER, edited(swap_columns, assertion(10, MD5, SHA1))),
    "fingerprints of one type not in order": Case(
        Reason.OP_ORDER,
        edited(swap_columns, assertion(10, fingerprint("a"), fingerprint("b"))),
    ),
    "naming fingerprint repeated": Case(
        Reason.OP_ORDER, edited(repeat_naming_column, assertion(10))
    ),
    "one entry in two groups": Case(Reason.OP_ORDER, edited(entry_in_two_groups, *TWO_SHAPES)),
    "fewer operations than announced": Case(
        Reason.OP_COUNT_MISMATCH, forged(Forgery(fields=HeaderFields(op_count=2)))
    ),
    "digest of zeroes": Case(Reason.DIGEST_DEGENERATE, edited(set_digest(bytes(32)))),
    "digest of ones": Case(
        Reason.DIGEST_DEGENERATE, edited(set_digest(b"\xff" * 32), assertion(10))
    ),
    "digest of the empty file": Case(
        Reason.DIGEST_DEGENERATE,
        edited(
            set_digest(
                bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            ),
            assertion(10),
        ),
    ),
    "sha256 of 31 bytes": Case(Reason.FINGERPRINT_LENGTH, edited(columns_of(1, width=31))),
    "name that no hash type can have": Case(
        Reason.FINGERPRINT_TYPE, edited(columns_of(1, hash_type="SHA-256"))
    ),
    "video frame of impossible quality": Case(
        Reason.FINGERPRINT_ALPHABET,
        edited(
            lambda m: (
                m.groups[0]
                .columns[0]
                .CopyFrom(
                    delta_pb2.Column(
                        hash_type="vpdq", width=37, digests=digest(1) + b"\x65" + bytes(4)
                    )
                )
            ),
            assertion(10),
        ),
    ),
    "snapshot of another state": Case(
        Reason.STATE_DIGEST_MISMATCH, with_snapshot(state_digest=bytes(32))
    ),
    "snapshot of more than is live": Case(Reason.LIVE_COUNT_MISMATCH, with_snapshot(live_count=4)),
    "retraction of what never was": Case(
        Reason.RETRACT_OF_ABSENT, forged(Forgery(ops=(retraction(77),), fields=live_count(3)))
    ),
    "one entry too many": Case(Reason.LIVE_COUNT_MISMATCH, forged(Forgery(fields=live_count(5)))),
    "one entry too few": Case(Reason.LIVE_COUNT_MISMATCH, forged(Forgery(fields=live_count(3)))),
    "revision counted as a new entry": Case(
        Reason.LIVE_COUNT_MISMATCH,
        forged(Forgery(ops=(assertion(1),), fields=live_count(4))),
    ),
    "body too large": Case(
        Reason.LIMIT_EXCEEDED,
        lambda p: p.forge(Forgery())._replace(body=bytes(limits.MAX_BODY_BYTES + 1)),
    ),
    "checkpoint too large": Case(
        Reason.LIMIT_EXCEEDED,
        forged(Forgery(checkpoint=b"x" * (limits.MAX_NOTE_BYTES + 1))),
    ),
    "group without operations": Case(Reason.LIMIT_EXCEEDED, empty_groups(1)),
    "too many groups": Case(Reason.LIMIT_EXCEEDED, empty_groups(limits.MAX_BODY_GROUPS + 1)),
    "too many annotations": Case(
        Reason.LIMIT_EXCEEDED,
        edited(lambda m: m.annotations.extend([m.annotations[0]] * limits.MAX_ANNOTATIONS)),
    ),
    "too many columns": Case(
        Reason.LIMIT_EXCEEDED, edited(columns_of(limits.MAX_ENTRY_FINGERPRINTS + 1))
    ),
    "too many labels": Case(
        Reason.LIMIT_EXCEEDED,
        edited(lambda m: m.annotations[0].labels.extend(["A1"] * limits.MAX_LABELS)),
    ),
    "label too long": Case(
        Reason.LIMIT_EXCEEDED, edited(set_label("A" * (limits.MAX_LABEL_BYTES + 1)))
    ),
    "label longer than its length can say": Case(
        Reason.LIMIT_EXCEEDED, edited(set_label("A" * 300))
    ),
    "reason too long": Case(
        Reason.LIMIT_EXCEEDED,
        edited(lambda m: setattr(m.annotations[0], "reason", "A" * (limits.MAX_REASON_BYTES + 1))),
    ),
    "vocabulary too long": Case(
        Reason.LIMIT_EXCEEDED,
        edited(
            lambda m: setattr(
                m.annotations[0], "vocabulary", "A" * (limits.MAX_VOCABULARY_BYTES + 1)
            )
        ),
    ),
    "id too long": Case(
        Reason.LIMIT_EXCEEDED,
        edited(set_id(b"a" * (limits.MAX_ENTRY_ID_BYTES + 1)), assertion(10, entry="case 10")),
    ),
}


def checks_in_order() -> Iterator[tuple[Reason, Forgery]]:
    """Yield one fault for each check, in the order in which they must be found."""
    yield Reason.LIMIT_EXCEEDED, Forgery(sent_body=bytes(limits.MAX_BODY_BYTES + 1))
    yield Reason.HEADER_MALFORMED, Forgery(raw={2: 0x80})
    yield Reason.ORIGIN_MISMATCH, Forgery(fields=HeaderFields(origin_hash=bytes(32)))
    yield Reason.ROOT_MISMATCH, Forgery(fields=HeaderFields(root_version=2))
    yield Reason.KEY_UNAUTHORISED, Forgery(fields=HeaderFields(key_id=bytes(32)))
    yield Reason.SIGNATURE_INVALID, Forgery(publisher=signing_key("stranger"), keep_key_id=True)
    yield Reason.POSITION_GAP, Forgery(fields=HeaderFields(position=9))
    yield Reason.PREVIOUS_MISMATCH, Forgery(fields=HeaderFields(previous=b"\x01" * 32))
    yield Reason.TIME_BACKWARDS, Forgery(fields=HeaderFields(time_ms=0))
    yield Reason.CHECKPOINT_MALFORMED, Forgery(checkpoint=b"")
    yield Reason.CHECKPOINT_SIGNATURE_INVALID, Forgery(log=signing_key("stranger"))
    yield Reason.CHECKPOINT_MISMATCH, Forgery(checkpoint_size=9)
    yield Reason.BODY_DIGEST_MISMATCH, Forgery(sent_body=b"\xfe")
    yield Reason.BODY_MALFORMED, Forgery(body=b"\xff")
    yield Reason.OP_COUNT_MISMATCH, Forgery(fields=HeaderFields(op_count=9))
    out_of_order = body_message(Publisher(), *TWO_SHAPES)
    swap_groups(out_of_order)
    yield Reason.OP_ORDER, Forgery(body=out_of_order.SerializeToString(), ops=TWO_SHAPES)
    yield Reason.RETRACT_OF_ABSENT, Forgery(ops=(retraction(77),))
    yield Reason.LIVE_COUNT_MISMATCH, Forgery(fields=live_count(9))


FAULTS = tuple(checks_in_order())
"""One fault of each check, in the order of the checks."""


_Faults = TypeVar("_Faults", bound="DataclassInstance")


def together(first: _Faults, second: _Faults) -> _Faults | None:
    """Combine two forgeries; None where both change one thing."""
    nothing = type(first)()
    changes: dict[str, object] = {}
    for field in fields(nothing):
        a, b, none = (getattr(forgery, field.name) for forgery in (first, second, nothing))
        if isinstance(none, Forgery):
            changes[field.name] = together(a, b)
            if changes[field.name] is None:
                return None
        elif isinstance(none, dict):
            if a.keys() & b.keys():
                return None
            changes[field.name] = {**a, **b}
        elif none not in (a, b):
            return None
        else:
            changes[field.name] = b if a == none else a
    return replace(nothing, **changes)
