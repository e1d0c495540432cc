"""The vectors in tests/vectors/delta, made from this code with fixed keys, seeds and times.

`test_delta_vectors.py` checks them. Other implementations read the files alone: docs/spec/ says
what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from federation import header, merkle, wire
from federation.entry import Annotation, Cause, EntryId, Operation
from federation.header import Header
from federation.replica import LogState, SignedDelta
from federation.trust.orgroot import Role
from tests.federation.forgeries import CASES, started
from tests.federation.vectors import Json
from tests.federation.worlds import (
    Publisher,
    assertion,
    fingerprint,
    key_seed,
    make_charter,
    role_key,
    seal_charter,
)

LONGEST: Final = 4096
"""Bytes of the longest part of an invalid delta that is written down."""


def files() -> dict[str, Json]:
    """Return what each file says."""
    return {"documents.json": documents(), "log.json": log(), "invalid.json": invalid()}


def documents() -> Json:
    """Describe an org root and two charters, with the keys that signed them."""
    publisher = Publisher()
    origin = publisher.origin
    charters = (
        make_charter(origin),
        make_charter(origin, orgs=["platform.example", "unit.example"], version=2),
    )
    return {
        "seeds": {role.name.lower(): _seed(origin.org, role) for role in Role},
        "public_keys": {
            role.name.lower(): role_key(origin.org, role).public_key.hex() for role in Role
        },
        "org_root": {
            "payload": publisher.root.envelope.payload.hex(),
            "envelope": wire.encode_envelope(publisher.root.envelope).hex(),
            "hash": publisher.root.hash.hex(),
            "short_fingerprint": publisher.root.short_fingerprint,
        },
        "charters": [
            {
                "version": charter.version,
                "audience": list(charter.audience.orgs),
                "payload": wire.encode_charter(charter).hex(),
                "envelope": wire.encode_envelope(seal_charter(charter)).hex(),
            }
            for charter in charters
        ],
    }


def log() -> Json:
    """Describe a log of three deltas that use every kind of operation."""
    publisher = Publisher()
    several = Operation.assertion(
        (fingerprint(4), fingerprint(4, "md5"), fingerprint(5, "md5"), fingerprint(4, "acme-2031")),
        Annotation(labels=("A1", "B2"), reason="séen twice", vocabulary="industry"),
        EntryId.parse("case 4"),
    )
    publisher.publish(assertion(1), assertion(2, fingerprint(2, "md5")), assertion(3), several)
    publisher.publish(
        assertion(2, labels=()),
        Operation.retraction(EntryId.of(fingerprint(1)), Cause.FALSE_POSITIVE, "a flag"),
    )
    publisher.publish(
        Operation.purge(EntryId.of(fingerprint(1))), Operation.purge(EntryId.parse("case 4"))
    )
    return {
        "origin": str(publisher.origin),
        "origin_hash": publisher.origin.hash.hex(),
        "deltas": _deltas(publisher.log),
    }


def invalid() -> Json:
    """Describe deltas that must be refused, each after the same two that must be accepted."""
    base, _ = started()
    return {
        "origin": str(base.origin),
        "accepted": [signed(delta) for delta in base.log],
        "refused": [
            {"what": name, "reason": case.reason.value, "now_ms": case.now_ms, **signed(delta)}
            for name, case in CASES.items()
            if max(map(len, delta := case.make(started()[0]))) <= LONGEST
        ],
    }


def _seed(org: str, role: Role) -> str:
    return key_seed(f"{org} {role.name}").hex()


def signed(delta: SignedDelta) -> dict[str, Json]:
    """Describe the exact bytes of a leaf."""
    return {part: data.hex() for part, data in delta._asdict().items()}


def _deltas(deltas: Sequence[SignedDelta]) -> list[Json]:
    described: list[Json] = []
    state = LogState.empty()
    for delta in deltas:
        parsed, body = Header.parse(delta.header), wire.decode_body(delta.body)
        state = state.after(parsed, delta.header)
        leaves = body.leaf_hashes()
        described.append(
            {
                "position": parsed.position,
                "time_ms": parsed.time_ms,
                **signed(delta),
                "leaf_hash": header.leaf_hash(delta.header).hex(),
                "log_root": state.frontier.root().hex(),
                "salt_seed": body.salt_seed.hex(),
                "operations": [describe(operation) for _, operation in body.operations()],
                "op_leaf_hashes": [leaf.hex() for leaf in leaves],
                "ops_root": merkle.root_hash(leaves).hex(),
                "live_count": parsed.live_count,
                "state_digest": parsed.state_digest.hex(),
            }
        )
    return described


def describe(operation: Operation) -> dict[str, Json]:
    """Describe one operation."""
    return {
        "kind": operation.kind.name.lower(),
        "entry": str(operation.entry),
        "fingerprints": [found.format() for found in operation.fingerprints],
        "labels": list(operation.annotation.labels),
        "reason": operation.annotation.reason,
        "vocabulary": operation.annotation.vocabulary,
        "cause": operation.annotation.cause.word,
    }
