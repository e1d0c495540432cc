"""Serialized forms: exact bytes are kept, and the ops tree says what they mean.

Protobuf can write one message in many ways. Validity must not depend on which of them some library
would write, so every form that parses to an allowed body is taken, and kept verbatim; unknown
fields are the exception, since no version that knows them would be read here.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import dsse, limits, wire
from federation.body import build_body, pack
from federation.errors import LimitError, MalformedError, PeerError, Reason
from federation.header import Header
from federation.v1 import document_pb2
from tests.federation.worlds import Forgery, Publisher, Subscriber, assertion, salt_seed

OPS = (assertion(1), assertion(2))
UNKNOWN = b"\x98\x06\x01"  # field 99, varint 1


def varint(number: int, pad: int = 0) -> bytes:
    """Encode a number, with more bytes than it needs if asked."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    for _ in range(pad):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def field(number: int, value: int | bytes, *, pad_tag: int = 0, pad: int = 0) -> bytes:
    """Encode one field: a varint for an int, length-delimited for bytes."""
    if isinstance(value, int):
        return varint(number << 3, pad_tag) + varint(value, pad)
    return varint(number << 3 | 2, pad_tag) + varint(len(value), pad) + value


def body_parts() -> tuple[bytes, bytes, list[bytes]]:
    """Return salt seed, annotation and the fields of the one group, by hand."""
    rows = sorted(op.entry.key for op in OPS)
    column = field(1, b"sha256") + field(2, 32) + field(3, b"".join(rows))
    group = [field(1, 1), field(2, 1), field(3, 2), field(6, column), field(7, b"\0\0")]
    annotation = field(1, b"A1") + field(3, b"industry")
    return salt_seed(0), annotation, group


SEED, ANNOTATION, GROUP = body_parts()
PLAIN = field(1, SEED) + field(2, ANNOTATION) + field(3, b"".join(GROUP))

FORMS = {
    "as this library writes it": PLAIN,
    "number longer than needed": field(1, SEED)
    + field(2, ANNOTATION)
    + field(3, b"".join([field(1, 1, pad=4), *GROUP[1:]])),
    "length longer than needed": field(1, SEED, pad=2)
    + field(2, ANNOTATION)
    + field(3, b"".join(GROUP), pad=1),
    "singular field twice": field(1, bytes(32)) + PLAIN,
    "fields in another order": field(3, b"".join(GROUP[::-1]))
    + field(2, ANNOTATION)
    + field(1, SEED),
    "default value written": field(1, SEED)
    + field(2, ANNOTATION + field(2, b"") + field(4, 0))
    + field(3, b"".join([*GROUP, field(5, 0), field(4, b"")])),
    "tag longer than needed": field(1, SEED, pad_tag=2)
    + field(2, ANNOTATION)
    + field(3, b"".join(GROUP)),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_wire_form_of_a_signed_body_is_taken_and_kept_verbatim(form: str) -> None:
    data = FORMS[form]
    publisher = Publisher()
    subscriber = Subscriber(publisher)
    delta = publisher.forge(Forgery(ops=OPS, body=data))
    candidate = subscriber.receive(delta)
    assert candidate.signed.body == data
    assert [op for _, op in candidate.body.operations()] == sorted(OPS, key=lambda op: op.entry)
    # The ops tree does not depend on the form: it is what the body means.
    assert candidate.body.ops_root() == Header.parse(delta.header).ops_root
    subscriber.deliver(delta)
    assert subscriber.state.size == 1


def test_the_plain_form_is_the_one_that_is_written() -> None:
    assert wire.encode_body(build_body(map(pack, OPS), SEED)) == PLAIN
    assert sum(wire.encode_body(wire.decode_body(form)) == PLAIN for form in FORMS.values()) == len(
        FORMS
    )
    assert len(set(FORMS.values())) == len(FORMS)


@pytest.mark.parametrize(
    "data",
    [
        UNKNOWN + PLAIN,
        PLAIN + UNKNOWN,
        PLAIN + field(2, UNKNOWN),
        PLAIN + b"\x9b\x06\x9c\x06",  # an empty group of field 99
        PLAIN + field(4, b""),
        PLAIN + varint(1 << 3 | 5) + bytes(4),  # field 1 as fixed32
    ],
    ids=["first", "last", "nested", "old-style group", "next number", "another wire type"],
)
def test_a_field_that_this_version_does_not_know_is_refused(data: bytes) -> None:
    publisher = Publisher()
    delta = publisher.forge(Forgery(ops=OPS, body=data))
    with pytest.raises(PeerError) as caught:
        Subscriber(publisher).deliver(delta)
    assert caught.value.reason is Reason.BODY_MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        PLAIN + b"\0",
        PLAIN[:-1],
        field(1, SEED)[:-1],
        b"\x0a" + b"\xff" * 10 + b"\x01",
        b"\x0b" * 200,
        field(2, field(1, b"\xff")),
    ],
    ids=[
        "zero tag",
        "zero tag at the end",
        "cut",
        "cut seed",
        "endless length",
        "deep",
        "not UTF-8",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.decode_body(data)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda junk: PLAIN + junk))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for decode in (
        wire.decode_body,
        wire.decode_envelope,
        wire.decode_org_root,
        wire.decode_charter,
        wire.open_org_root,
    ):
        try:
            decode(data)
        except PeerError:
            continue


# --- envelopes --------------------------------------------------------------------------------

ENVELOPE = dsse.Envelope("text/plain", b"payload", (dsse.Signature(b"id", b"signature"),))


def test_an_envelope_is_decoded_as_it_was_encoded() -> None:
    assert wire.decode_envelope(wire.encode_envelope(ENVELOPE)) == ENVELOPE


@pytest.mark.parametrize(
    "data",
    [
        wire.encode_envelope(ENVELOPE) + UNKNOWN,
        wire.encode_envelope(ENVELOPE) + field(3, UNKNOWN),
        wire.encode_envelope(ENVELOPE)[:-1],
        field(1, b"\xff"),
    ],
    ids=["unknown field", "unknown field in a signature", "cut", "type not UTF-8"],
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.decode_envelope(data)


SIGNATURE = field(1, b"key") + field(2, b"signature")
SIGNED = field(1, b"t") + field(2, b"payload") + field(3, SIGNATURE)


@pytest.mark.parametrize(
    "data",
    [
        field(1, b"junk" * 1000) + SIGNED,
        field(2, b"junk") + SIGNED,
        field(2, b"payload") + field(1, b"t") + field(3, SIGNATURE),
        field(1, b"t") + field(2, b"payload") + field(3, field(1, b"junk") + SIGNATURE),
        field(1, b"t") + field(2, b"payload") + field(3, SIGNATURE, pad=3),
        field(1, b"t", pad_tag=2) + field(2, b"payload") + field(3, SIGNATURE),
        field(1, b"t") + field(2, b"payload") + field(3, field(2, b"signature") + field(1, b"key")),
    ],
    ids=["type twice", "payload twice", "order", "key twice", "length", "tag", "order within"],
)
def test_an_envelope_in_another_form_is_refused(data: bytes) -> None:
    message = document_pb2.Envelope.FromString(data)
    assert (message.payload_type, message.payload) == ("t", b"payload"), "it says the same"
    with pytest.raises(MalformedError):
        wire.decode_envelope(data)
    assert wire.encode_envelope(wire.decode_envelope(SIGNED)) == SIGNED


def test_an_envelope_ends_at_its_limits() -> None:
    many = (dsse.Signature(b"id", b""),) * limits.MAX_DOCUMENT_SIGNATURES
    wire.decode_envelope(wire.encode_envelope(dsse.Envelope("t", b"", many)))
    for too_much in (
        dsse.Envelope("t", b"", many + many[:1]),
        dsse.Envelope("t", bytes(limits.MAX_DOCUMENT_BYTES), ()),
    ):
        with pytest.raises(LimitError):
            wire.decode_envelope(wire.encode_envelope(too_much))
