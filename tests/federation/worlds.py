"""Small worlds for tests: an organization with its keys, a publisher and a subscriber, in memory.

Everything follows from names and numbers, so two runs make the same bytes. `Publisher.forge` is the
dishonest one: it really signs what no honest publisher would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256, shake_256
from typing import Final, NamedTuple, TypedDict

from federation import dsse, header, merkle, wire
from federation.author import Author, ChangeSet
from federation.body import Body, PackedOp, build_body, pack, unpack
from federation.bucket import LiveEntry, name_of
from federation.checkpoint import Checkpoint, sign_checkpoint
from federation.commitment import Commitment
from federation.entry import Annotation, EntryId, Operation, OpKind
from federation.fingerprint import Fingerprint
from federation.header import Header, LeafKind
from federation.keys import SigningKey, key_id
from federation.merge import Prior
from federation.names import OrgName, Origin, parse_org
from federation.note import NoteSigner
from federation.replica import Candidate, LogState, Replica, SignedDelta
from federation.snapshot import SnapshotOffer, build_buckets
from federation.trust import charter as charters
from federation.trust import orgroot
from federation.trust.charter import Audience, Charter
from federation.trust.orgroot import OrgRoot, PinnedRoot, Role, RoleKeys

T0: Final = 1_750_000_000_000
"""When the worlds begin, in milliseconds since 1970-01-01T00:00:00Z."""

LATER: Final = T0 + 10**10
"""A time after all that happens in a world."""

NO_OPERATIONS: Final = Body(b"", (), ())
"""What a snapshot's leaf does to the entries."""


def key_seed(name: str) -> bytes:
    """Return the seed of the key of that name: the same in every run."""
    return sha256(f"test key {name}".encode()).digest()


def signing_key(name: str) -> SigningKey:
    """Return the key of that name."""
    return SigningKey.from_seed(key_seed(name))


def salt_seed(number: int) -> bytes:
    """Return the salt seed of that number."""
    return sha256(b"test salt seed %d" % number).digest()


def digest(number: int | str, type_name: str = "sha256", width: int = 32) -> bytes:
    """Return a digest that looks like one; vpdq frames get a quality that is possible."""
    raw = shake_256(f"test digest {type_name} {number}".encode()).digest(width)
    if type_name != "vpdq":
        return raw
    frames = bytearray(raw)
    for at in range(32, width, 37):
        frames[at] %= 101
    return bytes(frames)


def fingerprint(
    number: int | str, type_name: str = "sha256", width: int | None = None
) -> Fingerprint:
    """Return the fingerprint of that number."""
    usual = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "pdq": 32, "vpdq": 37}
    wide = width if width is not None else usual.get(type_name, 24)
    return Fingerprint.from_digest(type_name, digest(number, type_name, wide))


def assertion(
    number: int | str,
    *further: Fingerprint,
    labels: tuple[str, ...] = ("A1",),
    entry: str | None = None,
) -> Operation:
    """Return the assertion of an entry with a sha256 of that number."""
    return Operation.assertion(
        (fingerprint(number), *further),
        Annotation(labels=labels, vocabulary="industry" if labels else ""),
        None if entry is None else EntryId.parse(entry),
    )


def org_root(
    org: str = "hotline.example",
    *,
    keys: Mapping[Role, Sequence[SigningKey]] | None = None,
    thresholds: Mapping[Role, int] | None = None,
    version: int = 1,
) -> OrgRoot:
    """Return an org root with one key a role, or with those given."""
    held = keys if keys is not None else {role: [role_key(org, role)] for role in Role}
    return OrgRoot(
        org=OrgName(org),
        version=version,
        created_ms=T0,
        roles={
            role: RoleKeys(
                public_keys=tuple(key.public_key for key in of_role),
                threshold=(thresholds or {}).get(role, 1),
            )
            for role, of_role in held.items()
        },
        tls_certificates=(sha256(f"certificate of {org}".encode()).digest(),),
    )


def role_key(org: str, role: Role) -> SigningKey:
    """Return the one key that an organization of `org_root` has for a role."""
    return signing_key(f"{org} {role.name}")


def seal(media_type: str, payload: bytes, *signers: SigningKey) -> dsse.Envelope:
    """Sign a payload, whatever it says."""
    return dsse.sign_envelope(media_type, payload, signers)


def pin_root(org: str = "hotline.example") -> PinnedRoot:
    """Return the pinned org root of an organization."""
    payload = wire.encode_org_root(org_root(org))
    envelope = seal(orgroot.MEDIA_TYPE, payload, role_key(org, Role.ROOT))
    return wire.open_org_root(wire.encode_envelope(envelope))


def make_charter(
    origin: Origin, *, orgs: Iterable[str] = (), all_peers: bool = False, version: int = 1
) -> Charter:
    """Return the charter of a list."""
    audience = Audience(all_peers=all_peers, orgs=tuple(sorted(map(parse_org, orgs))))
    return Charter(origin=origin, version=version, created_ms=T0, audience=audience)


def seal_charter(charter: Charter, signer: SigningKey | None = None) -> dsse.Envelope:
    """Sign a charter with its owner's publisher key, or with another."""
    key = signer if signer is not None else role_key(charter.origin.org, Role.PUBLISHER)
    return seal(charters.MEDIA_TYPE, wire.encode_charter(charter), key)


@dataclass
class Entries:
    """What a store knows of one list's entries: which operation is in force on each.

    Attributes:
        in_force: the operation in force on each entry that the list is known to have had.
        said: each live entry, as last asserted.
        bodies: the bodies by position, from `start` on; a snapshot's leaf has one without rows.
        start: position of the first body.
    """

    in_force: dict[EntryId, Prior] = field(default_factory=dict)
    said: dict[EntryId, Operation] = field(default_factory=dict)
    bodies: list[Body] = field(default_factory=list)
    start: int = 0

    def prior(self, body: Body) -> dict[int, Prior]:
        """Return the operation in force for each row whose entry the list has known."""
        return {
            row: self.in_force[operation.entry]
            for row, operation in body.operations()
            if operation.entry in self.in_force
        }

    def apply(self, body: Body) -> None:
        """Put a delta's operations in force."""
        position = self.start + len(self.bodies)
        for row, operation in body.operations():
            self.in_force[operation.entry] = Prior(position, row, operation.kind)
            self.said.pop(operation.entry, None)
            if operation.kind is OpKind.ASSERT:
                self.said[operation.entry] = operation
        self.bodies.append(body)

    def replace(self, snapshot: Iterable[LiveEntry], position: int) -> None:
        """Hold what a snapshot at a position says, and nothing else."""
        self.in_force, self.said = {}, {}
        for packed, asserted, row in snapshot:
            operation = unpack(packed)
            self.in_force[operation.entry] = Prior(asserted, row, OpKind.ASSERT)
            self.said[operation.entry] = operation
        self.start, self.bodies = position, [NO_OPERATIONS]

    def places(self) -> dict[EntryId, tuple[int, int]]:
        """Return the place (position, row) of the assertion of each live entry."""
        return {
            entry: (at.position, at.row)
            for entry, at in self.in_force.items()
            if at.kind is OpKind.ASSERT
        }

    def live(self) -> dict[EntryId, Operation]:
        """Return the live entries, each as last asserted."""
        return dict(self.said)

    def by_name(self) -> list[LiveEntry]:
        """Return the live entries with their places, by ascending name."""
        places = self.places()
        entries = [LiveEntry(pack(said), *places[entry]) for entry, said in self.said.items()]
        return sorted(entries, key=name_of_entry)


def name_of_entry(entry: LiveEntry) -> bytes:
    """Return what entries of a snapshot are sorted by."""
    shape = entry.packed.shape
    return name_of(shape, entry.packed.record[: shape.key_width])


class HeaderFields(TypedDict, total=False):
    """Fields of a header that a forger sets."""

    kind: LeafKind
    origin_hash: bytes
    position: int
    previous: bytes
    change_set: int
    ends_change_set: bool
    time_ms: int
    op_count: int
    body_size: int
    body_digest: bytes
    ops_root: bytes
    live_count: int
    state_digest: bytes
    root_version: int
    root_hash: bytes
    key_id: bytes


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """What a dishonest publisher changes. All is signed, but for what names say otherwise.

    Attributes:
        ops: the operations; one new assertion if None.
        body: the bytes of the body, whose digest and size are signed; those of `ops` if None.
        sent_body: the bytes that are sent in place of those that were signed.
        fields: fields of the header.
        raw: bytes of the header by their offset, set before it is signed.
        publisher: who signs the header.
        keep_key_id: the header names the honest key, even if another one signs.
        checkpoint_size, checkpoint_root: what the checkpoint says.
        log: who signs the checkpoint.
        checkpoint_origin: the list that the checkpoint is of.
        checkpoint: the bytes of the checkpoint.
    """

    ops: tuple[Operation | PackedOp, ...] | None = None
    body: bytes | None = None
    sent_body: bytes | None = None
    fields: HeaderFields = field(default_factory=HeaderFields)
    raw: Mapping[int, int] = field(default_factory=dict)
    publisher: SigningKey | None = None
    keep_key_id: bool = False
    checkpoint_size: int | None = None
    checkpoint_root: bytes | None = None
    log: SigningKey | None = None
    checkpoint_origin: Origin | None = None
    checkpoint: bytes | None = None


class Published(NamedTuple):
    """A snapshot as its publisher has it: its leaf, what is offered, and the buckets' bytes."""

    leaf: SignedDelta
    offer: SnapshotOffer
    buckets: tuple[bytes, ...]


class Publisher:
    """The owner of one list.

    Attributes:
        origin: the list.
        root: its owner's org root.
        state: where its log stands.
        log: its deltas.
        entries: its entries.
        snapshots: the snapshots it published.
    """

    def __init__(self, origin: str = "hotline.example/main") -> None:
        self.origin = Origin.parse(origin)
        self.root = pin_root(self.origin.org)
        self.state = LogState.empty()
        self.log: list[SignedDelta] = []
        self.entries = Entries()
        self.snapshots: list[Published] = []
        self.publisher_key = role_key(self.origin.org, Role.PUBLISHER)
        self.log_key = role_key(self.origin.org, Role.LOG)

    def publish(self, *operations: Operation, after_ms: int = 1000) -> SignedDelta:
        """Sign one delta of these operations, honestly, and keep it."""
        body = build_body(map(pack, operations), salt_seed(self.state.size))
        delta = self.sign(body, after_ms=after_ms)
        self.state = self.state.after(Header.parse(delta.header), delta.header)
        self.entries.apply(body)
        self.log.append(delta)
        return delta

    def sign(
        self, body: Body, *, after_ms: int = 1000, commitment: Commitment | None = None
    ) -> SignedDelta:
        """Sign a body as the next delta, without keeping it."""
        return self._author.sign(
            body,
            self.entries.prior(body),
            self.state,
            change_set=ChangeSet(first=self.state.size, last=True),
            now_ms=max(T0, self.state.last_time_ms) + after_ms,
            commitment=commitment,
        )

    def publish_snapshot(self) -> Published:
        """Sign a snapshot of the live set, honestly, and keep its leaf."""
        before = self.state
        buckets = tuple(data for _, data in build_buckets(self.entries.by_name()))
        hashes = [merkle.leaf_hash(data) for data in buckets]
        leaf = self._author.sign_snapshot(
            hashes, before, now_ms=max(T0, before.last_time_ms) + 1000
        )
        self.state = before.after(Header.parse(leaf.header), leaf.header)
        self.entries.apply(NO_OPERATIONS)
        self.log.append(leaf)
        offer = SnapshotOffer(
            leaf.header, leaf.checkpoint, before.frontier.encode(), b"".join(hashes)
        )
        self.snapshots.append(Published(leaf, offer, buckets))
        return self.snapshots[-1]

    def prove_growth(self, held: int, size: int) -> tuple[bytes, ...]:
        """Prove to who holds so many leaves that they are a prefix of the log of that size."""
        leaves = [header.leaf_hash(leaf.header) for leaf in self.log[:size]]
        return tuple(merkle.consistency_proof(leaves, held)) if held else ()

    @property
    def _author(self) -> Author:
        return Author(self.origin, self.root, publisher=self.publisher_key, log=self.log_key)

    def forge(self, forgery: Forgery) -> SignedDelta:
        """Sign what no honest publisher would, as the next delta."""
        ops = forgery.ops if forgery.ops is not None else (assertion(f"of {self.state.size}"),)
        packed = [op if isinstance(op, PackedOp) else pack(op) for op in ops]
        body = build_body(packed, salt_seed(self.state.size))
        data = forgery.body if forgery.body is not None else wire.encode_body(body)
        signer = forgery.publisher or self.publisher_key
        prior = {
            row: before
            for row, before in self.entries.prior(body).items()
            if before.kind is OpKind.ASSERT
        }
        claimed = Header(
            origin_hash=self.origin.hash,
            position=self.state.size,
            previous=self.state.last_leaf,
            change_set=self.state.size,
            ends_change_set=True,
            time_ms=max(T0, self.state.last_time_ms) + 1000,
            op_count=body.count,
            body_size=len(data),
            body_digest=sha256(data).digest(),
            ops_root=body.ops_root(),
            live_count=self.state.live_count + body.count - len(prior),
            state_digest=self.state.state_digest,
            root_version=self.root.document.version,
            root_hash=self.root.hash,
            key_id=key_id((self.publisher_key if forgery.keep_key_id else signer).public_key),
        )
        unsigned = bytearray(replace(claimed, **forgery.fields).encode_unsigned())
        for offset, value in forgery.raw.items():
            unsigned[offset] = value
        record = bytes(unsigned) + signer.sign(dsse.pae(header.MEDIA_TYPE, bytes(unsigned)))
        grown = self.state.frontier.append(header.leaf_hash(record))
        origin = str(forgery.checkpoint_origin or self.origin)
        note = sign_checkpoint(
            Checkpoint(
                origin,
                grown.size if forgery.checkpoint_size is None else forgery.checkpoint_size,
                grown.root() if forgery.checkpoint_root is None else forgery.checkpoint_root,
            ),
            NoteSigner(origin, forgery.log or self.log_key),
        )
        return SignedDelta(
            record,
            data if forgery.sent_body is None else forgery.sent_body,
            note if forgery.checkpoint is None else forgery.checkpoint,
        )


class Subscriber:
    """A follower of one list. `replica` is made again from what it keeps, as after a restart.

    Attributes:
        state: where its copy of the log stands.
        entries: its entries.
        records: the signed headers it holds, which are those from the snapshot on if it joined.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.origin, self.root = publisher.origin, publisher.root
        self.state = LogState.empty()
        self.entries = Entries()
        self.records: list[bytes] = []

    @property
    def replica(self) -> Replica:
        """A replica at this subscriber's state."""
        return Replica(self.origin, self.root, self.state)

    def receive(self, delta: SignedDelta, *, now_ms: int | None = None) -> Candidate:
        """Check a delta as far as it can be without the entries."""
        return self.replica.receive(delta, now_ms=LATER if now_ms is None else now_ms)

    def deliver(self, delta: SignedDelta, *, now_ms: int | None = None) -> None:
        """Check a delta and apply it, or raise and change nothing."""
        candidate = self.receive(delta, now_ms=now_ms)
        state = self.replica.conclude(candidate, self.entries.prior(candidate.body))
        # A node commits these together.
        self.state = state
        self.entries.apply(candidate.body)
        self.records.append(delta.header)

    def join(self, offer: SnapshotOffer, buckets: Iterable[tuple[int, bytes]]) -> None:
        """Replace what is held by a snapshot whose buckets arrive in some order, or raise."""
        replica = self.replica
        snapshot = replica.receive_snapshot(offer, now_ms=LATER)
        opened = {number: snapshot.open_bucket(number, data) for number, data in buckets}
        held = [opened[number] for number in sorted(opened)]
        self.state = replica.adopt(snapshot, [bucket.extent() for bucket in held])
        entries = (entry for bucket in held for entry in bucket.entries())
        self.entries.replace(entries, snapshot.position)
        self.records = [offer.header]


def slow_state_digest(places: Mapping[EntryId, tuple[int, int]]) -> bytes:
    """Compute a state digest as docs/spec/delta.md says, from the whole live set."""
    total = 0
    for entry, (position, row) in places.items():
        name = entry.type.encode()
        element = b"".join(
            (
                b"hashfed/live/v1\x00",
                bytes([len(name)]),
                name,
                len(entry.key).to_bytes(4, "big"),
                entry.key,
                position.to_bytes(8, "big"),
                row.to_bytes(4, "big"),
            )
        )
        total += int.from_bytes(sha256(element).digest(), "big")
    return (total % 2**256).to_bytes(32, "big")
