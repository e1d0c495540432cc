"""Who takes part: organizations with real keys, their lists, what entries say.

Keys follow from names alone, so they are made once for all seeds of a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256, shake_256
from typing import Final

from federation import dsse, wire
from federation.author import Author
from federation.entry import Annotation, Cause, EntryId, Operation
from federation.fingerprint import Fingerprint
from federation.keys import SigningKey
from federation.names import OrgName, Origin, parse_org
from federation.trust import charter as charters
from federation.trust.charter import Audience, Charter
from federation.trust.orgroot import PinnedRoot
from node.identity.create import create_org_root

EPOCH_MS: Final = 1_750_000_000_000
"""When virtual time begins, in milliseconds since 1970-01-01T00:00:00Z."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One organization.

    Attributes:
        org: its name.
        root: its org root, which everybody has pinned.
        publisher, log: the keys that sign.
    """

    org: OrgName
    root: PinnedRoot
    publisher: SigningKey
    log: SigningKey

    def author(self, origin: Origin) -> Author:
        """Return what signs the deltas of one of its lists."""
        return Author(origin, self.root, publisher=self.publisher, log=self.log)


@cache
def party(number: int) -> Party:
    """Return the organization of a node."""
    org = parse_org(f"n{number}.example")
    root, publisher, log = (
        SigningKey.from_seed(sha256(f"{org} {role}".encode()).digest())
        for role in ("root", "publisher", "log")
    )
    envelope = create_org_root(
        org,
        root=root,
        publisher=publisher,
        log=log,
        certificate_sha256=sha256(f"certificate of {org}".encode()).digest(),
        now_ms=EPOCH_MS,
    )
    return Party(org=org, root=wire.open_org_root(envelope), publisher=publisher, log=log)


@cache
def origin_of(owner: int, number: int) -> Origin:
    """Return the name of a list."""
    return Origin(party(owner).org, f"list-{number}")


EVERYBODY: Final = Audience(all_peers=True, orgs=())


@cache
def sign_charter(owner: int, origin: Origin, version: int, audience: Audience = EVERYBODY) -> bytes:
    """Return the signed charter of a list."""
    charter = Charter(origin=origin, version=version, created_ms=EPOCH_MS, audience=audience)
    payload = wire.encode_charter(charter)
    return wire.encode_envelope(
        dsse.sign_envelope(charters.MEDIA_TYPE, payload, [party(owner).publisher])
    )


@cache
def assertion(number: int, label: str) -> Operation:
    """Return an assertion of the entry of that number, with one label."""
    fingerprint = Fingerprint.from_digest("sha256", shake_256(b"entry %d" % number).digest(32))
    return Operation.assertion((fingerprint,), Annotation(labels=(label,)))


def retraction(entry: EntryId) -> Operation:
    """Return the retraction of an entry."""
    return Operation.retraction(entry, Cause.FALSE_POSITIVE)
