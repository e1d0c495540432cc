"""What `node.changes` promises: one strict form, one way to write it, a fast way to read it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from federation.body import PackedOp, pack, unpack
from federation.entry import Operation
from federation.errors import FederationError, MalformedError, Reason
from node.changes import ChangeReader, format_change, parse_change
from tests.node.texts import LABELS, operations

_HEX = "ab" * 16 + "cd" * 16
_MD5 = "ef01" * 8
_ASSERT = f'"op":"assert","fingerprints":{{"sha256":"{_HEX}"}}'


@given(operations())
def test_what_is_written_is_read_back(operation: Operation) -> None:
    line = format_change(operation)
    assert "\n" not in line
    assert parse_change(line) == operation
    assert parse_change(line.encode()) == operation


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
        (b"1" * 5_000, Reason.MALFORMED, "number too long"),
        (b"[]", Reason.OP_MALFORMED, "got a list, expected an object"),
        (b"{}", Reason.OP_MALFORMED, "'op' is missing"),
        (b'{"op":1}', Reason.OP_MALFORMED, "unknown op a number"),
        (b'{"op":"retrct","id":"1"}', Reason.OP_MALFORMED, "did you mean 'retract'"),
        (f'{{{_ASSERT},"label":["a"]}}', Reason.OP_MALFORMED, "did you mean 'labels'"),
        (f'{{{_ASSERT},"cause":"withdrawn"}}', Reason.OP_MALFORMED, "unknown key 'cause'"),
        (f'{{{_ASSERT},"op":"assert"}}', Reason.MALFORMED, "stands twice"),
        (
            f'{{"op":"assert","fingerprints":{{"md5":"{_MD5}","md5":"{_MD5}"}}}}',
            Reason.MALFORMED,
            "'md5' stands twice",
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
    if isinstance(line, str):
        line = line.encode()
    reader = ChangeReader()
    with pytest.raises(FederationError) as fast:
        reader.parse(line)
    assert (fast.value.reason, str(fast.value)) == (reason, str(caught.value))


# --- the fast way -----------------------------------------------------------------------------

_VALUES = st.sampled_from(
    [
        ("sha256", _HEX),
        ("sha256", _HEX.upper()),
        ("sha256", "00" * 32),
        ("sha256", "ff" * 32),
        ("sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("sha256", _HEX[:-1]),
        ("sha256", _MD5),
        ("sha256", f"{_HEX[:-1]}g"),
        ("md5", _MD5),
        ("md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ("sha1", "01" * 20),
        ("sha1", "00" * 20),
        ("sha512", "01" * 64),
        ("pdq", _HEX),
        ("pdq", "0123456789abcdef" * 4),
        ("pdq", "f1" * 3 + "0a" * 5 + "37" * 24),
        ("ssvh", "0102"),
        ("foo", "0102"),
        ("SHA256", _HEX),
    ]
)


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    """Draw lines that are common, nearly common, or broken."""
    space = draw(st.sampled_from(["", "", " ", "  "]))
    values = draw(st.lists(_VALUES, min_size=1, max_size=3))
    type_name, value = values[0]
    ids = st.sampled_from(
        [
            *(f"{type_name}:{value}", f"{type_name}:{value.lower()}", f"foo:{value}", "case-1"),
            *("ü", "sha256:", f"sha1:{'01' * 20}", f"SHA1:{'01' * 20}", "a\\u0062", " x", ""),
            "x" * 256,
        ]
    )
    parts = ['"op":' + space + '"assert"']
    if draw(st.booleans()):
        parts.append(f'"id":{space}"{draw(ids)}"')
    shown = ",".join(f'"{name}":{space}"{text}"' for name, text in values)
    parts.append(f'"fingerprints":{space}{{{shown}}}')
    parts += draw(
        st.lists(
            st.one_of(
                st.lists(LABELS, max_size=2).map(lambda labels: f'"labels":{json.dumps(labels)}'),
                st.sampled_from(['"reason":"r"', '"vocabulary":"v"', '"id":"case-1"', '"x":1', ""]),
            ),
            max_size=2,
        )
    )
    end = draw(st.sampled_from(["", "", "", " ", "\r", "}", "x"]))
    return ("{" + ("," + space).join(parts) + "}" + end).encode()


def _outcome(parse: object, line: bytes) -> PackedOp | tuple[Reason, str]:
    assert callable(parse)
    try:
        packed = parse(line)
    except FederationError as error:
        return error.reason, str(error)
    assert isinstance(packed, PackedOp)
    return packed


_COMMON = f'{{"op":"assert","fingerprints":{{"sha256":"{_HEX}"}},"labels":["A"]}}'.encode()


@given(st.lists(_lines(), max_size=8))
@example([_COMMON, _COMMON.replace(b'"fing', b'"id":"1","fing'), _COMMON])
@example([_COMMON, _COMMON.replace(b"ab", b"00").replace(b"cd", b"00")])
def test_reading_fast_decides_as_reading_slowly_does(lines: list[bytes]) -> None:
    reader = ChangeReader()
    for line in lines * 2:  # The second time, what can be remembered is.
        expected = _outcome(lambda text: pack(parse_change(text)), line)
        assert _outcome(reader.parse, line) == expected


@given(st.lists(operations(), min_size=1, max_size=6))
def test_reading_fast_loses_nothing(drawn: list[Operation]) -> None:
    reader = ChangeReader()
    for operation in drawn * 2:
        assert unpack(reader.parse(format_change(operation).encode())) == operation


def test_common_lines_share_their_shape_and_annotation() -> None:
    reader = ChangeReader()
    first, second = (
        reader.parse(_COMMON.replace(b"abab", replacement)) for replacement in (b"0102", b"0304")
    )
    assert first.record != second.record
    assert first.annotation is second.annotation


def test_parse_change_raises_nothing_else() -> None:
    with pytest.raises(MalformedError):
        parse_change('{"op":"assert","fingerprints":{"md5":1e999999}')
