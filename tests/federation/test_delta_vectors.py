"""The committed vectors are what the code makes, and what they say of themselves is true."""

from __future__ import annotations

from hashlib import sha256

import pytest

from federation import merkle, wire
from federation.errors import PeerError
from federation.header import Header, leaf_hash
from federation.keys import SigningKey
from federation.names import Origin
from federation.replica import LogState, Replica, SignedDelta
from federation.trust.charter import verify_charter
from federation.trust.orgroot import PinnedRoot
from tests.federation import gen_vectors
from tests.federation.vectors import Read, read
from tests.federation.worlds import LATER, Entries, slow_state_digest

DOCUMENTS = read("delta/documents.json")
LOG = read("delta/log.json")
INVALID = read("delta/invalid.json")


def root() -> PinnedRoot:
    return wire.open_org_root(bytes.fromhex(DOCUMENTS["org_root"]["envelope"]))


def signed(vector: Read) -> SignedDelta:
    return SignedDelta(*(bytes.fromhex(vector[part]) for part in SignedDelta._fields))


def follow(replica: Replica, entries: Entries, vector: Read) -> None:
    candidate = replica.receive(signed(vector), now_ms=vector.get("now_ms", LATER))
    replica.conclude(candidate, entries.prior(candidate.body))
    entries.apply(candidate.body)


def test_the_committed_files_are_what_the_code_makes() -> None:
    assert gen_vectors.main(["--check"]) == 0


def test_the_keys_are_those_of_the_seeds() -> None:
    for role, seed in DOCUMENTS["seeds"].items():
        key = SigningKey.from_seed(bytes.fromhex(seed)).public_key
        assert key.hex() == DOCUMENTS["public_keys"][role]


def test_the_org_root_is_pinned_with_its_fingerprint() -> None:
    vector = DOCUMENTS["org_root"]
    assert root().hash.hex() == vector["hash"]
    assert sha256(bytes.fromhex(vector["payload"])).hexdigest() == vector["hash"]
    assert root().short_fingerprint == vector["short_fingerprint"]


def test_the_charters_are_taken_in_order_of_version() -> None:
    origin = Origin.parse(LOG["origin"])
    for newest, vector in enumerate(DOCUMENTS["charters"]):
        envelope = wire.decode_envelope(bytes.fromhex(vector["envelope"]))
        charter = verify_charter(
            wire.decode_charter(envelope.payload),
            envelope,
            origin=origin,
            root=root().document,
            newest=newest,
        )
        assert charter.version == vector["version"] == newest + 1
        assert list(charter.audience.orgs) == vector["audience"]
        assert envelope.payload.hex() == vector["payload"]


def test_the_log_is_accepted_and_every_number_in_it_holds() -> None:
    assert len(LOG["deltas"]) == 3
    replica = Replica(Origin.parse(LOG["origin"]), root(), LogState.empty())
    entries = Entries()
    for position, vector in enumerate(LOG["deltas"]):
        follow(replica, entries, vector)
        header, body = Header.parse(bytes.fromhex(vector["header"])), entries.bodies[-1]
        assert header.position == vector["position"] == position
        assert header.time_ms == vector["time_ms"]
        assert leaf_hash(bytes.fromhex(vector["header"])).hex() == vector["leaf_hash"]
        assert replica.state.frontier.root().hex() == vector["log_root"]
        assert [leaf.hex() for leaf in body.leaf_hashes()] == vector["op_leaf_hashes"]
        leaves = [bytes.fromhex(leaf) for leaf in vector["op_leaf_hashes"]]
        assert merkle.root_hash(leaves).hex() == vector["ops_root"] == header.ops_root.hex()
        assert body.salt_seed.hex() == vector["salt_seed"]
        assert len(entries.live()) == vector["live_count"] == header.live_count
        assert slow_state_digest(entries.places()).hex() == vector["state_digest"]
        assert vector["state_digest"] == header.state_digest.hex()
        for (_, operation), described in zip(body.operations(), vector["operations"], strict=True):
            assert str(operation.entry) == described["entry"]
            assert [found.format() for found in operation.fingerprints] == described["fingerprints"]
            assert operation.kind.name.lower() == described["kind"]


@pytest.mark.parametrize("vector", INVALID["refused"], ids=lambda vector: vector["what"])
def test_an_invalid_delta_is_refused_with_its_reason(vector: Read) -> None:
    replica = Replica(Origin.parse(INVALID["origin"]), root(), LogState.empty())
    entries = Entries()
    for accepted in INVALID["accepted"]:
        follow(replica, entries, accepted)
    with pytest.raises(PeerError) as caught:
        follow(replica, entries, vector)
    assert caught.value.reason == vector["reason"]
