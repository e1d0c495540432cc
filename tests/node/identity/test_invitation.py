"""What `identity.invitation` promises: whatever passes is consistent, signed, and usable now."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits, wire
from federation.keys import SigningKey
from federation.names import OrgName, parse_org
from node.errors import CommandError
from node.home import Home
from node.identity.certificate import build_certificate, certificate_sha256
from node.identity.create import create_keys, create_org_root
from node.identity.invitation import Invitation

_ORG = parse_org("hotline.example")
_NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_YEAR_MS = 365 * 24 * 60 * 60 * 1000


def _invitation(
    *,
    org: OrgName = _ORG,
    address: str = "node.hotline.example:7443",
    certificate: str | None = None,
    listed: bytes | None = None,
) -> Invitation:
    certificate = certificate or build_certificate(org, _NOW_MS)[1]
    root = create_org_root(
        org,
        root=SigningKey.from_seed(b"r" * 32),
        publisher=SigningKey.from_seed(b"p" * 32),
        log=SigningKey.from_seed(b"l" * 32),
        certificate_sha256=listed or certificate_sha256(certificate),
        now_ms=_NOW_MS,
    )
    return Invitation(root=wire.open_org_root(root), address=address, certificate=certificate)


_GOOD = _invitation()


def _changed(**changes: object) -> str:
    document: dict[str, Any] = json.loads(_GOOD.format())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    return json.dumps(document)


def _refusal(text: str | bytes, now_ms: int = _NOW_MS) -> str:
    with pytest.raises(CommandError) as caught:
        Invitation.parse(text, now_ms=now_ms)
    assert caught.value.hint
    return str(caught.value)


def test_what_is_formatted_parses_as_the_same() -> None:
    text = _GOOD.format()
    assert Invitation.parse(text, now_ms=_NOW_MS) == _GOOD
    assert Invitation.parse(text.encode(), now_ms=_NOW_MS) == _GOOD
    assert Invitation.parse(text, now_ms=_NOW_MS).format() == text


def test_it_shows_the_fingerprint_that_people_compare() -> None:
    document = json.loads(_GOOD.format())
    assert document["hashfed_invitation"] == 1
    assert document["fingerprint"] == _GOOD.root.short_fingerprint
    assert document["org"] == _ORG


def test_an_invitation_of_real_keys_holds_no_private_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    created = create_keys(home, _ORG, _NOW_MS)
    text = _invitation(certificate=created.certificate).format()
    assert "PRIVATE" not in text
    for path in (home.root_key, home.publisher_key, home.log_key, home.tls_key):
        assert path.read_text().splitlines()[1] not in text


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b" \n\t", "the file is empty"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "a web page"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\x1f\x8b\x08....", "a gzip archive"),
        (b"SQLite format 3\x00....", "a database"),
        (b"%PDF-1.7", "a PDF"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'[node]\norg = "hotline.example"\n', "a configuration file"),
        (b"# The configuration of this node.\n", "a configuration file"),
        (_GOOD.certificate.encode(), "a TLS certificate alone"),
        (b"-----BEGIN PUBLIC KEY-----\n", "a PEM file of another kind"),
        (b"\xde\xad\xbe\xef", "not text in UTF-8"),
        (b"hotline.example", "not JSON at line 1"),
        (b"{}", "lacks 'hashfed_invitation'"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{" * 100_000, "not JSON"),
        (b'{"a":' * 40_000, "too large or too deep"),
        (b'{"a":' + b"9" * 5_000 + b"}", "too large or too deep"),
        (b'{"hashfed_invitation": NaN}', "NaN is not JSON"),
    ],
)
def test_a_wrong_file_is_called_what_it_is(data: bytes, what: str) -> None:
    message = _refusal(data)
    assert "not an invitation" in message
    assert what in message


def test_a_private_key_is_recognised_and_nothing_of_it_is_repeated(tmp_path: Path) -> None:
    home = Home(tmp_path)
    create_keys(home, _ORG, _NOW_MS)
    for path in (home.root_key, home.tls_key):
        text = path.read_text()
        for data in (text, _GOOD.format() + text, json.dumps({"key": text})):
            message = _refusal(data)
            assert "private key" in message
            assert text.splitlines()[1] not in message


def test_a_text_that_no_file_can_hold_is_refused() -> None:
    _refusal('{"\ud800": 1}')


def test_a_file_beyond_the_limit_is_refused_before_it_is_parsed() -> None:
    padding = " " * (limits.MAX_INVITATION_BYTES - len(_GOOD.format()))
    Invitation.parse(_GOOD.format() + padding, now_ms=_NOW_MS)
    assert "at most 262144" in _refusal(_GOOD.format() + padding + " ")


def test_a_key_that_is_there_twice_is_refused() -> None:
    text = _GOOD.format()
    assert "'org' is there twice" in _refusal(text.replace("{", '{"org": "hotline.example",', 1))


def test_an_unknown_key_is_refused_and_cannot_drive_the_terminal() -> None:
    assert "unknown key 'extra'" in _refusal(_changed(extra=1))
    message = _refusal(_changed(**{"\x1b[2J" + "a" * 1_000: 1}))
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize(
    "key", ["org", "address", "fingerprint", "certificate_sha256", "org_root", "certificate"]
)
def test_a_missing_key_and_one_of_another_type_are_refused(key: str) -> None:
    assert f"{key}: got nothing" in _refusal(_changed(**{key: None}))
    assert f"{key}: got ['x']" in _refusal(_changed(**{key: ["x"]}))


@pytest.mark.parametrize("version", [0, 2, True, 1.0, "1", [1]])
def test_another_format_is_refused(version: object) -> None:
    assert "expected 1" in _refusal(_changed(hashfed_invitation=version))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("org", "ngo.example"),
        ("org", "Hotline.example"),
        ("fingerprint", "0000 " * 7 + "0000"),
        ("fingerprint", _GOOD.root.short_fingerprint.upper()),
        ("fingerprint", _GOOD.root.short_fingerprint + " "),
        ("certificate_sha256", "00" * 32),
    ],
    # The good fingerprint is another one in each process.
    ids=["other", "upper", "zeroes", "upper-digits", "space", "certificate"],
)
def test_what_people_read_must_be_what_is_signed(key: str, value: str) -> None:
    assert f"invitation: {key}: got " in _refusal(_changed(**{key: value}))


def test_a_certificate_that_the_org_root_does_not_list_is_refused() -> None:
    other = build_certificate(_ORG, _NOW_MS)[1]
    message = _refusal(_changed(certificate=other))
    assert "does not list the certificate" in message


def test_a_certificate_for_another_organization_is_refused() -> None:
    certificate = build_certificate(parse_org("ngo.example"), _NOW_MS)[1]
    assert "not for the name" in _refusal(_invitation(certificate=certificate).format())


def test_an_expired_certificate_is_refused() -> None:
    assert "expired at" in _refusal(_GOOD.format(), now_ms=_NOW_MS + 11 * _YEAR_MS)


def test_a_broken_certificate_is_refused() -> None:
    for certificate in ("", "x", _GOOD.certificate[:-40], _GOOD.certificate.replace("\n", "\r\n")):
        assert "certificate" in _refusal(_changed(certificate=certificate))


@pytest.mark.parametrize(
    "address", ["", "host", "host:0", "0.0.0.0:7443", "[::]:1", "host:99999", "a b:1"]
)
def test_an_address_that_nobody_can_call_is_refused(address: str) -> None:
    assert "address" in _refusal(_changed(address=address))
    with pytest.raises(CommandError):
        _invitation(address=address).verify(_NOW_MS)


def test_an_org_root_that_was_tampered_with_is_refused() -> None:
    data = bytearray(wire.encode_envelope(_GOOD.root.envelope))
    for at in range(0, len(data), 7):
        data[at] ^= 1
        _refusal(_changed(org_root=base64.b64encode(bytes(data)).decode()))
        data[at] ^= 1


@pytest.mark.parametrize("org_root", ["", "!", "YQ", "YR==", "YQ==\n", "YQ==", " YQ=="])
def test_an_org_root_that_is_no_canonical_base64_of_one_is_refused(org_root: str) -> None:
    assert "org_root" in _refusal(_changed(org_root=org_root)).replace("org root", "org_root")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_anything_else_is_refused_with_one_error(data: bytes | str) -> None:
    _refusal(data)


@given(at=st.integers(0, len(_GOOD.format()) - 1), character=st.characters(codec="utf-8"))
def test_one_changed_character_never_changes_what_is_trusted(at: int, character: str) -> None:
    text = _GOOD.format()
    try:
        parsed = Invitation.parse(text[:at] + character + text[at + 1 :], now_ms=_NOW_MS)
    except CommandError:
        return
    # The address is what the file says: the fingerprint does not cover it, TLS does.
    assert (parsed.root, parsed.certificate) == (_GOOD.root, _GOOD.certificate)
