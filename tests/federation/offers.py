"""Snapshots that must be refused, each with its reason, made by a publisher that signs them.

They are offered to a subscriber that holds the first two of five deltas, unless a case says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from federation import limits, merkle
from federation.bucket import LiveEntry, encode_bucket
from federation.entry import Cause, EntryId, Operation
from federation.errors import Reason
from federation.header import LeafKind
from federation.names import Origin
from federation.snapshot import SnapshotOffer
from tests.federation import buckets
from tests.federation.forgeries import started
from tests.federation.worlds import (
    LATER,
    T0,
    Forgery,
    HeaderFields,
    Publisher,
    Subscriber,
    assertion,
    fingerprint,
    signing_key,
)

HELD: Final = 2
SIZE: Final = 5


@dataclass(frozen=True, kw_only=True)
class OfferForgery:
    """What is changed about the offer of a snapshot. `None` where nothing is.

    Attributes:
        leaf: what its publisher signs.
        buckets: the buckets that are signed; those of the live set, two entries in each, if None.
        header, frontier, bucket_hashes, consistency: what is sent in place of what is right.
    """

    leaf: Forgery = field(default_factory=Forgery)
    buckets: tuple[bytes, ...] | None = None
    header: bytes | None = None
    frontier: bytes | None = None
    bucket_hashes: bytes | None = None
    consistency: tuple[bytes, ...] | None = None


def grown() -> tuple[Publisher, Subscriber]:
    """A publisher of five deltas, and a subscriber that holds the first two."""
    publisher, subscriber = started()
    publisher.publish(assertion(4, fingerprint(4, "md5")), assertion(5, entry="case 5"))
    publisher.publish(Operation.retraction(EntryId.of(fingerprint(2)), Cause.WITHDRAWN))
    publisher.publish(assertion(6), assertion(7, labels=()))
    return publisher, subscriber


def live_buckets(publisher: Publisher) -> tuple[bytes, ...]:
    """Encode the live set, two entries to a bucket: a cut that no rule demands, but that fits."""
    live = publisher.entries.by_name()
    return tuple(encode_bucket(live[at : at + 2]) for at in range(0, len(live), 2))


def forge_offer(
    publisher: Publisher, forgery: OfferForgery | None = None, *, held: int = HELD
) -> SnapshotOffer:
    """Sign a snapshot as the next leaf, whatever it says, and offer it to who holds so much."""
    forgery = forgery or OfferForgery()
    signed = live_buckets(publisher) if forgery.buckets is None else forgery.buckets
    hashes = [merkle.leaf_hash(data) for data in signed]
    claims = HeaderFields(
        kind=LeafKind.SNAPSHOT,
        op_count=len(hashes),
        ops_root=merkle.root_hash(hashes),
        live_count=publisher.state.live_count,
    )
    claims.update(forgery.leaf.fields)
    body = b"" if forgery.leaf.body is None else forgery.leaf.body
    leaf = publisher.forge(replace(forgery.leaf, body=body, fields=claims))
    publisher.log.append(leaf)
    size = publisher.state.size + 1
    proof = publisher.prove_growth(held, size) if held <= size else ()
    publisher.log.pop()
    return SnapshotOffer(
        header=leaf.header if forgery.header is None else forgery.header,
        checkpoint=leaf.checkpoint,
        frontier=_sent(forgery.frontier, publisher.state.frontier.encode()),
        bucket_hashes=_sent(forgery.bucket_hashes, b"".join(hashes)),
        consistency=proof if forgery.consistency is None else forgery.consistency,
    )


def _sent(forged: bytes | None, right: bytes) -> bytes:
    return right if forged is None else forged


@dataclass(frozen=True)
class Case:
    """A snapshot to refuse: how it is made, with which reason, and to whom it is offered."""

    reason: Reason
    make: Callable[[Publisher], SnapshotOffer]
    held: int = HELD
    now_ms: int = LATER


def signed(*, held: int = HELD, **changes: object) -> Callable[[Publisher], SnapshotOffer]:
    """Sign a leaf in which something was changed."""
    forgery = OfferForgery(leaf=replace(Forgery(), **changes))  # type: ignore[arg-type]  # names
    return lambda publisher: forge_offer(publisher, forgery, held=held)


def claiming(*, held: int = HELD, **fields: object) -> Callable[[Publisher], SnapshotOffer]:
    """Sign a leaf with other fields."""
    return signed(held=held, fields=fields)


def sent(edit: Callable[[SnapshotOffer], SnapshotOffer]) -> Callable[[Publisher], SnapshotOffer]:
    """Change an honest offer on its way."""
    return lambda publisher: edit(forge_offer(publisher))


def timed(step_ms: int) -> Callable[[Publisher], SnapshotOffer]:
    return claiming(time_ms=T0 + step_ms)


def of_a_twin(publisher: Publisher) -> SnapshotOffer:
    """Sign a snapshot of another history of the same list, and prove it for that one."""
    twin = Publisher(str(publisher.origin))
    for number in range(SIZE):
        twin.publish(assertion(f"another {number}"))
    return forge_offer(twin)


def flip(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


CASES: Final[dict[str, Case]] = {
    "header one byte short": Case(
        Reason.HEADER_MALFORMED, sent(lambda o: o._replace(header=o.header[:-1]))
    ),
    "snapshot with a body": Case(Reason.HEADER_MALFORMED, signed(body=b"x")),
    "too many buckets": Case(
        Reason.HEADER_MALFORMED, claiming(op_count=limits.MAX_SNAPSHOT_BUCKETS + 1)
    ),
    "later version": Case(Reason.FORMAT_UNSUPPORTED, signed(raw={0: 2})),
    "position of another list's row": Case(
        Reason.HEADER_MALFORMED, claiming(position=2 << 32 | 1, change_set=2 << 32 | 1)
    ),
    "header of a delta": Case(
        Reason.SNAPSHOT_MISMATCH,
        lambda p: forge_offer(p)._replace(header=p.log[-1].header),
    ),
    "checkpoint too large": Case(
        Reason.LIMIT_EXCEEDED, signed(checkpoint=b"x" * (limits.MAX_NOTE_BYTES + 1))
    ),
    "another list": Case(
        Reason.ORIGIN_MISMATCH, claiming(origin_hash=Origin.parse("hotline.example/x").hash)
    ),
    "another org root": Case(Reason.ROOT_MISMATCH, claiming(root_version=2)),
    "a stranger's key": Case(Reason.KEY_UNAUTHORISED, signed(publisher=signing_key("stranger"))),
    "a stranger in the publisher's name": Case(
        Reason.SIGNATURE_INVALID, signed(publisher=signing_key("stranger"), keep_key_id=True)
    ),
    "behind what is held": Case(Reason.POSITION_REPEATED, forge_offer, held=SIZE + 1),
    "next, but successor of another leaf": Case(
        Reason.PREVIOUS_MISMATCH, claiming(held=SIZE, previous=b"\x01" * 32), held=SIZE
    ),
    "next, but of another state": Case(
        Reason.STATE_DIGEST_MISMATCH, claiming(held=SIZE, state_digest=bytes(32)), held=SIZE
    ),
    "next, but of more than is live": Case(
        Reason.LIVE_COUNT_MISMATCH, claiming(held=SIZE, live_count=7), held=SIZE
    ),
    "earlier than what is held": Case(Reason.TIME_BACKWARDS, timed(0)),
    "later than our clock and the skew": Case(
        Reason.TIME_IN_FUTURE, timed(limits.MAX_CLOCK_SKEW_MS + 10_001), now_ms=T0 + 10_000
    ),
    "one position ahead": Case(
        Reason.CHECKPOINT_MISMATCH, claiming(position=SIZE + 1, change_set=SIZE + 1)
    ),
    "position that needs another frontier": Case(
        Reason.MALFORMED, claiming(position=SIZE + 2, change_set=SIZE + 2)
    ),
    "frontier one hash short": Case(
        Reason.MALFORMED, sent(lambda o: o._replace(frontier=o.frontier[:-32]))
    ),
    "frontier one hash long": Case(
        Reason.MALFORMED, sent(lambda o: o._replace(frontier=o.frontier + bytes(32)))
    ),
    "frontier one byte short": Case(
        Reason.MALFORMED, sent(lambda o: o._replace(frontier=o.frontier[:-1]))
    ),
    "frontier in another order": Case(
        Reason.CHECKPOINT_MISMATCH,
        sent(lambda o: o._replace(frontier=o.frontier[32:] + o.frontier[:32])),
    ),
    "checkpoint empty": Case(Reason.CHECKPOINT_MALFORMED, signed(checkpoint=b"")),
    "checkpoint by a stranger": Case(
        Reason.CHECKPOINT_SIGNATURE_INVALID, signed(log=signing_key("stranger"))
    ),
    "checkpoint of another list": Case(
        Reason.CHECKPOINT_SIGNATURE_INVALID,
        signed(checkpoint_origin=Origin.parse("hotline.example/other")),
    ),
    "checkpoint before the snapshot": Case(
        Reason.CHECKPOINT_MISMATCH,
        lambda p: forge_offer(p)._replace(checkpoint=p.log[-1].checkpoint),
    ),
    "checkpoint of another root": Case(
        Reason.CHECKPOINT_MISMATCH, signed(checkpoint_root=b"\x07" * 32)
    ),
    "without a proof": Case(Reason.PROOF_INVALID, sent(lambda o: o._replace(consistency=()))),
    "with a false proof": Case(
        Reason.PROOF_INVALID,
        sent(lambda o: o._replace(consistency=(flip(o.consistency[0]), *o.consistency[1:]))),
    ),
    "with a proof one hash long": Case(
        Reason.PROOF_INVALID, sent(lambda o: o._replace(consistency=(*o.consistency, bytes(32))))
    ),
    "with a proof for another size": Case(
        Reason.PROOF_INVALID, lambda p: forge_offer(p, held=HELD + 1)
    ),
    "with a proof for who holds nothing": Case(Reason.PROOF_INVALID, forge_offer, held=0),
    "of another history": Case(Reason.PROOF_INVALID, of_a_twin),
    "one bucket missing": Case(
        Reason.SNAPSHOT_MISMATCH, sent(lambda o: o._replace(bucket_hashes=o.bucket_hashes[:-32]))
    ),
    "one bucket more": Case(
        Reason.SNAPSHOT_MISMATCH,
        sent(lambda o: o._replace(bucket_hashes=o.bucket_hashes + bytes(32))),
    ),
    "half a bucket hash": Case(
        Reason.SNAPSHOT_MISMATCH, sent(lambda o: o._replace(bucket_hashes=o.bucket_hashes[:-1]))
    ),
    "buckets in another order": Case(
        Reason.SNAPSHOT_MISMATCH,
        sent(lambda o: o._replace(bucket_hashes=o.bucket_hashes[32:] + o.bucket_hashes[:32])),
    ),
    "signed for another root of its buckets": Case(
        Reason.SNAPSHOT_MISMATCH, claiming(ops_root=bytes(32))
    ),
    "signed for fewer buckets": Case(Reason.SNAPSHOT_MISMATCH, claiming(op_count=2)),
}  # fmt: skip
"""Offers that must be refused before any bucket arrives."""


def faults_in_order() -> list[tuple[Reason, OfferForgery]]:
    """Return one fault for each check of an offer, in the order in which they must be found."""

    def leaf(**changes: object) -> OfferForgery:
        return OfferForgery(leaf=replace(Forgery(), **changes))  # type: ignore[arg-type]  # names

    def claim(**fields: object) -> OfferForgery:
        return leaf(fields=fields)

    return [
        (Reason.LIMIT_EXCEEDED, leaf(checkpoint=b"x" * (limits.MAX_NOTE_BYTES + 1))),
        (Reason.HEADER_MALFORMED, leaf(raw={2: 0x80})),
        (Reason.ORIGIN_MISMATCH, claim(origin_hash=bytes(32))),
        (Reason.ROOT_MISMATCH, claim(root_version=2)),
        (Reason.KEY_UNAUTHORISED, claim(key_id=bytes(32))),
        (Reason.SIGNATURE_INVALID, leaf(publisher=signing_key("stranger"), keep_key_id=True)),
        (Reason.POSITION_REPEATED, claim(position=1, change_set=1)),
        (Reason.TIME_BACKWARDS, claim(time_ms=0)),
        (Reason.MALFORMED, OfferForgery(frontier=b"x")),
        (Reason.CHECKPOINT_MALFORMED, leaf(checkpoint=b"")),
        (Reason.CHECKPOINT_SIGNATURE_INVALID, leaf(log=signing_key("stranger"))),
        (Reason.CHECKPOINT_MISMATCH, leaf(checkpoint_size=99)),
        (Reason.PROOF_INVALID, OfferForgery(consistency=(bytes(32),) * 9)),
        (Reason.SNAPSHOT_MISMATCH, OfferForgery(bucket_hashes=b"x")),
    ]


FAULTS: Final = tuple(faults_in_order())
"""One fault of each check of an offer, in the order of the checks."""

NEXT_FAULTS: Final = (
    (Reason.PREVIOUS_MISMATCH, HeaderFields(previous=b"\x01" * 32)),
    (Reason.STATE_DIGEST_MISMATCH, HeaderFields(state_digest=bytes(32))),
    (Reason.LIVE_COUNT_MISMATCH, HeaderFields(live_count=99)),
)
"""Faults that only who holds all that is before the snapshot finds, in the order of the checks."""


@dataclass(frozen=True)
class Transfer:
    """Buckets that are signed and each well formed, but not those of one live set."""

    reason: Reason
    forge: Callable[[Sequence[LiveEntry]], OfferForgery]


def _buckets(*of: Sequence[LiveEntry], live_count: int = 6) -> OfferForgery:
    fields = HeaderFields(live_count=live_count)
    return OfferForgery(buckets=tuple(map(encode_bucket, of)), leaf=Forgery(fields=fields))


TRANSFERS: Final[dict[str, Transfer]] = {
    "fewer entries than signed": Transfer(
        Reason.LIVE_COUNT_MISMATCH, lambda live: _buckets(live[:3], live[3:], live_count=7)
    ),
    "more entries than signed": Transfer(
        Reason.LIVE_COUNT_MISMATCH, lambda live: _buckets(live[:3], live[3:], live_count=5)
    ),
    "buckets in another order": Transfer(
        Reason.OP_ORDER, lambda live: _buckets(live[3:], live[:3])
    ),
    "one entry in two buckets": Transfer(
        Reason.OP_ORDER, lambda live: _buckets(live[:4], live[3:], live_count=7)
    ),
    "names that interleave": Transfer(
        Reason.OP_ORDER, lambda live: _buckets(live[::2], live[1::2])
    ),
}  # fmt: skip
"""Snapshots that must be refused once all of their buckets have arrived."""

BAD_BUCKETS: Final = {name: case for name, case in buckets.CASES.items() if case.make()}
"""Buckets that are refused though they are signed."""
