"""Bodies: columns and operations say the same, and the ops tree is that of docs/spec/delta.md."""

from __future__ import annotations

from hashlib import sha256, shake_256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import limits, merkle, wire
from federation.body import Body, PackedOp, Shape, build_body, code_width, cut, pack, unpack
from federation.entry import Annotation, Cause, EntryId, Operation, OpKind
from federation.errors import LimitError, OperationError, ProofError, Reason, UsageError
from federation.fingerprint import Fingerprint
from tests.federation.worlds import assertion, digest, fingerprint, salt_seed

SEED = salt_seed(0)
PUBLISHED = {"sha256": 32, "sha1": 20, "md5": 16, "pdq": 32, "vpdq": 74, "acme-2031": 5}

fingerprints = st.builds(
    lambda type_name, number: fingerprint(number, type_name, PUBLISHED[type_name]),
    st.sampled_from(sorted(PUBLISHED)),
    st.integers(0, 30),
)
own_ids = st.from_regex(r"case [0-9é]{1,3}", fullmatch=True).map(EntryId.parse)
label_sets = st.sets(st.sampled_from(["A1", "A2", "B1", "ü"]), max_size=3)
assertions = st.builds(
    lambda found, own_id, labels: Operation.assertion(
        tuple(found), Annotation(labels=tuple(sorted(labels))), own_id
    ),
    st.sets(fingerprints, min_size=1, max_size=6),
    st.none() | own_ids,
    label_sets,
)
names = fingerprints.map(EntryId.of) | own_ids
retractions = st.builds(
    Operation.retraction, names, st.sampled_from(list(Cause)[1:]), st.sampled_from(["", "why"])
)
purges = st.builds(Operation.purge, names)
operations = assertions | retractions | purges
batches = st.lists(operations, min_size=1, max_size=20, unique_by=lambda op: op.entry)


def build(*given_operations: Operation, seed: bytes = SEED) -> Body:
    return build_body(map(pack, given_operations), seed)


# --- one meaning, one form --------------------------------------------------------------------


@given(operations)
def test_an_operation_is_packed_and_unpacked_the_same(operation: Operation) -> None:
    assert unpack(pack(operation)) == operation


@given(batches)
def test_a_body_holds_the_operations_it_was_built_from(batch: list[Operation]) -> None:
    body = build(*batch)
    rows = dict(body.operations())
    assert list(rows) == list(range(len(batch)))
    assert {op.entry: op for op in rows.values()} == {op.entry: op for op in batch}
    assert all(body.operation(row) == operation for row, operation in rows.items())


@given(batches)
def test_a_body_is_decoded_as_it_was_encoded(batch: list[Operation]) -> None:
    body = build(*batch)
    data = wire.encode_body(body)
    decoded = wire.decode_body(data)
    decoded.check()
    assert list(decoded.operations()) == list(body.operations())
    assert decoded.salt_seed == body.salt_seed
    assert decoded.ops_root() == body.ops_root()
    assert wire.encode_body(decoded) == data


@given(batches.flatmap(lambda batch: st.tuples(st.just(batch), st.permutations(batch))))
def test_the_order_of_operations_changes_no_byte(
    orders: tuple[list[Operation], list[Operation]],
) -> None:
    one, other = orders
    assert wire.encode_body(build(*one)) == wire.encode_body(build(*other))


@pytest.mark.parametrize("width", [1, 32, 300])
@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
def test_a_column_is_cut_into_its_values(width: int, count: int) -> None:
    values = [digest(number, "sha256", width) for number in range(count)]
    assert cut(b"".join(values), width) == values


def test_another_seed_gives_another_body_and_ops_root() -> None:
    one, other = build(assertion(1)), build(assertion(1), seed=salt_seed(1))
    assert wire.encode_body(one) != wire.encode_body(other)
    assert one.ops_root() != other.ops_root()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(UsageError):
        build(assertion(1), seed=bytes(size))


def test_there_is_no_row_beyond_the_last() -> None:
    body = build(assertion(1), assertion(2, fingerprint(1, "md5")))
    for row in (-1, 2):
        with pytest.raises(UsageError):
            body.operation(row)


# --- the ops tree -----------------------------------------------------------------------------


def slow_text(text: str, length_bytes: int) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(length_bytes, "big") + raw


def slow_canonical(operation: Operation) -> bytes:
    """Write an operation's canonical bytes as docs/spec/delta.md says, one field after another."""
    entry, annotation = operation.entry, operation.annotation
    further = sorted(
        (found.type, len(found.digest), found.digest)
        for found in operation.fingerprints
        if (found.type, found.digest) != (entry.type, entry.key)
    )
    out = b"hashfed/op/v1\x00"
    out += bytes([{"ASSERT": 1, "RETRACT": 2, "PURGE": 3}[operation.kind.name]])
    out += slow_text(entry.type, 1)
    out += bytes([len(further)])
    out += len(entry.key).to_bytes(4, "big") + entry.key
    for type_name, width, value in further:
        out += slow_text(type_name, 1) + width.to_bytes(4, "big") + value
    causes = {"NONE": 0, "WITHDRAWN": 1, "FALSE_POSITIVE": 2, "SUPERSEDED": 3}
    out += bytes([causes[annotation.cause.name], len(annotation.labels)])
    for label in annotation.labels:
        out += slow_text(label, 1)
    return out + slow_text(annotation.reason, 2) + slow_text(annotation.vocabulary, 1)


def slow_leaf(seed: bytes, row: int, operation: Operation) -> bytes:
    salts = shake_256(b"hashfed/op-salts/v1\x00" + seed).digest(16 * (row + 1))
    return sha256(b"\x00" + salts[16 * row :] + slow_canonical(operation)).digest()


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = slow_root(leaves[:split]), slow_root(leaves[split:])
    return sha256(b"\x01" + left + right).digest()


@given(batches)
def test_leaves_and_root_are_those_of_the_specification(batch: list[Operation]) -> None:
    body = build(*batch)
    expected = [slow_leaf(SEED, row, operation) for row, operation in body.operations()]
    assert body.leaf_hashes() == expected
    assert body.ops_root() == slow_root(expected)


@given(batches, st.data())
def test_one_operation_is_proved_alone(batch: list[Operation], data: st.DataObject) -> None:
    body = build(*batch)
    leaves, root = body.leaf_hashes(), body.ops_root()
    row = data.draw(st.integers(0, body.count - 1))
    proof = merkle.inclusion_proof(leaves, row)
    leaf = slow_leaf(SEED, row, body.operation(row))
    merkle.verify_inclusion(leaf, row, body.count, proof, root)
    other = slow_leaf(SEED, row, assertion("not in there"))
    with pytest.raises(ProofError):
        merkle.verify_inclusion(other, row, body.count, proof, root)


@given(operations, operations)
def test_no_two_operations_have_the_same_canonical_bytes(one: Operation, other: Operation) -> None:
    assert (slow_canonical(one) == slow_canonical(other)) is (one == other)


def test_every_row_has_a_salt_of_its_own() -> None:
    salts = build(*(assertion(number) for number in range(50)))._salts()
    assert len(set(salts)) == 50
    assert {len(salt) for salt in salts} == {16}


# --- rules and limits -------------------------------------------------------------------------


def test_an_entry_is_named_once() -> None:
    with pytest.raises(OperationError) as caught:
        build(assertion(1), assertion(1, fingerprint(1, "md5")))
    assert caught.value.reason is Reason.OP_ORDER
    with pytest.raises(OperationError) as caught:
        build(assertion(1), Operation.purge(assertion(1).entry))
    assert caught.value.reason is Reason.OP_ORDER


def test_one_digest_may_name_entries_of_two_types() -> None:
    same = digest(1, "pdq")
    entries = [EntryId(name, same) for name in ("pdq", "sha256", "acme-2031")]
    body = build(*(Operation.purge(entry) for entry in entries))
    assert {op.entry for _, op in body.operations()} == set(entries)


def test_a_body_has_at_least_one_operation() -> None:
    with pytest.raises(LimitError):
        build()


def test_a_body_ends_at_its_limit_of_operations() -> None:
    shape = Shape(OpKind.PURGE, named=True, id_width=0, columns=(("acme-2031", 4),))
    rows = [
        PackedOp(shape, row.to_bytes(4, "big"), Annotation())
        for row in range(limits.MAX_BODY_OPS + 1)
    ]
    assert build_body(rows[:-1], SEED).count == limits.MAX_BODY_OPS
    with pytest.raises(LimitError):
        build_body(rows, SEED)


@pytest.mark.parametrize(("annotations", "width"), [(1, 1), (256, 1), (257, 2), (10_000, 2)])
def test_annotation_codes_are_as_wide_as_needed(annotations: int, width: int) -> None:
    assert code_width(annotations) == width


@pytest.mark.parametrize("count", [256, 257])
def test_operations_keep_their_annotations_on_both_sides_of_one_byte(count: int) -> None:
    batch = [assertion(number, labels=(f"label {number}",)) for number in range(count)]
    decoded = wire.decode_body(wire.encode_body(build(*batch)))
    decoded.check()
    assert {op.entry: op for _, op in decoded.operations()} == {op.entry: op for op in batch}
    if count == 257:
        assert wire.encode_body(decoded).count(b"\x01\x00") >= 1


def test_digests_of_one_type_and_several_widths_stand_in_one_entry() -> None:
    found = (fingerprint(1, "vpdq", 74), fingerprint(2, "vpdq", 37), fingerprint(3, "vpdq", 37))
    operation = Operation.assertion(found, Annotation())
    body = wire.decode_body(wire.encode_body(build(operation)))
    body.check()
    assert body.operation(0) == operation


def test_an_unknown_type_of_any_width_stands_in_a_body_as_it_is() -> None:
    zeroes = Fingerprint("acme-2031", bytes(9))
    operation = Operation.assertion((zeroes,), Annotation())
    body = wire.decode_body(wire.encode_body(build(operation)))
    body.check()
    assert body.operation(0).fingerprints == (zeroes,)
