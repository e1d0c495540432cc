"""Signed notes: published notes and keys, the strict grammar, and what a signature line can do."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.errors import (
    FederationError,
    KeyRefusedError,
    LimitError,
    MalformedError,
    Reason,
    SignatureError,
    UsageError,
)
from federation.keys import PublicKey, SigningKey
from federation.note import (
    NoteSignature,
    NoteSigner,
    SignatureType,
    Verifier,
    decode_base64,
    open_note,
    sign_note,
)

# A value of any type, for callers whom no type checker stops.
Wrong = Any

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "notes.json").read_text("utf-8"))
VKEYS: dict[str, str] = VECTORS["verifier_keys"]
NOTES: dict[str, bytes] = {name: note.encode() for name, note in VECTORS["notes"].items()}
PETER = Verifier.parse(VKEYS["peter"])
ENOCH = Verifier.parse(VKEYS["enoch"])
ARCHE = Verifier.parse(VKEYS["arche"])
REMORA = Verifier.parse(VKEYS["remora_witness"])

TEXT = "hotline.example/known\n12\n"
KEY = SigningKey.from_seed(bytes(range(32)))
SIGNER = NoteSigner("hotline.example/known", KEY)
NOTE = sign_note(TEXT, [SIGNER])
LINE = NOTE.removeprefix(TEXT.encode() + b"\n")
WITNESS = SigningKey.from_seed(bytes([7]) * 32)
WITNESS_VERIFIER = Verifier.for_cosignature("witness.example/w1", WITNESS.public_key)


def line(name: str, blob: bytes) -> bytes:
    return f"\N{EM DASH} {name} {b64encode(blob).decode()}\n".encode()


def cosignature_line(seconds: int, text: bytes) -> bytes:
    """Cosign as tlog-cosignature says, without this library's code for it."""
    signature = WITNESS.sign(b"cosignature/v1\ntime " + str(seconds).encode() + b"\n" + text)
    blob = WITNESS_VERIFIER.key_id + seconds.to_bytes(8, "big") + signature
    return line(WITNESS_VERIFIER.name, blob)


# --- verifier keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", VKEYS)
def test_published_verifier_keys_parse_and_are_written_back(name: str) -> None:
    verifier = Verifier.parse(VKEYS[name])
    assert verifier.format() == VKEYS[name]
    assert [verifier.name, verifier.key_id.hex()] == VKEYS[name].split("+")[:2]


def test_the_type_of_a_verifier_key_is_part_of_its_key_id() -> None:
    log = Verifier.for_ed25519("name", KEY.public_key)
    witness = Verifier.for_cosignature("name", KEY.public_key)
    for verifier, type_byte in ((log, b"\x01"), (witness, b"\x04")):
        assert verifier.key_id == sha256(b"name\n" + type_byte + KEY.public_key).digest()[:4]
        assert Verifier.parse(verifier.format()) == verifier
    assert REMORA.signature_type is SignatureType.COSIGNATURE


def test_every_part_of_a_verifier_key_alone_is_refused() -> None:
    vkey = VKEYS["peter"]
    for start in range(len(vkey) + 1):
        for end in range(start, len(vkey) + 1):
            if (start, end) != (0, len(vkey)):
                with pytest.raises((MalformedError, KeyRefusedError)):
                    Verifier.parse(vkey[start:end])


def test_a_verifier_key_with_one_character_changed_is_refused() -> None:
    vkey = VKEYS["peter"]
    for position, character in enumerate(vkey):
        changed = vkey[:position] + chr(ord(character) + 1) + vkey[position + 1 :]
        with pytest.raises((MalformedError, KeyRefusedError)):
            Verifier.parse(changed)


@pytest.mark.parametrize("vkey", VECTORS["bad_verifier_keys"])
def test_published_bad_verifier_keys_are_refused(vkey: str) -> None:
    with pytest.raises((MalformedError, KeyRefusedError)):
        Verifier.parse(vkey)


def vkey_of(name: str, material: bytes) -> str:
    """Write a verifier key whose key id is right, whatever else is not."""
    key_id = sha256(name.encode() + b"\n" + material).digest()[:4]
    return f"{name}+{key_id.hex()}+{b64encode(material).decode()}"


@pytest.mark.parametrize("type_byte", [0x00, 0x02, 0x03, 0x05, 0x06, 0xFF])
def test_a_signature_type_that_is_not_read_here_is_named_unsupported(type_byte: int) -> None:
    with pytest.raises(MalformedError) as caught:
        Verifier.parse(vkey_of("name", bytes([type_byte]) + KEY.public_key))
    assert caught.value.reason is Reason.FORMAT_UNSUPPORTED


@pytest.mark.parametrize("type_byte", [0x01, 0x04])
@pytest.mark.parametrize(
    "key", [bytes([1]) + bytes(31), bytes(32), KEY.public_key[:31], KEY.public_key + b"\0", b""]
)
def test_a_verifier_key_with_a_key_that_must_not_be_trusted_is_refused(
    type_byte: int, key: bytes
) -> None:
    with pytest.raises(KeyRefusedError):
        Verifier.parse(vkey_of("name", bytes([type_byte]) + key))


def test_no_verifier_can_be_made_around_the_admission_of_its_key() -> None:
    identity = bytes([1]) + bytes(31)
    with pytest.raises(KeyRefusedError):
        Verifier("name", SignatureType.ED25519, PublicKey(identity))
    with pytest.raises(KeyRefusedError):
        Verifier.for_cosignature("name", identity)


@pytest.mark.parametrize(
    "vkey",
    [
        VKEYS["peter"].replace("c74f20a3", "C74F20A3"),
        VKEYS["peter"].replace("c74f20a3", "c74f20a4"),
        VKEYS["peter"] + "\n",
        VKEYS["peter"] + "=",
        " " + VKEYS["peter"],
        VKEYS["peter"].replace("PeterNeumann", "Peter Neumann"),
        "name+00000000+",
        "name+00000000",
        "",
        "+++",
        None,
        VKEYS["peter"].encode(),
    ],
)
def test_a_verifier_key_in_any_other_form_is_refused(vkey: Wrong) -> None:
    with pytest.raises(MalformedError):
        Verifier.parse(vkey)


def test_a_verifier_key_longer_than_a_note_is_refused() -> None:
    with pytest.raises(LimitError):
        Verifier.parse(vkey_of("n" * limits.MAX_NOTE_BYTES, b"\x01" + KEY.public_key))


@given(st.text())
def test_parsing_any_text_as_a_verifier_key_raises_nothing_but_errors_of_this_library(
    text: str,
) -> None:
    for candidate in (text, f"{text}+00000000+{text}", VKEYS["peter"] + text + "x"):
        with pytest.raises(FederationError):
            Verifier.parse(candidate)


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "a+b", "a\tb", "a\nb", "a\x00b", "a\u00a0b", "a\u2003b", "a\u2028b"),
        *("a\x85b", "\ud800", None, b"name"),
    ],
)
def test_a_name_that_cannot_stand_on_a_signature_line_is_refused(name: Wrong) -> None:
    with pytest.raises(MalformedError):
        Verifier.for_ed25519(name, KEY.public_key)
    with pytest.raises(MalformedError):
        NoteSigner(name, KEY)


# --- published notes --------------------------------------------------------------------------


def test_the_note_of_the_specification_opens() -> None:
    note = open_note(NOTES["spec_example"], [Verifier.parse(VKEYS["spec_example"])])
    assert note.text == "This is an example message.\n"
    assert [signature.name for signature in note.signatures] == ["example.com/foo"]
    assert note.unverified == ()


def test_the_note_of_the_go_tests_opens_with_one_key_or_both() -> None:
    note = open_note(NOTES["peter_and_enoch"], [PETER])
    assert note.text.startswith("If you think cryptography")
    assert [signature.name for signature in note.signatures] == ["PeterNeumann"]
    assert [signature.key_id.hex() for signature in note.unverified] == ["af0cfe78"]

    both = open_note(NOTES["peter_and_enoch"], [ENOCH, PETER])
    assert [signature.name for signature in both.signatures] == ["PeterNeumann", "EnochRoot"]
    assert both.unverified == ()


def test_signing_the_text_of_the_go_tests_gives_its_bytes() -> None:
    seed = b64decode(VECTORS["peter_seed_base64"])[1:]
    signer = NoteSigner("PeterNeumann", SigningKey.from_seed(seed))
    assert signer.verifier == PETER
    text = NOTES["peter"].decode().partition("\n\n")[0] + "\n"
    assert sign_note(text, [signer]) == NOTES["peter"]


def test_a_public_logs_checkpoint_opens_with_its_log_key_and_a_witness() -> None:
    note = open_note(NOTES["arche_checkpoint"], [ARCHE, REMORA])
    log, witness = note.signatures
    assert (log.name, log.cosigned_at_seconds) == (ARCHE.name, None)
    assert (witness.name, witness.cosigned_at_seconds) == ("remora.n621.de", 0x6A122120)
    # The log's other line has the same name, another key and another type: it is passed over.
    assert [signature.name for signature in note.unverified].count(ARCHE.name) == 1
    assert len(note.unverified) == 4


def test_every_published_signature_line_is_written_back() -> None:
    for data in NOTES.values():
        note = open_note(data, [Verifier.parse(vkey) for vkey in VKEYS.values()])
        lines = data.decode().rpartition("\n\n")[2].splitlines(keepends=True)
        written = {line.format() for line in (*note.signatures, *note.unverified)}
        assert written == set(lines)


# --- signing and opening ----------------------------------------------------------------------

RESERVED = ("DSSEv1 ", "cosignature/v1\n", "subtree/v1\n")
texts = (
    st.lists(st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), max_size=9))
    .map(lambda lines: "\n".join(lines) + "\n")
    .filter(lambda text: not text.startswith(RESERVED))
)


@given(texts, st.integers(1, 4))
def test_what_is_signed_opens_with_the_same_text_even_with_empty_lines(
    text: str, count: int
) -> None:
    signers = [NoteSigner(f"name{number}", KEY) for number in range(count)]
    note = open_note(sign_note(text, signers), [signer.verifier for signer in signers])
    assert note.text == text
    assert [signature.name for signature in note.signatures] == [s.name for s in signers]


@pytest.mark.parametrize("text", ["\n", "\n\n", "a\n\nb\n", "a\n\n", f"a\n\n{LINE.decode()}"])
def test_the_last_empty_line_of_a_note_ends_its_text(text: str) -> None:
    assert open_note(sign_note(text, [SIGNER]), [SIGNER.verifier]).text == text


def test_the_order_of_signature_lines_means_nothing() -> None:
    cosignature = cosignature_line(1, TEXT.encode())
    data = TEXT.encode() + b"\n" + cosignature + LINE
    note = open_note(data, [SIGNER.verifier, WITNESS_VERIFIER])
    assert [signature.cosigned_at_seconds for signature in note.signatures] == [1, None]


@given(st.integers(0, len(NOTE) * 8 - 1))
def test_a_note_with_one_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(NOTE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedError, SignatureError)):
        open_note(bytes(changed), [SIGNER.verifier])


def test_a_note_of_unknown_keys_alone_is_refused() -> None:
    with pytest.raises(SignatureError, match="no signature of a known key"):
        open_note(NOTE, [PETER])
    with pytest.raises(SignatureError):
        open_note(NOTE, [])


def test_a_line_that_shares_only_the_name_or_only_the_id_of_a_known_key_is_passed_over() -> None:
    key_id = SIGNER.verifier.key_id
    others = line(SIGNER.name, b"\xff" * 4 + b"?") + line("other", key_id + b"?")
    note = open_note(NOTE + others, [SIGNER.verifier])
    assert len(note.signatures) == 1
    assert [(other.name, other.signature) for other in note.unverified] == [
        (SIGNER.name, b"?"),
        ("other", b"?"),
    ]


@pytest.mark.parametrize("blob", [b"?", bytes(64), bytes(63), bytes(65), bytes(72)])
def test_a_false_signature_of_a_known_key_makes_the_whole_note_false(blob: bytes) -> None:
    other = NoteSigner("other", WITNESS)
    data = NOTE + line("other", other.verifier.key_id + blob)
    assert open_note(data, [SIGNER.verifier]).text == TEXT
    with pytest.raises(SignatureError):
        open_note(data, [SIGNER.verifier, other.verifier])


@pytest.mark.parametrize("verifier", [SIGNER.verifier, PETER], ids=["known", "unknown"])
def test_two_lines_of_one_key_are_refused(verifier: Verifier) -> None:
    extra = line("x", b"1234" + b"?")
    second = line("x", b"1234" + b"!")
    for data in (NOTE + LINE, NOTE + extra + extra, NOTE + extra + second):
        with pytest.raises(MalformedError, match="two signatures of key"):
            open_note(data, [verifier, SIGNER.verifier])


def test_one_verifier_given_twice_is_one_verifier() -> None:
    again = Verifier.parse(SIGNER.verifier.format())
    assert open_note(NOTE, [SIGNER.verifier, again]).text == TEXT


def test_two_keys_with_one_name_and_key_id_are_a_usage_error() -> None:
    # A collision takes 2^32 attempts to find, so one is put in place of a key id here.
    other = Verifier.for_ed25519(SIGNER.name, WITNESS.public_key)
    object.__setattr__(other, "key_id", SIGNER.verifier.key_id)
    with pytest.raises(UsageError, match="two keys"):
        open_note(NOTE, [SIGNER.verifier, other])


# --- cosignatures -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 1679315147, 2**63 - 1])
def test_a_cosignature_verifies_and_states_its_time(seconds: int) -> None:
    data = NOTE + cosignature_line(seconds, TEXT.encode())
    note = open_note(data, [WITNESS_VERIFIER])
    assert [signature.cosigned_at_seconds for signature in note.signatures] == [seconds]


def test_a_cosignature_with_a_time_out_of_range_is_refused() -> None:
    for seconds in (2**63, 2**64 - 1):
        with pytest.raises(SignatureError, match="out of range"):
            open_note(NOTE + cosignature_line(seconds, TEXT.encode()), [WITNESS_VERIFIER])


def test_a_cosignature_with_another_time_or_text_than_signed_is_refused() -> None:
    good = WITNESS.sign(b"cosignature/v1\ntime 5\n" + TEXT.encode())
    key_id = WITNESS_VERIFIER.key_id
    later = line(WITNESS_VERIFIER.name, key_id + (6).to_bytes(8, "big") + good)
    plain = line(WITNESS_VERIFIER.name, key_id + bytes(8) + WITNESS.sign(TEXT.encode()))
    for data in (NOTE + later, NOTE + cosignature_line(5, b"other\n"), NOTE + plain):
        with pytest.raises(SignatureError):
            open_note(data, [WITNESS_VERIFIER])


@pytest.mark.parametrize("length", [1, 8, 64, 71, 73])
def test_a_cosignature_of_another_length_is_refused(length: int) -> None:
    data = NOTE + line(WITNESS_VERIFIER.name, WITNESS_VERIFIER.key_id + bytes(length))
    with pytest.raises(SignatureError, match=f"got {length} bytes, expected 72"):
        open_note(data, [WITNESS_VERIFIER])


# --- grammar ----------------------------------------------------------------------------------

HEAD = TEXT.encode()
BODY = LINE.removesuffix(b"\n")
ENCODED = BODY.rpartition(b" ")[2]
DASH = "\N{EM DASH}".encode()
NAME = SIGNER.name.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        HEAD,
        HEAD + b"\n",
        HEAD + LINE,
        HEAD + b"\n" + BODY,
        HEAD + b"\n" + LINE + b"\n",
        HEAD + b"\n" + LINE + b"Unexpected line.\n",
        HEAD + b"\n" + LINE + b"\n" + LINE + b"Unexpected line.\n",
        b"\x01" + HEAD + b"\n" + LINE,
        b"\xff" + HEAD + b"\n" + LINE,
        b"\xed\xa0\x80" + HEAD + b"\n" + LINE,
        b"\t" + HEAD + b"\n" + LINE,
        HEAD.replace(b"\n", b"\r\n") + b"\n" + LINE,
        HEAD + b"\r\n" + LINE,
        HEAD + b"\n" + BODY + b"\r\n",
        HEAD + b"\n" + BODY + b" \n",
        HEAD + b"\n" + BODY + "\N{LINE SEPARATOR}".encode() + b"\n",
        HEAD + b"\n- " + NAME + b" " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + NAME + b" " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b"  " + NAME + b" " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b" " + NAME + b"  " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b"\xc2\xa0" + NAME + b" " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b" " + NAME + b"\xc2\xa0" + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b" Bad Name " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b" Bad+Name " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b"  " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b" " + ENCODED + b"\n",
        HEAD + b"\n" + DASH + b" " + NAME + b" \n",
        HEAD + b"\n" + DASH + b" " + NAME + b"\n",
        HEAD + b"\n" + LINE + line("short", b"123"),
        HEAD + b"\n" + LINE + line("no-signature", b"1234"),
    ],
)
def test_a_note_in_any_other_form_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        open_note(data, [SIGNER.verifier])


@pytest.mark.parametrize(
    "encoded",
    [
        ENCODED.rstrip(b"="),
        ENCODED + b"=",
        ENCODED[:10] + b"*" + ENCODED[10:],
        ENCODED[:10] + b"====" + ENCODED[10:],
        ENCODED.replace(b"/", b"_").replace(b"+", b"-") + b"-_",
        ENCODED[:-2] + bytes([ENCODED[-2] + 1]) + b"=",
        ENCODED + "\N{LATIN SMALL LETTER E WITH ACUTE}".encode(),
    ],
)
def test_a_signature_in_lenient_base64_is_refused(encoded: bytes) -> None:
    data = HEAD + b"\n" + DASH + b" " + NAME + b" " + encoded + b"\n"
    with pytest.raises(MalformedError, match="base64"):
        open_note(data, [SIGNER.verifier])


@pytest.mark.parametrize("encoded", ["YR==", "YQ", "YQ=", "YQ==\n", "Y Q==", "YQ==YQ==", "\xe9a=="])
def test_one_byte_string_has_one_base64_form(encoded: str) -> None:
    assert decode_base64("YQ==", "test") == b"a"
    with pytest.raises(MalformedError, match="test is not"):
        decode_base64(encoded, "test")


@given(st.text(max_size=8))
def test_base64_of_any_text_is_decoded_only_if_it_encodes_back(text: str) -> None:
    try:
        raw = decode_base64(text, "test")
    except MalformedError:
        return
    assert b64encode(raw).decode() == text


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(str.encode),
        st.lists(
            st.sampled_from([HEAD, b"\n", LINE, BODY, DASH, b" ", NAME, ENCODED, b"x", b"\x80"])
        ).map(b"".join),
        st.tuples(st.integers(0, len(NOTE)), st.integers(0, len(NOTE)), st.binary(max_size=4)).map(
            lambda cut: NOTE[: cut[0]] + cut[2] + NOTE[cut[1] :]
        ),
    )
)
def test_opening_any_bytes_raises_nothing_but_errors_of_this_library(data: bytes) -> None:
    try:
        note = open_note(data, [SIGNER.verifier])
    except FederationError:
        return
    assert note.text == TEXT
    assert SIGNER.verifier.key_id in {signature.key_id for signature in note.signatures}


@pytest.mark.parametrize("data", [None, NOTE.decode(), bytearray(NOTE), 5])
def test_a_note_that_is_not_bytes_is_refused(data: Wrong) -> None:
    with pytest.raises(MalformedError):
        open_note(data, [SIGNER.verifier])


# --- limits -----------------------------------------------------------------------------------


def test_a_note_of_the_largest_size_opens_and_one_byte_more_is_refused() -> None:
    room = limits.MAX_NOTE_BYTES - len(LINE) - 2
    largest = sign_note("x" * room + "\n", [SIGNER])
    assert len(largest) == limits.MAX_NOTE_BYTES
    assert len(open_note(largest, [SIGNER.verifier]).text) == room + 1
    with pytest.raises(UsageError):
        sign_note("x" * (room + 1) + "\n", [SIGNER])
    with pytest.raises(LimitError):
        open_note(b"x" + largest, [SIGNER.verifier])


def test_a_note_with_the_most_signatures_opens_and_with_one_more_is_refused() -> None:
    others = [line(f"other{number}", b"1234?") for number in range(limits.MAX_NOTE_SIGNATURES)]
    assert open_note(NOTE + b"".join(others[:-1]), [SIGNER.verifier]).text == TEXT
    with pytest.raises(LimitError, match="got 101 signatures"):
        open_note(NOTE + b"".join(others), [SIGNER.verifier])


# --- what is never signed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", "a\r\n", "a\x00\n", "\t\n", "\ud800\n", None, b"abc\n"),
        *("DSSEv1 4 text 0 \n", "cosignature/v1\ntime 1\nx\n", "subtree/v1\n"),
    ],
)
def test_a_text_that_no_note_can_hold_or_that_another_format_owns_is_not_signed(
    text: Wrong,
) -> None:
    with pytest.raises(UsageError):
        sign_note(text, [SIGNER])


def test_no_signer_a_repeated_one_and_too_many_are_usage_errors() -> None:
    many = [NoteSigner(f"name{number}", KEY) for number in range(101)]
    for signers in ([], [SIGNER, SIGNER], many):
        with pytest.raises(UsageError):
            sign_note(TEXT, signers)


class ForgetfulSigner:
    """A hardware module that holds another key than its configuration says."""

    public_key = KEY.public_key

    def sign(self, message: bytes) -> bytes:
        return WITNESS.sign(message)


def test_a_wrong_signature_of_a_signer_never_becomes_a_note() -> None:
    with pytest.raises(UsageError, match="does not verify"):
        sign_note(TEXT, [NoteSigner("name", ForgetfulSigner())])


def test_a_signature_line_carries_key_id_and_signature() -> None:
    written = NoteSignature("name", b"1234", b"5").format()
    assert written == "\N{EM DASH} name MTIzNDU=\n"
