"""The vectors in tests/vectors/snapshot, made from this code with fixed keys, seeds and times.

`test_snapshot_vectors.py` checks them. Other implementations read the files alone: docs/spec/ says
what they mean. The org root is that of the vectors of deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from federation import merkle
from federation.body import pack, unpack
from federation.bucket import Bucket, LiveEntry, decode_bucket
from federation.entry import Annotation, Cause, EntryId, Operation
from federation.fingerprint import Fingerprint
from federation.header import Header
from federation.snapshot import SnapshotOffer, build_buckets
from tests.federation import buckets, offers
from tests.federation.delta_vectors import LONGEST, describe, signed
from tests.federation.offers import forge_offer, grown
from tests.federation.vectors import Json
from tests.federation.worlds import (
    LATER,
    Published,
    Publisher,
    assertion,
    fingerprint,
    name_of_entry,
)

RECIPES: Final = (
    ("at most 8,192 entries", 8_200, 0),
    ("at most a weight of 786,432", 2_000, 700),
)
"""What a live set is made for, of how many entries, with a reason of how many bytes."""


def files() -> dict[str, Json]:
    """Return what each file says."""
    return {"log.json": log(), "cut.json": cut(), "invalid.json": invalid()}


def log() -> Json:
    """Describe a log with three snapshots, of nothing, amid deltas, and at the end."""
    publisher = Publisher()
    several = Operation.assertion(
        (fingerprint(4), fingerprint(4, "md5"), fingerprint(5, "md5"), fingerprint(4, "acme-2031")),
        Annotation(labels=("A1", "B2"), reason="séen twice", vocabulary="industry"),
        EntryId.parse("case 4"),
    )
    publisher.publish_snapshot()
    publisher.publish(assertion(1), assertion(2, fingerprint(2, "md5")), assertion(3), several)
    publisher.publish(
        assertion(2, labels=()),
        Operation.retraction(EntryId.of(fingerprint(1)), Cause.FALSE_POSITIVE, "a flag"),
    )
    publisher.publish_snapshot()
    # Who joined by the snapshot does not know entry 1, and is to let this purge pass.
    publisher.publish(assertion(6), Operation.purge(EntryId.of(fingerprint(1))))
    publisher.publish_snapshot()
    return {
        "origin": str(publisher.origin),
        "leaves": [signed(leaf) for leaf in publisher.log],
        "snapshots": [_snapshot(publisher, published) for published in publisher.snapshots],
    }


def cut() -> Json:
    """Describe live sets by a recipe, and the buckets that they are cut into."""
    return {
        "recipe": (
            "Entry i of `entries` is named by its one fingerprint, the SHA-256 of i in decimal. "
            "Its label is A1, its vocabulary industry, its reason `reason_bytes` times the letter "
            "r. Its place is position i / 1,000, rounded down, and row i modulo 1,000."
        ),
        "live_sets": [_cut(*recipe) for recipe in RECIPES],
    }


def by_recipe(entries: int, reason_bytes: int) -> list[LiveEntry]:
    """Return the live set of a recipe by ascending name."""
    said = Annotation(labels=("A1",), vocabulary="industry", reason="r" * reason_bytes)
    live = []
    for number in range(entries):
        named = Fingerprint.from_digest("sha256", sha256(b"%d" % number).digest())
        operation = Operation.assertion((named,), said)
        live.append(LiveEntry(pack(operation), *divmod(number, 1_000)))
    return sorted(live, key=name_of_entry)


def invalid() -> Json:
    """Describe what must be refused: offers, single buckets, and buckets that do not fit."""
    base, _ = grown()
    ahead, _ = grown()
    ahead.publish(assertion("more"))
    return {
        "origin": str(base.origin),
        "log": [signed(leaf) for leaf in ahead.log],
        "offers": [
            {
                "what": name,
                "reason": case.reason.value,
                "held": case.held,
                "now_ms": case.now_ms,
                **_offer(offer),
            }
            for name, case in offers.CASES.items()
            if _longest(offer := case.make(grown()[0])) <= LONGEST
        ],
        "buckets": [
            {
                "what": name,
                "reason": bucket.reason.value,
                "position": buckets.SNAPSHOT_AT,
                "bytes": data.hex(),
            }
            for name, bucket in buckets.CASES.items()
            if len(data := bucket.make()) <= LONGEST
        ],
        "transfers": [_transfer(name, base) for name in offers.TRANSFERS],
    }


def _snapshot(publisher: Publisher, published: Published) -> Json:
    header = Header.parse(published.leaf.header)
    return {
        "position": header.position,
        **_offer(published.offer),
        "consistency_from": [
            [node.hex() for node in publisher.prove_growth(held, header.position + 1)]
            for held in range(header.position + 1)
        ],
        "buckets": [_bucket(decode_bucket(data), data) for data in published.buckets],
        "root": header.ops_root.hex(),
        "live_count": header.live_count,
        "state_digest": header.state_digest.hex(),
    }


def _bucket(bucket: Bucket, data: bytes) -> Json:
    extent = bucket.extent()
    return {
        "bytes": data.hex(),
        "leaf_hash": merkle.leaf_hash(data).hex(),
        "least": extent.least.hex(),
        "greatest": extent.greatest.hex(),
        "entries": [
            {**describe(unpack(packed)), "position": position, "row": row}
            for packed, position, row in sorted(bucket.entries(), key=name_of_entry)
        ],
    }


def _offer(offer: SnapshotOffer) -> dict[str, Json]:
    parts: dict[str, Json] = {
        part: getattr(offer, part).hex()
        for part in ("header", "checkpoint", "frontier", "bucket_hashes")
    }
    return {**parts, "consistency": [node.hex() for node in offer.consistency]}


def _longest(offer: SnapshotOffer) -> int:
    return max(map(len, (offer.header, offer.checkpoint, offer.frontier, offer.bucket_hashes)))


def _cut(what: str, entries: int, reason_bytes: int) -> Json:
    cuts = list(build_buckets(by_recipe(entries, reason_bytes)))
    hashes = [merkle.leaf_hash(data) for _, data in cuts]
    return {
        "what": what,
        "entries": entries,
        "reason_bytes": reason_bytes,
        "sizes": [len(some) for some, _ in cuts],
        "bytes": [len(data) for _, data in cuts],
        "leaf_hashes": [node.hex() for node in hashes],
        "root": merkle.root_hash(hashes).hex(),
    }


def _transfer(name: str, publisher: Publisher) -> Json:
    case = offers.TRANSFERS[name]
    forgery = case.forge(publisher.entries.by_name())
    made: Sequence[bytes] = forgery.buckets or ()
    offer = forge_offer(publisher, forgery)
    return {
        "what": name,
        "reason": case.reason.value,
        "held": offers.HELD,
        "now_ms": LATER,
        **_offer(offer),
        "buckets": [data.hex() for data in made],
    }
