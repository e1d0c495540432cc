"""Org roots: a threshold of different keys must have signed, and a key has one place only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from federation import dsse, limits, wire
from federation.errors import KeyRefusedError, LimitError, MalformedError, Reason, SignatureError
from federation.keys import PublicKey, SigningKey, key_id
from federation.names import OrgName, Origin
from federation.trust import charter
from federation.trust.orgroot import (
    MEDIA_TYPE,
    OrgRoot,
    PinnedRoot,
    Role,
    RoleKeys,
    pin,
    short_fingerprint,
)
from federation.v1 import document_pb2
from tests.federation.worlds import T0, org_root, pin_root, role_key, seal, signing_key

ROOTS = [signing_key(f"root {number}") for number in range(3)]
REST = {
    Role.PUBLISHER: [signing_key("publisher")],
    Role.LOG: [signing_key("log")],
}
KEYS: Mapping[Role, Sequence[SigningKey]] = {Role.ROOT: ROOTS, **REST}
VECTORS = Path(__file__).parents[1] / "vectors"
STRANGER = signing_key("stranger")


def two_of_three() -> OrgRoot:
    return org_root(keys=KEYS, thresholds={Role.ROOT: 2})


def open_signed(document: OrgRoot, *signers: SigningKey) -> PinnedRoot:
    envelope = seal(MEDIA_TYPE, wire.encode_org_root(document), *signers)
    return wire.open_org_root(wire.encode_envelope(envelope))


def with_role(document: OrgRoot, role: Role, threshold: int, *keys: bytes) -> OrgRoot:
    of_role = RoleKeys(public_keys=tuple(map(PublicKey, keys)), threshold=threshold)
    return replace(document, roles={**document.roles, role: of_role})


# --- signatures and thresholds ----------------------------------------------------------------


def test_a_threshold_of_root_keys_pins_a_root() -> None:
    document = two_of_three()
    pinned = open_signed(document, ROOTS[0], ROOTS[2])
    assert pinned.document == document
    assert pinned.hash == sha256(wire.encode_org_root(document)).digest()
    assert pinned.envelope.payload == wire.encode_org_root(document)


@pytest.mark.parametrize(
    "signers",
    [
        [ROOTS[0]],
        [ROOTS[0], STRANGER],
        [ROOTS[0], *REST[Role.PUBLISHER]],
        [ROOTS[0], *REST[Role.LOG]],
        [STRANGER],
    ],
    ids=["one", "one and a stranger", "one and a publisher", "one and a log key", "a stranger"],
)
def test_fewer_root_keys_than_the_threshold_pin_nothing(signers: list[SigningKey]) -> None:
    with pytest.raises(SignatureError):
        open_signed(two_of_three(), *signers)


def test_no_signature_pins_nothing() -> None:
    envelope = dsse.Envelope(MEDIA_TYPE, wire.encode_org_root(two_of_three()), ())
    with pytest.raises(SignatureError):
        wire.open_org_root(wire.encode_envelope(envelope))


def test_one_key_counts_once_however_often_it_signs() -> None:
    signed = seal(MEDIA_TYPE, wire.encode_org_root(two_of_three()), ROOTS[0])
    (signature,) = signed.signatures
    false = dsse.Signature(key_id(ROOTS[1].public_key), signature.signature)
    for signatures in ((signature, signature), (signature, false), (signature,) * 16):
        with pytest.raises(SignatureError):
            wire.open_org_root(wire.encode_envelope(replace(signed, signatures=signatures)))


def test_an_org_root_that_a_stranger_signed_too_is_refused() -> None:
    signed = seal(MEDIA_TYPE, wire.encode_org_root(two_of_three()), STRANGER, *ROOTS[:2])
    with pytest.raises(SignatureError):
        wire.open_org_root(wire.encode_envelope(signed))


def test_a_signature_over_another_type_does_not_count() -> None:
    payload = wire.encode_org_root(two_of_three())
    signed = seal(charter.MEDIA_TYPE, payload, *ROOTS)
    with pytest.raises(MalformedError) as caught:
        wire.open_org_root(wire.encode_envelope(signed))
    assert caught.value.reason is Reason.FORMAT_UNSUPPORTED
    with pytest.raises(SignatureError):
        wire.open_org_root(wire.encode_envelope(replace(signed, payload_type=MEDIA_TYPE)))


def test_a_changed_payload_is_not_signed() -> None:
    signed = seal(MEDIA_TYPE, wire.encode_org_root(two_of_three()), *ROOTS)
    payload = wire.encode_org_root(replace(two_of_three(), created_ms=T0 + 1))
    with pytest.raises(SignatureError):
        wire.open_org_root(wire.encode_envelope(replace(signed, payload=payload)))


# --- what a document may say ------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 4, 2**32 - 1])
def test_a_threshold_that_is_nothing_or_cannot_be_met_is_refused(threshold: int) -> None:
    document = org_root(keys=KEYS, thresholds={Role.ROOT: threshold})
    with pytest.raises(MalformedError):
        open_signed(document, *ROOTS)


@pytest.mark.parametrize("role", Role)
def test_no_role_may_be_missing_or_empty(role: Role) -> None:
    document = two_of_three()
    missing = replace(document, roles={r: k for r, k in document.roles.items() if r is not role})
    for wrong in (missing, with_role(document, role, 1)):
        with pytest.raises(MalformedError):
            wrong.check()


@pytest.mark.parametrize("role", Role)
def test_a_key_has_one_place_only(role: Role) -> None:
    document, key = two_of_three(), ROOTS[0].public_key
    own = document.roles[role].public_keys
    twice = with_role(document, role, 2, *own, key if role is not Role.ROOT else own[-1])
    with pytest.raises(MalformedError):
        open_signed(twice, *ROOTS)


def test_listing_one_root_key_twice_does_not_make_two() -> None:
    key = ROOTS[0].public_key
    document = with_role(two_of_three(), Role.ROOT, 2, key, key)
    with pytest.raises(MalformedError):
        open_signed(document, ROOTS[0])


def test_a_role_ends_at_its_limit_of_keys() -> None:
    keys = [signing_key(f"many {number}") for number in range(limits.MAX_ROLE_KEYS + 1)]
    publics = [key.public_key for key in keys]
    with_role(two_of_three(), Role.LOG, 1, *publics[:-1]).check()
    with pytest.raises(LimitError):
        with_role(two_of_three(), Role.LOG, 1, *publics).check()


@pytest.mark.parametrize(
    "raw", [bytes(31), bytes(33), bytes(32), b"\xff" * 32, b"\x01" + bytes(31)]
)
@pytest.mark.parametrize("role", Role)
def test_a_key_under_which_anyone_can_sign_is_refused_in_every_role(role: Role, raw: bytes) -> None:
    document = with_role(two_of_three(), role, 1, raw)
    with pytest.raises(KeyRefusedError):
        document.check()


@pytest.mark.parametrize("org", ["", "hotline", "Hotline.example", "a/b.example", "a.example\0"])
def test_an_organization_has_a_proper_name(org: str) -> None:
    with pytest.raises(MalformedError):
        open_signed(replace(two_of_three(), org=OrgName(org)), *ROOTS)


@pytest.mark.parametrize("version", [0, limits.MAX_VERSION + 1])
def test_a_version_out_of_range_is_refused(version: int) -> None:
    with pytest.raises(MalformedError):
        open_signed(replace(two_of_three(), version=version), *ROOTS)


def test_a_time_after_the_year_9999_is_refused() -> None:
    with pytest.raises(MalformedError):
        open_signed(replace(two_of_three(), created_ms=limits.MAX_TIME_MS + 1), *ROOTS)


def test_a_certificate_digest_is_sha256() -> None:
    with pytest.raises(MalformedError):
        open_signed(replace(two_of_three(), tls_certificates=(bytes(20),)), *ROOTS)


# --- serialized -------------------------------------------------------------------------------


def message() -> document_pb2.OrgRoot:
    return document_pb2.OrgRoot.FromString(wire.encode_org_root(two_of_three()))


def test_a_role_that_this_version_does_not_know_is_refused() -> None:
    wrong = message()
    wrong.roles.add(kind=9, threshold=1)
    with pytest.raises(MalformedError):
        wire.decode_org_root(wrong.SerializeToString())


def test_a_role_twice_is_refused() -> None:
    wrong = message()
    wrong.roles.append(wrong.roles[0])
    with pytest.raises(MalformedError):
        wire.decode_org_root(wrong.SerializeToString())


def test_unknown_fields_are_refused() -> None:
    payload = wire.encode_org_root(two_of_three())
    with pytest.raises(MalformedError):
        wire.decode_org_root(payload + b"\x98\x06\x01")
    nested = message()
    nested.roles[0].MergeFromString(b"\x98\x06\x01")
    with pytest.raises(MalformedError):
        wire.decode_org_root(nested.SerializeToString())


# --- what it is used for ----------------------------------------------------------------------


def test_publisher_keys_are_found_by_id_and_no_other_role_is() -> None:
    document = two_of_three()
    publisher = REST[Role.PUBLISHER][0].public_key
    assert document.publisher_key(key_id(publisher)) == publisher
    for key in (*ROOTS, *REST[Role.LOG], STRANGER):
        with pytest.raises(SignatureError) as caught:
            document.publisher_key(key_id(key.public_key))
        assert caught.value.reason is Reason.KEY_UNAUTHORISED


def test_checkpoints_are_verified_under_the_name_of_their_list() -> None:
    origin = Origin.parse("hotline.example/main")
    (verifier,) = two_of_three().log_verifiers(origin)
    assert verifier.name == "hotline.example/main"
    assert verifier.public_key == REST[Role.LOG][0].public_key


def test_the_fingerprint_that_people_compare_is_half_of_the_hash_in_groups() -> None:
    assert short_fingerprint(bytes(range(32))) == "0001 0203 0405 0607 0809 0a0b 0c0d 0e0f"
    pinned = pin_root()
    assert pinned.short_fingerprint.replace(" ", "") == pinned.hash.hex()[:32]


def test_pinning_checks_the_document_before_its_keys_are_used() -> None:
    document = org_root()
    envelope = seal(MEDIA_TYPE, wire.encode_org_root(document), role_key(document.org, Role.ROOT))
    with pytest.raises(MalformedError):
        pin(with_role(document, Role.LOG, 1), envelope)
