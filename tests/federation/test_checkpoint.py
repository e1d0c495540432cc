"""Checkpoints: their one allowed text, and whose signature makes one count."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits
from federation.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from federation.errors import (
    FederationError,
    LimitError,
    MalformedError,
    Reason,
    SequenceError,
    SignatureError,
    UsageError,
)
from federation.keys import SigningKey
from federation.note import NoteSigner, Verifier, open_note, sign_note

# A value of any type, for callers whom no type checker stops.
Wrong = Any

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "notes.json").read_text("utf-8"))
ORIGIN = "hotline.example/known"
ROOT = sha256(b"root").digest()
ROOT_TEXT = b64encode(ROOT).decode()
EMPTY_ROOT = sha256(b"").digest()
CHECKPOINT = Checkpoint(ORIGIN, 12, ROOT)
KEY = SigningKey.from_seed(bytes(range(32)))
NEXT_KEY = SigningKey.from_seed(bytes([9]) * 32)
WITNESS = SigningKey.from_seed(bytes([7]) * 32)
SIGNER = NoteSigner(ORIGIN, KEY)
NOTE = sign_checkpoint(CHECKPOINT, SIGNER)


# --- text -------------------------------------------------------------------------------------


def test_a_checkpoint_is_written_as_origin_size_and_root() -> None:
    assert CHECKPOINT.format() == f"{ORIGIN}\n12\n{ROOT_TEXT}\n"


origins = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), min_size=1).filter(
    lambda origin: origin != "cosignature/v1"
)


@given(origins, st.integers(1, limits.MAX_TREE_SIZE), st.binary(min_size=32, max_size=32))
def test_what_is_written_is_parsed_to_the_same_checkpoint(
    origin: str, size: int, root: bytes
) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert Checkpoint.parse(checkpoint.format()) == checkpoint
    assert Checkpoint.parse(checkpoint.format().encode()) == checkpoint


@given(
    st.one_of(
        st.text(max_size=60),
        st.binary(max_size=60),
        st.lists(
            st.sampled_from(["\n", ORIGIN, "0", "12", "-", ROOT_TEXT, "=", "\r", "a"]), max_size=9
        ).map("".join),
    )
)
def test_parsing_anything_gives_a_checkpoint_that_is_written_the_same_or_is_refused(
    text: str | bytes,
) -> None:
    try:
        checkpoint = Checkpoint.parse(text)
    except MalformedError:
        return
    assert checkpoint.format() == (text if isinstance(text, str) else text.decode())


@pytest.mark.parametrize(
    "size",
    [
        *("", "00", "012", "+12", "-1", " 12", "12 ", "1_2", "0x12", "1e3", "12.0", "twelve"),
        *("\u0661\u0662", "1\u0662", "9223372036854775808", "1" * 20, "1" * 5000),
    ],
)
def test_a_size_in_any_other_form_is_refused(size: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Checkpoint.parse(f"{ORIGIN}\n{size}\n{ROOT_TEXT}\n")
    assert caught.value.reason is Reason.CHECKPOINT_MALFORMED


def test_the_largest_size_is_accepted() -> None:
    assert Checkpoint.parse(f"{ORIGIN}\n{2**32 - 1}\n{ROOT_TEXT}\n").size == 2**32 - 1


@pytest.mark.parametrize(
    "root",
    [
        *("", ROOT_TEXT.rstrip("="), ROOT_TEXT + "=", ROOT_TEXT + " ", " " + ROOT_TEXT, ROOT.hex()),
        *(b64encode(ROOT[:31]).decode(), b64encode(ROOT + b"\0").decode()),
        *(ROOT_TEXT[:-2] + chr(ord(ROOT_TEXT[-2]) + 1) + "=", "\xe9" + ROOT_TEXT[1:]),
    ],
)
def test_a_root_that_is_not_32_bytes_in_canonical_base64_is_refused(root: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Checkpoint.parse(f"{ORIGIN}\n12\n{root}\n")
    assert caught.value.reason is Reason.CHECKPOINT_MALFORMED


def test_an_empty_log_has_the_root_of_nothing_and_no_other() -> None:
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert Checkpoint.parse(empty.format()) == empty
    with pytest.raises(MalformedError, match="no empty log has"):
        Checkpoint.parse(f"{ORIGIN}\n0\n{ROOT_TEXT}\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        CHECKPOINT.format().removesuffix("\n"),
        CHECKPOINT.format() + "\n",
        CHECKPOINT.format() + "extension\n",
        "\n" + CHECKPOINT.format(),
        CHECKPOINT.format().replace("\n", "\r\n"),
        CHECKPOINT.format().replace("\n", "\N{LINE SEPARATOR}"),
        f"\n12\n{ROOT_TEXT}\n",
        f"cosignature/v1\n12\n{ROOT_TEXT}\n",
        f"\ud800\n12\n{ROOT_TEXT}\n",
        f"a\tb\n12\n{ROOT_TEXT}\n",
        b"\xff" + CHECKPOINT.format().encode(),
        None,
        12,
    ],
)
def test_a_text_of_other_lines_is_refused(text: Wrong) -> None:
    with pytest.raises(MalformedError) as caught:
        Checkpoint.parse(text)
    assert caught.value.reason is Reason.CHECKPOINT_MALFORMED


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 1, ROOT),
        ("a\nb", 1, ROOT),
        (None, 1, ROOT),
        (ORIGIN, -1, ROOT),
        (ORIGIN, 2**32, ROOT),
        (ORIGIN, True, ROOT),
        (ORIGIN, "1", ROOT),
        (ORIGIN, 1, ROOT[:31]),
        (ORIGIN, 1, ROOT_TEXT),
        (ORIGIN, 0, ROOT),
    ],
)
def test_a_checkpoint_that_could_not_be_parsed_cannot_be_made(
    origin: Wrong, size: Wrong, root: Wrong
) -> None:
    with pytest.raises(MalformedError):
        Checkpoint(origin, size, root)


# --- signed -----------------------------------------------------------------------------------


def cosignature_line(text: str) -> bytes:
    verifier = Verifier.for_cosignature("witness.example/w1", WITNESS.public_key)
    signature = WITNESS.sign(b"cosignature/v1\ntime 1679315147\n" + text.encode())
    blob = verifier.key_id + (1679315147).to_bytes(8, "big") + signature
    return f"\N{EM DASH} {verifier.name} {b64encode(blob).decode()}\n".encode()


WITNESS_VERIFIER = Verifier.for_cosignature("witness.example/w1", WITNESS.public_key)


def test_a_signed_checkpoint_opens_for_its_log() -> None:
    assert open_checkpoint(NOTE, ORIGIN, [SIGNER.verifier]) == CHECKPOINT


def test_a_public_logs_checkpoint_opens() -> None:
    keys = VECTORS["verifier_keys"]
    verifiers = [Verifier.parse(keys["arche"]), Verifier.parse(keys["remora_witness"])]
    data = VECTORS["notes"]["arche_checkpoint"].encode()
    origin = "arche2025h1.staging.ct.transparency.dev"
    with pytest.raises(MalformedError, match="4 signature lines"):
        open_checkpoint(data, origin, verifiers)
    # Only the lines whose keys are known: the log's and one witness's.
    note = open_note(data, verifiers)
    lines = "".join(line.format() for line in note.signatures)
    checkpoint = open_checkpoint(f"{note.text}\n{lines}".encode(), origin, verifiers)
    assert checkpoint.size == 1432088532
    root = "U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro="
    assert b64encode(checkpoint.root_hash).decode() == root


def test_a_checkpoint_signed_by_two_keys_of_the_log_opens_with_both_alone() -> None:
    next_signer = NoteSigner(ORIGIN, NEXT_KEY)
    data = sign_note(CHECKPOINT.format(), [SIGNER, next_signer])
    assert open_checkpoint(data, ORIGIN, [SIGNER.verifier, next_signer.verifier]) == CHECKPOINT
    for signer in (SIGNER, next_signer):
        with pytest.raises(MalformedError) as caught:
            open_checkpoint(data, ORIGIN, [signer.verifier])
        assert caught.value.reason is Reason.CHECKPOINT_MALFORMED


def test_a_line_of_an_unknown_key_is_not_carried_on() -> None:
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(NOTE + cosignature_line(CHECKPOINT.format()), ORIGIN, [SIGNER.verifier])
    assert caught.value.reason is Reason.CHECKPOINT_MALFORMED


def test_a_key_that_is_not_the_logs_signs_no_checkpoint() -> None:
    with pytest.raises(UsageError, match="under its origin"):
        sign_checkpoint(CHECKPOINT, NoteSigner("hotline.example/other", KEY))


def test_a_checkpoint_of_another_list_is_named_as_such() -> None:
    other = Checkpoint("hotline.example/other", 12, ROOT)
    signer = NoteSigner(other.origin, KEY)
    mislabelled = sign_note(other.format(), [SIGNER])
    for data in (sign_checkpoint(other, signer), mislabelled):
        with pytest.raises(SequenceError) as caught:
            open_checkpoint(data, ORIGIN, [SIGNER.verifier, signer.verifier])
        assert caught.value.reason is Reason.ORIGIN_MISMATCH


def test_a_checkpoint_that_only_a_key_of_another_name_signed_is_refused() -> None:
    other = NoteSigner("hotline.example/other", NEXT_KEY)
    data = sign_note(CHECKPOINT.format(), [other])
    for verifiers in ([SIGNER.verifier], [other.verifier], [SIGNER.verifier, other.verifier]):
        with pytest.raises(SignatureError) as caught:
            open_checkpoint(data, ORIGIN, verifiers)
        assert caught.value.reason is Reason.CHECKPOINT_SIGNATURE_INVALID


def test_a_cosignature_is_checked_but_never_replaces_the_logs_signature() -> None:
    text = CHECKPOINT.format()
    cosigned = NOTE + cosignature_line(text)
    both = [WITNESS_VERIFIER, SIGNER.verifier]
    assert open_checkpoint(cosigned, ORIGIN, both) == CHECKPOINT

    without_log = text.encode() + b"\n" + cosignature_line(text)
    for data, verifiers in (
        (without_log, both),
        (cosigned, [WITNESS_VERIFIER]),
        (NOTE + cosignature_line("other\n"), both),
    ):
        with pytest.raises(SignatureError) as caught:
            open_checkpoint(data, ORIGIN, verifiers)
        assert caught.value.reason is Reason.CHECKPOINT_SIGNATURE_INVALID


def test_a_witness_named_as_the_log_does_not_sign_for_it() -> None:
    namesake = Verifier.for_cosignature(ORIGIN, WITNESS.public_key)
    signature = WITNESS.sign(b"cosignature/v1\ntime 1\n" + CHECKPOINT.format().encode())
    blob = b64encode(namesake.key_id + (1).to_bytes(8, "big") + signature).decode()
    data = f"{CHECKPOINT.format()}\n\N{EM DASH} {ORIGIN} {blob}\n".encode()
    with pytest.raises(SignatureError, match="not signed by a key of the log"):
        open_checkpoint(data, ORIGIN, [namesake, SIGNER.verifier])


@pytest.mark.parametrize("text", ["hello\n", CHECKPOINT.format() + "extension\n", "\n"])
def test_a_signed_note_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(sign_note(text, [SIGNER]), ORIGIN, [SIGNER.verifier])
    assert caught.value.reason is Reason.CHECKPOINT_MALFORMED


@given(st.integers(0, len(NOTE) * 8 - 1))
def test_a_checkpoint_with_one_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(NOTE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FederationError) as caught:
        open_checkpoint(bytes(changed), ORIGIN, [SIGNER.verifier])
    assert caught.value.reason in {
        Reason.CHECKPOINT_MALFORMED,
        Reason.CHECKPOINT_SIGNATURE_INVALID,
    }


def test_an_unsigned_checkpoint_is_refused_before_its_origin_is_believed() -> None:
    stranger = NoteSigner("hotline.example/other", NEXT_KEY)
    data = sign_checkpoint(Checkpoint("hotline.example/other", 1, ROOT), stranger)
    with pytest.raises(SignatureError):
        open_checkpoint(data, ORIGIN, [SIGNER.verifier])


def test_a_note_over_the_limits_keeps_the_reason_of_a_limit() -> None:
    with pytest.raises(LimitError) as caught:
        open_checkpoint(bytes(limits.MAX_NOTE_BYTES + 1), ORIGIN, [SIGNER.verifier])
    assert caught.value.reason is Reason.LIMIT_EXCEEDED


@given(st.binary(max_size=120))
def test_opening_any_bytes_raises_nothing_but_errors_of_this_library(data: bytes) -> None:
    with pytest.raises(FederationError):
        open_checkpoint(data, ORIGIN, [SIGNER.verifier])
