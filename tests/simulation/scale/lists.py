"""Lists and their logs, made by the production author.

A simulated member does not keep a copy of what it holds: it holds the first `size` deltas of a log
here, where `size` is that of its own replica, which has verified those very bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256, shake_256

from federation import dsse, wire
from federation.author import Author, ChangeSet
from federation.body import Body, build_body, pack
from federation.entry import Annotation, Cause, EntryId, Operation
from federation.fingerprint import Fingerprint
from federation.keys import SigningKey
from federation.merge import Prior
from federation.names import Origin
from federation.replica import LogState, Replica, SignedDelta
from federation.trust import charter as charters
from federation.trust.charter import Audience, Charter
from node.identity.create import create_org_root

EPOCH_MS = 1_750_000_000_000
"""When the virtual time begins, in milliseconds since 1970-01-01T00:00:00Z."""


class OwnList:
    """A list at its owner.

    Attributes:
        origin: its name.
        owner: the number of the member that owns it.
        root: the owner's org root, which every member has pinned.
        log: the deltas, as they travel.
        priors: for each delta, what was in force before on the entries that it names. It follows
            from the deltas before, so that every member that has verified those would find the
            same: it is worked out once.
        charter: the signed envelope in force here.
        charter_version: its version.
    """

    def __init__(self, origin: Origin, owner: int) -> None:
        self.origin = origin
        self.owner = owner
        root, publisher, log = (
            SigningKey.from_seed(sha256(f"{origin} {role}".encode()).digest())
            for role in ("root", "publisher", "log")
        )
        envelope = create_org_root(
            origin.org,
            root=root,
            publisher=publisher,
            log=log,
            certificate_sha256=sha256(f"certificate of {origin.org}".encode()).digest(),
            now_ms=EPOCH_MS,
        )
        self.root = wire.open_org_root(envelope)
        self.log: list[SignedDelta] = []
        self.priors: list[Mapping[int, Prior]] = []
        self.charter_version = 0
        self.charter = b""
        self._publisher = publisher
        self._author = Author(origin, self.root, publisher=publisher, log=log)
        self._replica = Replica(origin, self.root, LogState.empty())
        self._in_force: dict[EntryId, Prior] = {}

    @property
    def state(self) -> LogState:
        """Where the log stands at its owner."""
        return self._replica.state

    def share(self, audience: Audience) -> None:
        """Sign the next charter."""
        self.charter_version += 1
        charter = Charter(
            origin=self.origin,
            version=self.charter_version,
            created_ms=EPOCH_MS,
            audience=audience,
        )
        payload = wire.encode_charter(charter)
        self.charter = wire.encode_envelope(
            dsse.sign_envelope(charters.MEDIA_TYPE, payload, [self._publisher])
        )

    def publish(self, operations: Iterable[Operation], now_ms: int) -> None:
        """Sign a delta, and check it as its first subscriber."""
        position = self.state.size
        seed = sha256(f"{self.origin} {position}".encode()).digest()
        body = build_body(map(pack, operations), seed)
        prior = self._find_prior(body)
        delta = self._author.sign(
            body,
            prior,
            self.state,
            change_set=ChangeSet(first=position, last=True),
            now_ms=now_ms,
        )
        self._replica.conclude(self._replica.receive(delta, now_ms=now_ms), prior)
        for row, operation in body.operations():
            self._in_force[operation.entry] = Prior(position, row, operation.kind)
        self.log.append(delta)
        self.priors.append(prior)

    def _find_prior(self, body: Body) -> dict[int, Prior]:
        return {
            row: self._in_force[operation.entry]
            for row, operation in body.operations()
            if operation.entry in self._in_force
        }


def entry(number: int) -> Operation:
    """Return the assertion of an entry with one SHA-256."""
    digest = shake_256(b"entry %d" % number).digest(32)
    return Operation.assertion(
        (Fingerprint.from_digest("sha256", digest),), Annotation(labels=("a",))
    )


def entries(numbers: Sequence[int]) -> list[Operation]:
    """Return the assertions of entries."""
    return [entry(number) for number in numbers]


def retraction(number: int) -> Operation:
    """Return the retraction of the entry of that number."""
    return Operation.retraction(entry(number).entry, Cause.FALSE_POSITIVE)
