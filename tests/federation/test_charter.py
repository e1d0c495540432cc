"""List charters: only those whom the newest one names have access; only the owner changes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation import limits, wire
from federation.dsse import Envelope
from federation.errors import LimitError, MalformedError, Reason, SequenceError, SignatureError
from federation.keys import SigningKey
from federation.names import OrgName, Origin
from federation.trust import orgroot
from federation.trust.charter import MEDIA_TYPE, Audience, Charter, verify_charter
from federation.trust.orgroot import Role
from federation.v1 import document_pb2
from tests.federation.worlds import (
    make_charter,
    org_root,
    role_key,
    seal,
    seal_charter,
    signing_key,
)

ORIGIN = Origin.parse("hotline.example/main")
ROOT = org_root()
ORGS = ("a.example", "b.example")


def verify(envelope: Envelope, *, origin: Origin = ORIGIN, newest: int = 0) -> Charter:
    """Take an envelope as it would arrive."""
    opened = wire.decode_envelope(wire.encode_envelope(envelope))
    decoded = wire.decode_charter(opened.payload)
    return verify_charter(decoded, opened, origin=origin, root=ROOT, newest=newest)


def test_a_charter_by_its_owner_is_taken() -> None:
    charter = make_charter(ORIGIN, orgs=ORGS)
    assert verify(seal_charter(charter)) == charter


@pytest.mark.parametrize(
    "signer",
    [
        role_key("hotline.example", Role.ROOT),
        role_key("hotline.example", Role.LOG),
        role_key("a.example", Role.PUBLISHER),
        signing_key("stranger"),
    ],
    ids=["root", "log", "another owner", "stranger"],
)
def test_a_charter_by_any_other_key_is_refused(signer: SigningKey) -> None:
    with pytest.raises(SignatureError):
        verify(seal_charter(make_charter(ORIGIN, all_peers=True), signer))


def test_a_charter_signed_as_another_type_is_refused() -> None:
    payload = wire.encode_charter(make_charter(ORIGIN))
    key = role_key("hotline.example", Role.PUBLISHER)
    signed = seal(orgroot.MEDIA_TYPE, payload, key)
    with pytest.raises(MalformedError) as caught:
        verify(signed)
    assert caught.value.reason is Reason.FORMAT_UNSUPPORTED
    with pytest.raises(SignatureError):
        verify(replace(signed, payload_type=MEDIA_TYPE))


def test_a_threshold_of_publishers_is_asked_of_a_charter() -> None:
    keys = [signing_key(name) for name in ("p1", "p2")]
    root = org_root(
        keys={
            Role.ROOT: [signing_key("r")],
            Role.PUBLISHER: keys,
            Role.LOG: [signing_key("l")],
        },
        thresholds={Role.PUBLISHER: 2},
    )
    charter = make_charter(ORIGIN)
    payload = wire.encode_charter(charter)
    both = seal(MEDIA_TYPE, payload, *keys)
    assert verify_charter(charter, both, origin=ORIGIN, root=root, newest=0) == charter
    with pytest.raises(SignatureError):
        verify_charter(
            charter, seal(MEDIA_TYPE, payload, keys[0]), origin=ORIGIN, root=root, newest=0
        )


def test_the_charter_of_another_list_is_refused() -> None:
    other = Origin.parse("hotline.example/other")
    with pytest.raises(SequenceError) as caught:
        verify(seal_charter(make_charter(other)))
    assert caught.value.reason is Reason.ORIGIN_MISMATCH


def test_an_older_charter_is_a_rollback_and_a_newer_may_skip_versions() -> None:
    def sealed(version: int) -> Envelope:
        return seal_charter(make_charter(ORIGIN, version=version))

    assert verify(sealed(3), newest=3).version == 3
    assert verify(sealed(9), newest=3).version == 9
    with pytest.raises(SequenceError) as caught:
        verify(sealed(2), newest=3)
    assert caught.value.reason is Reason.CHARTER_ROLLBACK


@pytest.mark.parametrize(
    ("charter", "allowed", "denied"),
    [
        (make_charter(ORIGIN), [], ["a.example", "hotline.example.evil.example", ""]),
        (make_charter(ORIGIN, orgs=ORGS), ORGS, ["c.example", "A.example", "x.a.example", ""]),
        (make_charter(ORIGIN, all_peers=True), ["a.example", "c.example"], []),
    ],
    ids=["nobody", "two", "all peers"],
)
def test_a_list_reaches_its_owner_and_whom_the_audience_names(
    charter: Charter, allowed: list[str], denied: list[str]
) -> None:
    assert charter.allows("hotline.example")
    assert all(map(charter.allows, allowed))
    assert not any(map(charter.allows, denied))


def test_a_charter_without_audience_reaches_nobody() -> None:
    payload = document_pb2.ListCharter(origin=str(ORIGIN), version=1).SerializeToString()
    charter = verify(seal(MEDIA_TYPE, payload, role_key("hotline.example", Role.PUBLISHER)))
    assert charter.audience == Audience(all_peers=False, orgs=())
    assert not charter.allows("a.example")


def charter_for(*orgs: str, all_peers: bool = False, version: int = 1) -> Charter:
    audience = Audience(all_peers=all_peers, orgs=tuple(map(OrgName, orgs)))
    return Charter(origin=ORIGIN, version=version, created_ms=0, audience=audience)


@pytest.mark.parametrize(
    "charter",
    [
        charter_for("b.example", "a.example"),
        charter_for("a.example", "a.example"),
        charter_for("a.example", all_peers=True),
        charter_for("A.example"),
        charter_for("*.example"),
        charter_for(""),
        charter_for("a"),
        charter_for(version=0),
        charter_for(version=limits.MAX_VERSION + 1),
        replace(charter_for(), created_ms=limits.MAX_TIME_MS + 1),
    ],
    ids=[
        *("unsorted", "twice", "all and some", "upper case", "pattern", "empty", "a", "version 0"),
        *("version too high", "after the year 9999"),
    ],
)
def test_a_charter_in_any_other_form_is_refused(charter: Charter) -> None:
    with pytest.raises(MalformedError):
        verify(seal_charter(charter))


def test_an_audience_ends_at_its_limit() -> None:
    orgs = [f"org{number:05}.example" for number in range(limits.MAX_AUDIENCE_ORGS + 1)]
    assert verify(seal_charter(charter_for(*orgs[:-1]))).allows(orgs[0])
    with pytest.raises(LimitError):
        verify(seal_charter(charter_for(*orgs)))


def test_unknown_fields_are_refused() -> None:
    payload = wire.encode_charter(make_charter(ORIGIN))
    with pytest.raises(MalformedError):
        wire.decode_charter(payload + b"\x98\x06\x01")
    nested = document_pb2.ListCharter.FromString(payload)
    nested.audience.MergeFromString(b"\x98\x06\x01")
    with pytest.raises(MalformedError):
        wire.decode_charter(nested.SerializeToString())


def test_two_audiences_in_one_payload_do_not_add_up() -> None:
    # Protobuf merges a message field that comes twice.
    some = document_pb2.ListCharter(audience=document_pb2.Audience(orgs=["a.example"]))
    everyone = document_pb2.ListCharter(audience=document_pb2.Audience(all_peers=True))
    payload = (
        wire.encode_charter(charter_for()) + some.SerializeToString() + everyone.SerializeToString()
    )
    with pytest.raises(MalformedError):
        verify(seal(MEDIA_TYPE, payload, role_key("hotline.example", Role.PUBLISHER)))
