"""What `node.cli.output` promises: JSON that is valid, and text that no terminal obeys."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from node.cli.output import encode_json, safe

_EVIL = 'x"\n\x1b[2J\x7f\x9b31m\u202e\u2028\u2066\U000e0001 \N{LATIN SMALL LETTER E WITH ACUTE}'


def test_json_escapes_what_a_terminal_obeys_and_keeps_other_scripts_readable() -> None:
    text = encode_json({_EVIL: [_EVIL]})
    assert text.isprintable()
    assert json.loads(text) == {_EVIL: [_EVIL]}
    assert "\N{LATIN SMALL LETTER E WITH ACUTE}" in text


@given(st.text(st.characters(), max_size=20) | st.just("\ud800"))
def test_any_text_comes_out_of_json_as_it_went_in(text: str) -> None:
    encoded = encode_json(text)
    assert encoded.isprintable()
    assert json.loads(encoded) == text
    assert safe(text).isprintable()
