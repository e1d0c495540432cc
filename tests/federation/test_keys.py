"""Ed25519: published signatures, and the keys and signatures on which libraries disagree."""

from __future__ import annotations

import copy
import json
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from federation import keys
from federation.errors import KeyRefusedError, SignatureError, UsageError
from federation.keys import PublicKey, SigningKey

# A value of any type, for callers whom no type checker stops.
Wrong = Any

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "ed25519.json").read_text())
SMALL_ORDER = VECTORS["small_order"]["canonical"]
ALTERNATE = VECTORS["small_order"]["alternate"]
ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD_PRIME = 2**255 - 19
KEY = SigningKey.from_seed(bytes(range(32)))


# --- published values -------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["rfc8032"], ids=lambda vector: vector["source"])
def test_rfc_8032_vectors_sign_and_verify(vector: dict[str, str]) -> None:
    signing_key = SigningKey.from_seed(bytes.fromhex(vector["seed"]))
    message = bytes.fromhex(vector["msg"])
    assert signing_key.public_key.hex() == vector["key"]
    assert signing_key.sign(message).hex() == vector["sig"]
    assert keys.admit_public_key(signing_key.public_key) == signing_key.public_key
    keys.verify(signing_key.public_key, bytes.fromhex(vector["sig"]), message)


@pytest.mark.parametrize("vector", VECTORS["wycheproof_scalar_bound"], ids=lambda v: v["source"])
def test_the_scalar_of_a_signature_is_below_the_group_order(vector: dict[str, Any]) -> None:
    fields = [bytes.fromhex(vector[name]) for name in ("key", "sig", "msg")]
    if vector["valid"]:
        keys.verify(*fields)
        return
    with pytest.raises(SignatureError):
        keys.verify(*fields)


@pytest.mark.parametrize("vector", VECTORS["cctv_refused"], ids=lambda vector: vector["source"])
def test_signatures_that_lenient_verifiers_accept_are_refused(vector: dict[str, Any]) -> None:
    key, signature = bytes.fromhex(vector["key"]), bytes.fromhex(vector["sig"])
    with pytest.raises(SignatureError):
        keys.verify(key, signature, vector["msg"].encode())
    with pytest.raises(KeyRefusedError):
        keys.admit_public_key(key)


def test_the_key_id_is_the_whole_sha_256_of_the_raw_key() -> None:
    assert keys.key_id(KEY.public_key) == KEY.key_id == sha256(KEY.public_key).digest()


# --- keys that must not be trusted ------------------------------------------------------------


def torsion_order(encoded: str) -> int:
    """Count how often a point must be added to itself to give the identity."""
    point = start = bytes.fromhex(encoded)
    identity = bytes([1]) + bytes(31)
    order = 1
    while point != identity:
        point = bindings.crypto_core_ed25519_add(point, start)
        order += 1
        assert order <= 8
    return order


@pytest.mark.parametrize(("encoded", "order"), SMALL_ORDER.items())
def test_the_listed_small_order_points_have_the_listed_orders(encoded: str, order: int) -> None:
    # So that the refusals below are shown for points, not for bytes that decode to none.
    assert torsion_order(encoded) == order


@pytest.mark.parametrize("encoded", [*SMALL_ORDER, *ALTERNATE])
def test_a_point_of_small_order_is_refused_in_every_encoding(encoded: str) -> None:
    with pytest.raises(KeyRefusedError, match="prime-order group"):
        keys.admit_public_key(bytes.fromhex(encoded))


@pytest.mark.parametrize("encoded", [*SMALL_ORDER, *ALTERNATE])
@pytest.mark.parametrize("scalar", [0, 1])
def test_no_signature_of_a_small_order_key_is_accepted(encoded: str, scalar: int) -> None:
    # Under the identity as key, (identity, 0) satisfies the equation for every message.
    key = bytes.fromhex(encoded)
    for nonce_point in (key, bytes([1]) + bytes(31)):
        with pytest.raises(SignatureError):
            keys.verify(key, nonce_point + scalar.to_bytes(32, "little"), b"any message")


@pytest.mark.parametrize("encoded", [point for point, order in SMALL_ORDER.items() if order > 1])
def test_a_good_key_with_a_small_order_part_added_is_refused(encoded: str) -> None:
    mixed = bindings.crypto_core_ed25519_add(KEY.public_key, bytes.fromhex(encoded))
    assert mixed != KEY.public_key
    with pytest.raises(KeyRefusedError):
        keys.admit_public_key(mixed)


@given(st.integers(0, 18), st.booleans())
def test_a_coordinate_that_is_not_reduced_is_refused(excess: int, sign: bool) -> None:
    raw = (FIELD_PRIME + excess | sign << 255).to_bytes(32, "little")
    with pytest.raises(KeyRefusedError):
        keys.admit_public_key(raw)


def is_on_curve(y: int) -> bool:
    """Tell by Euler's criterion whether x^2 = (y^2 - 1) / (d y^2 + 1) has a solution."""
    d = -121665 * pow(121666, -1, FIELD_PRIME)
    x_squared = (y * y - 1) * pow(d * y * y + 1, -1, FIELD_PRIME) % FIELD_PRIME
    return pow(x_squared, (FIELD_PRIME - 1) // 2, FIELD_PRIME) in {0, 1}


@given(st.integers(0, FIELD_PRIME - 1).filter(lambda y: not is_on_curve(y)), st.booleans())
def test_a_coordinate_of_no_point_is_refused(y: int, sign: bool) -> None:
    with pytest.raises(KeyRefusedError):
        keys.admit_public_key((y | sign << 255).to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(KeyRefusedError, match=f"got {length} bytes, expected 32"):
        keys.admit_public_key(bytes(length))


@pytest.mark.parametrize("raw", [None, "a" * 32, 5, bytearray(KEY.public_key), [1] * 32])
def test_a_key_that_is_not_bytes_is_refused(raw: Wrong) -> None:
    with pytest.raises(KeyRefusedError):
        keys.admit_public_key(raw)
    with pytest.raises(SignatureError):
        keys.verify(raw, KEY.sign(b"m"), b"m")


def test_a_refused_key_stays_refused_after_many_others_were_seen() -> None:
    identity = bytes([1]) + bytes(31)
    for number in range(1100):
        try:
            keys.admit_public_key(number.to_bytes(32, "big"))
        except KeyRefusedError:
            continue
    with pytest.raises(KeyRefusedError):
        keys.admit_public_key(identity)
    assert keys.admit_public_key(KEY.public_key) == KEY.public_key


# --- signatures -------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_what_a_key_signs_verifies_under_its_public_key(message: bytes) -> None:
    signature = KEY.sign(message)
    assert len(signature) == 64
    keys.verify(KEY.public_key, signature, message)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 511))
def test_one_flipped_bit_makes_a_signature_false(message: bytes, bit: int) -> None:
    signature = KEY.sign(message)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        keys.verify(KEY.public_key, bytes(changed), message)
    with pytest.raises(SignatureError):
        keys.verify(KEY.public_key, signature, message[:-1])


@pytest.mark.parametrize("vector", VECTORS["rfc8032"], ids=lambda vector: vector["source"])
@pytest.mark.parametrize("times", [1, 2, 7])
def test_adding_the_group_order_to_the_scalar_makes_no_second_signature(
    vector: dict[str, str], times: int
) -> None:
    signature = bytes.fromhex(vector["sig"])
    scalar = int.from_bytes(signature[32:], "little") + times * ORDER
    malleated = signature[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(SignatureError):
        keys.verify(bytes.fromhex(vector["key"]), malleated, bytes.fromhex(vector["msg"]))


@pytest.mark.parametrize("length", [0, 32, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    # The binding takes signature and message as one string: bytes must not move between them.
    stretched = (KEY.sign(b"m") + b"m" * 64)[:length]
    with pytest.raises(SignatureError, match=f"got {length} bytes, expected 64"):
        keys.verify(KEY.public_key, stretched, b"m")


@given(
    st.one_of(st.binary(max_size=70), st.none(), st.just(KEY.public_key)),
    st.one_of(st.binary(max_size=70), st.none(), st.text(max_size=3)),
    st.one_of(st.binary(max_size=70), st.none(), st.text(max_size=3)),
)
def test_verify_raises_nothing_but_signature_errors(
    key: Wrong, signature: Wrong, message: Wrong
) -> None:
    with pytest.raises(SignatureError):
        keys.verify(key, signature, message)


# --- private keys -----------------------------------------------------------------------------


def test_no_text_form_of_a_private_key_shows_its_seed() -> None:
    seed = bytes(range(32))
    key = SigningKey.from_seed(seed)
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert KEY.public_key.hex() in text
        assert seed.hex() not in text.replace(KEY.public_key.hex(), "")
        assert repr(seed) not in text


def test_a_private_key_cannot_be_pickled_or_copied() -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError):
            attempt(KEY)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), "s" * 32, None, bytearray(32)])
def test_a_seed_of_another_form_is_refused_without_being_shown(seed: Wrong) -> None:
    with pytest.raises(UsageError) as caught:
        SigningKey.from_seed(seed)
    assert str(caught.value) == "the seed of a signing key must be 32 bytes"


def test_only_bytes_are_signed() -> None:
    with pytest.raises(UsageError):
        KEY.sign("text")  # type: ignore[arg-type]


class FaultySigner:
    """A module that flips one bit now and then, or holds another key than it says."""

    def __init__(self, public_key: PublicKey, flip: int) -> None:
        self.public_key = public_key
        self._flip = flip

    def sign(self, message: bytes) -> bytes:
        signature = bytearray(KEY.sign(message))
        signature[0] ^= self._flip
        return bytes(signature)


def test_a_wrong_signature_of_a_signer_never_leaves() -> None:
    other = SigningKey.from_seed(bytes(32))
    assert keys.sign(FaultySigner(KEY.public_key, 0), b"m") == KEY.sign(b"m")
    for faulty in (FaultySigner(KEY.public_key, 1), FaultySigner(other.public_key, 0)):
        with pytest.raises(UsageError, match="does not verify"):
            keys.sign(faulty, b"m")
