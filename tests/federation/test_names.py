"""Names are parsed strictly: a path, a trick or a look-alike of another name is refused."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.errors import LimitError, MalformedError, PeerError
from federation.names import Origin, parse_list_name, parse_org

LABEL_63 = "a" * 63
ORG_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "a" * 61])

NOT_IN_A_NAME = {
    "empty": "",
    "path upwards": "../etc",
    "two dots": "..",
    "dot": ".",
    "leading dot": ".main",
    "leading hyphen": "-main",
    "leading underscore": "_main",
    "slash": "a/b",
    "backslash": "a\\b",
    "NUL": "main\0",
    "line break at the end": "main\n",
    "carriage return": "main\r",
    "space": "ma in",
    "plus": "a+b",
    "upper case": "Main",
    "right-to-left override": "\u202eniam",
    "zero-width space": "ma\u200bin",
    "Cyrillic a": "m\u0430in",
    "fullwidth letters": "\uff4d\uff41\uff49\uff4e",
    "Kelvin sign": "\u212aey",
    "Arabic digit": "\u0661",
    "combining accent": "main\u0301",
    "lone surrogate": "main\ud800",
    "percent escape": "ma%2ein",
    "64 characters": "a" * 64,
}


@pytest.mark.parametrize("text", NOT_IN_A_NAME.values(), ids=NOT_IN_A_NAME.keys())
def test_is_no_list_name(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_list_name(text)


@pytest.mark.parametrize("text", NOT_IN_A_NAME.values(), ids=NOT_IN_A_NAME.keys())
def test_is_no_part_of_an_organizations_name(text: str) -> None:
    for org in (f"{text}.example", f"hotline.{text}"):
        with pytest.raises(PeerError):
            parse_org(org)


@pytest.mark.parametrize(
    "text",
    [
        "hotline",
        "hotline.example.",
        "hotline..example",
        ".hotline.example",
        "-hotline.example",
        "hotline-.example",
        "hot_line.example",
        "HOTLINE.example",
        "hötline.example",
        "hotline.example:443",
        "https://hotline.example",
        "user@hotline.example",
        "*.example",
        "192.0.2.7",
        "hotline.7",
        "[::1]",
    ],
)
def test_is_no_organization(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_org(text)


@pytest.mark.parametrize(
    "text", ["hotline.example", "a.b", "xn--htline-wxa.example", "7.example", "a.7-x"]
)
def test_is_an_organization(text: str) -> None:
    assert parse_org(text) == text


@pytest.mark.parametrize("text", ["main", "0", "known-csam.v2", "a_b", "a" * 63])
def test_is_a_list_name(text: str) -> None:
    assert parse_list_name(text) == text


def test_names_end_at_their_limits() -> None:
    assert len(parse_org(ORG_253)) == limits.MAX_ORG_BYTES
    assert len(parse_list_name(LABEL_63)) == limits.MAX_LIST_BYTES
    with pytest.raises(LimitError):
        parse_org(ORG_253 + "a")
    with pytest.raises(LimitError):
        parse_org("a" * 100_000 + ".example")


@pytest.mark.parametrize(
    "text",
    [
        "hotline.example",
        "hotline.example/",
        "/main",
        "hotline.example/a/b",
        "hotline.example//main",
    ],
)
def test_is_no_origin(text: str) -> None:
    with pytest.raises(MalformedError):
        Origin.parse(text)


def test_an_origin_is_written_as_it_is_read_and_hashed_as_it_is_written() -> None:
    origin = Origin.parse("hotline.example/main")
    assert str(origin) == "hotline.example/main"
    assert origin.hash == sha256(b"hotline.example/main").digest()


@given(st.text())
def test_whatever_is_accepted_is_written_back_the_same(text: str) -> None:
    try:
        origin = Origin.parse(text)
    except PeerError:
        return
    assert str(origin) == text


@given(
    st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,2}\.[a-z]{2,9}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True),
)
def test_two_names_make_one_origin_and_no_other_pair_the_same(org: str, name: str) -> None:
    origin = Origin.parse(f"{org}/{name}")
    assert (origin.org, origin.name) == (org, name)
