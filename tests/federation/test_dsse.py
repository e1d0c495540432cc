"""DSSE envelopes: what is signed, and how signatures are counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.dsse import Envelope, Signature, pae, sign_envelope
from federation.errors import (
    FederationError,
    LimitError,
    MalformedError,
    Reason,
    SignatureError,
    UsageError,
)
from federation.keys import SigningKey

# A value of any type, for callers whom no type checker stops.
Wrong = Any

TYPE = "application/vnd.example.v1"
KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(20)]
BY_ID: dict[bytes, bytes] = {key.key_id: key.public_key for key in KEYS}
SMALL_ORDER_KEY = bytes([1]) + bytes(31)


def known(*signers: SigningKey) -> dict[bytes, bytes]:
    return {key.key_id: key.public_key for key in signers}


# --- pre-authentication encoding --------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload_type", "payload", "expected"),
    [
        # The first is the example of the DSSE protocol document, the others are of the tests of
        # its Go implementation.
        (
            "http://example.com/HelloWorld",
            b"hello world",
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world",
        ),
        ("", b"", b"DSSEv1 0  0 "),
        (
            "http://example.com/HelloWorld",
            "\N{KANNADA LETTER TTHA}".encode(),
            b"DSSEv1 29 http://example.com/HelloWorld 3 \xe0\xb2\xa0",
        ),
    ],
)
def test_pae_is_that_of_the_specification(
    payload_type: str, payload: bytes, expected: bytes
) -> None:
    assert pae(payload_type, payload) == expected


def test_pae_counts_bytes_of_the_type() -> None:
    assert pae("\N{LATIN SMALL LETTER E WITH ACUTE}", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@given(st.tuples(st.text(max_size=8), st.binary(max_size=8)), st.data())
def test_no_two_type_and_payload_pairs_have_one_encoding(
    first: tuple[str, bytes], data: st.DataObject
) -> None:
    # The second pair cuts the same characters elsewhere, which is where an encoding goes wrong.
    joined = first[0].encode() + b" " + first[1]
    cut = data.draw(st.integers(0, len(joined)))
    second = (joined[:cut].decode(errors="ignore"), joined[cut:])
    assert (pae(*first) == pae(*second)) == (first == second)


@pytest.mark.parametrize(("payload_type", "payload"), [("\ud800", b""), (b"t", b""), ("t", "p")])
def test_pae_of_what_is_no_text_or_no_bytes_is_a_usage_error(
    payload_type: Wrong, payload: Wrong
) -> None:
    with pytest.raises(UsageError):
        pae(payload_type, payload)


# --- counting signatures ----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_an_envelope_with_enough_signatures_gives_its_payload(threshold: int) -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:3])
    assert envelope.verify(BY_ID, threshold) == b"payload"
    assert envelope.verify(BY_ID, threshold, payload_type=TYPE) == b"payload"


def test_one_signature_short_of_the_threshold_is_refused() -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:2])
    with pytest.raises(SignatureError, match="got 2 of 3"):
        envelope.verify(BY_ID, 3)


def test_a_signature_of_an_unknown_key_is_refused() -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:2])
    for threshold in (1, 2):
        with pytest.raises(SignatureError, match="a key that may not sign it"):
            envelope.verify(known(KEYS[0], KEYS[5]), threshold)


def test_a_repeated_signature_is_refused() -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:1])
    repeated = Envelope(TYPE, b"payload", envelope.signatures * 2)
    with pytest.raises(SignatureError, match="one key twice"):
        repeated.verify(BY_ID, 1)


def test_one_raw_key_under_two_ids_does_not_sign_twice() -> None:
    signature = sign_envelope(TYPE, b"payload", KEYS[:1]).signatures[0]
    envelope = Envelope(
        TYPE,
        b"payload",
        (Signature(b"a", signature.signature), Signature(b"b", signature.signature)),
    )
    same_key = {b"a": KEYS[0].public_key, b"b": KEYS[0].public_key}
    for threshold in (1, 2):
        with pytest.raises(SignatureError, match="one key twice"):
            envelope.verify(same_key, threshold)


@pytest.mark.parametrize("data", [bytes(64), b"short", b""])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_false_signature_spoils_the_envelope_wherever_it_stands(data: bytes, place: int) -> None:
    signatures = list(sign_envelope(TYPE, b"payload", KEYS[:2]).signatures)
    signatures.insert(place, Signature(KEYS[2].key_id, data))
    with pytest.raises(SignatureError):
        Envelope(TYPE, b"payload", tuple(signatures)).verify(BY_ID, 2)


def test_a_small_order_key_among_the_keys_signs_nothing() -> None:
    # Under the identity, (identity, 0) is what a lenient verifier takes for any message.
    forged = Signature(b"id", SMALL_ORDER_KEY + bytes(32))
    with pytest.raises(SignatureError):
        Envelope(TYPE, b"payload", (forged,)).verify({b"id": SMALL_ORDER_KEY}, 1)


@given(st.integers(0, 6))
def test_a_changed_payload_is_refused(position: int) -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:1])
    changed = bytearray(b"payload")
    changed[position] ^= 1
    with pytest.raises(SignatureError):
        Envelope(TYPE, bytes(changed), envelope.signatures).verify(BY_ID, 1)


def test_a_signature_for_one_type_is_none_for_another() -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:1])
    with pytest.raises(SignatureError):
        Envelope("application/vnd.example.v2", b"payload", envelope.signatures).verify(BY_ID, 1)


def test_a_well_signed_envelope_of_another_type_is_refused_when_one_is_asked_for() -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:1])
    with pytest.raises(MalformedError) as caught:
        envelope.verify(BY_ID, 1, payload_type="application/vnd.example.v2")
    assert caught.value.reason is Reason.FORMAT_UNSUPPORTED


def test_an_envelope_without_signatures_is_refused() -> None:
    with pytest.raises(SignatureError, match="got 0 of 1"):
        Envelope(TYPE, b"payload", ()).verify(BY_ID, 1)


def test_more_signatures_than_a_document_may_carry_are_refused_before_any_is_checked() -> None:
    most = sign_envelope(TYPE, b"payload", KEYS[: limits.MAX_DOCUMENT_SIGNATURES]).signatures
    assert Envelope(TYPE, b"payload", most).verify(BY_ID, 1) == b"payload"
    with pytest.raises(LimitError):
        Envelope(TYPE, b"payload", (*most, most[0])).verify(BY_ID, 1)


@pytest.mark.parametrize("threshold", [0, -1, True, None, "1"])
def test_a_threshold_that_everything_meets_is_a_usage_error(threshold: Wrong) -> None:
    with pytest.raises(UsageError):
        sign_envelope(TYPE, b"payload", KEYS[:1]).verify(BY_ID, threshold)


@given(
    st.one_of(st.text(max_size=5), st.just("\udc00")),
    st.binary(max_size=20),
    st.lists(
        st.builds(
            Signature,
            st.sampled_from([KEYS[0].key_id, KEYS[1].key_id, b""]),
            st.binary(max_size=70),
        ),
        max_size=20,
    ),
)
def test_verify_raises_nothing_but_errors_of_this_library(
    payload_type: str, payload: bytes, signatures: list[Signature]
) -> None:
    with pytest.raises(FederationError):
        Envelope(payload_type, payload, tuple(signatures)).verify(BY_ID, 1)


# --- signing ----------------------------------------------------------------------------------


def test_every_signature_names_its_key_by_its_full_id() -> None:
    envelope = sign_envelope(TYPE, b"payload", KEYS[:2])
    assert [signature.key_id for signature in envelope.signatures] == [
        KEYS[0].key_id,
        KEYS[1].key_id,
    ]


@pytest.mark.parametrize("signers", [[], [KEYS[0], KEYS[0]], KEYS[:17]])
def test_no_signer_a_repeated_one_and_too_many_are_usage_errors(signers: list[SigningKey]) -> None:
    with pytest.raises(UsageError):
        sign_envelope(TYPE, b"payload", signers)
