"""What `node.formats.jsonl` promises: one strict form, one way to write it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from federation.body import unpack
from federation.entry import Operation
from federation.errors import FederationError, MalformedError, Reason
from node.formats.jsonl import ChangeReader, format_change, parse_change
from tests.node.support.texts import operations

_HEX = "ab" * 16 + "cd" * 16
_MD5 = "ef01" * 8
_ASSERT = f'"op":"assert","fingerprints":{{"sha256":"{_HEX}"}}'


@given(operations())
def test_what_is_written_is_read_back(operation: Operation) -> None:
    line = format_change(operation)
    assert "\n" not in line
    assert parse_change(line) == operation
    assert parse_change(line.encode()) == operation
    assert unpack(ChangeReader.parse(line.encode())) == operation


@given(operations())
def test_one_operation_has_one_text(operation: Operation) -> None:
    line = format_change(operation)
    assert format_change(parse_change(json.dumps(json.loads(line)))) == line


def test_the_form_is_the_documented_one() -> None:
    operation = parse_change(
        f'{{"labels":["b","a","b"],"reason":"seen","op":"assert","vocabulary":"v",'
        f'"fingerprints":{{"sha256":["{_HEX}","{"12" * 32}"],"md5":"{_MD5.upper()}"}},"id":"ü 1"}}'
    )
    assert format_change(operation) == (
        f'{{"op":"assert","id":"ü 1","fingerprints":{{"md5":"{_MD5}",'
        f'"sha256":["{"12" * 32}","{_HEX}"]}},"labels":["a","b"],"reason":"seen","vocabulary":"v"}}'
    )
    assert format_change(parse_change(f"{{{_ASSERT}}}")) == (
        f'{{"op":"assert","id":"sha256:{_HEX}","fingerprints":{{"sha256":"{_HEX}"}}}}'
    )
    retraction = f'{{"op":"retract","id":"sha256:{_HEX}","cause":"false-positive","reason":"r"}}'
    assert format_change(parse_change(retraction)) == retraction
    assert format_change(parse_change('{"op": "purge", "id": "1"}')) == '{"op":"purge","id":"1"}'


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        (b"\xff", Reason.MALFORMED, "not UTF-8"),
        (b"", Reason.MALFORMED, "not JSON"),
        (b"{}{}", Reason.MALFORMED, "not JSON"),
        (b"[" * 100_000, Reason.MALFORMED, "nested too deeply"),
        (b"1" * 5_000, Reason.MALFORMED, "number in it is too long"),
        (b"[]", Reason.OP_MALFORMED, "got a list, expected an object"),
        (b"{}", Reason.OP_MALFORMED, "'op' is missing"),
        (b'{"op":1}', Reason.OP_MALFORMED, "unknown op a number"),
        (b'{"op":"retrct","id":"1"}', Reason.OP_MALFORMED, "did you mean 'retract'"),
        (f'{{{_ASSERT},"label":["a"]}}', Reason.OP_MALFORMED, "did you mean 'labels'"),
        (f'{{{_ASSERT},"cause":"withdrawn"}}', Reason.OP_MALFORMED, "unknown key 'cause'"),
        (f'{{{_ASSERT},"op":"assert"}}', Reason.MALFORMED, "is there twice"),
        (
            f'{{"op":"assert","fingerprints":{{"md5":"{_MD5}","md5":"{_MD5}"}}}}',
            Reason.MALFORMED,
            "'md5' is there twice",
        ),
        ('{"op":"assert"}', Reason.OP_MALFORMED, "'fingerprints' is missing"),
        ('{"op":"assert","fingerprints":[]}', Reason.OP_MALFORMED, "got a list"),
        ('{"op":"assert","fingerprints":{}}', Reason.OP_MALFORMED, "at least one fingerprint"),
        ('{"op":"assert","fingerprints":{"md5":[]}}', Reason.OP_MALFORMED, "at least one"),
        ('{"op":"assert","fingerprints":{"md5":5}}', Reason.OP_MALFORMED, "is a number"),
        ('{"op":"assert","fingerprints":{"md5":"ab"}}', Reason.FINGERPRINT_LENGTH, "md5"),
        (
            f'{{"op":"assert","fingerprints":{{"md5":"{"zz" * 16}"}}}}',
            Reason.FINGERPRINT_ALPHABET,
            "hex",
        ),
        (
            f'{{"op":"assert","fingerprints":{{"sha265":"{_HEX}"}}}}',
            Reason.FINGERPRINT_TYPE,
            "did you mean 'sha256'",
        ),
        (
            '{"op":"assert","fingerprints":{"md5":"d41d8cd98f00b204e9800998ecf8427e"}}',
            Reason.DIGEST_DEGENERATE,
            "empty input",
        ),
        (f'{{{_ASSERT},"labels":"a"}}', Reason.OP_MALFORMED, "got a text, expected a list"),
        (f'{{{_ASSERT},"labels":[1]}}', Reason.OP_MALFORMED, "a list of other things"),
        (f'{{{_ASSERT},"labels":[""]}}', Reason.OP_MALFORMED, "a label is empty"),
        (f'{{{_ASSERT},"labels":["\\u0007"]}}', Reason.OP_MALFORMED, "control character"),
        (f'{{{_ASSERT},"labels":["\\ud800"]}}', Reason.OP_MALFORMED, "lone surrogate"),
        (f'{{{_ASSERT},"labels":["{"x" * 129}"]}}', Reason.LIMIT_EXCEEDED, "label"),
        (f'{{{_ASSERT},"reason":null}}', Reason.OP_MALFORMED, "got null, expected a text"),
        (f'{{{_ASSERT},"reason":"{"x" * 1025}"}}', Reason.LIMIT_EXCEEDED, "reason"),
        (f'{{{_ASSERT},"id":""}}', Reason.OP_MALFORMED, "empty"),
        (f'{{{_ASSERT},"id":" x"}}', Reason.OP_MALFORMED, "white space"),
        (f'{{{_ASSERT},"id":"md5:{_MD5}"}}', Reason.OP_MALFORMED, "not one of this entry's own"),
        (f'{{{_ASSERT},"id":"sha256:ab"}}', Reason.FINGERPRINT_LENGTH, "sha256"),
        (f'{{{_ASSERT},"id":"{"x" * 256}"}}', Reason.LIMIT_EXCEEDED, "entry id"),
        ('{"op":"retract","id":"1"}', Reason.OP_MALFORMED, "'cause' is missing"),
        ('{"op":"retract","cause":"withdrawn"}', Reason.OP_MALFORMED, "'id' is missing"),
        (
            '{"op":"retract","id":"1","cause":"false positive"}',
            Reason.OP_MALFORMED,
            "did you mean 'false-positive'",
        ),
        ('{"op":"purge","id":"1","reason":"x"}', Reason.OP_MALFORMED, "unknown key 'reason'"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(
    line: bytes | str, reason: Reason, words: str
) -> None:
    with pytest.raises(FederationError) as caught:
        parse_change(line)
    assert caught.value.reason is reason
    assert words in str(caught.value)


def test_parse_change_raises_nothing_else() -> None:
    with pytest.raises(MalformedError):
        parse_change('{"op":"assert","fingerprints":{"md5":1e999999}')
