"""Fingerprints: every text form in use is read, everything else is refused with its reason."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterable
from types import MappingProxyType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from federation import limits
from federation.errors import FingerprintError, Reason, UsageError
from federation.fingerprint import (
    Fingerprint,
    candidates,
    check_column,
    check_digest,
    is_flat_pdq,
    strongest,
)
from federation.hashtypes import HASH_TYPES, VPDQ_FRAME_BYTES, HashType, Kind, TextForm

# Published by facebook/ThreatExchange as PDQ examples and regression results (BSD licence).
REAL_PDQ = (
    "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22",
    "d0f8f1ccc0f4a84d0a370a3a228f67f0b36e2ed5b6623e1d33e6339c4e9c9b22",
    "e64cc9d91c623882f8d1f1d9a398e78c9f199b3bd83924f2b7e11e0bf861b064",
    "6227401f601ff4ccafcc9fad4b0d95d371a2eb7265a3285234d228ca94deeb2d",
    "c186f9619659658c4b6916daf934496985f4259c72c39676ab9edb631c3c349c",
    "62c9789627838f69f23cf98c29e37836d61c87c31c59587c4b49a783f496725c",
    "30a10efd71cc3d429013d48d0ffffc52e34e0e17ada952a9d29685211ea9e5af",
    "adad5a64b5a142e75b62a09857da895ae63b847fc23794b766b319361bc93188",
    "a5f0a457a48995e8c9065c275aaa5498b61ba4bdf8fcf80387c32f8b1bfc4f05",
    "f8f80f31e0f417b20e37f5cd028f980fb36ed02a9662c1e233e64c634e9c64dd",
    "0dad2599b1a1bd1a5362576742da32a5e63b7380c2374b4866b366c91bc9ce77",
    "f0a5e102f1ccc0bd945308720fff038de34ef1e8ada9a956d2967ade5ea91a50",
)
PDQ = bytes.fromhex(REAL_PDQ[0])

# Computed by the reference DCT for pictures of 64 x 64 whose quality is 100: drawings, not blanks.
DRAWN_PDQ = (
    "d3326b4ecca6d297e8f4f9604c281e0864b4d69bb71e60e3c65c7963c48ed27c",  # circle, 128 ones
    "0a06035f24600000252d607c693900006939438b160669391606717c16060000",  # centred square, 85
    "3b227bc3e0c74c218e19a6c4194a5c80295f3bbfee0febf0d128d0817674843c",  # two mirror axes, 122
)

FLAT_PDQ = MappingProxyType(
    {
        "all zeroes": "00" * 32,
        "all ones": "ff" * 32,
        "31 ones": "00" * 28 + "7fffffff",
        "31 zeroes": "ff" * 28 + "80000000",
        "a test value of video tools": "00" * 30 + "ffff",
        "one digit repeated": "a" * 64,
        "checkerboard": "aaaa5555" * 8,
        "digits repeated": "0123456789abcdef" * 4,
        "an md5 written twice": hashlib.md5(b"x", usedforsecurity=False).hexdigest() * 2,
        "left half": "ff00" * 16,
        "upper half": "ffff" * 8 + "0000" * 8,
        "picture with all detail in one line": "1e93" * 16,
        "the same, other line": "fd64029b029b029b029bfd64fd64fd64fd64029b029b029b029bfd64fd64fd64",
        "stripes": "820a75d55d5500005d555d5500000000202a5d5500005d55202a0000202a0000",
        "plain white": "554b82002c4b00002c4b2c4b0000000011342c4b00002c4b1134000011340000",
        "plain grey": "017e2c4b585e2c4b113411342c4b0000554b00002c4b2c4b11342c4b00000000",
        "plain red": "820082001134cc53a7a100002c4b1134554b0000000000002c4b8200017e2c4b",
    }
)

FRAMES = PDQ + bytes([77]) + (1_230).to_bytes(4, "big") + PDQ[::-1] + b"\x64" + b"\x00" * 4


def pattern(width: int) -> bytes:
    """Make a digest of one width that is not degenerate."""
    return bytes((7 * i + 1) % 256 for i in range(width))


def hexa(digest: bytes) -> str:
    return digest.hex()


def upper(digest: bytes) -> str:
    return digest.hex().upper()


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def b32(digest: bytes) -> str:
    return base64.b32encode(digest).decode()


def integers(digest: bytes) -> str:
    return ",".join(str(value) for value in digest)


EXACT_WIDTHS = (("md5", 16), ("sha1", 20), ("sha256", 32), ("sha512", 64))

FORMS = [
    *(
        (name, pattern(width), form(pattern(width)))
        for name, width in EXACT_WIDTHS
        for form in (hexa, upper, b64)
    ),
    ("sha1", pattern(20), b32(pattern(20))),
    ("sha1", pattern(20), b32(pattern(20)).lower()),
    *(("pdq", PDQ, form(PDQ)) for form in (hexa, upper, b64)),
    *(("photodna", pattern(144), form(pattern(144))) for form in (b64, hexa, upper, integers)),
    *(("photodna-edge", pattern(924), form(pattern(924))) for form in (b64, hexa, upper)),
    *(("tmk-pdqf", pattern(263_344), form(pattern(263_344))) for form in (b64, hexa, upper)),
    *(("vpdq", FRAMES, form(FRAMES)) for form in (hexa, upper)),
    ("vpdq", FRAMES, f'["{PDQ.hex()},77,1.23", "{PDQ[::-1].hex()},100,0"]'),
    ("vpdq", FRAMES, f'["{PDQ.hex()},77,1.23e+00","{PDQ[::-1].hex()},100,0.0"]'),
    ("tlsh", pattern(35), "T1" + upper(pattern(35))),
    ("tlsh", pattern(35), "T1" + hexa(pattern(35))),
    ("tlsh", pattern(35), upper(pattern(35))),
    ("tlsh", pattern(35), hexa(pattern(35))),
    *(
        (name, b"\x01opaque", form(b"\x01opaque"))
        for name in ("ssvh", "videntifier", "netclean")
        for form in (hexa, upper)
    ),
]


@pytest.mark.parametrize(
    ("name", "digest", "text"), FORMS, ids=[f"{n}-{len(t)}-{t[:6]}{t[-1]}" for n, _, t in FORMS]
)
def test_every_text_form_in_use_is_read(name: str, digest: bytes, text: str) -> None:
    read = Fingerprint.parse(name, text)
    assert read == Fingerprint(name, digest)
    assert Fingerprint.parse_tagged(f"{name}:{text}") == read


def test_every_registered_type_and_form_is_in_the_table() -> None:
    assert {name for name, _, _ in FORMS} == set(HASH_TYPES)


@pytest.mark.parametrize(
    ("name", "digest", "canonical"),
    [
        ("md5", pattern(16), hexa(pattern(16))),
        ("sha1", pattern(20), hexa(pattern(20))),
        ("sha256", pattern(32), hexa(pattern(32))),
        ("sha512", pattern(64), hexa(pattern(64))),
        ("pdq", PDQ, REAL_PDQ[0]),
        ("photodna", pattern(144), b64(pattern(144))),
        ("photodna-edge", pattern(924), b64(pattern(924))),
        ("tmk-pdqf", pattern(263_344), b64(pattern(263_344))),
        ("vpdq", FRAMES, hexa(FRAMES)),
        ("tlsh", pattern(35), "T1" + upper(pattern(35))),
        ("netclean", b"\xab\xcd", "abcd"),
        ("future-hash", b"\xab\xcd", "abcd"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 15 else "",
)
def test_each_type_has_one_canonical_form(name: str, digest: bytes, canonical: str) -> None:
    fingerprint = Fingerprint.from_digest(name, digest)
    assert fingerprint.format_digest() == canonical
    assert fingerprint.format() == f"{name}:{canonical}"


@pytest.mark.parametrize(
    ("width", "base64_chars"), [(144, 192), (924, 1232), (32, 44), (20, 28), (16, 24), (64, 88)]
)
def test_base64_lengths_are_those_that_programs_write(width: int, base64_chars: int) -> None:
    assert len(b64(pattern(width))) == base64_chars


@given(st.data())
def test_length_alone_tells_the_form_of_a_fixed_width_type(data: st.DataObject) -> None:
    fixed = [known for known in HASH_TYPES.values() if known.widths is not None]
    hash_type = data.draw(st.sampled_from(fixed))
    digest = data.draw(good_digests(hash_type))
    lengths = [
        len(text)
        for form, text in texts_of(hash_type, digest)
        if form is not TextForm.INTEGERS  # the only form with commas
    ]
    assert len(set(lengths)) == len(lengths)


def texts_of(hash_type: HashType, digest: bytes) -> list[tuple[TextForm, str]]:
    """Write a digest in every form that its type reads, but for letter case."""
    written: dict[TextForm, Callable[[bytes], str]] = {
        TextForm.HEX: hexa,
        TextForm.BASE64: b64,
        TextForm.BASE32: b32,
        TextForm.INTEGERS: integers,
        TextForm.TLSH: lambda raw: "T1" + upper(raw),
    }
    return [(form, written[form](digest)) for form in hash_type.forms if form in written]


def good_digests(hash_type: HashType) -> st.SearchStrategy[bytes]:
    """Draw digests of one type that are not degenerate."""
    if hash_type.name == "vpdq":
        frame = st.builds(
            lambda pdq, quality, time: pdq + bytes([quality]) + time.to_bytes(4, "big"),
            balanced_pdq(),
            st.integers(0, 100),
            st.integers(0, 2**32 - 1),
        )
        return st.lists(frame, min_size=1, max_size=5).map(b"".join)
    if hash_type.name == "pdq":
        return balanced_pdq()
    if hash_type.name == "tmk-pdqf":
        return st.binary(min_size=8, max_size=8).map(
            lambda seed: (b"TMK1" + seed).ljust(263_344, b"\x07")
        )
    low, high = (1, 80) if hash_type.widths is None else (hash_type.widths[0],) * 2
    return st.binary(min_size=low, max_size=high).filter(
        lambda raw: raw.strip(b"\x00") != b"" and raw.strip(b"\xff") != b""
    )


def balanced_pdq() -> st.SearchStrategy[bytes]:
    """Draw what the hash of a photograph looks like: 128 ones at any places."""

    def place(shuffler: random.Random) -> bytes:
        bits = [0] * 128 + [1] * 128
        shuffler.shuffle(bits)
        return int("".join(map(str, bits)), 2).to_bytes(32, "big")

    return (
        st.randoms(use_true_random=False, note_method_calls=False)
        .map(place)
        .filter(lambda digest: len({digest[i : i + 2] for i in range(0, 32, 2)}) > 12)
    )


@given(st.data())
def test_parsing_inverts_formatting(data: st.DataObject) -> None:
    hash_type = data.draw(st.sampled_from(list(HASH_TYPES.values())))
    digest = data.draw(good_digests(hash_type))
    fingerprint = Fingerprint.from_digest(hash_type.name, digest)
    assert Fingerprint.parse(hash_type.name, fingerprint.format_digest()) == fingerprint
    assert Fingerprint.parse_tagged(fingerprint.format()) == fingerprint
    for _, text in texts_of(hash_type, digest):
        assert Fingerprint.parse(hash_type.name, text) == fingerprint


@given(st.sampled_from(sorted(HASH_TYPES)), st.text(max_size=80))
@example("vpdq", f'["{REAL_PDQ[0]},50,1.5e-02"]')
@example("md5", "0" * 31 + "\uff11")
def test_any_text_is_read_to_one_canonical_form_or_refused(name: str, text: str) -> None:
    try:
        fingerprint = Fingerprint.parse(name, text)
    except FingerprintError:
        return
    assert Fingerprint.parse(name, fingerprint.format_digest()) == fingerprint


@given(st.sampled_from(sorted(HASH_TYPES)), st.text("0123456789abcdefABCDEFT/+=", max_size=132))
def test_an_accepted_hash_like_text_keeps_its_value(name: str, text: str) -> None:
    try:
        fingerprint = Fingerprint.parse(name, text)
    except FingerprintError:
        return
    assert Fingerprint.parse(name, fingerprint.format_digest()) == fingerprint
    forms = [form for _, form in texts_of(HASH_TYPES[name], fingerprint.digest)]
    assert text.upper().removeprefix("T1") in [form.upper().removeprefix("T1") for form in forms]


SHA256 = hexa(pattern(32))
SHA1_B32 = b32(pattern(20))
LENGTH, ALPHABET = Reason.FINGERPRINT_LENGTH, Reason.FINGERPRINT_ALPHABET
TYPE, DEGENERATE = Reason.FINGERPRINT_TYPE, Reason.DIGEST_DEGENERATE

REFUSALS = [
    ("empty", "sha256", "", LENGTH),
    ("one digit short", "sha256", SHA256[:-1], LENGTH),
    ("one digit long", "sha256", SHA256 + "0", LENGTH),
    ("another type's length", "sha256", hexa(pattern(20)), LENGTH),
    ("half a pdq of zeroes, once in a real feed", "pdq", "0" * 32, LENGTH),
    ("longer than any hash", "netclean", "00" * (2 * limits.MAX_DIGEST_BYTES) + "11", LENGTH),
    ("odd opaque", "ssvh", "abc", LENGTH),
    ("too many opaque bytes", "ssvh", "01" * (limits.MAX_DIGEST_BYTES + 1), LENGTH),
    ("no hex digit", "sha256", "g" + SHA256[1:], ALPHABET),
    ("leading space", "sha256", " " + SHA256, ALPHABET),
    ("space in place of a digit", "sha256", SHA256[:62] + "  ", ALPHABET),
    ("trailing newline", "sha256", SHA256 + "\n", ALPHABET),
    ("inner tab", "sha256", SHA256[:32] + "\t" + SHA256[32:], ALPHABET),
    ("no-break space", "sha256", "\u00a0" + SHA256, ALPHABET),
    ("nul", "sha256", SHA256 + "\0", ALPHABET),
    ("underscore", "sha256", SHA256[:10] + "_" + SHA256[11:], ALPHABET),
    ("0x prefix", "md5", "0x" + hexa(pattern(15)), ALPHABET),
    ("sign", "md5", "+" + hexa(pattern(16))[1:], ALPHABET),
    ("full-width digits", "sha256", SHA256[:63] + "\uff11", ALPHABET),
    ("arabic digits", "sha256", "\u0661" * 64, ALPHABET),
    ("cyrillic a", "sha256", "\u0430" + SHA256[1:], ALPHABET),
    ("trailing bits of base64", "sha256", b64(pattern(32))[:-2] + "z=", ALPHABET),
    ("trailing bits of two paddings", "md5", b64(pattern(16))[:-3] + "Z==", ALPHABET),
    ("base64url", "photodna", "-" * 191 + "A", ALPHABET),
    ("base64 without padding", "sha256", b64(pattern(32))[:-1], LENGTH),
    ("base64 with padding inside", "sha256", "=" + b64(pattern(32))[1:], ALPHABET),
    ("base64 of one byte more", "sha256", b64(pattern(33)), LENGTH),
    ("base64 with line ends", "photodna", b64(pattern(144))[:76] + "\r\n" + "A" * 114, ALPHABET),
    ("base32 with digit 1", "sha1", SHA1_B32[:-1] + "1", ALPHABET),
    ("base32 with digit 8", "sha1", SHA1_B32[:-1] + "8", ALPHABET),
    ("base32 with padding", "sha1", SHA1_B32[:-1] + "=", ALPHABET),
    ("base32 with long s", "sha1", SHA1_B32[:-1] + "\u017f", ALPHABET),
    ("base32 of another type", "sha256", b32(pattern(32)), LENGTH),
    ("143 integers", "photodna", integers(pattern(143)), LENGTH),
    ("145 integers", "photodna", integers(pattern(145)), LENGTH),
    ("integer 256", "photodna", integers(pattern(143)) + ",256", ALPHABET),
    ("leading zero", "photodna", integers(pattern(143)) + ",07", ALPHABET),
    ("negative integer", "photodna", integers(pattern(143)) + ",-1", ALPHABET),
    ("integer with underscore", "photodna", integers(pattern(143)) + ",1_0", ALPHABET),
    ("space after comma", "photodna", integers(pattern(144)).replace(",", ", "), ALPHABET),
    ("trailing comma", "photodna", integers(pattern(144)) + ",", ALPHABET),
    ("integers of another type", "sha256", integers(pattern(32)), LENGTH),
    ("tlsh with small t", "tlsh", "t1" + upper(pattern(35)), ALPHABET),
    ("tlsh of version 2", "tlsh", "T2" + upper(pattern(35)), ALPHABET),
    ("tlsh one byte short", "tlsh", "T1" + upper(pattern(34)), LENGTH),
    ("tlsh of nothing", "tlsh", "TNULL", LENGTH),
    ("vpdq in base64", "vpdq", b64(FRAMES), ALPHABET),
    ("vpdq of half a frame", "vpdq", hexa(pattern(18)), LENGTH),
    ("vpdq with quality 101", "vpdq", hexa(PDQ + b"\x65" + b"\0" * 4), ALPHABET),
    ("frame with quality 101", "vpdq", f'["{PDQ.hex()},101,0"]', ALPHABET),
    ("frame in upper case", "vpdq", f'["{PDQ.hex().upper()},50,0"]', ALPHABET),
    ("frame with negative time", "vpdq", f'["{PDQ.hex()},50,-1"]', ALPHABET),
    ("frame of a time beyond 49 days", "vpdq", f'["{PDQ.hex()},50,1e+99"]', ALPHABET),
    ("no frame", "vpdq", "[]", ALPHABET),
    ("frames followed by text", "vpdq", f'["{PDQ.hex()},50,0"] ', ALPHABET),
    ("frames with a line end", "vpdq", f'["{PDQ.hex()},50,0",\n"{PDQ.hex()},50,0"]', ALPHABET),
    ("unknown type", "sha3", SHA256, TYPE),
    ("type in upper case", "SHA256", SHA256, TYPE),
    ("no type", "", SHA256, TYPE),
    ("type with newline", "sha256\n", SHA256, TYPE),
    *(
        (f"{name} of the empty input", name, hashlib.new(name).hexdigest(), DEGENERATE)
        for name in ("md5", "sha1", "sha256", "sha512")
    ),
    (
        "sha1 of the empty input in base32",
        "sha1",
        b32(hashlib.sha1(usedforsecurity=False).digest()),
        DEGENERATE,
    ),
    ("zeroes in base64", "photodna", "A" * 192, DEGENERATE),
    ("ones in base64", "photodna", "/" * 192, DEGENERATE),
    ("zero integers", "photodna", integers(bytes(144)), DEGENERATE),
    ("one zero byte", "netclean", "00", DEGENERATE),
    ("zero tlsh", "tlsh", "T1" + "0" * 70, DEGENERATE),
    ("video of black frames", "vpdq", f'["{"0" * 64},0,0", "{"0" * 64},0,1"]', DEGENERATE),
    *((f"pdq: {what}", "pdq", text, DEGENERATE) for what, text in FLAT_PDQ.items()),
]


@pytest.mark.parametrize(
    ("name", "text", "reason"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_a_text_that_is_no_hash_is_refused_with_its_reason(
    name: str, text: str, reason: Reason
) -> None:
    with pytest.raises(FingerprintError) as caught:
        Fingerprint.parse(name, text)
    assert caught.value.reason is reason


def test_a_refusal_never_repeats_the_hash() -> None:
    for _, name, text, _ in REFUSALS:
        with pytest.raises(FingerprintError) as caught:
            Fingerprint.parse(name, text)
        assert len(str(caught.value)) < 300
        assert len(text) < 16 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("SHA-256", "sha256"),
        ("sha_256", "sha256"),
        ("Sha1", "sha1"),
        ("PhotoDNA", "photodna"),
        ("pdna", "photodna"),
        ("photodna_edge", "photodna-edge"),
        ("TMK_PDQF", "tmk-pdqf"),
        ("vPDQ", "vpdq"),
        ("MD-5", "md5"),
    ],
)
def test_an_unknown_type_is_answered_with_the_nearest_name(wrong: str, right: str) -> None:
    with pytest.raises(FingerprintError, match=f"did you mean '{right}'"):
        Fingerprint.parse(wrong, SHA256)


@pytest.mark.parametrize("wrong", ["phash", "", "x" * 5_000])
def test_a_far_type_name_is_answered_with_the_known_ones(wrong: str) -> None:
    with pytest.raises(FingerprintError, match="known: sha512, sha256") as caught:
        Fingerprint.parse(wrong, SHA256)
    assert len(str(caught.value)) < 300


def test_an_unknown_type_is_carried_opaque_when_asked() -> None:
    read = Fingerprint.parse("future-hash", "AbCd", allow_unknown=True)
    assert read == Fingerprint("future-hash", b"\xab\xcd")
    assert Fingerprint.parse_tagged(read.format(), allow_unknown=True) == read
    check_digest("future-hash", b"\x00\x00")
    check_column("future-hash", 2, b"\x00\x00\xff\xff")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("Future", "abcd", TYPE),
        ("a" * 32, "abcd", TYPE),
        ("9hash", "abcd", TYPE),
        ("future-hash", "abc", LENGTH),
        ("future-hash", "", LENGTH),
        ("future-hash", "a_cd", ALPHABET),
        ("future-hash", "ab d", ALPHABET),
    ],
)
def test_an_unknown_type_is_still_read_strictly(name: str, text: str, reason: Reason) -> None:
    with pytest.raises(FingerprintError) as caught:
        Fingerprint.parse(name, text, allow_unknown=True)
    assert caught.value.reason is reason


def test_a_known_type_is_no_laxer_when_unknown_ones_are_allowed() -> None:
    with pytest.raises(FingerprintError) as caught:
        Fingerprint.parse("sha256", "abcd", allow_unknown=True)
    assert caught.value.reason is LENGTH


@pytest.mark.parametrize(
    ("name", "digest", "reason"),
    [
        ("sha256", pattern(31), LENGTH),
        ("sha256", b"", LENGTH),
        ("vpdq", pattern(VPDQ_FRAME_BYTES + 1), LENGTH),
        ("netclean", b"", LENGTH),
        ("netclean", b"\x01" * (limits.MAX_DIGEST_BYTES + 1), LENGTH),
        ("future-hash", b"", LENGTH),
        ("future-hash", b"\x01" * (limits.MAX_DIGEST_BYTES + 1), LENGTH),
        ("Sha256", pattern(32), TYPE),
        ("sha 256", pattern(32), TYPE),
        ("sha256", hashlib.sha256().digest(), DEGENERATE),
    ],
)
def test_a_binary_digest_is_held_to_the_same_rules(
    name: str, digest: bytes, reason: Reason
) -> None:
    for check in (check_digest, Fingerprint.from_digest):
        with pytest.raises(FingerprintError) as caught:
            check(name, digest)
        assert caught.value.reason is reason


@pytest.mark.parametrize("name", sorted(HASH_TYPES))
def test_equal_bits_are_refused_for_every_registered_type(name: str) -> None:
    width = (HASH_TYPES[name].widths or (2 * VPDQ_FRAME_BYTES,))[0]
    for byte in (b"\x00", b"\xff"):
        with pytest.raises(FingerprintError) as caught:
            check_digest(name, byte * width)
        assert caught.value.reason is DEGENERATE


@pytest.mark.parametrize("text", REAL_PDQ + DRAWN_PDQ)
def test_published_pdq_hashes_are_not_flat(text: str) -> None:
    assert not is_flat_pdq(bytes.fromhex(text))
    check_column("pdq", 32, bytes.fromhex(text))


@given(balanced_pdq())
def test_hashes_like_those_of_photographs_are_not_flat(digest: bytes) -> None:
    assert not is_flat_pdq(digest)


@pytest.mark.parametrize("text", FLAT_PDQ.values(), ids=FLAT_PDQ.keys())
def test_flat_pdq_hashes_are_flat(text: str) -> None:
    assert is_flat_pdq(bytes.fromhex(text))


def test_flatness_begins_at_the_match_distance_to_a_blank_hash() -> None:
    spread = random.Random(1).sample(range(256), 256)
    for ones, flat in ((31, True), (32, False), (224, False), (225, True)):
        digest = sum(1 << place for place in spread[:ones]).to_bytes(32, "big")
        assert is_flat_pdq(digest) is flat, ones


def accepts(name: str, digest: bytes) -> bool:
    try:
        check_digest(name, digest)
    except FingerprintError:
        return False
    return True


ROWS = st.one_of(
    st.binary(min_size=32, max_size=32),
    balanced_pdq(),
    st.sampled_from([bytes.fromhex(text) for text in FLAT_PDQ.values()]),
    st.sampled_from([hashlib.sha256().digest(), PDQ]),
    st.binary(min_size=2, max_size=2).map(lambda row: row * 16),
    st.binary(min_size=16, max_size=16).map(lambda half: half * 2),
    st.lists(st.sampled_from([b"\x8a\x31", b"\x75\xce"]), min_size=16, max_size=16).map(b"".join),
    st.lists(st.binary(min_size=2, max_size=2), min_size=4, max_size=4).map(
        lambda rows: b"".join(rows * 5)[:32]
    ),
)


@given(st.sampled_from(["pdq", "sha256"]), st.lists(ROWS, max_size=12))
def test_a_column_is_refused_exactly_when_a_row_of_it_is(name: str, rows: list[bytes]) -> None:
    refused = [index for index, row in enumerate(rows) if not accepts(name, row)]
    if not refused:
        check_column(name, 32, b"".join(rows))
        return
    with pytest.raises(FingerprintError) as caught:
        check_column(name, 32, b"".join(rows))
    assert caught.value.reason is DEGENERATE
    assert any(f"in row {index} is" in str(caught.value) for index in refused)


def test_a_column_names_the_row_that_is_refused() -> None:
    rows = [hashlib.sha256(str(i).encode()).digest() for i in range(1_000)]
    rows[737] = hashlib.sha256().digest()
    with pytest.raises(FingerprintError, match="in row 737 is the digest of the empty input"):
        check_column("sha256", 32, b"".join(rows))


def test_a_degenerate_digest_across_two_rows_is_none() -> None:
    straddling = b"\x01" + bytes(31) + bytes(31) + b"\x01"
    check_column("sha256", 32, straddling * 50)
    with pytest.raises(FingerprintError, match="in row 100 is all zeroes"):
        check_column("sha256", 32, straddling * 50 + bytes(32))


@pytest.mark.parametrize(
    ("name", "width", "column", "reason"),
    [
        ("sha256", 32, pattern(63), LENGTH),
        ("sha256", 20, pattern(40), LENGTH),
        ("sha256", 0, b"", LENGTH),
        ("netclean", -1, b"\x01", LENGTH),
        ("future-hash", 0, b"", LENGTH),
        ("future-hash", 3, b"\x01" * 4, LENGTH),
        ("Bad Name", 1, b"\x01", TYPE),
        ("vpdq", 37, FRAMES[:37] + PDQ + b"\x65" + b"\0" * 4, ALPHABET),
        ("vpdq", 37, FRAMES + bytes(36) + b"\x01", DEGENERATE),
    ],
)
def test_a_malformed_column_is_refused_with_its_reason(
    name: str, width: int, column: bytes, reason: Reason
) -> None:
    with pytest.raises(FingerprintError) as caught:
        check_column(name, width, column)
    assert caught.value.reason is reason


@pytest.mark.parametrize("name", ["sha256", "pdq", "vpdq", "future-hash"])
def test_an_empty_column_is_accepted(name: str) -> None:
    check_column(name, 37 if name == "vpdq" else 32, b"")


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (SHA256, ["sha256", "pdq"]),
        ("a1" * 32, ["sha256"]),  # flat as a pdq
        (REAL_PDQ[0].upper(), ["sha256", "pdq"]),
        (b64(PDQ), ["sha256", "pdq"]),
        (hexa(pattern(16)), ["md5"]),
        ("ABCDEF234567" * 2 + "ABCDEF23", ["sha1", "md5"]),
        (SHA1_B32, ["sha1"]),
        (hexa(pattern(64)), ["sha512"]),
        (integers(pattern(144)), ["photodna"]),
        ("T1" + upper(pattern(35)), ["tlsh"]),
        (hexa(FRAMES), ["vpdq"]),
        (f"pdq:{REAL_PDQ[0]}", ["pdq"]),
        ("netclean:abcd", ["netclean"]),
    ],
)
def test_a_pasted_hash_is_every_type_that_it_can_be(text: str, types: list[str]) -> None:
    found = candidates(text)
    assert [fingerprint.type for fingerprint in found] == types
    value = text.rpartition(":")[2]
    assert all(Fingerprint.parse(item.type, value) == item for item in found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", LENGTH),
        ("abc", LENGTH),
        ("hello world", ALPHABET),
        (" " + SHA256, ALPHABET),
        ("g" * 64, ALPHABET),
        ("0" * 64, DEGENERATE),
        (hashlib.sha256().hexdigest(), DEGENERATE),
        (hashlib.md5(usedforsecurity=False).hexdigest(), DEGENERATE),
        ("sha3:" + SHA256, TYPE),
        (":" + SHA256, TYPE),
        ("pdq:" + "0" * 64, DEGENERATE),
    ],
)
def test_a_pasted_text_that_is_no_hash_is_refused(text: str, reason: Reason) -> None:
    with pytest.raises(FingerprintError) as caught:
        candidates(text)
    assert caught.value.reason is reason


def test_a_tagged_text_needs_its_tag() -> None:
    with pytest.raises(FingerprintError, match="expected type:value") as caught:
        Fingerprint.parse_tagged(SHA256)
    assert caught.value.reason is TYPE


def test_fingerprints_are_ordered_by_type_then_digest() -> None:
    ordered = [
        Fingerprint("md5", b"\x09"),
        Fingerprint("pdq", b"\x01"),
        Fingerprint("pdq", b"\x02"),
    ]
    assert sorted([ordered[2], ordered[0], ordered[1]]) == ordered


def test_an_entry_is_named_by_its_strongest_fingerprint() -> None:
    weakest_first = [
        Fingerprint("zeta", b"\x01"),
        Fingerprint("alpha", b"\x02"),
        Fingerprint("alpha", b"\x01"),
        *(Fingerprint(name, pattern(8)) for name in reversed(list(HASH_TYPES))),
        Fingerprint("sha512", pattern(7)),
    ]
    for end in range(1, len(weakest_first) + 1):
        assert strongest(weakest_first[:end]) == weakest_first[end - 1]
        assert strongest(reversed(weakest_first[:end])) == weakest_first[end - 1]


def test_strength_is_a_strict_order_that_begins_with_the_cryptographic_types() -> None:
    strengths = [hash_type.strength for hash_type in HASH_TYPES.values()]
    assert strengths == sorted(set(strengths), reverse=True)
    assert list(HASH_TYPES)[:4] == ["sha512", "sha256", "sha1", "md5"]
    assert [t.name for t in HASH_TYPES.values() if t.kind is Kind.EXACT] == list(HASH_TYPES)[:4]
    assert min(strengths) > 0


def test_there_is_no_strongest_of_none() -> None:
    with pytest.raises(UsageError):
        strongest([])


@given(
    st.one_of(
        st.text("0123456789abcdefABCDEF", min_size=40, max_size=40),
        st.text("0123456789abcdefABCDEF", min_size=64, max_size=64),
        st.text("0123456789abcdefABCDEF", min_size=128, max_size=128),
        st.sampled_from(["0" * 40, "f" * 64, "00ff" * 16, "0" * 63 + "g", " " * 24 + "0" * 40]),
        st.sampled_from([hashlib.sha256().hexdigest(), hashlib.sha1().hexdigest()]),
    )
)
def test_a_pasted_hash_reads_the_same_however_it_is_read(text: str) -> None:
    def outcome(read: Callable[[], Iterable[Fingerprint]]) -> object:
        try:
            return list(read())
        except FingerprintError as error:
            return error.reason

    def slowly() -> Iterable[Fingerprint]:
        found = []
        for hash_type in HASH_TYPES.values():
            if hash_type.kind is not Kind.OPAQUE:
                try:
                    found.append(Fingerprint.parse(hash_type.name, text))
                except FingerprintError as error:
                    if error.reason is Reason.DIGEST_DEGENERATE and hash_type.kind is Kind.EXACT:
                        raise
        return found

    quick = outcome(lambda: candidates(text))
    if isinstance(quick, list):
        assert quick == outcome(slowly)
    else:
        assert outcome(slowly) in (quick, [])
