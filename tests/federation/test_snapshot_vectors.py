"""The committed vectors of snapshots say what is true, read as another implementation would."""

from __future__ import annotations

from hashlib import sha256

import pytest

from federation import merkle, state, wire
from federation.bucket import decode_bucket, encode_bucket
from federation.entry import Annotation, EntryId, Operation
from federation.errors import PeerError
from federation.fingerprint import Fingerprint
from federation.names import Origin
from federation.replica import LogState, Replica, SignedDelta
from federation.snapshot import Snapshot, SnapshotOffer
from tests.federation.buckets import Placed, raw_bucket, weight
from tests.federation.vectors import Read, read
from tests.federation.worlds import LATER, Entries

DOCUMENTS = read("delta/documents.json")
LOG = read("snapshot/log.json")
CUT = read("snapshot/cut.json")
INVALID = read("snapshot/invalid.json")


def follower() -> tuple[Replica, Entries]:
    root = wire.open_org_root(bytes.fromhex(DOCUMENTS["org_root"]["envelope"]))
    return Replica(Origin.parse(LOG["origin"]), root, LogState.empty()), Entries()


def follow(replica: Replica, entries: Entries, leaf: Read) -> None:
    signed = SignedDelta(*(bytes.fromhex(leaf[part]) for part in SignedDelta._fields))
    candidate = replica.receive(signed, now_ms=LATER)
    replica.conclude(candidate, entries.prior(candidate.body))
    entries.apply(candidate.body)


def offer_of(vector: Read, consistency: list[str]) -> SnapshotOffer:
    header, checkpoint, frontier, hashes = (
        bytes.fromhex(vector[part])
        for part in ("header", "checkpoint", "frontier", "bucket_hashes")
    )
    return SnapshotOffer(
        header, checkpoint, frontier, hashes, tuple(map(bytes.fromhex, consistency))
    )


def adopt(replica: Replica, entries: Entries, snapshot: Snapshot, buckets: list[str]) -> None:
    opened = [
        snapshot.open_bucket(number, bytes.fromhex(data)) for number, data in enumerate(buckets)
    ]
    replica.adopt(snapshot, [bucket.extent() for bucket in opened])
    entries.replace((entry for bucket in opened for entry in bucket.entries()), snapshot.position)


def placed(described: Read) -> Placed:
    """Read an entry as it is described."""
    fingerprints = tuple(
        Fingerprint.parse_tagged(text, allow_unknown=True) for text in described["fingerprints"]
    )
    said = Annotation(
        labels=tuple(described["labels"]),
        reason=described["reason"],
        vocabulary=described["vocabulary"],
    )
    operation = Operation.assertion(fingerprints, said, EntryId.parse(described["entry"]))
    return Placed(operation, described["position"], described["row"])


def test_the_log_has_snapshots_of_nothing_amid_deltas_and_at_its_end() -> None:
    assert [vector["position"] for vector in LOG["snapshots"]] == [0, 3, 5]
    assert len(LOG["leaves"]) == 6
    assert [len(vector["buckets"]) for vector in LOG["snapshots"]] == [0, 1, 1]


@pytest.mark.parametrize("vector", LOG["snapshots"], ids=lambda vector: vector["position"])
def test_every_bucket_is_what_the_described_entries_are_written_as(vector: Read) -> None:
    hashes = []
    for bucket in vector["buckets"]:
        data = raw_bucket([placed(entry) for entry in bucket["entries"]]).encode()
        assert data.hex() == bucket["bytes"]
        hashes.append(sha256(b"\0" + data).digest())
        assert hashes[-1].hex() == bucket["leaf_hash"]
        extent = decode_bucket(data).extent()
        assert extent.size == len(bucket["entries"])
        assert (extent.least.hex(), extent.greatest.hex()) == (bucket["least"], bucket["greatest"])
    assert b"".join(hashes).hex() == vector["bucket_hashes"]
    assert merkle.root_hash(hashes).hex() == vector["root"]


@pytest.mark.parametrize("vector", LOG["snapshots"], ids=lambda vector: vector["position"])
def test_who_joins_at_any_size_ends_where_who_replays_does(vector: Read) -> None:
    replayed, all_entries = follower()
    for leaf in LOG["leaves"]:
        follow(replayed, all_entries, leaf)
    position = vector["position"]
    for held, proof in enumerate(vector["consistency_from"]):
        replica, entries = follower()
        for leaf in LOG["leaves"][:held]:
            follow(replica, entries, leaf)
        snapshot = replica.receive_snapshot(offer_of(vector, proof), now_ms=LATER)
        adopt(replica, entries, snapshot, [bucket["bytes"] for bucket in vector["buckets"]])
        total = state.EMPTY
        for bucket in vector["buckets"]:
            total = state.add_bucket(total, decode_bucket(bytes.fromhex(bucket["bytes"])))
        assert total.hex() == vector["state_digest"] == replica.state.state_digest.hex()
        assert replica.state.live_count == vector["live_count"] == len(entries.live())
        for leaf in LOG["leaves"][position + 1 :]:
            follow(replica, entries, leaf)
        assert entries.live() == all_entries.live()
        assert entries.places() == all_entries.places()
        assert replica.state.frontier == replayed.state.frontier


@pytest.mark.parametrize("vector", CUT["live_sets"], ids=lambda vector: vector["what"])
def test_a_live_set_made_by_the_recipe_is_cut_as_described(vector: Read) -> None:
    said = Annotation(labels=("A1",), vocabulary="industry", reason="r" * vector["reason_bytes"])
    entries = []
    for number in range(vector["entries"]):
        named = Fingerprint("sha256", sha256(str(number).encode()).digest())
        entries.append(Placed(Operation.assertion((named,), said), number // 1_000, number % 1_000))
    entries.sort(key=lambda entry: entry.operation.entry.key)
    sizes = vector["sizes"]
    assert sum(sizes) == len(entries)
    hashes = []
    for number, size in enumerate(sizes):
        some, rest = entries[:size], entries[size:]
        data = raw_bucket(some).encode()
        assert len(data) == vector["bytes"][number]
        hashes.append(sha256(b"\0" + data).digest())
        assert weight(some) <= 786_432
        assert not rest or size == 8_192 or weight([*some, rest[0]]) > 786_432
        entries = rest
    assert [node.hex() for node in hashes] == vector["leaf_hashes"]
    assert merkle.root_hash(hashes).hex() == vector["root"]


def holding(held: int) -> tuple[Replica, Entries]:
    replica, entries = follower()
    for leaf in INVALID["log"][:held]:
        follow(replica, entries, leaf)
    return replica, entries


@pytest.mark.parametrize("vector", INVALID["offers"], ids=lambda vector: vector["what"])
def test_an_invalid_offer_is_refused_with_its_reason(vector: Read) -> None:
    replica, _ = holding(vector["held"])
    with pytest.raises(PeerError) as caught:
        replica.receive_snapshot(offer_of(vector, vector["consistency"]), now_ms=vector["now_ms"])
    assert caught.value.reason == vector["reason"]


@pytest.mark.parametrize("vector", INVALID["buckets"], ids=lambda vector: vector["what"])
def test_an_invalid_bucket_is_refused_with_its_reason(vector: Read) -> None:
    with pytest.raises(PeerError) as caught:
        decode_bucket(bytes.fromhex(vector["bytes"])).check(vector["position"])
    assert caught.value.reason == vector["reason"]


@pytest.mark.parametrize("vector", INVALID["transfers"], ids=lambda vector: vector["what"])
def test_buckets_that_do_not_fit_are_refused_with_their_reason(vector: Read) -> None:
    replica, entries = holding(vector["held"])
    offer = offer_of(vector, vector["consistency"])
    snapshot = replica.receive_snapshot(offer, now_ms=vector["now_ms"])
    with pytest.raises(PeerError) as caught:
        adopt(replica, entries, snapshot, vector["buckets"])
    assert caught.value.reason == vector["reason"]


def test_an_accepted_bucket_encodes_to_itself() -> None:
    for vector in LOG["snapshots"]:
        for bucket in vector["buckets"]:
            data = bytes.fromhex(bucket["bytes"])
            assert encode_bucket(list(decode_bucket(data).entries())) == data
